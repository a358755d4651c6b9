"""The course of a search: every trial's result in the order of asking, the best so far, and those that were stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.records import Tuning
from trimtab.report.plots.canvas import COLOURS, axis_attributes, digits, label, place, sheet, to_svg
from trimtab.report.plots.curves import HEIGHT, WIDTH, wants_log


@dataclass(frozen=True)
class HistoryData:
    """Trials by their number. ``values`` is NaN where a trial has none; ``last`` is what a pruned one reported last.

    ``low`` and ``high`` hold the untreated run and all but the worst tenth of what came to its end: one outlier would hide the rest.
    """

    metric: str
    goal: str
    recipes: tuple[str, ...]
    statuses: tuple[str, ...]
    values: np.ndarray
    last: np.ndarray
    best: np.ndarray
    untreated: float
    log: bool
    low: float
    high: float

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of what is drawn."""
        return ("best so far", "c0"), ("came to its end", "base"), ("pruned", "c4"), ("diverged or failed", "bad")


def history_data(tuning: Tuning) -> HistoryData | None:
    """The history of a search; ``None`` if no trial of it has a number."""
    values = np.array(
        [attempt.value if attempt.status == "ok" else math.nan for attempt in tuning.attempts], dtype=float
    )
    if not np.isfinite(values).any():
        return None
    last = np.array(
        [attempt.reports.finite.last if attempt.status == "pruned" else math.nan for attempt in tuning.attempts],
        dtype=float,
    )
    more = tuning.metric.goal == "max"
    worst = -math.inf if more else math.inf
    best = (np.maximum if more else np.minimum).accumulate(np.where(np.isfinite(values), values, worst))
    finite = values[np.isfinite(values)]
    held = finite[finite >= np.quantile(finite, 0.1)] if more else finite[finite <= np.quantile(finite, 0.9)]
    held = np.append(held, tuning.untreated if math.isfinite(tuning.untreated) else held[0])
    return HistoryData(
        metric=tuning.metric.name,
        goal=tuning.metric.goal,
        recipes=tuple(attempt.recipe for attempt in tuning.attempts),
        statuses=tuple(attempt.status for attempt in tuning.attempts),
        values=values,
        last=last,
        best=np.where(np.isfinite(best), best, math.nan),
        untreated=tuning.untreated,
        log=wants_log(held),
        low=float(held.min()),
        high=float(held.max()),
    )


def draw_history(data: HistoryData) -> str:
    """The SVG: classes ``series-0`` ... in the order of the legend, ``untreated`` on the line of the untreated run."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    numbers = np.arange(len(data.values))
    stopped = np.array([status == "pruned" for status in data.statuses], dtype=bool)
    lost = ~stopped & ~np.isfinite(data.values)
    low, high = _room(data)
    values, last, best = (np.clip(x, low, high) for x in (data.values, data.last, data.best))
    edge = 0.0 if data.goal == "max" else 1.0  # what has no number stands at the worse end
    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, 56, 18, 14, 34)
        axes.set_yscale("log" if data.log else "linear")
        axes.grid(axis="y")
        if math.isfinite(data.untreated):
            axes.axhline(data.untreated, color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)), gid="tt-untreated")
        axes.plot(numbers, best, color=COLOURS["c0"], drawstyle="steps-post", linewidth=1.8, gid="tt-series--series-0")
        dots: dict[str, Any] = {"linestyle": "", "clip_on": False}
        axes.plot(numbers, values, marker="o", color=COLOURS["base"], markersize=4.5, markeredgewidth=0,
                  gid="tt-series--series-1", **dots)  # fmt: skip
        seen = stopped & np.isfinite(last)
        axes.plot(
            numbers[seen],
            last[seen],
            marker="x",
            color=COLOURS["c4"],
            markersize=5,
            gid="tt-series--series-2",
            **dots,
        )
        axes.set_xlim(-0.5, len(numbers) - 0.5)
        axes.set_ylim(low, high)
        for where, colour, series in ((stopped & ~seen, "c4", 2), (lost, "bad", 3)):
            axes.plot(numbers[where], np.full(where.sum(), edge), marker="x", color=COLOURS[colour], markersize=5,
                      transform=axes.get_xaxis_transform(), gid=f"tt-series--series-{series}", **dots)  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if data.log:
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits(axes.yaxis)}g}"))
        axes.set_xlabel("trial")
        hover = {
            "metric": label(data.metric, 60),
            "recipes": [label(recipe, 120) or "untreated" for recipe in data.recipes],
            "statuses": [status.replace("_", " ") for status in data.statuses],
            "values": data.values,
            "last": data.last,
            "best": data.best,
        }
        return to_svg(
            figure, f"{label(data.metric, 80)} over the trials of the search", "history", hover, axis_attributes(axes)
        )


def _room(data: HistoryData) -> tuple[float, float]:
    """The range of the drawing: a little more than that of the data."""
    if data.log:  # within what an axis can leave room around
        factor = (min(data.high, 1e150) / max(data.low, 1e-150)) ** 0.06
        return max(data.low, 1e-150) / factor, min(data.high, 1e150) * factor
    margin = 0.06 * (data.high - data.low) or 0.06 * abs(data.high) or 1.0
    return data.low - margin, data.high + margin
