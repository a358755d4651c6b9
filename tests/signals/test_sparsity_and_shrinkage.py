"""What penalties do to weights: zeros, and the part of an update that only shrinks, against their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab import signals
from trimtab.signals.sparsity import spread
from trimtab.training import attach
from trimtab.watching import budget

CLOSE = 1e-5  # float32 sums of some thousand numbers


@pytest.fixture(autouse=True)
def time_to_measure(monkeypatch):
    monkeypatch.setattr(budget, "ALLOWANCE", 60.0)


def recorded(model, optimizer, data, text="", steps=5):
    """A watched training under a recipe."""
    training = attach(model, optimizer)
    if text:
        training.apply(text)
    recorder = tt.Recorder(every=1)
    recorder.watch(training)
    train(model, optimizer, data, steps)
    assert recorder.guard.off == ""
    return recorder.close().main


def row(training, name, at=-1):
    profile = training.profiles[name]
    return dict(zip(profile.names, profile.rows[at], strict=True))


# -- sparsity --------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_the_definition():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(30, 40, generator=g)
    w[:, ::4] = 0.0
    w[0] *= 1e-4
    signal = signals.Sparsity()
    signal.after_step(
        [("w", w), ("bias", torch.zeros(40)), ("nothing", torch.zeros(0, 4)), ("zero", torch.zeros(2, 2))]
    )
    size = w.double().abs()
    reading = signal.read()
    assert reading["zeros"] == {"w": pytest.approx((size == 0).double().mean().item()), "zero": 1.0}
    near = (size < 1e-3 * size.square().mean().sqrt()).double().mean().item()
    assert reading["near_zeros"] == {"w": pytest.approx(near), "zero": 1.0}
    assert reading["zeros"]["w"] == pytest.approx(0.25) and near > 0.25 + 0.75 * 0.9 / 30


@pytest.mark.parametrize("shape", [(512, 1024), (1024, 512), (300, 256, 3, 3), (128, 4096), (7, 100_003)])
def test_pruned_rows_columns_and_positions_of_large_weights_are_counted(shape):
    # the standard error of a share of 16 384 entries is at most 0.4 %; 5 of them
    for dim in range(len(shape)):
        w = torch.ones(shape)
        pruned = shape[dim] // 3
        w.narrow(dim, 1, pruned).zero_()
        signal = signals.Sparsity()
        signal.after_step([("w", w)])
        assert signal.read()["zeros"]["w"] == pytest.approx(pruned / shape[dim], abs=0.02)
        assert spread(w).numel() <= 16_384


def test_normally_distributed_weights_are_hardly_ever_near_zero():
    w = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    signal = signals.Sparsity()
    signal.after_step([("w", w)])
    # P(|z| < 1e-3) = 8e-4; of 16 384 entries with a standard error of 2.2e-4
    assert signal.read()["near_zeros"]["w"] == pytest.approx(math.erf(1e-3 / math.sqrt(2)), abs=5 * 2.2e-4)


def test_the_run_reports_that_l1_makes_zeros_and_l2_does_not(digits):
    zeros = {}
    for text in ("l1(factor=0.01, proximal=True)", "l2(factor=0.01)"):
        model = network()
        training = recorded(model, torch.optim.SGD(model.parameters(), 0.1), digits, text, steps=30)
        zeros[text] = row(training, "zeros")
        assert zeros[text] == pytest.approx(
            {name: (p == 0).double().mean().item() for name, p in model.named_parameters() if p.ndim > 1}, abs=1e-6
        )
    l1, l2 = zeros.values()
    assert min(l1.values()) > 0.1
    assert set(l2.values()) == {0.0}


# -- shrinkage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01)])  # fmt: skip
def test_shrinkage_is_that_of_the_definition(make, digits):
    model = network()
    before = {n: p.detach().double().clone() for n, p in model.named_parameters() if p.ndim > 1}
    training = recorded(model, make(model.parameters()), digits, steps=1)
    after = {n: p.detach().double() for n, p in model.named_parameters() if p.ndim > 1}
    along = {n: (before[n] * (before[n] - after[n])).sum().item() for n in before}
    size = {n: p.norm().item() for n, p in before.items()}
    # an update of 1e-3 of a weight in float32 is known to 6e-8 / 1e-3 of itself
    expected = {n: along[n] / size[n] ** 2 for n in before}
    assert row(training, "shrinkage") == pytest.approx(expected, rel=1e-3, abs=1e-6)
    cosine = {n: along[n] / size[n] / (before[n] - after[n]).norm().item() for n in before}
    assert row(training, "shrinkage_share") == pytest.approx(cosine, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("decay", "share"), [(0.5, 1.0), (-0.5, -1.0)])
def test_a_step_of_decay_alone_is_all_shrinkage(decay, share):
    model = nn.Linear(64, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    (model.weight.square().sum() * decay / 2).backward()
    optimizer.step()
    training = recorder.close().main
    assert row(training, "shrinkage")["weight"] == pytest.approx(0.1 * decay, rel=1e-4)
    assert row(training, "shrinkage_share")["weight"] == pytest.approx(share, rel=1e-4)


def test_in_front_of_a_normalization_shrinkage_is_the_effective_decay(digits):
    """The output does not depend on the length of those weights, so their gradient has no part along them."""
    seen = []
    for text, own in (("", 0.0), ("l2(factor=0.2)", 0.0), ("", 0.2)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32, eps=1e-8), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=own)
        training = recorded(model, optimizer, digits, text, steps=1)
        seen.append((row(training, "shrinkage")["0.weight"], row(training, "shrinkage_share")["0.weight"]))
    plain, by_technique, by_optimizer = seen
    # lr * factor, up to the rounding of float32 products along the gradient
    assert plain == pytest.approx((0.0, 0.0), abs=1e-4)
    assert by_technique == pytest.approx(by_optimizer, rel=1e-3)
    assert by_technique[0] == pytest.approx(0.1 * 0.2, abs=1e-4)
    assert by_technique[1] > 0.1


def test_what_gets_no_gradient_or_is_zero_has_no_shrinkage():
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2), "zero": nn.Linear(4, 2)})
    nn.init.zeros_(model["zero"].weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    x = torch.ones(3, 4)
    F.cross_entropy(model["used"](x) + model["zero"](x), torch.tensor([0, 1, 0])).backward()
    optimizer.step()
    training = recorder.close().main
    assert row(training, "shrinkage") == {"used.weight": 0.0}
    assert row(training, "shrinkage_share") == {"used.weight": 0.0}  # nothing has moved
