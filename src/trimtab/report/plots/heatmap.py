"""One number per layer over the sampled steps: a heat map, and beside it the median of each layer over depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trimtab.records import Profile
from trimtab.report.plots.canvas import COLOURS, axis_attributes, label, place, sheet, to_svg
from trimtab.report.plots.decimate import bucket_edges

WIDTH = 560
_CELLS = 8_000  # a page holds several maps, and each cell's number is kept for the pointer
_COLUMNS = 300
_ROWS = 200
_NAN, _INFINITE = (0.96, 0.55, 0.14, 1.0), (0.90, 0.16, 0.25, 1.0)


@dataclass(frozen=True)
class HeatmapData:
    """``cells[i, j]`` is layer ``names[i]`` on sampled steps ``first[j]`` to ``last[j]``: the largest, or a non-finite one.

    Of very many layers, ``together`` neighbours at most share a row: the largest of theirs, and the median of their medians.
    ``waiting`` marks the cells before a layer's first number: nothing was wrong there, it was not measured yet.
    """

    title: str
    names: tuple[str, ...]
    first: np.ndarray
    last: np.ndarray
    cells: np.ndarray
    waiting: np.ndarray
    median: np.ndarray
    log: bool
    low: float
    high: float
    absent: tuple[str, ...] = ()
    together: int = 1

    @property
    def broken(self) -> int:
        """The number of cells that are not finite."""
        return int((~np.isfinite(self.cells) & ~self.waiting).sum())


def heatmap_data(profile: Profile, title: str, share: bool = False) -> HeatmapData | None:
    """The profile with layers in rows; ``None`` if it holds no number. Layers that never had one are ``absent``.

    A ``share`` is shown from 0 to 1; any other quantity that is never negative is shown on a log scale.
    """
    table = profile.array.T
    seen = ~np.isnan(table).all(axis=1) if table.size else np.zeros(len(table), dtype=bool)
    if not seen.any():
        return None
    names = tuple(layer for layer, keep in zip(profile.names, seen, strict=True) if keep)
    absent = tuple(layer for layer, keep in zip(profile.names, seen, strict=True) if not keep)
    table, steps = table[seen], np.asarray(profile.steps)
    finite = np.where(np.isfinite(table), table, np.nan)
    median = np.array([_median(row) for row in finite])
    rows = bucket_edges(len(names), _ROWS)
    edges = bucket_edges(len(steps), max(1, min(_COLUMNS, _CELLS // (len(rows) - 1))))
    waiting = np.logical_and.accumulate(np.isnan(table), axis=1)
    # numpy's maximum lets NaN through: trouble is never averaged away
    cells = np.maximum.reduceat(np.where(waiting, -np.inf, table), edges[:-1], axis=1)
    waiting = np.logical_and.reduceat(waiting, edges[:-1], axis=1)
    together = int(np.diff(rows).max())
    if together > 1:
        cells = np.maximum.reduceat(cells, rows[:-1], axis=0)
        waiting = np.logical_and.reduceat(waiting, rows[:-1], axis=0)
        median = np.array([_median(median[a:b]) for a, b in zip(rows[:-1], rows[1:], strict=True)])
        ends = zip(rows[:-1], rows[1:] - 1, strict=True)
        names = tuple(names[a] if a == b else f"{names[a]} to {names[b]}" for a, b in ends)
    cells = np.where(waiting, np.nan, cells)
    low, high, log = (0.0, 1.0, False) if share else _scale(finite)
    return HeatmapData(
        title, names, steps[edges[:-1]], steps[edges[1:] - 1], cells, waiting, median, log, low, high, absent, together
    )


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _scale(values: np.ndarray) -> tuple[float, float, bool]:
    """Ends of the colour scale, and whether it is logarithmic (whole decades, 24 at most) or linear."""
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if len(positive) and values.min() >= 0:
        low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
        return 10.0 ** float(max(low, high - 24)), 10.0 ** float(max(high, low + 1)), True
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return low, high if high > low else low + 1, False


def _shade(data: HeatmapData, values: np.ndarray) -> np.ndarray:
    """Values in the colour scale's range 0 to 1; what lies outside is shown at its end."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if data.log:
            values = (np.log10(values) - np.log10(data.low)) / np.log10(data.high / data.low)
        else:
            values = (values - data.low) / (data.high - data.low)
    return np.clip(values, 0, 1)


def _ticks(data: HeatmapData) -> np.ndarray:
    """About five numbers of the colour scale: whole decades where it is logarithmic."""
    if not data.log:
        return np.linspace(data.low, data.high, 5)
    first, last = round(np.log10(data.low)), round(np.log10(data.high))
    return 10.0 ** np.arange(first, last + 1, max(1, -(-(last - first) // 5)))


def _short(value: float) -> str:
    return (
        f"{value:.3g}"
        if value == 0 or 1e-3 <= abs(value) < 1e4
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def draw_heatmap(data: HeatmapData) -> str:
    """The SVG: the map as one embedded picture, orange where NaN, red where infinite, with the median over depth beside it."""
    import matplotlib

    rows, columns = data.cells.shape
    inner = float(np.clip(rows * 18, 120, 380))
    left = 16 + 7.2 * max(len(label(name, 24)) for name in data.names)
    palette = matplotlib.colormaps["viridis" if data.log else "magma"]
    with sheet(WIDTH, inner + 96) as figure:
        axes = place(figure, left, 22, 124, 74)
        image = palette(np.nan_to_num(_shade(data, np.where(np.isfinite(data.cells), data.cells, np.nan))))
        image[np.isnan(data.cells)], image[np.isinf(data.cells)] = _NAN, _INFINITE
        axes.imshow(image, aspect="auto", interpolation="none", extent=(0, columns, rows, 0), gid="tt-cells")
        if 0 < data.broken <= 400:
            row, column = np.nonzero(~np.isfinite(data.cells) & ~data.waiting)
            axes.plot(column + 0.5, row + 0.5, "x", color="white", markersize=4, gid="tt-broken")
            axes.set_xlim(0, columns), axes.set_ylim(rows, 0)
        every = int(np.ceil(rows * 13 / inner))
        axes.set_yticks(np.arange(rows)[::every] + 0.5, [label(name, 24) for name in data.names[::every]])
        at = np.unique(
            np.linspace(0, columns - 1, min(columns, 5)).round().astype(int)
        )  # evenly spaced columns, true steps
        axes.set_xticks(at + 0.5, [f"{step:,}" for step in data.first[at]])
        axes.set_xlabel("sampled step")
        beside = place(figure, WIDTH - 96, 22, 26, 74)
        beside.set_yticks([]), beside.set_ylim(rows, 0)
        beside.set_title("median", fontsize=11, color=COLOURS["muted"], pad=6)
        beside.grid(axis="x")
        beside.set_xlim(-0.04, 1.04)
        beside.set_xticks([0, 1], [_short(data.low), _short(data.high)])
        beside.plot(_shade(data, data.median), np.arange(rows) + 0.5, "-o", color=COLOURS["c0"], markersize=3.5, linewidth=1.6,
                    gid="tt-series--median", clip_on=False)  # fmt: skip
        scale = place(figure, left, inner + 62, 124, 24)
        scale.imshow(
            palette(np.linspace(0, 1, 128))[None],
            aspect="auto",
            interpolation="none",
            extent=(0, 1, 0, 1),
            gid="tt-scale",
        )
        values = _ticks(data)
        scale.set_yticks([]), scale.set_xticks(_shade(data, values), [_short(value) for value in values])
        for spine in (*scale.spines.values(), *axes.spines.values()):
            spine.set_visible(False)
        hover = {"names": [label(name, 60) for name in data.names], "first": data.first, "last": data.last}
        rounded = [[float(f"{value:.3g}") for value in row] for row in data.cells]
        title = f"{label(data.title, 80)}: {rows} layers by {columns} columns of sampled steps"
        return to_svg(
            figure, title, "heatmap", hover | {"cells": rounded, "median": data.median}, axis_attributes(axes)
        )
