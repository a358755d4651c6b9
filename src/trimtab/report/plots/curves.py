"""Series of one training over its steps: the losses together, the metric, learning rate and the rest one picture each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trimtab.quantities import Quantity
from trimtab.records import TrainingRecord
from trimtab.report.plots.canvas import COLOURS, SERIES, axis_attributes, digits, label, place, sheet, to_svg
from trimtab.report.plots.decimate import decimate

Scale = Literal["linear", "log", "symlog"]
WIDTH, HEIGHT = 560, 250
_LOG_FROM = 300.0  # a positive quantity that spans more than this factor is drawn on a log scale
_SYMLOG_FROM = (
    1e4  # any other, whose largest value is more than so many times a usual one, linearly around 0 and log beyond
)


@dataclass(frozen=True)
class Band:
    """The range of several seeds around a curve."""

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Curve:
    """One line: thinned points (NaN where it breaks), the steps at which the series was not finite, its colour."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    broken: np.ndarray
    colour: str
    band: Band | None = None
    stays: bool = False  # holds its value until the next point (learning rates are recorded when they change)


@dataclass(frozen=True)
class CurvesData:
    """Lines that share their axes."""

    title: str
    curves: tuple[Curve, ...]
    scale: Scale = "linear"
    names: tuple[str, ...] = field(default=())

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of every line."""
        return tuple((curve.name, curve.colour) for curve in self.curves)


def quantity(name: str) -> str:
    """What a series measures, whatever part of the data it was measured on.

    >>> quantity("val accuracy"), quantity("printed train loss"), quantity("lr 1")
    ('accuracy', 'loss', 'lr')
    """
    return Quantity.read(name).what


def group(names: Iterable[str]) -> dict[str, list[str]]:
    """Series that belong in one picture, losses first.

    >>> group(["lr", "loss", "val accuracy", "val loss"])
    {'loss': ['loss', 'val loss'], 'lr': ['lr'], 'accuracy': ['val accuracy']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(quantity(name), []).append(name)
    return dict(sorted(groups.items(), key=lambda item: item[0].lower() != "loss"))


def curves_data(training: TrainingRecord, names: Iterable[str], title: str) -> CurvesData | None:
    """The named series, thinned for drawing; ``None`` if they hold no number."""
    curves = []
    for slot, name in enumerate(names):
        series, rate = training.get(name), quantity(name) == "lr"
        if len(series):
            steps, values = np.asarray(series.steps), series.array
            if rate and steps[-1] < training.steps - 1:
                steps, values = np.append(steps, training.steps - 1), np.append(values, values[-1])
            thin = decimate(steps, values)
            curves.append(Curve(name, thin.steps, thin.values, thin.broken, SERIES[slot % len(SERIES)], stays=rate))
    if not curves:
        return None
    # The shape of a schedule is read on a linear scale, even where it ends near zero.
    scale = "linear" if curves[0].stays else axis_scale_of(np.concatenate([curve.values for curve in curves]))
    return CurvesData(title, tuple(curves), scale, tuple(names))


def axis_scale_of(values: np.ndarray) -> Scale:
    """The scale on which all of the values can be seen."""
    if wants_log(values):
        return "log"
    sizes = np.abs(values[np.isfinite(values)])
    return "symlog" if sizes.max(initial=0.0) > _SYMLOG_FROM * _usual(values) > 0 else "linear"


def _usual(values: np.ndarray) -> float:
    """The size that a quarter of the values do not reach; 0 where all of them are 0."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.quantile(sizes, 0.25, method="lower")) if len(sizes) else 0.0


def wants_log(values: np.ndarray) -> bool:
    """Whether the values are positive and span so much that a linear axis would show one of them only."""
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > _LOG_FROM * values.min())


def draw_curves(data: CurvesData) -> str:
    """The SVG: class ``series series-0`` ... on the lines, ``band`` on the ranges, ``broken`` on the non-finite steps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, SymmetricalLogLocator

    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, 56, 18, 14, 34)
        if data.scale == "symlog":
            near = max(_usual(np.concatenate([curve.values for curve in data.curves])), 1e-150)
            axes.set_yscale("symlog", linthresh=near, linscale=2)
        else:
            axes.set_yscale(data.scale)
        axes.grid(axis="y")
        for i, curve in enumerate(data.curves):
            colour = COLOURS[curve.colour]
            if curve.band is not None and len(curve.band.steps):
                around = np.concatenate([curve.band.steps, curve.band.steps[::-1]])
                limits = _drawable(np.concatenate([curve.band.low, curve.band.high[::-1]]), data.scale)
                axes.fill(around, limits, color=colour, alpha=0.18, linewidth=0, gid=f"tt-band--of-{i}")
            few = np.isfinite(curve.values).sum() <= 40
            drawn = _drawable(curve.values, data.scale)
            axes.plot(curve.steps, drawn, color=colour, drawstyle="steps-post" if curve.stays else "default",
                      linewidth=1.1 if len(drawn) > 250 else 1.7, clip_on=not few, marker="o" if few else "",
                      markersize=3.5, gid=f"tt-series--series-{i}", solid_joinstyle="round")  # fmt: skip
        steps = np.concatenate([curve.steps for curve in data.curves])
        low, high = float(steps.min()), float(steps.max())
        axes.set_xlim((low, high) if high > low else (low - 0.5, high + 0.5))
        if all(curve.stays and np.nanmin(curve.values, initial=np.inf) >= 0 for curve in data.curves):
            axes.set_ylim(bottom=0)
        if not any(np.isfinite(curve.values).any() for curve in data.curves):
            axes.set_ylim(0.5, 1)
        for i, curve in enumerate(data.curves):
            if len(curve.broken):
                axes.plot(curve.broken, np.full(len(curve.broken), 1.0), "x", color=COLOURS["bad"], markersize=5, clip_on=False,
                          transform=axes.get_xaxis_transform(), gid=f"tt-broken--of-{i}")  # fmt: skip
        axes.set_xlim(axes.get_xlim())
        if high > low:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        else:
            axes.set_xticks([low])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        if data.scale == "log":
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif data.scale == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5))
        else:
            locator = SymmetricalLogLocator(base=10, linthresh=near)
            locator.set_params(numticks=6)
            axes.yaxis.set_major_locator(locator)
            if min(np.nanmin(curve.values, initial=np.inf) for curve in data.curves) >= 0:
                axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits(axes.yaxis)}g}"))
        axes.set_xlabel("step")
        return to_svg(figure, f"{label(data.title, 80)} over steps", "curves", _hover(data), axis_attributes(axes))


def _drawable(values: np.ndarray, scale: Scale) -> np.ndarray:
    """An axis cannot leave room around all that a float can be; the pointer still shows the true value."""
    if scale == "linear":
        return values
    return np.clip(values, 1e-150 if scale == "log" else -1e150, 1e150)


def _hover(data: CurvesData) -> list[dict[str, object]]:
    shown = []
    for curve in data.curves:
        entry: dict[str, object] = {"name": label(curve.name, 60), "colour": curve.colour}
        entry |= {"steps": curve.steps, "values": curve.values, "broken": curve.broken}
        if curve.band is not None:
            entry["band"] = {"steps": curve.band.steps, "low": curve.band.low, "high": curve.band.high}
        shown.append(entry)
    return shown
