"""The report for a terminal, as rich renderables: verdict, findings, trial table, the lines to add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.quantities import value
from trimtab.records import Arm, Comparison, Finding, Metric, Outcome, RunRecord, Treatment, Tuning
from trimtab.report.verdict import Tone, of_outcome, tone, verdict
from trimtab.report.words import (
    UNFINISHED,
    baseline_mean,
    by_severity,
    count,
    duration,
    effect,
    helped,
    importance,
    judge,
    judged_by,
    leading,
    lost,
    mean,
    number,
    printable,
)

BEST = 5  # trials of a search, and axes of it, that the terminal shows
_SEVERITY = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_TONE: dict[Tone, str] = {"good": "bold green", "bad": "bold red", "plain": "bold"}


def summary(
    run: RunRecord,
    findings: Sequence[Finding] = (),
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
    earlier: Sequence[Outcome] = (),
) -> RenderableType:
    """Everything that a command prints at its end, the verdict first; of what was tried ``earlier`` on the run, the verdict alone."""
    findings = findings or (treatment.findings if treatment is not None else ()) or findings
    style = _TONE[tone(run, findings, treatment, comparison, tuning)]
    said = verdict(run, findings, treatment, comparison, tuning)
    outcome = tuning or treatment or comparison
    parts: list[RenderableType] = [_text(said, style=style), _run_line(run)]
    if run.trainings or outcome is not None:
        parts.append(_judged_by(outcome.metric if outcome is not None else run.metric, run.hints))
    if findings:
        parts += [Text(), findings_view(findings)]
    if comparison is not None:
        parts += [Text(), comparison_view(comparison)]
    if treatment is not None:
        parts += [Text(), treatment_view(treatment)]
    if tuning is not None:
        parts += [Text(), tuning_view(tuning)]
    if earlier:
        parts += [
            Text(),
            *(_hanging("-", _text(f"Tried earlier on this run: {of_outcome(run, one)}.")) for one in earlier),
        ]
    return Group(*parts)


def outcome_view(outcome: Outcome) -> RenderableType:
    """A comparison, a treatment or a search alone: which number judges, and what came out."""
    if isinstance(outcome, Treatment) and outcome.search is None:
        return Group(findings_view(outcome.findings), treatment_view(outcome))
    view = {Comparison: comparison_view, Treatment: treatment_view, Tuning: tuning_view}[type(outcome)](outcome)  # type: ignore[operator]
    return Group(_judged_by(outcome.metric), Text(), view)


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """Each finding with its place, its evidence and what to try, the gravest first."""
    blocks: list[RenderableType] = []
    for finding in by_severity(findings):
        if blocks:
            blocks.append(Text())
        blocks.append(
            _text(f"{finding.severity:<8}", style=_SEVERITY[finding.severity]) + _text(finding.title, style="bold")
        )
        lines: list[RenderableType] = [_text(f"{finding.problem} at {finding.where}", style="dim")]
        lines += [_hanging("-", _text(evidence.text)) for evidence in finding.evidence]
        if finding.remedies:
            lines.append(_text("Try, best first:"))
            lines += [Padding(_text(remedy, style="cyan"), (0, 0, 0, 2)) for remedy in finding.remedies]
        blocks.append(Padding(Group(*lines), (0, 0, 0, 8)))
    return Group(*blocks)


def comparison_view(comparison: Comparison, words: bool = True, lines: bool = True) -> RenderableType:
    """The arms in a table: mean, effect with interval, probabilities, wins, lost seeds; then notes and words, and the lines that keep what
    is proven."""
    noted: dict[str, list[str]] = {}
    for arm in comparison.arms:
        if arm.note:
            noted.setdefault(arm.note, []).append(arm.recipe)
    notes = [_hanging("-", _text(f"{'; '.join(recipes)}: {note}")) for note, recipes in noted.items()]
    sentences = comparison.words if words else ()
    kept = [part for arm in helped(comparison) if lines for part in _lines(arm.lines, f" for {arm.recipe}")]
    return Group(_Arms(comparison), *notes, *(_hanging("-", _text(sentence)) for sentence in sentences), *kept)


class _Arms:
    """The table of a comparison. Where a narrow terminal leaves no room for the recipes beside the numbers, they stand above them."""

    LEAST = 20  # letters of a recipe side by side with its numbers

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.headings = ["mean", f"effect [{comparison.level * 100:g} %]", "p sign", "p Holm", "wins"]
        self.rows: list[tuple[str, list[str], str]] = []  # recipe, numbers, style
        arms, lost_seeds = comparison.arms, []
        if arms:
            untreated = mean(comparison, baseline_mean(comparison))
            self.rows.append(("untreated", [untreated, "", "", "", ""], "dim"))
            lost_seeds.append(f"{arms[0].baseline_diverged} diverged" if arms[0].baseline_diverged else "")
        for arm in arms:
            wins = f"{arm.wins}/{len(arm.seeds)}"
            numbers = [mean(comparison, arm.mean), effect(arm), number(arm.p_sign), number(arm.p_holm), wins]
            self.rows.append((printable(arm.recipe), numbers, _arm_style(arm)))
            lost_seeds.append(lost(arm))
        if any(lost_seeds):
            self.headings.append("lost seeds")
            for (_, numbers, _), said in zip(self.rows, lost_seeds, strict=True):
                numbers.append(said)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        metric, seeds = self.comparison.metric, len(self.comparison.seeds)
        yield _text(f"{judge(metric, goal=True)}, {count(seeds, 'paired seed')}")
        cells = [self.headings, *(numbers for _, numbers, _ in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.headings))]
        longest = max((len(recipe) for recipe, *_ in self.rows), default=0)
        if options.max_width - sum(widths) - 2 * len(widths) < min(longest, self.LEAST):
            yield self._line(self.headings, widths, "dim")
            for recipe, numbers, style in self.rows:
                yield _text(recipe, style=style)
                yield self._line(numbers, widths, style)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("recipe", overflow="fold", ratio=1)
        for heading in self.headings:
            table.add_column(heading, justify="left" if heading == "lost seeds" else "right", no_wrap=True)
        for recipe, numbers, style in self.rows:
            table.add_row(_text(recipe), *numbers, style=style)
        yield table

    def _line(self, cells: list[str], widths: list[int], style: str) -> Text:
        last = len(self.headings) > 5  # lost seeds stand to the left
        numbers = [cell.rjust(width) for cell, width in zip(cells[:5], widths, strict=False)]
        return _text("  " + "  ".join([*numbers, *cells[5:]] if last else numbers).rstrip(), style=style)


def treatment_view(treatment: Treatment) -> RenderableType:
    """What was tried, what was confirmed, in words, and the lines that keep it."""
    parts: list[RenderableType] = []
    if treatment.search is not None:
        last = treatment.confirmation is None  # what the statistics can show is said once, below the last table
        parts += [_text("Search", style="bold"), comparison_view(treatment.search, last, False), Text()]
    if treatment.confirmation is not None:
        parts += [
            _text("Confirmation on fresh seeds", style="bold"),
            comparison_view(treatment.confirmation, lines=False),
            Text(),
        ]
    for sentence in treatment.words:  # a command stays on one line, to be copied
        command = sentence.startswith("trimtab ")
        parts.append(
            _text(sentence, "cyan", no_wrap=True, overflow="ignore") if command else _hanging("-", _text(sentence))
        )
    proven = treatment.confirmation is None or any(arm.helped for arm in treatment.confirmation.arms)
    return Group(*parts, *_lines(treatment.lines, "" if proven else " to try it, since it is not proven"))


def tuning_view(tuning: Tuning) -> RenderableType:
    """The best of the search, what decided, what was confirmed, in words, and the lines that keep it."""
    parts: list[RenderableType] = [_text("Search", style="bold"), _probes(tuning), Text()]
    if tuning.importances:
        ranked = sorted(tuning.importances.items(), key=lambda item: -item[1])[:BEST]
        decided = ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked)
        parts += [_hanging("-", _text(importance(tuning))), _hanging(" ", _text(decided, style="cyan")), Text()]
    if tuning.confirmation is not None:
        parts += [
            _text("Confirmation on fresh seeds", style="bold"),
            comparison_view(tuning.confirmation, lines=False),
            Text(),
        ]
    parts += [_hanging("-", _text(sentence)) for sentence in tuning.words]
    return Group(*parts, *_lines(tuning.lines))


def _probes(tuning: Tuning) -> RenderableType:
    name = judge(tuning.metric)
    title = _text(f"{name} on the seed of the search, the best of {count(len(tuning.attempts), 'trial')}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("recipe", overflow="fold", ratio=1)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_row("untreated", number(tuning.untreated), "", style="dim")
    for attempt in leading(tuning.attempts, tuning.metric, BEST):
        table.add_row(_text(attempt.recipe), number(attempt.value), duration(attempt.seconds))
    return Group(title, table)


def _lines(lines: Sequence[str], of: str = "") -> list[RenderableType]:
    """Lines to add, flush left and unbroken, to be copied as they are."""
    if not lines:
        return []
    return [
        _text(f"Lines to add{of}:", style="bold"),
        *(_text(line, style="green", no_wrap=True, overflow="ignore") for line in lines),
    ]


def _judged_by(metric: Metric | None, hints: Sequence[str] = ()) -> Text:
    """Which number judges: a warning, where nothing is known of held-out data."""
    return _text(judged_by(metric, hints), style="yellow" if metric is None or metric.name == "loss" else "dim")


def _run_line(run: RunRecord) -> Text:
    parts = [run.subject]
    if (main := run.main) is not None:
        several = sum(training.steps > 0 for training in run.trainings)
        parts.append(count(main.steps, "step") + (f" in the longest of {several} trainings" if several > 1 else ""))
        if len(main.get("loss")):
            parts.append(f"last loss {number(main.get('loss').last)}")
        if run.metric is not None and run.metric.name != "loss":
            parts.append(f"{judge(run.metric)} {number(value(run, run.metric))}")
    parts.append(duration(run.seconds) if run.finished else UNFINISHED)
    return _text(", ".join(parts), style="dim")


def _hanging(mark: str, text: Text) -> RenderableType:
    """A mark and a text whose further lines stand under its first."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(_text(mark, style="dim"), text)
    return grid


def _arm_style(arm: Arm) -> str:
    return {"proven": "green", "rescued": "green", "worse": "red", "lost": "red"}.get(arm.standing, "")


def _text(said: str, style: str = "", **options: Any) -> Text:
    """A recorded text, without markup and without what a terminal would obey."""
    return Text(printable(said), style=style, **options)
