"""The effect of every arm against the untreated subject: interval, mean, and one dot a seed (a forest plot).

A strip is drawn for each arm on an axis shared by all, so that the strips stand in the rows of the trial table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trimtab.records import Arm, Comparison, Verdict
from trimtab.report.plots.canvas import COLOURS, axis_attributes, label, place, sheet, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW = 300, 34
_COLOUR: dict[Verdict, str] = {"better": "good", "worse": "bad", "same": "muted", "undecided": "muted"}
_FAR = 1000.0  # times the size of a usual difference


@dataclass(frozen=True)
class ArmData:
    """One row: the mean difference with its interval, and the difference of every seed (positive is better)."""

    recipe: str
    effect: float
    low: float
    high: float
    seeds: tuple[int, ...]
    differences: np.ndarray
    verdict: Verdict


@dataclass(frozen=True)
class TrialsData:
    """The rows of a comparison and the range that they share."""

    arms: tuple[ArmData, ...]
    low: float
    high: float


def trials_data(comparison: Comparison) -> TrialsData | None:
    """Effects of all arms; ``None`` if no arm has a finite one."""
    arms = tuple(_arm(arm) for arm in comparison.arms)
    numbers = np.array([n for arm in arms for n in (arm.effect, arm.low, arm.high, *arm.differences)])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    sizes = np.abs(numbers[numbers != 0])
    if len(sizes):  # what lies far off stands at the edge: one seed that diverged does not hide all others
        numbers = numbers[np.abs(numbers) <= _FAR * np.median(sizes)]
    low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
    margin = 0.06 * (high - low) or 1.0
    return TrialsData(arms, low - margin, high + margin)


def _arm(arm: Arm) -> ArmData:
    pairs = list(zip(arm.seeds, arm.differences, strict=False)) if len(arm.seeds) == len(arm.differences) else []
    seeds = tuple(seed for seed, _ in pairs) or tuple(range(len(arm.differences)))
    return ArmData(
        arm.recipe, arm.effect, arm.low, arm.high, seeds, np.array(arm.differences, dtype=float), arm.verdict
    )


def draw_trials(data: TrialsData, row: int) -> str:
    """The strip of one arm: class ``zero`` on the line of no effect, ``interval``, ``dots`` and ``effect``."""
    arm = data.arms[row]
    effect, low, high = (np.clip([arm.effect, arm.low, arm.high], data.low, data.high)).tolist()
    colour = COLOURS[_COLOUR[arm.verdict]]
    with sheet(WIDTH, ROW) as figure:
        axes = _axes(figure, data)
        axes.plot(np.clip(arm.differences, data.low, data.high), np.full(len(arm.differences), -0.55), "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0,
                  gid="tt-dots")  # fmt: skip
        if np.isfinite([arm.low, arm.high]).all():
            axes.plot([low, high], [0.35, 0.35], color=colour, linewidth=3, gid="tt-interval", solid_capstyle="round")
        if np.isfinite(arm.effect):
            axes.plot(
                [effect], [0.35], "D", color=colour, markersize=7, markeredgecolor=COLOURS["card"], gid="tt-effect"
            )
        hover = {"seeds": arm.seeds, "differences": arm.differences}
        title = f"{label(arm.recipe, 80)}: effect {arm.effect:.4g}, interval {arm.low:.4g} to {arm.high:.4g}"
        return to_svg(figure, title, "trials", hover, axis_attributes(axes))


def draw_axis(data: TrialsData) -> str:
    """The axis that the strips share."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with sheet(WIDTH, 22) as figure:
        axes = place(figure, 8, 1, 8, 20)
        axes.set_xlim(data.low, data.high)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 * (data.high - data.low) else f"{value:+.3g}")
        )
        return to_svg(figure, "axis of the effects", "axis", {}, axis_attributes(axes))


def _axes(figure: Figure, data: TrialsData) -> Axes:
    axes = place(figure, 8, 2, 8, 2)
    axes.set_axis_off()
    axes.set_xlim(data.low, data.high)
    axes.set_ylim(-1, 1)
    axes.axvline(0, color=COLOURS["muted"], linewidth=1, gid="tt-zero")
    return axes
