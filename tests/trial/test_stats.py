"""The statistics of paired seeds against scipy, enumeration by hand, and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from trimtab.trial.stats import DRAWS, holm, mcnemar, paired_t, sign_flip, smallest_p

INF, NAN = math.inf, math.nan
# Multiples of 0.01 tie often and are never so close that their spread is rounding.
grid = st.integers(-300, 300).map(lambda k: k / 100)


# --- paired_t


@pytest.mark.parametrize("n", [2, 3, 5, 8, 40])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_is_that_of_scipy(n: int, level: float) -> None:
    random = np.random.default_rng(n)
    a, b = random.normal(0.9, 0.05, n), random.normal(0.88, 0.05, n)
    oracle = scipy_stats.ttest_rel(a, b)
    bounds = oracle.confidence_interval(level)
    ours = paired_t(a - b, level)
    assert ours == pytest.approx(((a - b).mean(), bounds.low, bounds.high, oracle.pvalue), rel=1e-9)


@given(st.lists(grid, min_size=2, max_size=12), st.sampled_from([1e-200, 1e-3, 1.0, 1e200]))
def test_t_scales_and_mirrors(d: list[float], scale: float) -> None:
    mean, low, high, p = paired_t(d)
    assert low <= mean <= high and 0 <= p <= 1
    assert paired_t([scale * x for x in d]) == pytest.approx((scale * mean, scale * low, scale * high, p), rel=1e-6)
    assert paired_t([-x for x in d]) == pytest.approx((-mean, -high, -low, p), rel=1e-9)


@given(st.lists(grid, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_interval_excludes_zero_exactly_when_p_is_small(d: list[float], level: float) -> None:
    _, low, high, p = paired_t(d, level)
    if abs(p - (1 - level)) > 1e-9:
        assert (low > 0 or high < 0) == (p < 1 - level)


def test_one_difference_has_no_interval_and_none_has_no_mean() -> None:
    assert paired_t([0.5])[:3] == (0.5, -INF, INF) and math.isnan(paired_t([0.5]).p)
    assert paired_t([]).low == -INF and math.isnan(paired_t([]).mean) and math.isnan(paired_t([]).p)


def test_equal_differences_are_left_to_the_sign_flip_test() -> None:
    assert paired_t([0.25] * 5) == (0.25, -INF, INF, 2 / 2**5)  # five signs alike prove nothing at 0.95
    assert paired_t([0.25] * 6) == (0.25, 0.25, 0.25, 2 / 2**6)
    assert paired_t([-0.25] * 6) == (-0.25, -0.25, -0.25, 2 / 2**6)
    assert paired_t([0.25] * 6, level=0.99) == (0.25, -INF, INF, 2 / 2**6)
    assert paired_t([0.0] * 5) == (0, -INF, INF, 1) and paired_t([0.0] * 6) == (0, 0, 0, 1)


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_equal_up_to_rounding_is_equal(n: int) -> None:
    values = np.linspace(0.1, 0.97, n)
    d = (values + 0.01) - values
    assert np.ptp(d) > 0, "rounding should have made them differ: else this tests nothing"
    assert paired_t(d).p == sign_flip(d) == 2 / 2**n


def test_type_one_error_of_t_at_five_seeds() -> None:
    random, repeats = np.random.default_rng(5), 4000
    missed = small = 0
    for d in random.standard_normal((repeats, 5)):
        _, low, high, p = paired_t(d)
        missed += not low <= 0 <= high
        small += p < 0.05
    least, most = scipy_stats.binom.interval(0.999, repeats, 0.05)
    assert missed == small and least <= small <= most


@pytest.mark.parametrize("function", [paired_t, sign_flip])
@pytest.mark.parametrize("bad", [[0.1, NAN], [0.1, INF], [[0.1, 0.2]]])
def test_bad_differences_are_named(function, bad) -> None:
    with pytest.raises(ValueError) as error:
        function(bad)
    assert str(error.value) == (
        f"differences must be a flat sequence of finite numbers, but are {bad}. "
        "Leave out seeds that diverged and count them apart, as compare_arms does."
    )


@pytest.mark.parametrize("level", [0, 1, 95, NAN])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError) as error:
        paired_t([1, 2], level)
    assert str(error.value) == f"level must be between 0 and 1, but is {level}. For 95 % write level=0.95."


# --- sign_flip


def enumerated(d: list[int]) -> float:
    """By its definition, in whole numbers: no rounding, no tolerance."""
    sums = [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product((1, -1), repeat=len(d))]
    return sum(abs(x) >= abs(sum(d)) for x in sums) / len(sums)


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=9), st.sampled_from([1, 0.01, 0.1 / 3, 1e-9]))
def test_sign_flip_is_the_enumeration_ties_included(d: list[int], unit: float) -> None:
    assert sign_flip([unit * x for x in d]) == enumerated(d)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 12])
def test_sign_flip_is_that_of_scipy(n: int) -> None:
    d = np.random.default_rng(n).normal(0.4, 1, n)
    oracle = scipy_stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(oracle.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 16])
def test_the_smallest_p_is_reached_by_differences_of_one_sign(n: int) -> None:
    assert sign_flip(np.arange(1, n + 1)) == sign_flip(-np.arange(1, n + 1)) == smallest_p(n) == 2 / 2**n


def test_sign_flip_of_nothing_and_of_zeros() -> None:
    assert math.isnan(sign_flip([])) and sign_flip([0.0]) == sign_flip([0.0] * 6) == 1


def test_sums_beyond_float64_do_not_overflow() -> None:
    assert sign_flip([1.5e308] * 3) == 0.25 and sign_flip([1.5e308, 1.5e308, -1e308]) == enumerated([3, 3, -2])


def test_drawn_signs_agree_with_enumerated_ones() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 17)
    # Every sum over 17 is a sum over the first 16 plus or minus the last: enumerated here, drawn there.
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    sums = np.concatenate([signs @ d[:16] + d[16], signs @ d[:16] - d[16]])
    exact = float(np.mean(np.abs(sums) >= abs(d.sum()) * (1 - 1e-12)))
    assert 0.01 < exact < 0.9, "an exact p at the rim would hide a biased draw"
    drawn = sign_flip(d, np.random.default_rng(0))
    assert abs(drawn - exact) < 5 * math.sqrt(exact * (1 - exact) / DRAWS)
    assert drawn == sign_flip(d, np.random.default_rng(0)) != sign_flip(d, np.random.default_rng(1))


def test_drawn_p_is_never_zero() -> None:
    assert sign_flip(np.ones(60), np.random.default_rng(0)) == smallest_p(60) == 1 / (DRAWS + 1)


def test_many_differences_need_a_generator() -> None:
    with pytest.raises(ValueError) as error:
        sign_flip(np.ones(17))
    assert str(error.value) == (
        "sign_flip enumerates the signs of up to 16 differences and got 17. "
        "Pass a generator to draw them: sign_flip(differences, np.random.default_rng(0))."
    )


# --- holm, mcnemar


def test_holm_by_hand() -> None:
    # ordered: 0.005 * 4 = 0.02; 0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, lifted to 0.06
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02], rel=1e-12)
    assert holm([0.9, 0.6]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]


def test_holm_does_not_count_missing_tests() -> None:
    first, missing, second = holm([0.01, NAN, 0.04])
    assert (first, second) == (0.02, 0.04) and math.isnan(missing)


probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(probabilities, st.floats(0.001, 0.999))
def test_holm_rejects_what_its_procedure_rejects(ps: list[float], alpha: float) -> None:
    """Step down through the ordered p and stop at the first that is too large, as Holm (1979) wrote it."""
    rejected = set()
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if (len(ps) - rank) * ps[i] > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(ps)) if p <= alpha} == rejected


@given(probabilities)
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= q <= min(1, len(ps) * p) for p, q in zip(ps, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(ps)) for j in range(len(ps)) if ps[i] <= ps[j])


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    oracle = scipy_stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(oracle, rel=1e-12)
