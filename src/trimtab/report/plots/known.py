"""What many decisions have come to: the number of the script as the kept ones have left it, and what each of them looked like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.ledger import Decision
from trimtab.report.plots.canvas import COLOURS, axis_attributes, digits, label, place, sheet, to_svg
from trimtab.report.plots.curves import HEIGHT, WIDTH


@dataclass(frozen=True)
class KnownData:
    """By decision: the mean of the metric under what was kept last, with the bounds of its effect, and under each edit by itself."""

    metric: str
    arms: tuple[str, ...]
    verdicts: tuple[str, ...]
    known: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seen: np.ndarray

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of what is drawn."""
        return ("the script", "c0"), ("kept", "good"), ("not kept", "base")


def known_data(decisions: Sequence[Decision]) -> KnownData | None:
    """Of the decisions that have ended on the script, and by the number, that the last one was on; ``None`` where there is none."""
    ended = [decision for decision in decisions if decision.ended]
    ended = [one for one in ended if (one.subject, one.metric) == (ended[-1].subject, ended[-1].metric)]
    if not ended:
        return None
    known: list[tuple[float, float, float]] = []
    for decision in ended:
        before = known[-1] if known else (decision.before,) * 3
        now = levels_of(decision)
        sign = 1 if decision.goal == "max" else -1
        better = (
            decision.kept and np.isfinite(now[0]) and not sign * (now[0] - before[0]) < 0
        )  # not beside what is known to be better
        known.append(now if better else before)
    level, low, high = np.array(known).T
    return KnownData(
        metric=ended[-1].metric,
        arms=tuple(decision.arm for decision in ended),
        verdicts=tuple(decision.verdict for decision in ended),
        known=level,
        low=low,
        high=high,
        seen=np.array([levels_of(decision)[0] for decision in ended]),
    )


def levels_of(decision: Decision) -> tuple[float, float, float]:
    """What the metric is under an edit: its mean, and with the bounds of the effect."""
    sign = 1 if decision.goal == "max" else -1
    mean, one, other = (decision.before + sign * size for size in (decision.effect, decision.low, decision.high))
    return mean, min(one, other), max(one, other)


def draw_known(data: KnownData) -> str:
    """The SVG: classes ``series-0`` ... in the order of the legend."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    numbers = np.arange(1, len(data.arms) + 1)
    better = np.array([verdict == "better" for verdict in data.verdicts])
    bounds = np.concatenate([data.low, data.high, data.known])
    bounds = bounds[np.isfinite(bounds)]
    margin = 0.4 * np.ptp(bounds) if len(bounds) and np.ptp(bounds) else 1.0
    least, most = (bounds.min() - margin, bounds.max() + margin) if len(bounds) else (0.0, 1.0)
    seen, low, high = (np.clip(x, least, most) for x in (data.seen, data.low, data.high))
    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, 56, 18, 14, 34)
        axes.grid(axis="y")
        axes.fill_between(numbers, low, high, step="post", color=COLOURS["c0"], alpha=0.18, linewidth=0)
        axes.plot(
            numbers, data.known, color=COLOURS["c0"], drawstyle="steps-post", linewidth=1.8, gid="tt-series--series-0"
        )
        for which, colour, series in ((better, "good", 1), (~better, "base", 2)):
            axes.plot(numbers[which], seen[which], "o", color=COLOURS[colour], markersize=4.5, markeredgewidth=0,
                      gid=f"tt-series--series-{series}")  # fmt: skip
        axes.set_xlim(0.5, len(numbers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits(axes.yaxis)}g}"))
        axes.set_xlabel("decision")
        hover = {
            "metric": label(data.metric, 60), "recipes": [label(arm, 120) for arm in data.arms],
            "statuses": list(data.verdicts), "values": data.seen, "last": data.seen, "best": data.known,
        }  # fmt: skip
        return to_svg(
            figure, "what the script has come to, decision by decision", "history", hover, axis_attributes(axes)
        )
