"""The tables of trials on a page: a row for each recipe with its strip of seeds, and the curves of the best."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.records import Arm, Comparison
from trimtab.report import figures
from trimtab.report.figures import Picture
from trimtab.report.plots.trials import draw_axis, draw_trials, trials_data

MOST = 100  # rows


@dataclass(frozen=True)
class Table:
    """One comparison: its rows with their strips, and the curves of its best arm."""

    title: str
    comparison: Comparison
    rows: tuple[tuple[Arm, str], ...]
    axis: str
    pictures: tuple[Picture, ...]
    said: str = ""


def table(
    key: str, title: str, comparison: Comparison, chosen: tuple[Comparison, Arm] | None, curves: bool = True
) -> Table:
    """The table of a comparison; with ``curves``, those of the chosen arm stand below it."""
    data = trials_data(comparison)
    arms = comparison.arms[:MOST]
    strips = [draw_trials(data, row) if data is not None else "" for row in range(len(arms))]
    pictures = tuple(figures.of_seeds(comparison, chosen[1], key)) if chosen is not None and curves else ()
    rows = tuple(zip(arms, strips, strict=True))
    return Table(title, comparison, rows, draw_axis(data) if data is not None else "", pictures)
