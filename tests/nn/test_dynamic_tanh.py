"""DynamicTanh: numbers, gradients in every type and layout, names of parameters, errors."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.nn.norms import lively
from trimtab.nn.dynamic_tanh import DynamicTanh, dynamic_tanh

# float32: a product, a tanh, a product and a sum, whose roundings of 6e-8 weigh most in 1 - tanh²; bfloat16: input exact, output
# and upstream gradient rounded once each (2^-9)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_first", [False, True], ids=["last", "first"])
def test_output_and_gradients_are_those_of_the_formula(dtype, channels_first):
    layer = lively(DynamicTanh(5, channels_first=channels_first))
    layer = layer.double() if dtype is torch.float64 else layer
    exact = copy.deepcopy(layer).double()
    shape = (3, 5, 4, 7) if channels_first else (3, 4, 7, 5)
    view = (5, 1, 1) if channels_first else (5,)
    dims = (0, 2, 3) if channels_first else (0, 1, 2)
    generator = torch.Generator().manual_seed(0)
    weight, bias = exact.weight.detach().view(view), exact.bias.detach().view(view)
    alpha = exact.alpha.detach()
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1).to(dtype)
    g = torch.randn(shape, generator=generator, dtype=torch.float64)
    for own in (x, torch.stack([x, x], -1)[..., 0], x.contiguous(memory_format=torch.channels_last)):
        own = own.detach().requires_grad_()
        y = layer(own)
        assert y.dtype is dtype and y.shape == x.shape
        wide, t = x.double(), torch.tanh(alpha * x.double())
        slope = g * weight * (1 - t * t)
        # each wanted value, with the size of the sums of which it is made
        wanted = {
            "y": (weight * t + bias, 1),
            "x": (slope * alpha, 1),
            "alpha": ((slope * wide).sum().view(1), (slope * wide).abs().sum().item()),
            "weight": ((g * t).sum(dims), (g * t).abs().sum(dims).max().item()),
            "bias": (g.sum(dims), g.abs().sum(dims).max().item()),
        }
        found = torch.autograd.grad(y, [own, layer.alpha, layer.weight, layer.bias], g.to(dtype))
        for (name, (exactly, size)), one in zip(wanted.items(), (y, *found), strict=True):
            error = (one.detach().double() - exactly).abs().max()
            assert error <= TOLERANCE[dtype] * max(size, exactly.abs().max().item()), name


def test_parameters_have_the_names_of_the_authors_code_and_their_start():
    layer = DynamicTanh((3, 5), alpha_init=0.2)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "alpha": (1,), "weight": (3, 5), "bias": (3, 5),
    }  # fmt: skip
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(layer(x), torch.tanh(0.2 * x))
    lively(layer).reset_parameters()
    torch.testing.assert_close(layer(x), torch.tanh(0.2 * x))


def test_gain_and_bias_are_optional():
    assert set(DynamicTanh(5, elementwise_affine=False).state_dict()) == {"alpha"}
    assert set(DynamicTanh(5, bias=False).state_dict()) == {"alpha", "weight"}
    x, alpha = torch.randn(2, 5), torch.tensor([0.7])
    assert torch.equal(dynamic_tanh(x, alpha), torch.tanh(alpha * x))
    assert repr(DynamicTanh(5, bias=False, channels_first=True)) == (
        "DynamicTanh((5,), alpha_init=0.5, elementwise_affine=True, bias=False, channels_first)"
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: DynamicTanh(5, alpha_init=0),
            "DynamicTanh(alpha_init=0): alpha_init must be positive: at 0 the output is constant and nothing behind it learns. "
            "Try 0.5.",
        ),
        (
            lambda: DynamicTanh((3, 5), channels_first=True),
            "DynamicTanh((3, 5), channels_first=True): gain and bias are those of the channels, so normalized_shape must be one "
            "number, that of the channels.",
        ),
        (
            lambda: DynamicTanh(5)(torch.ones(2, 6)),
            "DynamicTanh(5) got an input of shape (2, 6). Its last dimensions must equal normalized_shape. "
            "Did you mean DynamicTanh(6)?",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
