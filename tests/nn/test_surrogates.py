"""Surrogate losses against scikit-learn, torch and written-out formulas, and against the 0-1 loss that they stand for."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import nn

import trimtab.nn as tn
from trimtab.nn.functional import surrogate_loss
from trimtab.nn.surrogates import KINDS, margin

CONVEX = [kind for kind in KINDS if kind != "zero_one"]
FORMULAS = {  # of one margin, in Python's numbers
    "square": lambda m: (1 - m) ** 2,
    "log": lambda m: math.log1p(math.exp(-m)) if m > -700 else -m,
    "hinge": lambda m: max(0.0, 1 - m),
    "exponential": lambda m: math.exp(-m),
    "zero_one": lambda m: float(m <= 0),
}


@pytest.fixture
def scores(digits) -> tuple[torch.Tensor, torch.Tensor]:
    """What a linear classifier, fitted a little, says of the digits: (512, 10) in float64, and their classes."""
    x, y = digits[0].double(), digits[1]
    return x @ torch.linalg.lstsq(x, 2 * F.one_hot(y).double() - 1).solution * 3, y


def two_classes(scores) -> tuple[torch.Tensor, torch.Tensor]:
    """A score of each sample for being a 3, and whether it is."""
    x, y = scores
    return x[:, 3], (y == 3).long()


# -- independent implementations -------------------------------------------------------------------------------------


def test_sklearn_gives_the_same_hinge_loss(scores):
    x, y = two_classes(scores)
    assert surrogate_loss(x, y).item() == pytest.approx(metrics.hinge_loss(2 * y - 1, x), rel=1e-12)
    x, y = scores  # of several classes: Crammer and Singer's
    assert surrogate_loss(x, y).item() == pytest.approx(metrics.hinge_loss(y, x, labels=range(10)), rel=1e-12)
    weight = torch.arange(1.0, 11.0).double()
    expected = metrics.hinge_loss(y, x, labels=range(10), sample_weight=weight[y])
    assert surrogate_loss(x, y, weight=weight).item() == pytest.approx(expected, rel=1e-12)


def test_sklearn_gives_the_same_log_loss(scores):
    x, y = two_classes(scores)
    expected = metrics.log_loss(y, torch.sigmoid(x).numpy())
    assert surrogate_loss(x, y, "log").item() == pytest.approx(expected, rel=1e-9)  # it computes with probabilities


def test_sklearn_gives_the_same_zero_one_loss(scores):
    x, y = scores
    assert surrogate_loss(x, y, "zero_one").item() == pytest.approx(metrics.zero_one_loss(y, x.argmax(1)), rel=1e-12)
    weight = torch.arange(1.0, 11.0).double()
    expected = metrics.zero_one_loss(y, x.argmax(1), sample_weight=weight[y])
    assert surrogate_loss(x, y, "zero_one", weight).item() == pytest.approx(expected, rel=1e-12)
    x, y = two_classes(scores)
    assert surrogate_loss(x, y, "zero_one").item() == pytest.approx(metrics.zero_one_loss(y, (x > 0).long()), rel=1e-12)


def test_torch_gives_the_same_where_it_has_the_loss(scores):
    x, y = two_classes(scores)
    signs = (2 * y - 1).double()
    torch.testing.assert_close(surrogate_loss(x, signs, "log"), F.soft_margin_loss(x, signs))
    torch.testing.assert_close(surrogate_loss(x, y, "log"), F.binary_cross_entropy_with_logits(x, y.double()))
    torch.testing.assert_close(surrogate_loss(x, y, "square"), F.mse_loss(x, signs))  # (1 - y x)² = (y - x)²
    # of two logits: the log loss is cross entropy, and torch's sum over the other classes (divided by K) has one term
    x = torch.stack([x, -x / 3], 1)
    torch.testing.assert_close(surrogate_loss(x, y, "log"), F.cross_entropy(x, y))
    torch.testing.assert_close(surrogate_loss(x, y, "hinge"), 2 * F.multi_margin_loss(x, y))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_its_formula(kind, reduction, scores):
    x, y = scores[0][:60].view(12, 5, 10).movedim(2, 1), scores[1][:60].view(12, 5).clone()  # (N, K, d1)
    y[::4, 1] = -1
    weight = torch.linspace(0.5, 2, 10, dtype=torch.float64)
    expected, total = torch.zeros(12, 5, dtype=torch.float64), 0.0
    for n in range(12):
        for d in range(5):
            if (c := int(y[n, d])) != -1:
                row = x[n, :, d].tolist()
                m = row.pop(c) - max(row)
                expected[n, d] = weight[c] * FORMULAS[kind](m)
                total += weight[c].item()
    found = surrogate_loss(x, y, kind, weight, ignore_index=-1, reduction=reduction)
    torch.testing.assert_close(
        found, {"mean": expected.sum() / total, "sum": expected.sum(), "none": expected}[reduction]
    )
    module = tn.SurrogateLoss(kind, weight, -1, reduction)
    torch.testing.assert_close(module(x, y), found, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(module)(x, y), found, rtol=0, atol=0)


# -- what theory says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONVEX)
def test_surrogates_bound_the_zero_one_loss(kind, scores):
    """Of one margin, and so of every sample of two or more classes; the log loss in base 2."""
    m = torch.linspace(-6, 6, 2401, dtype=torch.float64)  # with 0, the point where all but the square loss touch
    unit = math.log(2) if kind == "log" else 1.0
    loss, errors = KINDS[kind](m) / unit, KINDS["zero_one"](m)
    assert (loss >= errors - 1e-15).all()
    assert loss[m == 0] == pytest.approx(1, abs=1e-15)
    middle = (loss[:-2] + loss[2:]) / 2
    assert (middle >= loss[1:-1] - 1e-12).all()  # convex
    for x, y in (scores, two_classes(scores)):
        bound, wrong = (surrogate_loss(x, y, kind_, reduction="none") for kind_ in (kind, "zero_one"))
        assert 0 < wrong.mean() < 1
        assert (bound / unit >= wrong).all()
    one_vs_rest = surrogate_loss(scores[0], F.one_hot(scores[1], 10), kind, reduction="none").sum(1) / unit
    assert (one_vs_rest >= surrogate_loss(*scores, "zero_one", reduction="none")).all()


def test_a_tie_is_an_error():
    for x, y in ((torch.zeros(1), torch.ones(1)), (torch.tensor([[1.0, 1.0]]), torch.tensor([0]))):
        assert surrogate_loss(x, y, "zero_one") == 1


def test_both_ways_to_write_two_classes(scores):
    x, y = two_classes(scores)
    for kind in KINDS:
        numbers = [surrogate_loss(x, t, kind).item() for t in (y, y.double(), 2 * y - 1, (y == 1))]
        assert len(set(numbers)) == 1


# -- gradients and numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONVEX)
def test_gradients(kind, scores):
    for x, y in (scores, two_classes(scores)):
        x, y = x[:7].clone().requires_grad_(), y[:7]
        assert torch.autograd.gradcheck(lambda x, y=y: surrogate_loss(x, y, kind), x)
        one = torch.ones((), dtype=torch.double, requires_grad=True)  # else it is drawn, and may drown the differences
        assert torch.autograd.gradgradcheck(lambda x, y=y: surrogate_loss(x, y, kind), x, one)


def test_the_gradient_of_hinge_is_that_of_the_perceptron_with_a_margin():
    x = torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.5, 0.0], [0.0, 1.0, 4.0]], requires_grad=True)
    surrogate_loss(x, torch.tensor([0, 0, 1]), reduction="sum").backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 0, 0], [-1, 1, 0], [0, -1, 1]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_loss_of_large_margins(dtype):
    """exp(100) is no float32, and 1 + exp(-40) is 1; 30 is where a softplus with a threshold has given up its last term."""
    m = torch.tensor([-100.0, -30, 0, 30, 40, 80], dtype=dtype, requires_grad=True)
    loss = surrogate_loss(m, torch.ones(6), "log", reduction="none")
    expected = [FORMULAS["log"](v) for v in m.tolist()]
    # exp and log1p are right to a few steps of the type
    torch.testing.assert_close(loss.tolist(), expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
    loss.sum().backward()
    slopes = [-1 / (1 + math.exp(v)) for v in m.tolist()]
    torch.testing.assert_close(m.grad.tolist(), slopes, rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ignored_may_be_infinite(kind):
    x = torch.tensor([[-1e4, 1e4], [torch.inf, -torch.inf], [1.0, 0.0]], requires_grad=True)
    y = torch.tensor([-100, -100, 0])
    loss = surrogate_loss(x, y, kind)
    assert loss.item() == pytest.approx(FORMULAS[kind](1.0), rel=1e-6)
    if kind != "zero_one":
        loss.backward()
        assert torch.equal(x.grad[:2], torch.zeros(2, 2))
        assert torch.isfinite(x.grad).all()


def test_a_single_sample_without_a_batch(scores):
    x, y = scores
    assert surrogate_loss(x[0], y[0]) == surrogate_loss(x[:1], y[:1])


def test_nothing_but_ignored_targets_has_no_mean():
    x, y = torch.randn(3, 4), torch.full((3,), -100)
    assert surrogate_loss(x, y).isnan() and F.cross_entropy(x, y).isnan()
    assert surrogate_loss(x, y, reduction="sum") == 0


def test_minimizing_it_lowers_the_number_of_errors(digits):
    """A linear classifier under each: the number of errors that nobody minimized falls from 9 of 10 to less than 1 of 10."""
    x, y = digits
    for kind in CONVEX:
        torch.manual_seed(0)
        model, loss = nn.Linear(64, 10), tn.SurrogateLoss(kind)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        assert surrogate_loss(model(x), y, "zero_one") < 0.1


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: tn.SurrogateLoss("hing"),
            "SurrogateLoss(kind='hing'): kind must be one of square, log, hinge, exponential, zero_one.",
        ),
        (lambda x, y: surrogate_loss(x, y, "0-1"), "surrogate_loss(kind='0-1'): kind must be one of square, log"),
        (
            lambda x, y: surrogate_loss(x, y, reduction="batchmean"),
            "surrogate_loss(reduction='batchmean'): reduction must be mean, sum or none.",
        ),
        (
            lambda x, y: surrogate_loss(x, y[:3]),
            "margin got an input of shape (512, 10) and a target of shape (3,). They must be of one shape (two classes), or "
            "the input has one dimension more, for the classes: (N, K, ...) and (N, ...).",
        ),
        (
            lambda x, y: margin(x, y.double()),
            "margin needs targets that are class indices; got torch.float64.",
        ),
        (lambda x, y: surrogate_loss(x[:, :1], y), "margin needs at least 2 classes; the input of shape (512, 1) has one."),
        (
            lambda x, y: surrogate_loss(x[:, 0], y, weight=torch.ones(10)),
            "surrogate_loss takes a weight for each of several classes; the target here has the shape of the input.",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, message, scores):
    with pytest.raises(ValueError) as error:
        call(*scores)
    assert message in str(error.value)


def test_formulas_cover_every_kind():
    assert FORMULAS.keys() == KINDS.keys()
    assert np.isclose(FORMULAS["log"](-800), 800)
