"""The verdict: what a run, its treatment or a comparison came to, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from trimtab.records import Arm, Comparison, Finding, Findings, Metric, Outcome, RunRecord, Treatment, Tuning
from trimtab.report.words import baseline_mean, by_severity, count, decimals, effect, fixed, judge, lost

Tone = Literal["good", "bad", "plain"]


def verdict(
    run: RunRecord,
    findings: Sequence[Finding] = (),
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
) -> str:
    """One sentence: of the search if there is one, else of the treatment, the comparison, or the findings."""
    if tuning is not None:
        return _of_tuning(tuning)
    if treatment is not None:
        return _of_treatment(treatment, findings or treatment.findings or findings)
    if comparison is not None:
        return _of_comparison(comparison)
    ended = f"The run ended with an error: {run.error.strip().splitlines()[-1]}" if run.error.strip() else ""
    if findings:
        return _of_findings(findings) + (f". {ended}" if ended else "")
    if ended:
        return ended
    if run.exit_code:
        return f"The run ended with exit code {run.exit_code}"
    if not run.finished:
        return f"{_silence(findings)} so far; the run has not ended, or was killed"
    return f"{_silence(findings)}{_blind(run.metric)}" if run.trainings else "No training was seen in this run"


def tone(
    run: RunRecord,
    findings: Sequence[Finding] = (),
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
) -> Tone:
    """Whether the verdict is good news: an improvement that is proven, or no fault where every rule could judge."""
    if tuning is not None:
        return "good" if tuning.recipe else "plain"
    if treatment is not None and not treatment.recipe:
        findings, comparison = findings or treatment.findings, None
    elif treatment is not None or comparison is not None:
        found = headline(treatment, comparison)
        confirmed = treatment is None or treatment.confirmation is not None
        return "good" if confirmed and found is not None and found[1].helped else "plain"
    if run.error or run.exit_code or any(finding.severity == "error" for finding in findings):
        return "bad"
    unsure = findings or getattr(findings, "unjudged", None)
    return "plain" if unsure or not run.trainings else "good"


def of_outcome(run: RunRecord, outcome: Outcome) -> str:
    """The verdict on a treatment, a comparison or a search alone."""
    return verdict(run, (), **{type(outcome).__name__.lower(): outcome})  # type: ignore[arg-type]


def headline(
    treatment: Treatment | None, comparison: Comparison | None, tuning: Tuning | None = None
) -> tuple[Comparison, Arm] | None:
    """The comparison and the arm that the verdict speaks of, if it speaks of one."""
    if tuning is not None:
        shown = tuning.confirmation
        if shown is None or not shown.arms:
            return None
        return shown, next((arm for arm in shown.arms if arm.recipe == tuning.recipe), best(shown))
    if treatment is not None:
        shown = treatment.confirmation or treatment.search
        chosen = [arm for arm in shown.arms if arm.recipe == treatment.recipe] if shown and treatment.recipe else []
        return (shown, chosen[0]) if shown and chosen else None
    if comparison is not None and comparison.arms:
        return comparison, best(comparison)
    return None


def best(comparison: Comparison) -> Arm:
    """The arm with the largest effect, a proven one before all others."""
    return max(comparison.arms, key=lambda arm: (arm.helped, arm.effect if math.isfinite(arm.effect) else -math.inf))


def _of_treatment(treatment: Treatment, findings: Sequence[Finding]) -> str:
    shown = headline(treatment, None)
    if treatment.recipe and shown is None:
        return f"{treatment.recipe} was chosen; its effect was not measured"
    if shown is not None:
        seeds = "confirming seed" if treatment.confirmation is not None else "searching seed"
        return _change(*shown, seeds) + (
            "" if treatment.confirmation is not None else "; not yet confirmed on fresh seeds"
        )
    if not findings:
        return _silence(findings)
    tried = len(treatment.search.arms) if treatment.search is not None else 0
    tale = [
        "no remedy was tried",
        "the remedy tried is not proven to help",
        f"none of the {tried} remedies tried is proven to help",
    ]
    return f"{count(len(findings), 'finding')}; {tale[min(tried, 2)]}"


def _of_tuning(tuning: Tuning) -> str:
    shown, tried = headline(None, None, tuning), sum(bool(attempt.recipe) for attempt in tuning.attempts)
    if shown is None:
        return (
            f"None of {count(tried, 'recipe')} tried was better than the script as it is"
            if tried
            else "No recipe was tried"
        )
    comparison, arm = shown
    if tuning.recipe or len(comparison.arms) == 1:
        return _change(comparison, arm, "confirming seed")
    which = f"None of the {len(comparison.arms)} recipes confirmed is proven to help"
    return f"{which}; the best: {_change(comparison, arm, 'confirming seed')}"


def _of_comparison(comparison: Comparison) -> str:
    if not comparison.arms:
        return "Nothing was compared"
    arm = best(comparison)
    if arm.helped or len(comparison.arms) == 1:
        return _change(comparison, arm, "paired seed")
    return f"None of the {len(comparison.arms)} recipes is proven to help; the best: {_change(comparison, arm, 'paired seed')}"


def _change(comparison: Comparison, arm: Arm, noun: str) -> str:
    """``<recipe> raised <metric> from <before> to <after>: <effect> over <n> seeds``, and what speaks against it."""
    metric, goal, places = judge(comparison.metric), comparison.metric.goal, decimals(arm)
    before, seeds = baseline_mean(comparison, arm), count(len(arm.seeds), noun)
    if not arm.seeds:
        if arm.no_effect and not arm.diverged + arm.failed + arm.baseline_diverged:
            return f"{arm.recipe} had no effect"
        gone = f" ({lost(arm)})" if lost(arm) else ""
        return f"{arm.recipe} could not be compared: there is no seed on which both runs ended with {metric}{gone}"
    if not math.isfinite(arm.mean):
        return f"{arm.recipe} ended with no {metric} on any of {seeds}"
    if not math.isfinite(before):
        return f"{arm.recipe} reached {metric} {fixed(arm.mean, places)} over {seeds}; untreated, no seed ended with a number"
    verb = "raised" if arm.mean > before else "lowered" if arm.mean < before else "left"
    was, became = fixed(before, places), fixed(arm.mean, places)
    if verb != "left" and was == became:  # by less than can be seen
        return (
            f"{arm.recipe} left {metric} at {was}: {effect(arm)} over {seeds}{_doubt(arm)}{_blind(comparison.metric)}"
        )
    span = f"at {was}" if verb == "left" else f"from {was} to {became}"
    size = effect(arm) if goal == "max" else f"better by {effect(arm, sign=False)}"
    if arm.effect < 0:
        size = effect(arm)
        span += "" if arm.high < 0 else ", which is worse"  # else it is said at the end
    return f"{arm.recipe} {verb} {metric} {span}: {size} over {seeds}{_doubt(arm)}{_blind(comparison.metric)}"


def _blind(metric: Metric | None) -> str:
    """That nothing is known of data that were not trained on."""
    return "; only the training loss judges" if metric is not None and metric.name == "loss" else ""


def _doubt(arm: Arm) -> str:
    """What speaks against an effect."""
    if arm.proven:
        return ""
    lost_seeds = arm.diverged + arm.failed + arm.no_effect
    if lost_seeds:
        return f"; not proven, {count(lost_seeds, 'seed')} lost"
    if not math.isfinite(arm.high - arm.low):
        return "; not proven, there is no interval"
    return "; it made things worse" if arm.high < 0 else "; not proven, the interval includes zero"


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
