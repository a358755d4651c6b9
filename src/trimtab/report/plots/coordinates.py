"""Every trial of a search as a line over the axes of its space, its result at the right end (parallel coordinates)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab.records import Axis, Tuning
from trimtab.report.plots.canvas import COLOURS, axis_attributes, label, place, sheet, to_svg
from trimtab.report.words import number, spelled

WIDTH, HEIGHT = 1080, 342
ABSENT = -0.14  # where a line passes an axis that its recipe does not have, or the result that it does not have
GROUPS = (("stopped or failed", "bad"), ("came to its end", "base"), ("confirmed", "c0"), ("the winner", "good"))


@dataclass(frozen=True)
class Scale:
    """An axis with its marks, each a place between 0 and 1 and a text."""

    name: str
    marks: tuple[tuple[float, str], ...]
    choice: bool = False


@dataclass(frozen=True)
class Line:
    """A trial: which group it belongs to, and where it meets every axis (NaN where it does not)."""

    name: str
    result: str
    group: int
    places: np.ndarray


@dataclass(frozen=True)
class CoordinatesData:
    """The axes, the metric last, and the lines, the most telling last."""

    scales: tuple[Scale, ...]
    lines: tuple[Line, ...]
    left: int

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of the groups of lines."""
        return GROUPS


def coordinates_data(tuning: Tuning, most: int = 12) -> CoordinatesData | None:
    """The coordinates of a search; ``None`` without an axis or a result. Of more than ``most`` axes the important ones are shown."""
    done = [attempt.value for attempt in tuning.attempts if attempt.status == "ok"]
    if not done or not tuning.axes:
        return None
    chosen = sorted(tuning.axes, key=lambda axis: -tuning.importances.get(axis.name, 0.0))[:most]
    axes = [axis for axis in tuning.axes if axis in chosen]
    result = Axis(name=tuning.metric.name, low=min(done), high=max(done))
    confirmed = {arm.recipe for arm in tuning.confirmation.arms} if tuning.confirmation is not None else set()
    lines = []
    for attempt in tuning.attempts:
        ended = attempt.status == "ok"
        group = (
            0 if not ended else 1 if attempt.recipe not in confirmed else 3 if attempt.recipe == tuning.recipe else 2
        )
        places = [_place(axis, attempt.at.get(axis.name)) for axis in axes] + [_place(result, attempt.value)]
        shown = number(attempt.value) if ended else attempt.status.replace("_", " ")
        lines.append(Line(attempt.recipe or "untreated", shown, group, np.array(places)))
    names = [*(axis.name for axis in axes), spelled(result.name)]
    scales = tuple(
        Scale(name, tuple(_marks(axis)), bool(axis.choices)) for name, axis in zip(names, [*axes, result], strict=True)
    )
    return CoordinatesData(scales, tuple(sorted(lines, key=lambda line: line.group)), len(tuning.axes) - len(axes))


def _place(axis: Axis, value: float | str | None) -> float:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return math.nan
    if axis.choices:
        first_on_top = len(axis.choices) - 0.5 - axis.choices.index(str(value)) if value in axis.choices else math.nan
        return first_on_top / len(axis.choices)
    if axis.low == axis.high:
        return 0.5
    low, high, at = (math.log(x) if axis.log else x for x in (axis.low, axis.high, float(value)))
    return (at - low) / (high - low)


def _marks(axis: Axis) -> list[tuple[float, str]]:
    if axis.choices:
        return [(_place(axis, choice), choice) for choice in axis.choices]
    if axis.low == axis.high:
        values = [axis.low]
    elif axis.log:
        first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
        tens = [10.0**power for power in range(first, last + 1)]
        inner = tens if len(tens) <= 6 else tens[:: math.ceil(len(tens) / 6)]
        values = inner if len(inner) > 1 else [axis.low, math.sqrt(axis.low * axis.high), axis.high]
    else:
        values = [axis.low + (axis.high - axis.low) * part / 4 for part in range(5)]
    return [(_place(axis, value), f"{value:.3g}" if abs(value) < 1e5 else f"{value:.0e}") for value in values]


def draw_coordinates(data: CoordinatesData) -> str:
    """The SVG: classes ``series-0`` ... on the lines of a group, ``rail`` on the axes, ``mark`` on their texts."""
    rails = range(len(data.scales))
    room = (WIDTH - 100) / max(len(rails) - 1, 1)
    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, 60, 52, 60, 26)
        axes.set_axis_off()
        axes.set_xlim(0, max(len(rails) - 1, 1))
        axes.set_ylim(ABSENT, 1)
        hover, apart = [], np.array([0.05 * scale.choice for scale in data.scales])
        for order, line in enumerate(data.lines):
            # a little apart, so that lines through the same choice can be told from each other
            drawn = np.where(np.isfinite(line.places), line.places + apart * ((order * 0.618) % 1 - 0.5), ABSENT)
            thick, alpha = ((0.9, 0.45), (1.0, 0.6), (1.8, 0.95), (2.4, 1.0))[line.group]
            axes.plot(rails, drawn, color=COLOURS[GROUPS[line.group][1]], linewidth=thick, alpha=alpha, clip_on=False,
                      gid=f"tt-series--series-{line.group}", solid_joinstyle="round")  # fmt: skip
            about = {"name": label(line.name, 120), "result": line.result, "colour": GROUPS[line.group][1]}
            hover.append({**about, "group": line.group, "places": drawn})
        for rail, scale in zip(rails, data.scales, strict=True):
            axes.plot([rail, rail], [0, 1], color=COLOURS["muted"], linewidth=1, gid="tt-rail")
            # on two levels where there is little room: each name then has that of two
            level, chars = (1.07 + 0.09 * (rail % 2), 2 * room / 7) if room < 130 else (1.07, room / 7)
            axes.text(rail, level, label(scale.name, int(chars)), ha="center", weight="bold", color=COLOURS["ink"])
            for at, text in scale.marks:
                axes.annotate(label(text, 18), (rail, at), (5, 0), textcoords="offset points", va="center", size=10,
                              color=COLOURS["muted"], annotation_clip=False, gid="tt-mark")  # fmt: skip
        axes.text(0, ABSENT, "not there ", ha="right", va="center", color=COLOURS["muted"], size=10)
        title = f"trials of the search over {len(data.scales) - 1} axes"
        return to_svg(figure, title, "coordinates", hover, axis_attributes(axes))
