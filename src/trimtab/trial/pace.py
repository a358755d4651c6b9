"""How many steps fewer: when a recipe gets to where the untreated subject gets at best."""

from __future__ import annotations

import math
import statistics

from trimtab.records import Arm, Comparison, Metric, Series


def pace_words(comparison: Comparison, arm: Arm) -> str:
    """A sentence on how much sooner the arm reaches the best that the untreated subject reached; nothing if it does not.

    For each seed that has both trials: the step at which the untreated metric was best, and the first step at which that of the
    arm was as good; then the medians over seeds. A seed on which the arm never gets there counts as infinite.
    """
    name = comparison.metric.name
    seen = [trial for trial in comparison.trials if len(trial.curves.get(name, Series()).finite)]
    best = {trial.seed: _best(trial.curves[name].finite, comparison.metric) for trial in seen if not trial.recipe}
    pairs = [(best[trial.seed], trial) for trial in seen if trial.recipe == arm.recipe and trial.seed in best]
    if not pairs:
        return ""
    theirs = statistics.median(step for (step, _), _ in pairs)
    level = statistics.median(value for (_, value), _ in pairs)
    steps = [_reached(trial.curves[name], value, comparison.metric) for (_, value), trial in pairs]
    ours = statistics.median(steps)
    if not 0 < ours * 1.25 <= theirs < math.inf:
        return ""
    at_once = all(step == trial.curves[name].steps[0] for step, (_, trial) in zip(steps, pairs, strict=True))
    return (
        f"The untreated run gets to its best {name} ({level:.4g}) in {theirs:,.0f} steps; with {arm.recipe} it takes {ours:,.0f}, "
        f"{'at least ' if at_once else ''}{theirs / ours:.3g} times fewer"
        + (" (its first evaluation; it may be there sooner)." if at_once else ".")
    )


def _best(curve: Series, metric: Metric) -> tuple[int, float]:
    """The number of steps after which the metric was best, and its value there."""
    value = (max if metric.goal == "max" else min)(curve.values)
    return curve.steps[curve.values.index(value)], value


def _reached(curve: Series, level: float, metric: Metric) -> float:
    """The number of steps after which the metric was as good as the level; infinity if it never was."""
    good = (step for step, value in zip(curve.steps, curve.values, strict=True) if not metric.better(level, value))
    return next(good, math.inf)
