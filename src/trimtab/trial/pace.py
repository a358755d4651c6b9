"""How many steps fewer: when a recipe is better than the untreated subject ever is."""

from __future__ import annotations

import math
import statistics

from trimtab.records import Arm, Comparison, Metric, Remark, Series, remark


def pace_of(comparison: Comparison, arm: Arm | None) -> list[Remark]:
    """How soon the arm is better than the untreated subject is at any step of its run; empty if it is not.

    For each seed that has both trials: the steps of the untreated one, which never is better than its own best, and the first
    step at which the arm is; then the medians over seeds. A seed on which the arm never gets there counts as infinite.
    """
    if arm is None:
        return []
    name = comparison.metric.name
    seen = [trial for trial in comparison.trials if len(trial.curves.get(name, Series()).finite)]
    untreated = {trial.seed: trial.curves[name].finite for trial in seen if not trial.recipe}
    pairs = [
        (untreated[trial.seed], trial.curves[name])
        for trial in seen
        if trial.recipe == arm.recipe and trial.seed in untreated
    ]
    if not pairs:
        return []
    levels = [(max if comparison.metric.goal == "max" else min)(theirs.values) for theirs, _ in pairs]
    passed = [_passed(ours, level, comparison.metric) for (_, ours), level in zip(pairs, levels, strict=True)]
    ours, theirs = statistics.median(passed), statistics.median(theirs.steps[-1] for theirs, _ in pairs)
    if not 0 < ours * 1.25 <= theirs:
        return []
    at_once = all(step == curve.steps[0] for step, (_, curve) in zip(passed, pairs, strict=True))
    level = statistics.median(levels)
    return [remark("sooner", recipe=arm.recipe, metric=name, steps=ours, of=theirs, level=level, at_once=at_once)]


def _passed(curve: Series, level: float, metric: Metric) -> float:
    """The number of steps after which the metric was better than the level; infinity if it never was."""
    better = (step for step, value in zip(curve.steps, curve.values, strict=True) if metric.better(value, level))
    return next(better, math.inf)
