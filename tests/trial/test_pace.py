"""How many steps fewer."""

import math

import pytest

from trimtab.records import Arm, Comparison, Metric, Series, Trial
from trimtab.report.sentences import sentences
from trimtab.trial.pace import pace_of

LOSS = Metric(name="val loss", goal="min")


def of(curves: dict[str, list[list[float]]], metric: Metric = LOSS, steps=(10, 20, 30, 40)) -> tuple[Comparison, Arm]:
    """A comparison whose trials have these metric curves, by recipe and seed."""
    trials = tuple(
        Trial(subject="s", recipe=recipe, seed=seed, status="ok", curves={metric.name: Series(steps=steps, values=tuple(values))})
        for recipe, seeds in curves.items()
        for seed, values in enumerate(seeds)
    )  # fmt: skip
    numbers = dict.fromkeys(("mean", "effect", "low", "high", "p", "p_sign", "p_holm"), 0.0)
    arm = Arm(recipe="adam", seeds=(), values=(), differences=(), wins=0, **numbers)
    return Comparison(subject="s", metric=metric, seeds=(), baseline=(), arms=(arm,), trials=trials), arm


def test_tells_the_median_over_seeds():
    untreated = [[4.0, 3.0, 2.5, 2.0], [4.0, 3.0, 2.5, 2.0], [5.0, 4.0, 2.2, 2.1]]
    treated = [[3.0, 1.9, 1.0, 0.5], [3.0, 2.0, 1.0, 0.5], [3.0, 2.0, 1.0, 0.5]]  # 2 is not better than 2
    (said,) = sentences(pace_of(*of({"": untreated, "adam": treated})))
    assert said == (
        "With adam the val loss is better after 20 steps than that of the untreated run ever is in its 40 (2): 2 times fewer."
    )


def test_says_that_the_first_evaluation_is_the_limit():
    (said,) = sentences(pace_of(*of({"": [[4.0, 3.0, 2.5, 2.0]], "adam": [[1.0, 0.9, 0.8, 0.7]]})))
    assert said.endswith("in its 40 (2): at least 4 times fewer (its first evaluation; it may be there sooner).")


def test_more_is_better_for_accuracy():
    metric = Metric(name="val accuracy", goal="max")
    (said,) = sentences(pace_of(*of({"": [[0.1, 0.2, 0.3, 0.4]], "adam": [[0.2, 0.5, 0.8, 0.9]]}, metric)))
    assert "better after 20 steps" in said and said.endswith("in its 40 (0.4): 2 times fewer.")


def test_an_untreated_run_that_never_moves_needs_all_its_steps():
    metric = Metric(name="val accuracy", goal="max")
    (said,) = sentences(pace_of(*of({"": [[0.4, 0.4, 0.4, 0.4]], "adam": [[0.4, 0.9, 0.9, 0.9]]}, metric)))
    assert "better after 20 steps" in said and said.endswith("in its 40 (0.4): 2 times fewer.")


@pytest.mark.parametrize(
    "treated",
    [
        [[4.0, 3.0, 2.5, 2.0]],  # never better
        [[4.0, 3.0, 2.5, 1.0]],  # as late
        [[math.nan] * 4],
    ],
)
def test_says_nothing_where_there_is_nothing_to_say(treated):
    assert pace_of(*of({"": [[4.0, 3.0, 2.5, 2.0]], "adam": treated})) == []


def test_an_untreated_run_that_got_worse_again_is_judged_by_its_best():
    assert pace_of(*of({"": [[1.0, 2.0, 3.0, 4.0]], "adam": [[1.5, 1.2, 1.0, 0.9]]})) == []


def test_an_evaluation_before_the_first_step_says_nothing():
    assert pace_of(*of({"": [[4.0, 3.0, 2.5, 2.0]], "adam": [[1.0] * 4]}, steps=(0, 10, 20, 30))) == []


def test_seeds_that_never_get_there_count():
    treated = [[1.0, 0.9, 0.8, 0.7], [4.0] * 4, [4.0] * 4]
    assert pace_of(*of({"": [[4.0, 3.0, 2.5, 2.0]] * 3, "adam": treated})) == []
