"""How much a number moves by chance: intervals of standard deviations, and what is said where there is little to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from trimtab.records import Metric, Noise, Spread, remark
from trimtab.report.verdict import of_outcome
from trimtab.testing import check_outcome
from trimtab.trial.noise import deviation, smallest_difference

SPREAD = Spread(
    part="all", values=(0.9, 0.94), mean=0.92, sd=0.0283, low=0.0126, high=0.903, lost=(2,), others={"val loss": 0.1}
)
NOISE = Noise(
    subject="train.py",
    metric=Metric(name="val accuracy", goal="max"),
    seeds=(0, 1, 2),
    spreads=(SPREAD, replace(SPREAD, part="init"), replace(SPREAD, part="order")),
    smallest={3: 0.12, 5: 0.067, 10: 0.04},
    remarks=(remark("stands_still", part="order", seeds=2),),
)


def test_a_deviation_has_the_interval_of_chi_square():
    values = np.random.default_rng(0).normal(size=10)
    sd, low, high = deviation(values, 0.9)
    assert sd == pytest.approx(values.std(ddof=1))
    assert (low, high) == pytest.approx([sd * math.sqrt(9 / stats.chi2.ppf(p, 9)) for p in (0.95, 0.05)])
    assert deviation([1.0, 1.0]) == (0.0, 0.0, math.inf)
    assert math.isnan(deviation([1.0])[0]) and deviation([1.0])[1:] == (0.0, math.inf)


def test_a_smallest_difference_is_proven_four_times_of_five():
    drawn = np.random.default_rng(0).normal(size=(2, 20_000, 5)) * 3.0
    found = stats.ttest_1samp(drawn[0] - drawn[1] + smallest_difference(3.0, 5), 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.79, abs=0.01)


def test_noise_is_told():
    for outcome in (NOISE, replace(NOISE, spreads=(SPREAD,))):
        check_outcome(outcome)
    moved = "validation accuracy moves by 0.028 [0.013, 0.9] from seed to seed; with 5 seeds a difference of 0.067 can be seen"
    assert of_outcome(NOISE) == moved
    still = replace(SPREAD, sd=0.0, low=0.0, high=math.inf)
    assert of_outcome(replace(NOISE, spreads=(still,))) == "validation accuracy is 0.92 on all of 2 seeds"
    one = replace(still, values=(0.92,), sd=math.nan)
    assert of_outcome(replace(NOISE, spreads=(one,))).endswith("is not known: 1 seed of 3 ended with a number")
