"""How much each axis of a search decides about its best trials, as bars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trimtab.records import Tuning
from trimtab.report.plots.canvas import COLOURS, axis_attributes, label, place, sheet, to_svg
from trimtab.report.plots.curves import WIDTH

BAR, MOST = 26, 12  # pixels of a bar, and bars at most


@dataclass(frozen=True)
class ImportancesData:
    """Shares that sum to 1 over all axes, the largest first; ``left`` axes are not shown."""

    names: tuple[str, ...]
    shares: np.ndarray
    left: int


def importances_data(tuning: Tuning) -> ImportancesData | None:
    """The importances of a search; ``None`` if there were too few trials for any."""
    if not tuning.importances:
        return None
    ranked = sorted(tuning.importances.items(), key=lambda item: -item[1])
    shown = ranked[:MOST]
    return ImportancesData(
        tuple(name for name, _ in shown), np.array([share for _, share in shown]), len(ranked) - len(shown)
    )


def draw_importances(data: ImportancesData) -> str:
    """The SVG: class ``bars`` on the bars, each with its name and its share in percent."""
    rows = np.arange(len(data.names))
    with sheet(WIDTH, BAR * len(rows) + 16) as figure:
        axes = place(figure, 212, 4, 52, 8)
        axes.spines["bottom"].set_visible(False)
        bars = axes.barh(rows, data.shares, height=0.62, color=COLOURS["c0"], linewidth=0)
        for bar in bars:
            bar.set_gid("tt-bars")
        for row, share in zip(rows, data.shares, strict=True):
            axes.annotate(f"{100 * share:.0f} %", (share, row), (6, 0), textcoords="offset points", va="center",
                          color=COLOURS["muted"], annotation_clip=False)  # fmt: skip
        axes.set_yticks(rows, [label(name, 32) for name in data.names], color=COLOURS["ink"])
        axes.set_xticks([])
        axes.set_xlim(0, max(float(data.shares.max()), 1e-9))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        return to_svg(figure, "importance of each axis of the search", "importances", {}, axis_attributes(axes))
