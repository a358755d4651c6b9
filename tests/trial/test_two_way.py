"""Intervals over seeds and samples: against their parts, by simulation, and from the predictions of real trials."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats

import trimtab as tt
from tests.trial.conftest import DEEP, clusters
from trimtab.records import Comparison, Metric, Predicted, Trial, to_bytes
from trimtab.training.evaluations import Predictions
from trimtab.trial.arms import compare_arms, limits
from trimtab.trial.run import _predicted
from trimtab.trial.stats import paired_t, two_way

ACCURACY = Metric(name="printed val accuracy", goal="max")


def test_it_covers_the_mean_of_all_seeds_and_samples_where_seeds_alone_do_not():
    random = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(2000):
        d = (
            0.3 * random.standard_normal((5, 1))
            + random.standard_normal((1, 40))
            + 0.5 * random.standard_normal((5, 40))
        )
        for way, interval in enumerate((two_way(d), paired_t(d.mean(1)))):
            covered[way] += interval.low <= 0 <= interval.high
    assert covered[0] / 2000 == pytest.approx(0.95, abs=0.02) and covered[1] / 2000 < 0.9


def test_where_samples_do_not_matter_it_is_that_of_the_seeds():
    random = np.random.default_rng(1)
    seeds = random.standard_normal(6)
    d = seeds[:, None] + 1e-9 * random.standard_normal((6, 50))
    assert two_way(d) == pytest.approx(paired_t(seeds), rel=1e-6)
    alone = two_way(np.full((3, 4), 0.5))
    assert alone.mean == 0.5 and math.isinf(alone.high) and math.isnan(alone.p)
    assert math.isinf(two_way(np.ones((1, 4))).high) and math.isinf(two_way(np.ones((4, 1))).high)


def test_of_sums_of_seeds_and_samples_the_error_is_the_sum_of_both():
    seeds, samples = np.array([0.1, -0.2, 0.4, 0.0]), np.array([0.5, -0.5, 0.3, -0.3, 0.9, 0.1])
    found = two_way(np.add.outer(seeds, samples))
    error = math.sqrt(seeds.var(ddof=1) / 4 + samples.var(ddof=1) / 6)
    freedom = error**4 / ((seeds.var(ddof=1) / 4) ** 2 / 3 + (samples.var(ddof=1) / 6) ** 2 / 5)
    assert (found.high - found.low) / 2 == pytest.approx(error * stats.t.ppf(0.975, freedom))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean) / error, freedom))


def test_predictions_are_those_of_the_evaluation_that_judges():
    bits = torch.tensor([True, True, False, True])
    val, other = Predictions(bits, "a"), Predictions(bits.flip(0), "b")
    told = Trial(subject="s", recipe="", seed=0, status="ok", value=75.0)
    assert _predicted(told, {"val accuracy": val}, ACCURACY) == Predicted(samples=4, right=b"\xd0", targets="a")
    assert _predicted(told, {"val accuracy": val, "test accuracy": val}, ACCURACY) is not None  # one and the same
    assert _predicted(told, {"train accuracy": other, "val accuracy": val}, ACCURACY) is None  # it may be either
    assert _predicted(msgspec.structs.replace(told, value=0.7), {"val accuracy": val}, ACCURACY) is None
    assert _predicted(told, {"val accuracy": val}, Metric(name="error", goal="min")) is None
    assert _predicted(told, {"val accuracy": val}, None) is None


def test_predictions_survive_a_store_that_has_to_mend_a_name():
    told = trial("r\udcff", 0, np.array([True, False, True]))
    assert msgspec.msgpack.decode(to_bytes(told), type=Trial).predicted == told.predicted


def trial(recipe: str, seed: int, bits: np.ndarray, targets: str = "a", times: float = 1) -> Trial:
    predicted = Predicted(samples=len(bits), right=np.packbits(bits).tobytes(), targets=targets)
    return Trial(
        subject="s", recipe=recipe, seed=seed, status="ok", value=float(times * bits.mean()), predicted=predicted
    )


@pytest.mark.parametrize("times", [1, 100])
def test_an_arm_has_the_interval_of_other_samples_where_all_runs_predicted_the_same_ones(times):
    random = np.random.default_rng(2)
    easy = random.random(203)
    bits = {
        arm: [easy + 0.1 * random.standard_normal(203) > limit for _ in range(4)]
        for arm, limit in (("", 0.4), ("adam", 0.3))
    }
    runs = {arm: [trial(arm, seed, one, times=times) for seed, one in enumerate(bits[arm])] for arm in bits}
    (arm,) = compare_arms(ACCURACY, runs[""], {"adam": runs["adam"]})
    expected = two_way(times * (np.array(bits["adam"], float) - np.array(bits[""], float)))
    assert (arm.beyond, arm.samples) == (pytest.approx(expected[1:3]), 203)
    assert arm.effect == pytest.approx(expected.mean)
    said = [one.code for one in arm.remarks]
    assert said == ["paired", "beyond"] and arm.correlation == pytest.approx(
        np.corrcoef([[one.mean() for one in bits[name]] for name in bits])[0, 1]
    )
    less = Metric(name="printed error", goal="min")
    (turned,) = compare_arms(less, runs[""], {"adam": runs["adam"]})
    assert turned.beyond == pytest.approx((-expected[2], -expected[1])) and turned.effect == pytest.approx(-arm.effect)
    other = [
        trial("adam", seed, one, targets="b" if seed else "a", times=times) for seed, one in enumerate(bits["adam"])
    ]
    (arm,) = compare_arms(ACCURACY, runs[""], {"adam": other})
    assert (arm.beyond, arm.samples) == ((), 0)
    blind = [msgspec.structs.replace(one, predicted=None) for one in runs["adam"]]
    assert compare_arms(ACCURACY, runs[""], {"adam": blind})[0].beyond == ()
    told = [limits(Comparison(subject="s", metric=ACCURACY, seeds=(0,), baseline=(0.5,), arms=(arm,), trials=tuple(of)))[-1].code
            for of in (runs["adam"], other)]  # fmt: skip
    assert told == ["one_data_set", "own_splits"]


def test_trials_keep_the_predictions_that_their_metric_is_the_share_of(train, engine):
    train.write_text(clusters(DEEP, epochs=3))
    found = tt.compare(train, "batch_norm", seeds=2, engine=engine)
    assert len({one.predicted.targets for one in found.trials}) == 1
    for one in found.trials:
        assert one.predicted.bits.shape == (one.predicted.samples,)
        assert one.predicted.bits.mean() == pytest.approx(one.value, abs=1e-6)
    again = tt.compare(train, "batch_norm", seeds=2, engine=engine)  # from the store
    assert [one.predicted for one in again.trials] == [one.predicted for one in found.trials]
    train.write_text(clusters(DEEP, epochs=3) + "\nprint('val acc', 0.123)")
    other = tt.compare(train, "batch_norm", seeds=2, engine=engine)
    assert all(one.predicted is None for one in other.trials)  # what was printed is no share of these
