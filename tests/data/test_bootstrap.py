"""Bootstrap resamples, their weights, and what members say of samples that they did not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import BaggingClassifier, BaggingRegressor
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier

from trimtab.data import bootstrap_indices, bootstrap_weights, content_weights, out_of_bag_average


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_with_replacement():
    n, members = 500, 200
    indices = bootstrap_indices(n, members, generator=generator())
    assert indices.shape == (members, n) and indices.min() == 0 and indices.max() == n - 1
    weights = bootstrap_weights(indices)
    assert torch.equal(weights.sum(1), torch.full((members,), float(n)))
    assert weights[3, 7] == (indices[3] == 7).sum()
    # The share that a member misses is (1 - 1/n)^n; the standard error over 100 000 weights is below 0.0016, and 5 of them.
    assert (weights == 0).double().mean().item() == pytest.approx((1 - 1 / n) ** n, abs=0.008)
    assert not torch.equal(indices[0], indices[1])
    assert torch.equal(indices, bootstrap_indices(n, members, generator=generator()))


def test_weights_of_another_number_of_samples():
    assert bootstrap_weights(torch.tensor([[0, 2], [1, 1]]), samples=4).tolist() == [[1, 0, 1, 0], [0, 2, 0, 0]]


def test_out_of_bag_is_scikit_learns_for_classes(digits):
    x, y = (t[:200].numpy() for t in digits)
    bags = BaggingClassifier(DecisionTreeClassifier(max_depth=4), n_estimators=60, oob_score=True, random_state=0).fit(
        x, y
    )
    weights = bootstrap_weights(torch.tensor(np.array(bags.estimators_samples_)))
    outputs = torch.tensor(np.array([tree.predict_proba(x) for tree in bags.estimators_]))
    found = out_of_bag_average(outputs, weights)
    np.testing.assert_allclose(found.numpy(), bags.oob_decision_function_, rtol=1e-12)
    assert (found.argmax(1).numpy() == y).mean() == pytest.approx(bags.oob_score_)


def test_out_of_bag_is_scikit_learns_for_numbers():
    x, y = load_diabetes(return_X_y=True)
    bags = BaggingRegressor(Ridge(), n_estimators=60, oob_score=True, random_state=0).fit(x, y)
    weights = bootstrap_weights(torch.tensor(np.array(bags.estimators_samples_)))
    outputs = torch.tensor(np.array([one.predict(x) for one in bags.estimators_]))
    np.testing.assert_allclose(out_of_bag_average(outputs, weights).numpy(), bags.oob_prediction_, rtol=1e-12)


def test_a_sample_that_all_members_saw_has_no_out_of_bag_answer():
    found = out_of_bag_average(torch.ones(2, 3, 2), torch.tensor([[1, 0, 0], [2, 1, 0]]))
    assert found[0].isnan().all()
    assert torch.equal(found[1:], torch.ones(2, 2))


# -- weights from content ---------------------------------------------------------------------------------------------


def test_content_weights_are_poisson_and_independent():
    n, members = 20_000, 4
    weights = content_weights(torch.randn(n, 5, generator=generator()), members, seed=3)
    assert weights.shape == (members, n)
    counts = torch.bincount(weights.long().flatten(), minlength=12).numpy()
    expected = scipy.stats.poisson(1).pmf(np.arange(6)) * n * members
    pooled = np.append(counts[:6], counts[6:].sum()), np.append(expected, n * members - expected.sum())
    assert scipy.stats.chisquare(*pooled).pvalue > 1e-3
    # correlations of independent numbers of variance 1: 5 standard errors of 1 / sqrt(n)
    centred = weights - 1
    assert (centred @ centred.T / n - torch.eye(members)).abs().max() < 5 * math.sqrt(3 / n)  # the fourth moment is 4
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 5 / math.sqrt(n * members)
    other = content_weights(torch.randn(n, 5, generator=generator()), members, seed=4)
    assert ((other - 1) * centred).mean().abs() < 5 / math.sqrt(n * members)


def test_content_weights_of_inputs_that_differ_little():
    """Neighbours on a lattice are no harder than noise: one-hot rows, small whole numbers."""
    n = 4096
    for x in (torch.eye(n), torch.arange(n)[:, None], torch.arange(n, dtype=torch.float)[:, None] / n):
        weights = content_weights(x, 2, seed=0)
        assert abs(weights.mean().item() - 1) < 5 / math.sqrt(2 * n)
        assert abs((weights == 0).double().mean().item() - math.exp(-1)) < 5 * 0.49 / math.sqrt(2 * n)


@pytest.mark.parametrize(
    "kind",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
    ],
)
def test_the_same_sample_has_the_same_weight_in_any_batch(kind):
    x = (torch.randn(64, 3, 4, generator=generator()) * 10).to(kind)
    weights = content_weights(x, 5, seed=1)
    order = torch.randperm(64, generator=generator(1))
    assert torch.equal(content_weights(x[order], 5, seed=1), weights[:, order])
    assert torch.equal(content_weights(x[7:8], 5, seed=1), weights[:, 7:8])
    assert torch.equal(content_weights(x, 3, seed=1), weights[:3])
    assert weights.unique().numel() > 2


def test_content_weights_draw_nothing_and_know_no_negative_zero():
    before = torch.get_rng_state()
    x = torch.zeros(4, 2)
    weights = content_weights(x, 3, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(content_weights(-x, 3, seed=1), weights)
    assert torch.equal(x, torch.zeros(4, 2))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"bootstrap_indices\(0, members=16\): both must be at least 1"):
        bootstrap_indices(0)
    with pytest.raises(
        ValueError,
        match=r"outputs of shape \(2, 3, 4\) and weights of shape \(3, 2\). The weights must have shape \(2, 3\)",
    ):
        out_of_bag_average(torch.zeros(2, 3, 4), torch.zeros(3, 2))
