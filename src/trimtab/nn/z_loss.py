"""Z-loss: a penalty on logits that drift away from 0."""

from __future__ import annotations

import math

import torch
from torch import nn

from trimtab.nn.checks import check_class_losses, check_number, check_reduction

GROUP = "regularization"


def check_factor(what: str, factor: float) -> None:
    """Refuse a factor that is not positive."""
    check_number(what, "factor", factor)
    if not 0 < factor < math.inf:
        raise ValueError(f"{what}: factor={factor} must be positive: it is the strength of the penalty. Try 1e-4.")


def z_loss(
    input: torch.Tensor,
    target: torch.Tensor | None = None,
    factor: float = 1e-4,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> torch.Tensor:
    """The penalty as a function, to be added to ``cross_entropy(input, target)``. See :class:`ZLoss`.

    >>> z_loss(torch.zeros(2, 10), factor=1.0)  # log(10)²
    tensor(5.3019)
    """
    check_factor("z_loss", factor)
    check_reduction("z_loss", reduction)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    log_z = torch.logsumexp(x, 1 if x.ndim > 1 else 0)
    counted: int | torch.Tensor = log_z.numel()
    if target is not None and not target.is_floating_point():
        kept = target != ignore_index
        log_z, counted = torch.where(kept, log_z, 0), kept.sum()
    losses = factor * log_z.square()
    if reduction == "none":
        return losses
    return losses.sum() / counted if reduction == "mean" else losses.sum()


class ZLoss(nn.Module):
    r"""A penalty beside cross entropy that keeps the normalizer of the softmax near 1.

    .. math:: \ell = c \log^2 Z, \qquad Z = \sum_{k=1}^K e^{x_k}

    with logits x of shape ``(N, K)`` or ``(N, K, ...)``. Cross entropy does not change when a constant is added to all logits,
    so nothing else holds them near 0. Its gradient by x is :math:`2 c \log Z \, \mathrm{softmax}(x)`. Half-precision logits are
    summed in float32.

    Args:
        factor: c, the strength.
        ignore_index: targets that are left out, if targets are given.
        reduction: "mean" (over the targets that are not left out), "sum" or "none".

    Raises:
        ValueError: for a factor that is not positive, and for another reduction.

    When it helps: logits that drift, losses that spike in long trainings with low precision, many classes. When it hurts:
    factors so large that they bend the probabilities; calibration of networks that lean on the size of their logits. Good
    first setting: 1e-4.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022.

    >>> x, y = torch.zeros(2, 10), torch.tensor([3, -100])
    >>> torch.nn.functional.cross_entropy(x, y) + ZLoss(0.1)(x, y)
    tensor(2.8328)
    """

    def __init__(self, factor: float = 1e-4, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        check_factor("ZLoss", factor)
        check_class_losses("ZLoss", None, ignore_index, reduction)
        self.factor, self.ignore_index, self.reduction = factor, ignore_index, reduction

    def forward(self, input: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        return z_loss(input, target, self.factor, self.ignore_index, self.reduction)

    def extra_repr(self) -> str:
        return f"{self.factor:g}"
