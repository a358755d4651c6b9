"""Initialization: how much a weight has to make up for what the activation behind it takes away."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.copies import copied_module

GROUP = "optimization"
# What torch.nn.init has a value for; it takes them by these names. "linear" stands for all layers without an activation.
_OF_TORCH = ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")
_NAMED = (
    "gelu silu mish elu celu softplus softsign hardswish hardtanh hardsigmoid relu6 logsigmoid tanhshrink hardshrink softshrink rrelu"
).split()
_ALIKE = {
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.SELU: "selu",
    nn.Identity: "linear",
    **{getattr(owner, name): name for owner in (torch, F) for name in ("sigmoid", "tanh", "relu", "selu")},
    F.leaky_relu: "leaky_relu",
}


def calculate_gain(
    nonlinearity: str | Callable[[torch.Tensor], torch.Tensor], param: int | float | None = None
) -> float:
    r"""The gain of a nonlinearity: torch's where torch has one, and for all others the one that keeps the mean square.

    .. math:: g = \frac{1}{\sqrt{E[f(z)^2]}}, \qquad z \sim N(0, 1)

    A weight of variance :math:`g^2 / n_\text{in}` behind f then gives outputs whose variance is that of f's inputs. For ReLU and leaky ReLU
    this is exactly what ``torch.nn.init.calculate_gain`` has (:math:`\sqrt2` and :math:`\sqrt{2 / (1 + s^2)}`). Its values for tanh (5/3, where the
    integral gives 1.593), sigmoid (1; 1.846) and SELU (3/4; 1) are other choices, and they are kept. GELU gets 1.534, SiLU 1.677, Mish
    1.487, ELU 1.245, none of which torch has. The integral is a sum over 48 001 points in float64.

    Args:
        nonlinearity: the name of a function of ``torch.nn.functional`` (``"linear"``, ``"relu"``, ``"gelu"`` ...), an activation module, or any
            function that takes each number by itself. ``nn.PReLU`` counts with the slopes that it has.
        param: the slope of ``"leaky_relu"``, or the second argument of another function (``alpha`` of ``"elu"``).

    Raises:
        ValueError: for a name that is none of these, and for a function whose mean square is 0 or not finite.

    When it helps: initialization of deep networks without normalization, whose signal would shrink or grow with every layer. When it
    hurts: nothing; behind a normalization it does not matter.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, section 2.2, for the condition; ``torch.nn.init.calculate_gain`` for the
    values of torch.

    >>> round(calculate_gain("gelu"), 4), round(calculate_gain(nn.SiLU()), 4)
    (1.5335, 1.6765)
    >>> calculate_gain("leaky_relu", 0.2) == nn.init.calculate_gain("leaky_relu", 0.2)
    True
    """
    module: Any = nonlinearity
    if isinstance(module, nn.LeakyReLU):
        nonlinearity, param = "leaky_relu", module.negative_slope
    elif isinstance(module, nn.PReLU):
        nonlinearity, param = "leaky_relu", module.weight.detach().double().square().mean().sqrt().item()
    elif not isinstance(nonlinearity, str):
        nonlinearity = _ALIKE.get(type(module) if isinstance(module, nn.Module) else module, nonlinearity)
    if not isinstance(nonlinearity, str):
        return _of(nonlinearity, "the function")
    if nonlinearity in _OF_TORCH or nonlinearity.startswith("conv"):
        return float(nn.init.calculate_gain(nonlinearity, param))  # type: ignore[arg-type]
    if nonlinearity not in _NAMED:
        raise ValueError(
            f"calculate_gain knows no nonlinearity {nonlinearity!r}. There are {', '.join((*_OF_TORCH, *_NAMED))}; any other can be "
            "given as a function."
        )
    return _named(nonlinearity, *(() if param is None else (param,)))


@functools.cache
def _named(name: str, *arguments: float) -> float:
    function: Any = getattr(F, name)
    return _of(lambda z: function(z, *arguments), f"{name}{arguments or ''}")


def _of(function: Callable[[torch.Tensor], torch.Tensor], name: str) -> float:
    if isinstance(function, nn.Module):
        name, function = f"this {type(function).__name__}", copied_module(function).eval().cpu().double()
    # A smooth function times a Gaussian: equidistant points are as good as any, and a kink costs a millionth.
    z = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    share = torch.exp(-z.square() / 2)
    with torch.no_grad():
        mean_square = (share * function(z).square()).sum().div(share.sum()).item()
    if not (math.isfinite(mean_square) and mean_square > 0):
        raise ValueError(
            f"calculate_gain: the mean square of {name} at normal inputs is {mean_square}. It must be positive and finite: no gain makes "
            "up for it."
        )
    return mean_square**-0.5
