"""What every arm of a race gains over the untreated run, against what a step of it costs, and which are worth their price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.records import Metric, Runner, Series, Treatment
from trimtab.report.plots.canvas import COLOURS, axis_attributes, label, place, sheet, to_svg
from trimtab.report.words import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, LEFT = 1080, 330, 64
GROUPS = (
    ("nothing cheaper gains more", "ink"),
    ("ran no further, as it stood there", "base"),
    ("ran to the end", "c0"),
    ("the winner", "good"),
    ("the winner, confirmed on fresh seeds", "c1"),
)
LETTER, LINE = 6.0, 15.0  # pixels of a label
NEAR = 22.0  # pixels, beyond which a line leads from it to its point
SURE, NAMED = 5, 12  # arms that have one before the untreated run has, and at most
_LOG_FROM = 4.0  # costs that span more than this factor are drawn on a log scale
_SUNK = 0.5  # times the largest gain: whoever lost more stands at the edge
_MARKS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))  # of a decade: the first of these that are not too many

Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Point:
    """An arm: what a step costs (untreated 1), what it gained (more is better), and after which share of a run."""

    recipe: str
    cost: float
    gain: float
    share: float = 1.0


@dataclass(frozen=True)
class Confirmed:
    """What fresh seeds say of the winner; the interval of its gain is a point where there is none."""

    cost: float
    gain: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class TradeOffData:
    """The arms, who gained most first. Not drawn are arms of ``unknown`` cost, and ``lost`` ones, which have no gain."""

    metric: Metric
    points: tuple[Point, ...]
    winner: str
    confirmed: Confirmed | None
    unknown: int
    lost: int

    @property
    def frontier(self) -> tuple[Point, ...]:
        """Whoever gains more than all that are cheaper, the untreated run among them; the cheapest first."""
        kept: list[Point] = []
        for point in sorted((Point("", 1.0, 0.0), *self.points), key=lambda point: (point.cost, -point.gain)):
            if not kept or point.gain > kept[-1].gain:
                kept.append(point)
        return tuple(kept)

    @property
    def gains(self) -> tuple[float, float]:
        """The range that is drawn: one arm that lost by far does not hide what the others gained."""
        gains = [0.0, *(point.gain for point in self.points), *(self.confirmed.interval if self.confirmed else ())]
        high = min(max(gains), 1e150)  # within what an axis can leave room around
        low = max(min(gains), -_SUNK * high if high > 0 else -1e150)
        return (low, high) if high > low else (low - 1.0, high + 1.0)

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of what is drawn."""
        won = any(point.recipe == self.winner for point in self.points)
        return GROUPS if self.confirmed is not None else GROUPS[: 3 + won]


def trade_off_data(treatment: Treatment, untreated: Series = Series()) -> TradeOffData | None:  # noqa: B008 - it is frozen
    """The trade-off of a race; ``None`` if fewer than two of its arms have a gain and a known cost.

    Args:
        treatment: what was raced.
        untreated: the metric over the whole untreated run. The race itself has its beginning only, and without the rest all arms are
            compared there.
    """
    first = next((runner for runner in treatment.race if not runner.recipe), None)
    if treatment.metric is None or first is None:
        return None
    theirs, known = (untreated, 1.0) if len(untreated) else (first.reports, first.share)
    arms = [runner for runner in treatment.race if runner.recipe]
    priced = [runner for runner in arms if math.isfinite(runner.cost) and runner.cost > 0]
    points = [_point(runner, theirs, known, treatment.metric) for runner in priced]
    drawn = sorted((point for point in points if math.isfinite(point.gain)), key=lambda point: -point.gain)
    if len(drawn) < 2:
        return None
    return TradeOffData(
        metric=treatment.metric,
        points=tuple(drawn),
        winner=treatment.recipe,
        confirmed=_confirmed(treatment),
        unknown=len(arms) - len(priced),
        lost=len(points) - len(drawn),
    )


def _point(runner: Runner, theirs: Series, known: float, metric: Metric) -> Point:
    share, sign = min(runner.share, known), 1 if metric.goal == "max" else -1
    ours, base = _level(runner.reports, share, runner.share, metric), _level(theirs, share, known, metric)
    return Point(runner.recipe, runner.cost, sign * (ours - base) if runner.status == "ok" else math.nan, share)


def _level(course: Series, share: float, of: float, metric: Metric) -> float:
    """What a course over the share ``of`` of a run has come to after ``share``."""
    return metric.level(course.values[: max(1, round(share / of * len(course)))] if of > 0 else ())


def _confirmed(treatment: Treatment) -> Confirmed | None:
    arm = treatment.confirmation.arms[0] if treatment.confirmation and treatment.confirmation.arms else None
    if arm is None or not (math.isfinite(arm.cost) and arm.cost > 0 and math.isfinite(arm.effect)):
        return None
    bounded = math.isfinite(arm.low) and math.isfinite(arm.high)
    return Confirmed(arm.cost, arm.effect, (arm.low, arm.high) if bounded else (arm.effect, arm.effect))


def draw_trade_off(data: TradeOffData) -> str:
    """The SVG: classes ``series-0`` ... in the order of the legend, ``untreated`` on the run without a recipe, ``mark`` on the names."""
    (x0, x1), (y0, y1) = _costs(data), data.gains
    log = x1 > _LOG_FROM * x0
    around, room = (x1 / x0) ** 0.1 if log else 1.0, 0.0 if log else 0.1 * (x1 - x0)
    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, LEFT, 30, 24, 40)
        axes.set_xscale("log" if log else "linear")
        axes.set_xlim(x0 / around - room, x1 * around + room)
        axes.set_ylim(y0 - 0.2 * (y1 - y0), y1 + 0.1 * (y1 - y0))
        axes.grid(axis="y")
        _ticks(axes)
        axes.set_xlabel("cost of a step (untreated: 1x)")
        judge = label(spelled(data.metric.name), 60)
        axes.text(8 / WIDTH, 1 - 14 / HEIGHT, f"gained in {judge}" if data.metric.goal == "max" else f"{judge} lowered by",
                  color=COLOURS["muted"], transform=figure.transFigure)  # fmt: skip
        edge = _edge(axes, data)
        corners: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1, "linestyle": (0, (4, 3))}
        axes.plot(*zip(*edge, strict=True), gid="tt-series--series-0", **corners)
        axes.plot([1], [0], "o", color=COLOURS["card"], markeredgecolor=COLOURS["muted"], markeredgewidth=1.6, markersize=7,
                  gid="tt-untreated")  # fmt: skip
        for point in sorted(reversed(data.points), key=lambda point: point.recipe == data.winner):
            group = 3 if point.recipe == data.winner else 2 if point.share >= 1 else 1
            axes.plot([point.cost], [max(point.gain, y0)], "o", color=COLOURS[GROUPS[group][1]], markersize=10 if group == 3 else 7,
                      markeredgecolor=COLOURS["card"], gid=f"tt-series--series-{group}", clip_on=False)  # fmt: skip
        if (sure := data.confirmed) is not None:
            colour = COLOURS[GROUPS[4][1]]
            axes.plot([sure.cost] * 2, np.clip(sure.interval, y0, y1), color=colour, linewidth=2.5, solid_capstyle="round",
                      gid="tt-series--series-4")  # fmt: skip
            axes.plot([sure.cost], [np.clip(sure.gain, y0, y1)], "D", color=colour, markersize=7, markeredgecolor=COLOURS["card"],
                      gid="tt-series--series-4")  # fmt: skip
        _name(axes, data, edge)
        title = "gain of every arm of the race against the cost of its steps"
        return to_svg(figure, title, "trade-off", {}, axis_attributes(axes))


def _costs(data: TradeOffData) -> tuple[float, float]:
    """The range of costs, within what an axis can show."""
    costs = [1.0, *(point.cost for point in data.points), *([data.confirmed.cost] if data.confirmed else [])]
    low, high = max(min(costs), 1e-3), min(max(costs), 1e4)
    return (low, high) if high > 1.1 * low else (0.9 * low, 1.1 * high)


def _ticks(axes: Axes) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = axes.get_xlim()
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_xscale() == "log":
        decades = [10.0**power for power in range(-4, 6)]
        seen = [[one * mark for one in decades for mark in marks if low <= one * mark <= high] for marks in _MARKS]
        axes.xaxis.set_major_locator(FixedLocator(next((some for some in seen if len(some) < 10), seen[-1])))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:.4g}x"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:+.3g}" if gain else "0"))


def _edge(axes: Axes, data: TradeOffData) -> list[tuple[float, float]]:
    """The corners of the frontier: a step up at each of its points, and on to the right."""
    low, end = axes.get_ylim()[0], axes.get_xlim()[1]
    costs = [*(point.cost for point in data.frontier), end]
    gains = [max(point.gain, low) for point in data.frontier]
    ends = zip(pairwise(costs), gains, strict=True)
    return [corner for (left, right), gain in ends for corner in ((left, gain), (right, gain))]


def _name(axes: Axes, data: TradeOffData, edge: Sequence[tuple[float, float]]) -> None:
    """Write recipes beside their points: those of the winner and of who gained most first, others where there is room."""
    low, high = data.gains

    def pixels(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        seen = [(x, np.clip(y, low, high)) for x, y in points]
        return [(float(x), float(y)) for x, y in axes.transData.transform(seen)]

    ranked = sorted(data.points, key=lambda point: point.recipe != data.winner)
    named = [*ranked[:SURE], Point("", 1.0, 0.0), *ranked[SURE:NAMED]]
    names = [label(point.recipe, 40) or "untreated" for point in named]
    dots = pixels([(1.0, 0.0), *((point.cost, point.gain) for point in data.points)])
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    if (sure := data.confirmed) is not None:
        (x, bottom), (_, top) = pixels((sure.cost, end) for end in sure.interval)
        taken.append((x - 6, bottom - 6, x + 6, top + 6))
    for (x, y), (right, top) in pairwise(pixels(edge)):
        taken.append((x - 1, min(y, top) - 1, right + 1, max(y, top) + 1))
    where = pixels((point.cost, point.gain) for point in named)
    sides = places(where, [LETTER * len(name) for name in names], taken, (LEFT, 40, WIDTH - 4, HEIGHT - 22))
    for point, name, at, side in zip(named, names, where, sides, strict=True):
        if side is None:
            continue
        colour = "muted" if not point.recipe else "good" if point.recipe == data.winner else "ink"
        begins = 0.0 if side[0] > 1 else 1.0 if side[0] < -1 else 0.5  # which part of the name is next to its point
        line = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.7, "shrinkB": 4, "relpos": (begins, 0.5)}
        axes.annotate(name, at, side, xycoords="figure pixels", textcoords="offset pixels", va="center", color=COLOURS[colour],
                      ha={0.0: "left", 0.5: "center", 1.0: "right"}[begins], weight="bold" if colour == "good" else "normal",
                      annotation_clip=False, gid="tt-mark", arrowprops=line if math.hypot(*side) > NEAR else None)  # fmt: skip


def places(
    points: Sequence[tuple[float, float]], widths: Sequence[float], taken: Sequence[Box], sheet: Box
) -> list[tuple[float, float] | None]:
    """Where a label of each width goes, as seen from its point: to the nearest place on the sheet that is free, or nowhere.

    A label to the right of its point begins there, one to the left ends there, any other has its middle there.
    """
    found: list[tuple[float, float] | None] = []
    taken, labels = list(taken), list[Box]()
    for (x, y), width in zip(points, widths, strict=True):
        for dx, dy in _around():
            left = x + dx - (0 if dx > 1 else width if dx < -1 else width / 2)
            box = (left, y + dy - LINE / 2, left + width, y + dy + LINE / 2)
            ways = np.linspace(0.2, 0.8, 12) if math.hypot(dx, dy) > NEAR else ()
            line = [(x + way * dx, y + way * dy, x + way * dx + 1, y + way * dy + 1) for way in ways]
            inside = box[0] >= sheet[0] and box[1] >= sheet[1] and box[2] <= sheet[2] and box[3] <= sheet[3]
            if inside and not _meets(box, taken) and not any(_meets(part, labels) for part in line):
                labels.append(box)
                taken += [box, *line]
                found.append((dx, dy))
                break
        else:
            found.append(None)
    return found


def _around() -> Iterator[tuple[float, float]]:
    """Places around a point, the nearest first."""
    yield from ((10, 0), (-10, 0), (0, 15), (0, -15), (6, 12), (6, -12), (-6, 12), (-6, -12))
    for away in np.arange(2, 14) * LINE:
        for side in (1, -1, 0):
            yield from ((side * (8 + away / 3), float(away)), (side * (8 + away / 3), -float(away)))


def _meets(box: Box, others: Iterable[Box]) -> bool:
    return any(box[0] < one[2] and one[0] < box[2] and box[1] < one[3] and one[1] < box[3] for one in others)
