"""Gaussian dropout: multiplication by normal noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_number
from trimtab.nn.draws import OwnGenerator, check_choice, check_generator, normal

GROUP = "regularization"
VARIANCES = ("paper", "seed")


def check_gaussian(part: str, p: float, variance: str) -> None:
    """Refuse settings that mean nothing."""
    check_number(part, "p", p, "[0, 1)", "is the dropping probability of the dropout that is like it")
    check_choice(part, "variance", variance, VARIANCES)


def deviation(p: float, variance: str) -> float:
    """The standard deviation of the noise."""
    return math.sqrt(p / (1 - p) if variance == "paper" else p * (1 - p))


def gaussian_dropout(
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    variance: str = "paper",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Multiplies by noise of mean 1 while training; see :class:`GaussianDropout`.

    >>> gaussian_dropout(torch.ones(3), training=False)
    tensor([1., 1., 1.])
    """
    check_gaussian("gaussian_dropout", p, variance)
    if not training or p == 0:
        return input
    return noisy(input, ops.draw_key(generator), deviation(p, variance))


class GaussianDropout(OwnGenerator, nn.modules.dropout._DropoutNd):
    r"""Multiplies entries by normal noise of mean 1 while training, where dropout multiplies by 0 or 1 / (1 - p).

    .. math:: y_i = x_i \, \epsilon_i, \qquad \epsilon_i \sim N\Bigl(1, \frac{p}{1 - p}\Bigr)

    with ``x`` and ``y`` of any one shape: noise of the same mean and variance as that of :class:`Dropout` with the same p, the
    probability of *dropping* (the paper's p keeps: its variance (1 - p) / p is this one). In evaluation mode ``y = x``. With
    ``variance="seed"`` the noise is N(1, p (1 - p)), 003's formula: the variance of the unscaled mask, a quarter of the other's
    at p = 1/2. Keras' ``GaussianDropout(rate)`` has the default. No noise is stored: it is drawn again in the backward pass.

    Args:
        p: probability of dropping of the dropout that it is like, 0 <= p < 1.
        variance: "paper" for p / (1 - p), "seed" for p (1 - p).
        generator: source of the noise; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: if p is outside [0, 1), or for an unknown variance.

    When it helps: where dropout does; every unit learns in every step. When it hurts: networks that do not fit their
    training set; large p, where the sign of the activations turns at random. It is not faster than dropout at equal variance.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 10; seed 003.

    >>> layer = GaussianDropout(0.5, generator=torch.Generator().manual_seed(0))
    >>> y = layer(torch.ones(100_000))
    >>> round(y.mean().item(), 1), round(y.var().item(), 1)
    (1.0, 1.0)
    >>> layer.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, variance: str = "paper", generator: torch.Generator | None = None) -> None:
        check_gaussian("GaussianDropout", p, variance)
        check_generator("GaussianDropout", generator)
        super().__init__(p)
        self.variance, self.generator = variance, generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        return noisy(input, self.draw_key(), deviation(self.p, self.variance))

    def extra_repr(self) -> str:
        return f"p={self.p}, variance={self.variance}"


def noisy(x: torch.Tensor, key: torch.Tensor, deviation: float) -> torch.Tensor:
    """x times the noise N(1, deviation^2) of a key."""
    if (
        torch.compiler.is_compiling()
    ):  # torch.compile does not follow functions with a forward derivative of their own (torch 2.13)
        return x * normal(x, deviation, key)
    return _Noisy.apply(x, key, deviation)


class _Noisy(torch.autograd.Function):
    """Linear in x and its own transpose, so that one function serves in all directions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, key: torch.Tensor, deviation: float) -> torch.Tensor:
        return x * normal(x, deviation, key)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, key, ctx.deviation = inputs
        ctx.save_for_backward(key)
        ctx.save_for_forward(key)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (key,) = ctx.saved_tensors
        return noisy(gradient, key, ctx.deviation), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        (key,) = ctx.saved_tensors
        return noisy(tangent, key, ctx.deviation)
