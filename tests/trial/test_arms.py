"""Arms beside the untreated trials: pairs, lost seeds, verdicts, and what is to be said of them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from trimtab.records import Arm, Comparison, Metric, Trial
from trimtab.report.effects import change
from trimtab.report.sentences import sentences
from trimtab.trial.arms import compare_arms, limits, seeds_to_decide
from trimtab.trial.stats import holm, paired_t

ACCURACY, LOSS = Metric(name="accuracy", goal="max"), Metric(name="loss", goal="min")
INF, NAN = math.inf, math.nan


def runs(recipe: str, **values: float | str) -> list[Trial]:
    """``runs("dropout", s0=0.9, s1="diverged")``: a number is a good end, a text a status."""
    return [
        Trial(subject="s", recipe=recipe, seed=int(name[1:]), status="ok", value=value)
        if isinstance(value, float)
        else Trial(subject="s", recipe=recipe, seed=int(name[1:]), status=value)  # type: ignore[arg-type]
        for name, value in values.items()
    ]


def one(baseline: list[Trial], trials: list[Trial], metric: Metric = ACCURACY) -> Arm:
    (arm,) = compare_arms(metric, baseline, {"r": trials})
    return arm


def test_seeds_are_paired_whatever_their_order() -> None:
    arm = one(runs("", s0=0.5, s1=0.7, s2=0.25), runs("r", s2=0.75, s0=0.625, s1=0.5))
    assert (arm.recipe, arm.seeds, arm.values, arm.wins) == ("r", (0, 1, 2), (0.625, 0.5, 0.75), 2)
    assert arm.note == "The two runs of a seed correlate with -1.00: sharing it saved nothing."
    assert arm.differences == pytest.approx((0.125, -0.2, 0.5)) and arm.mean == pytest.approx(0.625)
    oracle = scipy_stats.ttest_rel([0.625, 0.5, 0.75], [0.5, 0.7, 0.25])
    bounds = oracle.confidence_interval()
    expected = (oracle.pvalue, oracle.pvalue, bounds.low, bounds.high)
    assert (arm.p, arm.p_holm, arm.low, arm.high) == pytest.approx(expected)
    # the four sums up to sign: 0.425 as seen, 0.825 and 0.575 further out, 0.175 nearer
    assert arm.p_sign == 0.75 and arm.effect == pytest.approx(0.425 / 3)


def test_positive_is_better_for_a_loss_too() -> None:
    before, after = runs("", s0=1.0, s1=2.0), runs("r", s0=0.5, s1=2.25)
    assert one(before, after, LOSS).differences == (0.5, -0.25) and one(before, after, LOSS).wins == 1
    assert one(before, after, ACCURACY).differences == (-0.5, 0.25)


def test_holm_runs_over_the_arms_that_have_a_test() -> None:
    random = np.random.default_rng(0)
    base = runs("", **{f"s{i}": float(x) for i, x in enumerate(random.normal(size=6))})
    arms = {
        r: runs(r, **{f"s{t.seed}": t.value + e + float(random.normal()) for t in base})
        for r, e in zip("abc", (3, 1, 0), strict=True)
    }
    arms["lost"] = runs("lost", s0="failed", s1=1.0)
    found = compare_arms(ACCURACY, base, arms)
    assert [arm.recipe for arm in found] == ["a", "b", "c", "lost"]
    assert [arm.p_holm for arm in found[:3]] == holm([arm.p for arm in found[:3]])
    assert found[0].p_holm == pytest.approx(3 * found[0].p) and math.isnan(found[3].p_holm)


def test_seeds_without_a_number_are_counted_and_never_averaged() -> None:
    arm = one(
        runs("", s0=0.5, s1=0.5, s2=0.5, s3=0.5, s4="diverged", s5="failed", s6=0.5),
        runs("r", s0=0.75, s1=0.5, s2="diverged", s3="failed", s4=0.5, s5=0.5, s6="no_effect"),
    )
    assert (arm.seeds, arm.values, arm.differences) == ((0, 1), (0.75, 0.5), (0.25, 0.0))
    assert (arm.diverged, arm.failed, arm.no_effect, arm.baseline_diverged, arm.wins) == (1, 1, 1, 1, 1)
    assert arm.effect == 0.125 and arm.mean == 0.625
    assert arm.note == (
        "Not in the differences: 5 of 7 seeds (recipe: 1 diverged, 1 failed, 1 without effect; untreated: 1 diverged, 1 failed). "
        "Untreated, 1 seed diverged that did not with the recipe; "
        "with the recipe, 1 seed that did not untreated (exact two-sided McNemar p = 1)."
    )


def test_a_trial_that_a_search_gave_up_was_not_run() -> None:
    arm = one(runs("", s0=0.5, s1=0.5, s2=0.5), runs("r", s0=0.75, s1=0.75, s2="pruned"))
    assert (arm.seeds, arm.diverged, arm.failed, arm.no_effect) == ((0, 1), 0, 0, 0)
    assert "recipe: 1 not run" in arm.note


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_ok_without_a_finite_number_is_a_divergence(value: float) -> None:
    arm = one(runs("", s0=0.5, s1=0.5, s2=value), runs("r", s0=0.75, s1=value, s2=0.5))
    assert (arm.seeds, arm.diverged, arm.baseline_diverged) == ((0,), 1, 1)


def test_divergences_of_the_baseline_alone_are_an_improvement_of_their_own() -> None:
    before = runs("", s0=0.5, s1=0.5, **{f"s{i}": "diverged" for i in range(2, 8)})
    arm = one(before, runs("r", s0=0.75, s1=0.5, **{f"s{i}": 0.9 for i in range(2, 8)}))
    assert (arm.baseline_diverged, arm.diverged, arm.wins) == (6, 0, 7)
    assert arm.differences == (0.25, 0.0, *[0.25] * 6) and arm.proven
    assert arm.note == (
        "Untreated, 6 seeds diverged that did not with the recipe: each is a win as large as the largest difference "
        "(exact two-sided McNemar p = 0.0312)."
    )


def test_divergences_of_the_arm_alone_are_said() -> None:
    arm = one(runs("", s0=0.5, s1=0.5, s2=0.5), runs("r", s0=0.75, s1=0.5, s2="diverged"))
    assert arm.note == (
        "Not in the differences: 1 of 3 seeds (recipe: 1 diverged). "
        "With the recipe, 1 seed diverged that did not untreated (exact two-sided McNemar p = 1)."
    )
    both = one(runs("", s0=0.5, s1=0.5, s2="diverged"), runs("r", s0=0.75, s1=0.5, s2="diverged"))
    assert both.note == "Not in the differences: 1 of 3 seeds (recipe: 1 diverged; untreated: 1 diverged)."


def test_a_baseline_that_always_diverges_leaves_the_values_of_the_arm() -> None:
    arm = one(runs("", s0="diverged", s1="diverged"), runs("r", s0=0.5, s1=0.75))
    assert (arm.seeds, arm.values, arm.differences, arm.mean, arm.wins) == ((0, 1), (0.5, 0.75), (), 0.625, 2)
    assert all(map(math.isnan, (arm.effect, arm.p, arm.p_sign, arm.p_holm))) and (arm.low, arm.high) == (-INF, INF)
    assert not arm.proven
    assert arm.note.startswith("No seed on which both runs ended with a number: there is no difference to test. Not in")


def test_a_baseline_that_always_crashes_is_no_win() -> None:
    assert one(runs("", s0="failed"), runs("r", s0=0.5)).wins == 0


def test_an_arm_that_ends_nowhere() -> None:
    arm = one(runs("", s0=0.5, s1=0.5), runs("r", s0="failed", s1="failed"))
    assert (arm.seeds, arm.values, arm.wins, arm.failed) == ((), (), 0, 2) and math.isnan(arm.mean)


def test_trials_that_a_budget_cut_off_are_lost_seeds_of_nobody() -> None:
    arm = one(runs("", s0=0.5, s1=0.5, s2="diverged"), runs("r", s1=0.75, s0=1.0, s3=0.5))
    assert arm.seeds == (0, 1) and arm.diverged == arm.failed == arm.no_effect == arm.baseline_diverged == 0
    assert arm.note == "Not in the differences: 2 of 4 seeds (recipe: 1 not run; untreated: 1 diverged, 1 not run)."


def test_one_pair_and_equal_pairs_are_said() -> None:
    arm = one(runs("", s0=0.5), runs("r", s0=0.75))
    assert arm.note == "Only one paired seed: a single difference has no spread, so no interval and no p."
    assert (arm.effect, arm.low, arm.high) == (0.25, -INF, INF) and math.isnan(arm.p) and math.isnan(arm.p_sign)
    said = "differences are equal: p is that of the sign-flip test, and the interval"
    for n, rest in ((5, "is unbounded."), (6, "has no width.")):
        base = runs("", **{f"s{i}": i / 8 for i in range(n)})
        arm = one(base, runs("r", **{f"s{i}": i / 8 + 0.25 for i in range(n)}))
        assert arm.note == f"All {n} {said} {rest}" and arm.proven == (n == 6)
    assert one(base, base).note.startswith("All 6 differences are zero:") and not one(base, base).proven


def test_above_sixteen_pairs_two_calls_agree() -> None:
    random = np.random.default_rng(2)
    base = runs("", **{f"s{i}": float(x) for i, x in enumerate(random.normal(size=17))})
    arms = {"r": runs("r", **{f"s{i}": float(x) for i, x in enumerate(random.normal(size=17))})}
    again, other = compare_arms(ACCURACY, base, arms), np.random.default_rng(9)
    assert compare_arms(ACCURACY, base, arms) == again != compare_arms(ACCURACY, base, arms, generator=other)


def test_the_level_reaches_the_interval() -> None:
    base, trials = runs("", s0=0.5, s1=0.5, s2=0.5), runs("r", s0=0.75, s1=0.625, s2=1.0)
    (narrow,) = compare_arms(ACCURACY, base, {"r": trials}, level=0.5)
    assert (narrow.low, narrow.high) == paired_t(narrow.differences, 0.5)[1:3]


def test_two_trials_of_a_seed_cannot_be_paired() -> None:
    with pytest.raises(ValueError) as error:
        compare_arms(ACCURACY, runs("", s0=0.5), {"dropout": runs("dropout", s0=0.5, s3=0.5) + runs("dropout", s3=0.5)})
    assert (
        str(error.value) == 'Recipe "dropout" has 2 trials of seed 3. Pairs need one trial per seed: keep one of them.'
    )
    with pytest.raises(ValueError, match=r"^The untreated subject has 2 trials of seed 0\."):
        compare_arms(ACCURACY, runs("", s0=0.5) * 2, {})


# --- limits


def words(comparison: Comparison) -> tuple[str, ...]:
    return sentences(limits(comparison))


def comparison(*sizes: int, level: float = 0.95, **lost: int) -> Comparison:
    seeds = tuple(range(max(sizes, default=0)))
    base = runs("", **{f"s{i}": 0.5 for i in seeds})
    random = np.random.default_rng(0)
    arms = {f"r{k}": runs("r", **{f"s{i}": float(random.normal()) for i in range(n)}) for k, n in enumerate(sizes)}
    found = [msgspec.structs.replace(arm, **lost) for arm in compare_arms(ACCURACY, base, arms, level)]
    values = tuple(0.5 for _ in seeds)
    return Comparison(subject="s", metric=ACCURACY, seeds=seeds, baseline=values, arms=tuple(found), level=level)


DATA = (
    "All runs share one data set; the seed varies what the script draws, its split of the data too, if it draws one. "
    "The result speaks about this data set, not about others."
)


def test_words_of_one_recipe_at_five_seeds() -> None:
    assert words(comparison(5)) == (
        "With 5 paired seeds the smallest p an exact two-sided sign-flip test can reach is 0.0625; to reach 0.05 takes 6 seeds.",
        "The 95 % t interval assumes roughly normal differences; "
        "with skewed ones at few seeds it covers the true mean less often than 95 %.",
        DATA,
    )


@pytest.mark.parametrize(
    ("sizes", "level", "first"),
    [
        ((3,), 0.95, "With 3 paired seeds the smallest p {} 0.25; to reach 0.05 takes 6 seeds."),
        ((6,), 0.95, "With 6 paired seeds the smallest p {} 0.0312."),
        ((6,), 0.99, "With 6 paired seeds the smallest p {} 0.0312; to reach 0.01 takes 8 seeds."),
        ((3, 5), 0.95, "The smallest p {} 0.25 for a recipe with 3 paired seeds and 0.0625 for one with 5; to reach 0.05 takes 6 seeds."),
        ((3, 8), 0.95, "The smallest p {} 0.25 for a recipe with 3 paired seeds and 0.00781 for one with 8; to reach 0.05 takes 6 seeds."),
        ((8, 1, 6), 0.95, "The smallest p {} 0.0312 for a recipe with 6 paired seeds and 0.00781 for one with 8."),
        ((16,), 0.95, "With 16 paired seeds the smallest p {} 3.05e-05."),
        ((20,), 0.95, "With 20 paired seeds the smallest p {} 1e-05."),
        ((8, 17), 0.95, "The smallest p {} 0.00781 for a recipe with 8 paired seeds and 1e-05 for one with 17."),
    ],
)  # fmt: skip
def test_words_say_what_a_sign_flip_test_can_reach(sizes: tuple[int, ...], level: float, first: str) -> None:
    said = words(comparison(*sizes, level=level))
    assert said[0] == first.format("an exact two-sided sign-flip test can reach is")
    drawn = "Above 16 seeds the sign-flip p is estimated from 99,999 random sign patterns."
    assert (drawn in said) == (max(sizes) > 16)


def test_words_name_the_number_of_tested_recipes() -> None:
    assert words(comparison(5, 5, 1))[2] == (
        "With 2 recipes tested, one looks good by chance more easily: p Holm and the verdicts are corrected for that. "
        "Intervals and sign-flip p are not; each holds for one recipe alone."
    )


@pytest.mark.parametrize("what", ["diverged", "failed", "no_effect", "baseline_diverged"])
def test_words_say_that_lost_seeds_are_not_averaged_in(what: str) -> None:
    sentence = (
        "Seeds that diverged, failed or changed nothing are counted, not averaged in; those alone that only the untreated run lost, by "
        "diverging, count as wins."
    )
    assert sentence in words(comparison(5, **{what: 1})) and sentence not in words(comparison(5))


def test_words_without_a_test() -> None:
    assert words(comparison(1, 1)) == (
        "No recipe has two paired seeds, so there is no interval and no test: run more seeds.",
        DATA,
    )
    assert words(comparison()) == ()


@given(st.lists(st.integers(0, 20), max_size=4), st.sampled_from([0.9, 0.95, 0.99, 0.999999]), st.integers(0, 1))
def test_words_are_sentences_of_at_most_two_lines(sizes: list[int], level: float, lost: int) -> None:
    for sentence in words(comparison(*sizes, level=level, diverged=lost)):
        assert len(sentence) <= 200 and sentence[0].isupper() and sentence.endswith(".") and "  " not in sentence


def trials(recipe: str, *values: float) -> list[Trial]:
    """A trial for each of the first seeds; NaN where it diverged."""
    return runs(recipe, **{f"s{seed}": "diverged" if math.isnan(x) else float(x) for seed, x in enumerate(values)})


def test_a_verdict_is_one_of_four_words() -> None:
    base = [1.0, 1.1, 0.9, 1.05, 0.95]
    nan = math.nan
    arms = {
        "better": [2.0, 2.11, 1.9, 2.04, 1.96],
        "worse": [0.0, 0.11, -0.1, 0.04, -0.04],
        "same": [1.001, 1.1, 0.901, 1.049, 0.95],
        "undecided": [1.3, 0.9, 1.2, 0.6, 1.4],
        "lost every seed": [nan] * 5,
        "lost one, the others are worse": [0.0, 0.11, nan, 0.04, -0.04],
        "lost one": [2.0, 2.1, nan, 2.0, 1.9],
        "lost two, of two": [nan, nan],
    }
    found = compare_arms(ACCURACY, trials("", *base), {name: trials(name, *values) for name, values in arms.items()})
    assert {arm.recipe: arm.verdict for arm in found} == {
        "better": "better", "worse": "worse", "same": "same", "undecided": "undecided", "lost every seed": "worse",
        "lost one, the others are worse": "worse", "lost one": "undecided", "lost two, of two": "undecided",
    }  # fmt: skip
    assert [arm.margin for arm in found] == pytest.approx([np.std(base, ddof=1)] * len(arms))
    for margin, verdict in ((0.0, "undecided"), (1e-4, "undecided"), (0.01, "same")):
        (arm,) = compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *arms["same"])}, margin=margin)
        assert (arm.margin, arm.verdict) == (margin, verdict)
    (arm,) = compare_arms(ACCURACY, trials("", nan, nan), {"a": trials("a", 1.0, 1.0)})
    assert arm.verdict == "better" and arm.margin == 0


def test_a_verdict_holds_among_all_arms() -> None:
    """What would be proven alone is not, where five others were tried."""
    base = [0.0] * 5
    almost = [0.1, 0.5, 0.2, 0.4, 0.6]  # p = 0.019
    (alone,) = compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *almost)})
    others = {
        str(i): trials(str(i), *np.random.default_rng(i).permutation([-0.3, 0.1, 0.4, -0.2, 0.05])) for i in range(5)
    }
    beside = {
        arm.recipe: arm for arm in compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *almost)} | others)
    }["a"]
    assert (alone.verdict, alone.standing) == ("better", "proven")
    assert (beside.low, beside.p) == (alone.low, alone.p) and beside.low > 0 and beside.p_holm > 0.05
    assert (beside.verdict, beside.standing) == ("undecided", "unclear")
    comparison = Comparison(subject="s", metric=ACCURACY, seeds=tuple(range(5)), baseline=tuple(base), arms=(beside,))
    assert change(comparison, beside, "seed").endswith("; not proven among so many arms")


def test_so_many_seeds_decide_as_are_said() -> None:
    """Four times of five, when the effect and the spread of the arm are the true ones."""
    random = np.random.default_rng(0)
    for effect, margin, word in ((1.0, 0.0, "better"), (0.1, 0.8, "same")):
        seeds = seeds_to_decide(arm_of(effect, margin))
        decided = 0
        for _ in range(400):
            d = effect + random.standard_normal(seeds)
            (arm,) = compare_arms(
                ACCURACY, trials("", *[0.0] * seeds), {"a": trials("a", *d)}, margin=margin, generator=random
            )
            decided += arm.verdict == word
        assert decided / 400 == pytest.approx(0.8, abs=0.12), (effect, margin, seeds)
    assert seeds_to_decide(arm_of(0.05, 0.0)) == 0
    assert seeds_to_decide(arm_of(1.0, 0.0, spread=0.0)) == 6 and seeds_to_decide(arm_of(0.0, 0.0, spread=0.0)) == 0


def arm_of(effect: float, margin: float, spread: float = 1.0) -> Arm:
    """Two seeds whose mean and standard deviation are these."""
    half = spread / math.sqrt(2)
    (arm,) = compare_arms(
        ACCURACY, trials("", 0.0, 0.0), {"a": trials("a", effect - half, effect + half)}, margin=margin
    )
    return arm


def test_a_divergence_that_arms_share_counts_with_the_sign_flip_test_among_several() -> None:
    base = [math.nan, 0.5, 0.52, 0.51]
    arm = [0.9, 0.8, 0.82, 0.805]
    (alone,) = compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *arm)})
    both = compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *arm), "b": trials("b", *arm)})
    assert alone.p < 0.001 and alone.verdict == "better"
    assert [one.p for one in both] == [0.125, 0.125] and [one.verdict for one in both] == ["undecided"] * 2
    assert [one.low for one in both] == [alone.low] * 2
    (for_a_log,) = compare_arms(ACCURACY, trials("", *base), {"a": trials("a", *arm)}, risks={"a": 0.025})
    assert for_a_log.p == 0.125  # as all of a log
    ended = compare_arms(ACCURACY, trials("", *base[1:]), {"a": trials("a", *arm[1:]), "b": trials("b", *arm[1:])})
    assert all(one.p < 0.01 for one in ended)  # no divergence, no change


def test_where_nothing_is_drawn_one_run_decides() -> None:
    def still(recipe: str, value: float, *digests: str) -> list[Trial]:
        return [
            msgspec.structs.replace(one, numbers=digest)
            for one, digest in zip(trials(recipe, *[value] * 3), digests, strict=True)
        ]

    (arm,) = compare_arms(LOSS, still("", 0.575, *"aaa"), {"a": still("a", 0.39, *"bbb")})
    assert (arm.verdict, arm.low, arm.high, arm.p) == ("better", arm.effect, arm.effect, 0.0)
    assert arm.note.endswith("nothing is drawn at random, and one run decides.")
    (coarse,) = compare_arms(LOSS, still("", 0.575, *"abc"), {"a": still("a", 0.39, *"def")})
    assert coarse.verdict == "undecided" and coarse.p == 0.25


@pytest.mark.parametrize("size", [1e-300, 1e300, 1.7e308])
def test_numbers_of_any_size(size: float) -> None:
    base, arm = [size * x for x in (1.0, 0.9, 0.8)], [size * x for x in (0.5, 0.41, 0.29)]
    (found,) = compare_arms(LOSS, trials("", *base), {"a": trials("a", *arm)})
    assert (
        found.effect / size == pytest.approx(0.5)
        and found.mean / size == pytest.approx(0.4)
        and found.verdict == "better"
    )
    (far,) = compare_arms(ACCURACY, trials("", -1.7e308, -1.7e308), {"a": trials("a", 1.7e308, 1.6e308)})
    assert math.isfinite(far.effect)
