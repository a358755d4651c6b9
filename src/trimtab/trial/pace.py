"""How many steps fewer: when a recipe is better than the untreated subject ever is."""

from __future__ import annotations

import math
import statistics

from trimtab.records import Arm, Comparison, Metric, Series


def pace_words(comparison: Comparison, arm: Arm) -> str:
    """A sentence on how soon the arm is better than the untreated subject is at any step of its run; nothing if it is not.

    For each seed that has both trials: the steps of the untreated one, which never is better than its own best, and the first
    step at which the arm is; then the medians over seeds. A seed on which the arm never gets there counts as infinite.
    """
    name = comparison.metric.name
    seen = [trial for trial in comparison.trials if len(trial.curves.get(name, Series()).finite)]
    untreated = {trial.seed: trial.curves[name].finite for trial in seen if not trial.recipe}
    pairs = [
        (untreated[trial.seed], trial.curves[name])
        for trial in seen
        if trial.recipe == arm.recipe and trial.seed in untreated
    ]
    if not pairs:
        return ""
    levels = [(max if comparison.metric.goal == "max" else min)(theirs.values) for theirs, _ in pairs]
    passed = [_passed(ours, level, comparison.metric) for (_, ours), level in zip(pairs, levels, strict=True)]
    ours, theirs = statistics.median(passed), statistics.median(theirs.steps[-1] for theirs, _ in pairs)
    if not 0 < ours * 1.25 <= theirs:
        return ""
    at_once = all(step == curve.steps[0] for step, (_, curve) in zip(passed, pairs, strict=True))
    return (
        f"With {arm.recipe} the {name} is better after {ours:,.0f} steps than that of the untreated run ever is in its {theirs:,.0f} "
        f"({statistics.median(levels):.4g}): {'at least ' if at_once else ''}{theirs / ours:.3g} times fewer"
        + (" (its first evaluation; it may be there sooner)." if at_once else ".")
    )


def _passed(curve: Series, level: float, metric: Metric) -> float:
    """The number of steps after which the metric was better than the level; infinity if it never was."""
    better = (step for step, value in zip(curve.steps, curve.values, strict=True) if metric.better(value, level))
    return next(better, math.inf)
