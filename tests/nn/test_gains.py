"""Gains: torch's where torch has one, the integral where it has none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, special
from torch import nn

from trimtab.nn import calculate_gain

OF_TORCH = [("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("selu", None)]


@pytest.mark.parametrize("name, param", [*OF_TORCH, ("leaky_relu", None), ("leaky_relu", 0.2), ("leaky_relu", 1)])
def test_torchs_own_are_torchs(name, param):
    assert calculate_gain(name, param) == nn.init.calculate_gain(name, param)


@pytest.mark.parametrize(
    "given, name",
    [
        (nn.ReLU(), "relu"), (F.relu, "relu"), (torch.relu, "relu"), (nn.Tanh(), "tanh"), (torch.tanh, "tanh"), (F.tanh, "tanh"),
        (nn.Sigmoid(), "sigmoid"), (nn.SELU(), "selu"), (nn.Identity(), "linear"), (F.leaky_relu, "leaky_relu"),
    ],
)  # fmt: skip
def test_modules_and_functions_are_known_by_their_names(given, name):
    assert calculate_gain(given) == nn.init.calculate_gain(name)


def test_slopes_are_taken_from_the_module():
    assert calculate_gain(nn.LeakyReLU(0.3)) == nn.init.calculate_gain("leaky_relu", 0.3)
    prelu = nn.PReLU(2)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.0, 0.4]))
    # E f² over both channels: (1 + s²) / 2 with the mean of s², 0.08
    assert calculate_gain(prelu) == pytest.approx(math.sqrt(2 / 1.08), rel=1e-6)


FORMULAS = {
    "gelu": lambda z: z * special.ndtr(z),
    "silu": lambda z: z * special.expit(z),
    "mish": lambda z: z * math.tanh(math.log1p(math.exp(z))),
    "elu": lambda z: z if z > 0 else math.expm1(z),
    "softplus": lambda z: math.log1p(math.exp(z)),
    "softsign": lambda z: z / (1 + abs(z)),
    "hardtanh": lambda z: max(-1.0, min(1.0, z)),
    "relu6": lambda z: max(0.0, min(6.0, z)),
    "hardswish": lambda z: z * max(0.0, min(6.0, z + 3)) / 6,
    "logsigmoid": lambda z: -math.log1p(math.exp(-z)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_others_are_the_integral(name):
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    pieces = [(-12, -3), (-3, -1), (-1, 0), (0, 1), (1, 3), (3, 6), (6, 12)]  # kinks stand at the ends
    square = sum(integrate.quad(lambda z: FORMULAS[name](z) ** 2 * density(z), *ends)[0] for ends in pieces)
    # a step of 5e-4 at a kink of slope 1 is off by less than its square
    assert calculate_gain(name) == pytest.approx(square**-0.5, rel=1e-6)


def test_modules_without_a_name_of_torch_are_integrated_as_they_are():
    assert calculate_gain(nn.GELU()) == pytest.approx(calculate_gain("gelu"), rel=1e-12)
    assert calculate_gain(nn.GELU("tanh")) != calculate_gain("gelu")
    assert calculate_gain(nn.ELU(0.5)) == calculate_gain("elu", 0.5) != calculate_gain("elu")
    assert calculate_gain(lambda z: 3 * z) == pytest.approx(1 / 3, rel=1e-12)
    module = nn.RReLU().train()
    state = torch.get_rng_state()
    calculate_gain(module)
    assert module.training and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "elu"])
def test_it_keeps_the_variance_through_a_layer(name):
    """What the gain is for: weights of variance g²/n behind f give outputs whose variance is that of f's inputs."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(400, 500, generator=draw, dtype=torch.float64)
    weight = torch.randn(500, 500, generator=draw, dtype=torch.float64) * calculate_gain(name) / 500**0.5
    # mean square of 500 units' activations, and of 250 000 weights: 3 standard errors of the coarser
    assert (getattr(F, name)(z) @ weight).square().mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "given, message",
    [
        ("swish", "calculate_gain knows no nonlinearity 'swish'. There are linear, sigmoid, tanh, relu, leaky_relu, selu, gelu"),
        (lambda z: 0 * z, "the mean square of the function at normal inputs is 0.0. It must be positive and finite"),
        (nn.Threshold(99, 0.0), "the mean square of this Threshold at normal inputs is 0.0."),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(given, message):
    with pytest.raises(ValueError) as error:
        calculate_gain(given)
    assert message in str(error.value)
