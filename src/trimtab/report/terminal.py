"""The report for a terminal, as rich renderables: verdict, findings, what was tried, the lines to add."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from trimtab.quantities import value
from trimtab.records import Outcome, RunRecord, Story
from trimtab.report.blocks import as_text, comparison_view, findings_view, hanging, judged_line
from trimtab.report.outcomes import telling_of
from trimtab.report.verdict import Tone, of_outcome, tone, verdict
from trimtab.report.words import UNFINISHED, count, duration, judge, number

__all__ = ["comparison_view", "findings_view", "outcome_view", "summary"]

_TONE: dict[Tone, str] = {"good": "bold green", "bad": "bold red", "plain": "bold"}


def summary(story: Story | RunRecord) -> RenderableType:
    """Everything that a command prints at its end, the verdict first; of what was tried earlier on the run, the verdict alone."""
    story = story if isinstance(story, Story) else Story(story)
    run, outcome = story.run, story.outcome
    parts: list[RenderableType] = [as_text(verdict(story), style=_TONE[tone(story)]), _run_line(run)]
    if run.trainings or outcome is not None:
        parts.append(judged_line(story.metric, run.hints))
    if story.found:
        parts += [Text(), findings_view(story.found)]
        if unable := getattr(story.found, "unable", ""):
            parts.append(hanging("-", as_text(f"Could not judge: {unable}.", style="dim")))
    if outcome is not None:
        parts += [Text(), *telling_of(outcome).view(outcome)]
    if story.earlier:
        parts += [
            Text(),
            *(hanging("-", as_text(f"Tried earlier on this run: {of_outcome(one)}.")) for one in story.earlier),
        ]
    return Group(*parts)


def outcome_view(outcome: Outcome) -> RenderableType:
    """What was tried alone: which number judges, and what came out."""
    kind, findings = telling_of(outcome), getattr(outcome, "findings", ())
    if kind.decided(outcome) is None and findings:
        return Group(findings_view(findings), *kind.view(outcome))
    return Group(judged_line(getattr(outcome, "metric", None)), Text(), *kind.view(outcome))


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
    return as_text(", ".join(parts), style="dim")
