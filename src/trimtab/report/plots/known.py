"""What many decisions have come to: how much the kept ones have gained together, and what those that are not sure looked like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.ledger import Decision
from trimtab.report.plots.canvas import COLOURS, axis_attributes, digits, label, place, sheet, to_svg
from trimtab.report.plots.curves import HEIGHT, WIDTH


@dataclass(frozen=True)
class KnownData:
    """By decision: the sum of the effects that were kept until then with the sums of their bounds, and each effect by itself."""

    metric: str
    arms: tuple[str, ...]
    verdicts: tuple[str, ...]
    kept: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effects: np.ndarray

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Name and colour of what is drawn."""
        return ("kept, together", "c0"), ("kept", "good"), ("not kept", "base")


def known_data(decisions: Sequence[Decision]) -> KnownData | None:
    """Of the decisions that have ended; ``None`` where there is none."""
    ended = [decision for decision in decisions if decision.ended]
    if not ended:
        return None
    kept = np.array([decision.kept for decision in ended])
    effects, low, high = (
        np.array([getattr(decision, name) for decision in ended], dtype=float) for name in ("effect", "low", "high")
    )
    effect, low, high = (np.where(kept & np.isfinite(x), x, 0.0).cumsum() for x in (effects, low, high))
    return KnownData(
        metric=ended[-1].metric,
        arms=tuple(decision.arm for decision in ended),
        verdicts=tuple(decision.verdict for decision in ended),
        kept=effect,
        low=low,
        high=high,
        effects=effects,
    )


def draw_known(data: KnownData) -> str:
    """The SVG: classes ``series-0`` ... in the order of the legend."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    numbers = np.arange(1, len(data.arms) + 1)
    better = np.array([verdict == "better" for verdict in data.verdicts])
    span = max(abs(data.low).max(), abs(data.high).max()) or np.nanmax(np.abs(data.effects), initial=0.0) or 1.0
    effects = np.clip(data.effects, -span, 1.05 * span)
    with sheet(WIDTH, HEIGHT) as figure:
        axes = place(figure, 56, 18, 14, 34)
        axes.grid(axis="y")
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        axes.fill_between(numbers, data.low, data.high, step="post", color=COLOURS["c0"], alpha=0.18, linewidth=0)
        axes.plot(
            numbers, data.kept, color=COLOURS["c0"], drawstyle="steps-post", linewidth=1.8, gid="tt-series--series-0"
        )
        for which, colour, series in ((better, "good", 1), (~better, "base", 2)):
            axes.plot(numbers[which], effects[which], "o", color=COLOURS[colour], markersize=4.5, markeredgewidth=0,
                      gid=f"tt-series--series-{series}")  # fmt: skip
        axes.set_xlim(0.5, len(numbers) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits(axes.yaxis)}g}"))
        axes.set_xlabel("decision")
        hover = {
            "metric": label(data.metric, 60), "recipes": [label(arm, 120) for arm in data.arms],
            "statuses": list(data.verdicts), "values": data.effects, "last": data.effects, "best": data.kept,
        }  # fmt: skip
        return to_svg(figure, "what the kept edits have gained together", "history", hover, axis_attributes(axes))
