"""The verdict: what a run, or what was tried on it, came to, in one sentence, and whether that is good news."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trimtab.records import Finding, Findings, Outcome, RunRecord, Story
from trimtab.report.effects import blind
from trimtab.report.outcomes import telling_of
from trimtab.report.words import by_severity, count

Tone = Literal["good", "bad", "plain"]


def verdict(story: Story | RunRecord) -> str:
    """One sentence: of what was tried if something was, or of the findings."""
    story = story if isinstance(story, Story) else Story(story)
    run, findings = story.run, story.found
    if story.outcome is not None:
        return telling_of(story.outcome).sentence(story.outcome, findings)
    ended = f"The run ended with an error: {run.error.strip().splitlines()[-1]}" if run.error.strip() else ""
    if findings:
        return _of_findings(findings) + (f". {ended}" if ended else "")
    if ended:
        return ended
    if run.exit_code:
        return f"The run ended with exit code {run.exit_code}"
    if not run.finished:
        return f"{_silence(findings)} so far; the run has not ended, or was killed"
    return f"{_silence(findings)}{blind(run.metric)}" if run.trainings else "No training was seen in this run"


def tone(story: Story) -> Tone:
    """Whether the verdict is good news: an improvement that is proven, or no fault where every rule could judge."""
    run, findings = story.run, story.found
    helped = telling_of(story.outcome).helped(story.outcome) if story.outcome is not None else None
    if helped is not None:
        return "good" if helped else "plain"
    if run.error or run.exit_code or any(finding.severity == "error" for finding in findings):
        return "bad"
    unsure = findings or getattr(findings, "unjudged", None)
    return "plain" if unsure or not run.trainings else "good"


def of_outcome(outcome: Outcome) -> str:
    """The verdict on what was tried, alone."""
    return telling_of(outcome).sentence(outcome, getattr(outcome, "findings", ()))


def _silence(findings: Sequence[Finding]) -> str:
    """What it means that no rule found anything: those that could not judge are no word of health."""
    return (findings if isinstance(findings, Findings) else Findings()).silence


def _of_findings(findings: Sequence[Finding]) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    kinds = [count(errors, "error")] * bool(errors) + [count(warnings, "warning")] * bool(warnings)
    notes = len(findings) - errors - warnings
    first = by_severity(findings)[0].title
    if not kinds:
        return f"{count(notes, 'note')}, and no graver fault was found: {first}"
    if len(findings) == 1:
        return f"1 finding: {first}"
    return (
        f"{count(len(findings), 'finding')} ({', '.join(kinds + [count(notes, 'note')] * bool(notes))}); first: {first}"
    )
