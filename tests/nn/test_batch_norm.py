"""What BatchNorm has beyond torch's."""

from __future__ import annotations

import pytest
import torch

import trimtab.nn as tn
import trimtab.nn.functional as TF


def batches(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 3, 5, generator=generator) * 2 + i for i in range(count)]


def test_two_momenta():
    layer, of_mean, of_variance = (
        tn.BatchNorm1d(3, momentum=(0.3, 0.05)),
        tn.BatchNorm1d(3, momentum=0.3),
        tn.BatchNorm1d(3, momentum=0.05),
    )
    for x in batches():
        layer(x), of_mean(x), of_variance(x)
    torch.testing.assert_close(layer.running_mean, of_mean.running_mean)
    torch.testing.assert_close(layer.running_var, of_variance.running_var)


def test_population_statistics_are_means_over_batches():
    layer = tn.BatchNorm1d(3, statistics="population")
    for x in batches():
        layer(x)
    torch.testing.assert_close(layer.running_mean, torch.stack([x.mean((0, 2)) for x in batches()]).mean(0))
    torch.testing.assert_close(
        layer.running_var, torch.stack([x.var((0, 2)) for x in batches()]).mean(0)
    )  # m / (m - 1)


def test_the_biased_variance_can_be_stored():
    layer = tn.BatchNorm1d(3, momentum=1.0, unbiased=False)
    x = batches()[0]
    layer(x)
    torch.testing.assert_close(layer.running_var, x.var((0, 2), correction=0))


def test_frozen_survives_train_and_still_learns():
    layer = tn.BatchNorm1d(3)
    for x in batches():
        layer(x)
    layer.frozen = True
    model = torch.nn.Sequential(layer).train()
    before, wanted = layer.running_mean.clone(), torch.nn.Sequential(layer).eval()(x).detach()
    y = model.train()(x)
    torch.testing.assert_close(y, wanted)
    assert torch.equal(layer.running_mean, before)
    y.square().sum().backward()
    assert layer.weight.grad.abs().min() > 0


def test_only_the_chosen_units():
    layer = tn.BatchNorm1d(4, units=(0, 2))
    x = torch.randn(32, 4) * 3 + 1
    y = layer(x)
    assert torch.equal(y[:, [1, 3]], x[:, [1, 3]])
    torch.testing.assert_close(y[:, [0, 2]], torch.nn.BatchNorm1d(2)(x[:, [0, 2]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_padding_counts_for_nothing(dtype):
    # sequences of 3, 5 and 2 steps: the same numbers as their 10 steps one under the other
    x, lengths = torch.randn(3, 4, 5).to(dtype), (3, 5, 2)
    mask = torch.tensor([[step < length for step in range(5)] for length in lengths])
    padded = torch.where(mask.unsqueeze(1), x, torch.tensor(float("nan")).to(dtype))
    masked, flat = tn.BatchNorm1d(4), tn.BatchNorm1d(4)
    y = masked(padded, mask=mask)
    wanted = flat(torch.cat([row[:, :length].T for row, length in zip(x, lengths, strict=True)]))
    found = torch.cat([row[:, :length].T for row, length in zip(y, lengths, strict=True)])
    torch.testing.assert_close(
        found, wanted, rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-5 if dtype is torch.float32 else 1e-2
    )
    torch.testing.assert_close(masked.running_var, flat.running_var)
    assert (y * ~mask.unsqueeze(1) == 0).all()
    assert (masked.eval()(padded, mask=mask) * ~mask.unsqueeze(1) == 0).all()


def test_a_mask_of_one_position_is_refused():
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 0] = True
    with pytest.raises(ValueError, match=r"lets 1 of 15 positions count\. While training it needs more than one"):
        tn.BatchNorm1d(4)(torch.randn(3, 4, 5), mask=mask)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 3, 4, 2)])
def test_the_closed_forms_are_the_gradient(shape):
    x, weight, upstream = (torch.randn(s, dtype=torch.float64) for s in (shape, (3,), shape))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(TF.batch_norm(x, None, None, weight, bias, True), (x, weight, bias), upstream)
    for closed in (TF.batch_norm_backward, TF.batch_norm_backward_collected):
        torch.testing.assert_close(closed(upstream, x.detach(), weight.detach()), wanted)


def test_the_kernel_agrees_with_the_closed_form():
    x, weight, upstream = torch.randn(64, 32, 16, 16), torch.rand(32) + 0.5, torch.randn(64, 32, 16, 16)
    own = x.clone().requires_grad_(), weight.clone().requires_grad_(), torch.zeros(32, requires_grad=True)
    found = torch.autograd.grad(TF.batch_norm(own[0], None, None, own[1], own[2], True), own, upstream)
    wanted = TF.batch_norm_backward_collected(upstream.double(), x.double(), weight.double())
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-6 * b.abs().max()
