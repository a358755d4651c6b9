"""Standardization fitted on the batches that pass, against two passes in float64 over all of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from trimtab.data import Standardize


def reference(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance in two passes, float64."""
    rows = rows.double()
    mean = rows.mean(0)
    return mean, (rows - mean).square().mean(0)


def table(seed=0):
    torch.manual_seed(seed)
    return torch.randn(1000, 4) * torch.tensor([1.0, 100.0, 0.01, 5.0]) + torch.tensor([0.0, 1000.0, 0.0, -50.0])


@pytest.mark.parametrize("sizes", [[1000], [10] * 100, [1, 999], [999, 1], [1] * 1000])
def test_batches_merge_to_the_statistics_of_all_rows(sizes):
    x = table()
    layer = Standardize(4)
    for batch in x.split(sizes):
        layer(batch)
    mean, variance = reference(x)
    # float32: the mean carries a rounding of 6e-8 of the largest entry for each of up to 1000 merges, the variance too.
    torch.testing.assert_close(
        layer.mean.double(), mean, rtol=1e-5, atol=1e-5 * x.abs().max(0).values.max().item() / 100
    )
    torch.testing.assert_close(layer.variance.double(), variance, rtol=1e-3, atol=0)
    assert layer.count == 1000


def test_output_has_mean_0_and_deviation_1():
    x = table()
    y = Standardize(4)(x)
    mean, variance = reference(x)
    expected = (x.double() - mean) / variance.sqrt()
    # 1000 +- 100: an input is known to 6e-8 * 1000 / 100 of a deviation, its mean likewise
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_large_offset_does_not_cancel():
    """E[x^2] - E[x]^2 would give nothing but rounding errors here."""
    torch.manual_seed(0)
    x = torch.randn(512, 1) + 4096.0
    layer = Standardize(1)
    for batch in x.split(32):
        layer(batch)
    assert layer.variance.item() == pytest.approx(reference(x)[1].item(), rel=1e-3)


def test_channels():
    torch.manual_seed(0)
    x = torch.randn(20, 3, 5, 6) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    layer = Standardize(3, axis=1)
    y = layer(x)
    mean, variance = reference(x.movedim(1, -1).reshape(-1, 3))
    torch.testing.assert_close(layer.mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.variance.double(), variance, rtol=1e-5, atol=0)
    expected = (x.double() - mean.view(3, 1, 1)) / variance.sqrt().view(3, 1, 1)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert layer.count == 20 * 5 * 6


def test_statistics_stand_still_in_evaluation_and_without_gradients():
    layer = Standardize(4)
    layer(table())
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        layer(table(1))
    layer.eval()
    layer(table(2))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_before_the_first_batch_the_input_passes():
    x = table()
    assert torch.equal(Standardize(4).eval()(x), x)


def test_a_constant_feature_is_only_shifted():
    x = torch.cat([torch.full((10, 1), 7.0), torch.randn(10, 1)], 1)
    y = Standardize(2)(x)
    assert torch.equal(y[:, 0], torch.zeros(10))
    assert torch.isfinite(y).all()


def test_gradients_pass_as_through_a_fixed_scale():
    x = table().requires_grad_(True)
    layer = Standardize(4)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.variance.rsqrt().float().expand(1000, 4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_back_as_they_were(dtype):
    x = (table() / 100).to(dtype)
    layer = Standardize(4)
    assert layer(x).dtype == dtype
    assert layer.mean.dtype == torch.float64
    torch.testing.assert_close(layer.mean.double(), reference(x)[0], rtol=1e-4, atol=1e-5)


def test_an_empty_batch_changes_nothing():
    layer = Standardize(4)
    layer(table())
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.empty(0, 4)).shape == (0, 4)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_a_checkpoint_carries_the_statistics():
    layer, other = Standardize(4), Standardize(4)
    layer(table())
    other.load_state_dict(layer.state_dict())
    x = table(1)
    assert torch.equal(layer.eval()(x), other.eval()(x))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(bad):
    x = table()
    x[3, 2] = bad
    layer = Standardize(4, missing="raise")
    layer(table(1))
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=r"features \[2\] hold NaN or infinity; clean or drop them first"):
        layer(x)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_another_number_of_features_is_refused():
    with pytest.raises(ValueError, match=r"Standardize\(4\) got input of shape \(2, 3\) with 3 features on axis -1"):
        Standardize(4)(torch.zeros(2, 3))
