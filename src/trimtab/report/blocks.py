"""What the views of the terminal are made of: findings, tables of arms, lines to add, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.records import Arm, Comparison, Finding, Metric
from trimtab.report.effects import other_numbers
from trimtab.report.words import (
    arm_noun,
    baseline_mean,
    by_severity,
    cost,
    count,
    effect,
    helped,
    judge,
    judged_by,
    lost,
    mean,
    number,
    printable,
)

_SEVERITY = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """Each finding with its place, its evidence and what to try, the gravest first."""
    blocks: list[RenderableType] = []
    for finding in by_severity(findings):
        if blocks:
            blocks.append(Text())
        blocks.append(
            as_text(f"{finding.severity:<8}", style=_SEVERITY[finding.severity]) + as_text(finding.title, style="bold")
        )
        lines: list[RenderableType] = [as_text(f"{finding.problem} at {finding.where}", style="dim")]
        lines += [hanging("-", as_text(evidence.text)) for evidence in finding.evidence]
        if finding.remedies:
            lines.append(as_text("Try, best first:"))
            lines += [Padding(as_text(remedy, style="cyan"), (0, 0, 0, 2)) for remedy in finding.remedies]
        blocks.append(Padding(Group(*lines), (0, 0, 0, 8)))
    return Group(*blocks)


def comparison_view(comparison: Comparison, words: bool = True, lines: bool = True) -> RenderableType:
    """The arms in a table: mean, effect with interval, probabilities, wins, lost seeds; then notes and words, and the lines that keep what
    is proven."""
    noted: dict[str, list[str]] = {}
    for arm in comparison.arms:
        if arm.note:
            noted.setdefault(arm.note, []).append(arm.recipe)
    notes = [hanging("-", as_text(f"{'; '.join(recipes)}: {note}")) for note, recipes in noted.items()]
    others = [hanging("-", as_text(line)) for line in other_numbers(comparison)]
    sentences = comparison.words if words else ()
    kept = [part for arm in helped(comparison) if lines for part in to_add(arm.lines, f"for {arm.recipe}", arm.edit)]
    return Group(
        _Arms(comparison), *others, *notes, *(hanging("-", as_text(sentence)) for sentence in sentences), *kept
    )


class _Arms:
    """The table of a comparison. Where a narrow terminal leaves no room for the recipes beside the numbers, they stand above them."""

    LEAST = 20  # letters of a recipe side by side with its numbers

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        of_t = "p Holm" if len(comparison.arms) > 1 else "p t"
        self.headings = ["mean", f"effect [{comparison.level * 100:g} %]", "verdict", "p sign", of_t, "wins"]
        self.rows: list[tuple[str, list[str], str]] = []  # recipe, numbers, style
        arms, lost_seeds = comparison.arms, []
        if arms:
            untreated = mean(comparison, baseline_mean(comparison))
            self.rows.append(("untreated", [untreated, "", "", "", "", ""], "dim"))
            lost_seeds.append(f"{arms[0].baseline_diverged} diverged" if arms[0].baseline_diverged else "")
        for arm in arms:
            wins = f"{arm.wins}/{len(arm.seeds)}"
            tests = [number(arm.p_sign), number(arm.p_holm), wins]
            numbers = [mean(comparison, arm.mean), effect(arm), arm.verdict, *tests]
            self.rows.append((printable(arm.recipe), numbers, _arm_style(arm)))
            lost_seeds.append(lost(arm))
        if any(arm.cost for arm in arms):
            self.headings.append("cost")
            for (_, numbers, _), said in zip(self.rows, ["", *(cost(arm.cost) for arm in arms)], strict=True):
                numbers.append(said)
        if any(lost_seeds):
            self.headings.append("lost seeds")
            for (_, numbers, _), said in zip(self.rows, lost_seeds, strict=True):
                numbers.append(said)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        metric, seeds = self.comparison.metric, len(self.comparison.seeds)
        fewest = min((arm.tried or seeds for arm in self.comparison.arms), default=seeds)
        several = f"{fewest} to " if fewest < seeds else ""
        yield as_text(f"{judge(metric, goal=True)}, {several}{count(seeds, 'paired seed')}")
        cells = [self.headings, *(numbers for _, numbers, _ in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.headings))]
        longest = max((len(recipe) for recipe, *_ in self.rows), default=0)
        if options.max_width - sum(widths) - 2 * len(widths) < min(longest, self.LEAST):
            yield self._line(self.headings, widths, "dim")
            for recipe, numbers, style in self.rows:
                yield as_text(recipe, style=style)
                yield self._line(numbers, widths, style)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column(arm_noun(self.comparison), overflow="fold", ratio=1)
        for heading in self.headings:
            table.add_column(heading, justify="left" if heading == "lost seeds" else "right", no_wrap=True)
        for recipe, numbers, style in self.rows:
            table.add_row(as_text(recipe), *numbers, style=style)
        yield table

    def _line(self, cells: list[str], widths: list[int], style: str) -> Text:
        said = [
            cell if heading == "lost seeds" else cell.rjust(width)  # these stand to the left
            for heading, cell, width in zip(self.headings, cells, widths, strict=True)
        ]
        return as_text("  " + "  ".join(said).rstrip(), style=style)


def to_add(lines: Sequence[str], of: str = "", edit: bool = False) -> list[RenderableType]:
    """Lines to add, or the difference that an edit is, flush left and unbroken, to be copied as they are."""
    if not lines:
        return []
    title = " ".join(filter(None, ("The difference" if edit else "Lines to add", of)))
    return [
        as_text(f"{title}:", style="bold"),
        *(as_text(line, style="green", no_wrap=True, overflow="ignore") for line in lines),
    ]


def judged_line(metric: Metric | None, hints: Sequence[str] = ()) -> Text:
    """Which number judges: a warning, where nothing is known of held-out data."""
    return as_text(judged_by(metric, hints), style="yellow" if metric is None or metric.name == "loss" else "dim")


def hanging(mark: str, text: Text) -> RenderableType:
    """A mark and a text whose further lines stand under its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(as_text(mark, style="dim"), text)
    return grid


def _arm_style(arm: Arm) -> str:
    return "red" if arm.standing == "lost" else {"better": "green", "worse": "red"}.get(arm.verdict, "")


def as_text(said: str, style: str = "", **options: Any) -> Text:
    """A recorded text, without markup and without what a terminal would obey."""
    return Text(printable(said), style=style, **options)
