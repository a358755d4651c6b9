"""Alpha dropout with a generator of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn import ops
from trimtab.nn.checks import check_p
from trimtab.nn.draws import OwnGenerator, bernoulli, check_generator, kept

GROUP = "regularization"
LOWEST = -1.0507009873554805 * 1.6732632423543772  # -scale * alpha of SELU: its value far to the left


def alpha_dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = False, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """``torch.nn.functional.alpha_dropout`` with an optional generator; see :class:`AlphaDropout`.

    >>> alpha_dropout(torch.ones(3))
    tensor([1., 1., 1.])
    """
    check_p("alpha_dropout", "p", p)
    return to_lowest(input, p, ops.draw_key(generator)) if training and p > 0 else input


class AlphaDropout(OwnGenerator, nn.AlphaDropout):
    r"""Sets entries to SELU's lowest value with probability p while training, and keeps mean 0 and variance 1.

    .. math:: y_i = a (m_i x_i + (1 - m_i) \alpha') + b, \qquad m_i \sim \mathrm{Bernoulli}(1 - p), \quad
              a = (1 - p)^{-1/2} (1 + p \alpha'^2)^{-1/2}, \quad b = -a p \alpha'

    with ``x`` and ``y`` of any one shape and :math:`\alpha' = -1.7581`, the value of SELU at minus infinity. An input of
    mean 0 and variance 1 gives an output of mean 0 and variance 1. In evaluation mode ``y = x``. A drop-in for
    ``torch.nn.AlphaDropout`` whose masks can come from a generator given here.

    Args:
        p: probability of dropping an entry, 0 <= p <= 1.
        inplace: write the result into the input.
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: if p is outside [0, 1].

    When it helps: networks of SELUs, which normalize themselves; dropout to zero would take that from them. When it hurts:
    behind other activations, where -1.7581 is no value that they give: use :class:`Dropout`.

    Source: Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017.

    >>> layer = AlphaDropout(0.5, generator=torch.Generator().manual_seed(0))
    >>> y = layer(torch.randn(100_000))
    >>> round(abs(y.mean().item()), 1), round(y.var().item(), 1)
    (0.0, 1.0)
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, generator: torch.Generator | None = None) -> None:
        check_p("AlphaDropout", "p", p)
        check_generator("AlphaDropout", generator)
        super().__init__(p, inplace)
        self.generator = generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.alpha_dropout(input, self.p, self.training)
        else:
            return self._forward(input)

    def __prepare_scriptable__(self) -> Any:
        return self if self.generator is None else super().__prepare_scriptable__()

    def _forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        y = to_lowest(input, self.p, self.draw_key())
        return input.copy_(y) if self.inplace else y


def to_lowest(x: torch.Tensor, p: float, key: torch.Tensor) -> torch.Tensor:
    """Alpha dropout with the mask of a key."""
    if p == 1:
        return x * 0.0
    a = 1 / math.sqrt((1 - p) * (1 + p * LOWEST * LOWEST))
    b = -a * p * LOWEST
    return kept(bernoulli(x.shape, p, key, x.device), a * x + b, a * LOWEST + b)
