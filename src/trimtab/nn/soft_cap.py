"""Soft cap on logits."""

from __future__ import annotations

import math

import torch
from torch import nn

from trimtab.nn.checks import check_number

GROUP = "regularization"


def check_cap(what: str, cap: float) -> None:
    """Refuse a cap that is not positive."""
    check_number(what, "cap", cap)
    if not 0 < cap < math.inf:
        raise ValueError(f"{what}: cap={cap} must be positive: it is the bound of the logits. Try 30.")


def soft_cap(input: torch.Tensor, cap: float = 30.0) -> torch.Tensor:
    """``cap * tanh(input / cap)``, rounded once. See :class:`SoftCap`.

    >>> soft_cap(torch.tensor([0.1, 30.0, 1000.0]))
    tensor([ 0.1000, 22.8478, 30.0000])
    """
    check_cap("soft_cap", cap)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    return (cap * torch.tanh(x / cap)).to(input.dtype)


class SoftCap(nn.Module):
    r"""Bounds logits smoothly: nearly the identity for small ones, never beyond the cap.

    .. math:: y = c \tanh \frac{x}{c}, \qquad \frac{\partial y}{\partial x} = 1 - \frac{y^2}{c^2}

    with x and y of any one shape, and the cap c. Order, and so the most probable class, stays. Nothing is learned, and
    evaluation computes the same as training.

    Args:
        cap: the bound of the logits.

    Raises:
        ValueError: for a cap that is not positive.

    When it helps: logits that grow without bound at large learning rates or in low precision. Gemma 2 has a cap of 30 on the
    output and 50 on attention logits. When it hurts: a cap that is reached often, where the gradient is 0; pretrained weights
    that were trained without it; fused attention kernels that cannot compute it.

    Source: Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024; Bello, Pham, Le, Norouzi, Bengio,
    "Neural Combinatorial Optimization with Reinforcement Learning", 2017.

    >>> SoftCap(30.0)(torch.tensor([0.1, 30.0, 1000.0]))
    tensor([ 0.1000, 22.8478, 30.0000])
    """

    def __init__(self, cap: float = 30.0) -> None:
        super().__init__()
        check_cap("SoftCap", cap)
        self.cap = cap

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return soft_cap(input, self.cap)

    def extra_repr(self) -> str:
        return f"{self.cap:g}"
