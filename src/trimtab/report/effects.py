"""What a comparison shows of one arm, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trimtab.records import Arm, Beside, Comparison, Metric
from trimtab.report.words import baseline_mean, count, decimals, effect, fixed, judge, lost, number


def change(comparison: Comparison, arm: Arm, noun: str) -> str:
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
        gone = f"; not proven, {lost(arm)}" if lost(arm) else ""
        return f"{arm.recipe} reached {metric} {fixed(arm.mean, places)} over {seeds}; untreated, no seed ended with a number{gone}"
    verb = "raised" if arm.mean > before else "lowered" if arm.mean < before else "left"
    was, became = fixed(before, places), fixed(arm.mean, places)
    if verb != "left" and was == became:  # by less than can be seen
        return f"{arm.recipe} left {metric} at {was}: {effect(arm)} over {seeds}{_doubt(arm)}{blind(comparison.metric)}"
    span = f"at {was}" if verb == "left" else f"from {was} to {became}"
    size = effect(arm) if goal == "max" else f"better by {effect(arm, sign=False)}"
    if arm.effect < 0:
        size = effect(arm)
        span += "" if arm.standing == "worse" else ", which is worse"  # else it is said at the end
    return f"{arm.recipe} {verb} {metric} {span}: {size} over {seeds}{_doubt(arm)}{blind(comparison.metric)}"


def other_numbers(comparison: Comparison) -> list[str]:
    """What the other numbers say of each arm, a line for each number."""
    told = {judge(other.metric): "; ".join(_of_other_number(comparison, other)) for other in comparison.beside}
    return [f"{name}: {said}" for name, said in told.items() if said]


def _of_other_number(comparison: Comparison, other: Beside) -> Iterator[str]:
    shown = Comparison(
        subject=comparison.subject,
        metric=other.metric,
        seeds=comparison.seeds,
        baseline=other.baseline,
        arms=other.arms,
    )
    for arm in other.arms:
        if arm.differences:
            places, of = decimals(arm), f"{arm.recipe} " if len(other.arms) > 1 else ""
            went = f"{fixed(baseline_mean(shown, arm), places)} to {fixed(arm.mean, places)}"
            yield f"{of}{went}, {effect(arm)} {arm.verdict}"


def blind(metric: Metric | None) -> str:
    """That nothing is known of data that were not trained on."""
    return "; only the training loss judges" if metric is not None and metric.name == "loss" else ""


def _doubt(arm: Arm) -> str:
    """What speaks against an effect."""
    if arm.proven:
        return ""
    if arm.standing == "same":
        return f"; the same: differences of {number(arm.margin)} and more are excluded"
    lost_seeds = arm.diverged + arm.failed + arm.no_effect
    if lost_seeds:
        return f"; not proven, {count(lost_seeds, 'seed')} lost"
    if not math.isfinite(arm.high - arm.low):
        return "; not proven, there is no interval"
    if arm.standing == "worse":
        return "; it made things worse"
    corrected = arm.low > 0 or arm.high < 0
    return "; not proven among so many arms" if corrected else "; not proven, the interval includes zero"
