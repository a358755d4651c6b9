"""A norm that undoes itself: exact where that can be, refused or approximated where it cannot."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import trimtab.nn as tn
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d
from trimtab.nn.identity_init import identity_init


def random(*shape, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 3 * x + torch.arange(shape[1], dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))


BATCH = {
    "torch 1d": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "1d": (lambda: tn.BatchNorm1d(5), (7, 5, 4)),
    "2d": (lambda: tn.BatchNorm2d(5, eps=0.1), (3, 5, 4, 6)),
    "3d": (lambda: tn.BatchNorm3d(2, track_running_stats=False), (3, 2, 2, 3, 2)),
    "relu behind": (lambda: tn.BatchNorm1d(5, activation="relu", dropout=0.5), (7, 5)),
}


@pytest.mark.parametrize("make, shape", BATCH.values(), ids=BATCH)
def test_batch_norm_is_the_identity_in_both_modes(make, shape):
    norm, x = make().double(), random(*shape)
    assert identity_init(norm, x) < 1e-12
    axes = [d for d in range(x.dim()) if d != 1]
    torch.testing.assert_close(norm.weight.detach(), (x.var(axes, correction=0) + norm.eps).sqrt())
    torch.testing.assert_close(norm.bias.detach(), x.mean(axes))
    if getattr(norm, "activation", "none") != "none":
        norm.activation, norm.dropout = "none", 0.0
    torch.testing.assert_close(copy.deepcopy(norm).eval()(x), x)
    torch.testing.assert_close(norm.train()(x), x)


@pytest.mark.parametrize("frozen", [False, True])
def test_with_running_statistics_it_is_the_identity_on_everything(frozen):
    norm = tn.BatchNorm2d(3, frozen=frozen).double()
    with torch.no_grad():
        norm.running_mean.copy_(random(1, 3)[0])
        norm.running_var.copy_(random(1, 3, seed=1)[0].square())
    kept = norm.running_mean.clone(), norm.running_var.clone()
    norm.train(frozen)
    assert identity_init(norm, random(2, 3, 4, 4)) < 1e-12
    assert torch.equal(norm.running_mean, kept[0]) and torch.equal(norm.running_var, kept[1])
    x = 100 * random(2, 3, 5, 5, seed=2)
    torch.testing.assert_close(norm(x), x)


PER_SAMPLE = {
    "LayerNorm": (lambda: tn.LayerNorm(6), (1, 6)),
    "LayerNorm(two dims)": (lambda: nn.LayerNorm((3, 4)), (1, 3, 4)),
    "LayerNorm(channels_first)": (lambda: tn.LayerNorm(4, channels_first=True), (1, 4, 1, 1)),
    "GroupNorm": (lambda: tn.GroupNorm(2, 6), (1, 6, 4, 3)),
    "GroupNorm(torch)": (lambda: nn.GroupNorm(3, 6), (1, 6, 7)),
    "InstanceNorm2d": (lambda: tn.InstanceNorm2d(3, affine=True), (1, 3, 4, 5)),
    "InstanceNorm1d(torch)": (lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (1, 3, 9)),
    "RMSNorm": (lambda: tn.RMSNorm(6), (1, 6)),
    "RMSNorm(torch)": (lambda: nn.RMSNorm(6, eps=1e-3), (1, 6)),
}


@pytest.mark.parametrize("make, shape", PER_SAMPLE.values(), ids=PER_SAMPLE)
def test_one_sample_is_met_exactly_and_so_are_samples_of_equal_statistics(make, shape):
    norm, x = make().double(), random(*shape)
    assert identity_init(norm, x) < 1e-12
    torch.testing.assert_close(norm(x), x)
    # along the last dimension, in another order: the same mean and variance
    turned = torch.cat([x, x.flip(-1)]) if x.dim() != 4 or shape[-1] > 1 else torch.cat([x, x.flip(1)])
    norm = make().double()
    assert identity_init(norm, turned) < 1e-12
    torch.testing.assert_close(norm(turned), turned)


@pytest.mark.parametrize("make, shape", PER_SAMPLE.values(), ids=PER_SAMPLE)
def test_samples_of_different_statistics_are_refused_and_nothing_changes(make, shape):
    norm, x = make().double(), random(*shape)
    x = torch.cat([x, 2 * x])
    before = copy.deepcopy(norm.state_dict())
    with pytest.raises(ValueError, match="Samples, or parts of the batch, have statistics of their own"):
        identity_init(norm, x)
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in before.items())
    error = identity_init(norm, x, rtol=math.inf)
    assert error == pytest.approx(((norm(x) - x).abs().max() / x.abs().max()).item())
    assert 0.1 < error < 1


def test_the_means_over_samples_are_taken_where_the_identity_cannot_be():
    norm, x = tn.LayerNorm(6).double(), random(4, 6)
    identity_init(norm, x, rtol=math.inf)
    deviation = (x.var(1, correction=0) + 1e-5).sqrt().mean()
    torch.testing.assert_close(norm.weight.detach(), deviation.expand(6))
    torch.testing.assert_close(norm.bias.detach(), x.mean().expand(6))


def test_many_features_of_like_samples_come_close():
    """Statistics of 1000 features differ little between samples, so an approximation is near."""
    x = torch.randn(16, 1000, generator=torch.Generator().manual_seed(0)) * 2 + 1
    assert identity_init(tn.LayerNorm(1000), x, rtol=0.1) < 0.1


def test_it_undoes_what_it_can_in_float32_and_bfloat16():
    for dtype in (torch.float32, torch.bfloat16):
        norm, x = tn.BatchNorm1d(5), random(64, 5).to(dtype)
        assert identity_init(norm, x) < 1e-6
        torch.testing.assert_close(norm(x), x, atol=1e-5 if dtype is torch.float32 else 0.05, rtol=0)


def test_constant_channels():
    x = torch.ones(4, 2, dtype=torch.float64) * 7
    for eps in (0.0, 1e-5):
        norm = tn.LayerNorm(2, eps=eps).double()
        assert identity_init(norm, x) == 0 and norm.weight.gt(0).all()
        assert torch.equal(norm(x), x)


def test_a_norm_of_parts_of_the_batch_is_not_taken_for_one_of_the_whole():
    x = torch.cat([random(4, 3), 5 * random(4, 3, seed=1)])
    with pytest.raises(ValueError, match="parts of the batch"):
        identity_init(GhostBatchNorm1d(3, ghost_batch_size=4).double(), x)
    assert identity_init(GhostBatchNorm1d(3, ghost_batch_size=8).double(), x) < 1e-12


# fmt: off
@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: identity_init(nn.Linear(3, 3), torch.ones(2, 3)), TypeError, "identity_init got a Linear. It must be a BatchNorm, LayerNorm, GroupNorm, InstanceNorm or RMSNorm."),
        (lambda: identity_init(tn.BatchNorm1d(3, affine=False), torch.ones(2, 3)), ValueError, "identity_init got a BatchNorm1d without gain, which cannot undo its division. Make it with affine=True."),
        (lambda: identity_init(tn.RMSNorm(3, elementwise_affine=False), torch.ones(2, 3)), ValueError, "identity_init got a RMSNorm without gain, which cannot undo its division. Make it with elementwise_affine=True."),
        (lambda: identity_init(tn.GroupNorm(2, 4), torch.ones(4, 2)), ValueError, "identity_init(GroupNorm) got a batch of shape (4, 2). Its dimensions (1,) must be (4,), as the norm's weight: give the norm's input, with its batch dimension."),
        (lambda: identity_init(tn.LayerNorm((3, 4)), torch.ones(4)), ValueError, "identity_init(LayerNorm) got a batch of shape (4,). Its dimensions (0,) must be (3, 4), as the norm's weight: give the norm's input, with its batch dimension."),
        (lambda: identity_init(tn.BatchNorm1d(1), torch.tensor([[1.0], [float("nan")]])), ValueError, "identity_init(BatchNorm1d) got a batch of shape (2, 1) that no gain and shift give back to rtol=0.001: the output would be off by nan of the largest entry. The batch or the norm's statistics are not finite."),
        (lambda: identity_init(tn.LayerNorm(2, bias=False), torch.tensor([[1.0, 3.0]])), ValueError, "identity_init(LayerNorm) got a batch of shape (1, 2) that no gain and shift give back to rtol=0.001: the output would be off by 0.67 of the largest entry. Without bias the norm cannot put the mean back: make it with bias=True."),
        (lambda: identity_init(tn.RMSNorm(1), torch.tensor([[1.0], [3.0]])), ValueError, "identity_init(RMSNorm) got a batch of shape (2, 1) that no gain and shift give back to rtol=0.001: the output would be off by 0.33 of the largest entry. Samples, or parts of the batch, have statistics of their own, which one gain and shift cannot all undo. rtol=float('inf') takes their means; a BatchNorm can be the identity."),
    ],
)
def test_errors_say_what_to_do(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == message
