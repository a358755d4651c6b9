"""R-Drop: two sub-networks of a network with dropout are held to the same answer."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trimtab.nn.checks import check_number


def symmetric_kl(input: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    r"""The mean of the two divergences between the classes' distributions of two logits, for each sample.

    .. math:: \tfrac12 \big(\mathrm{KL}(P \| Q) + \mathrm{KL}(Q \| P)\big) = \tfrac12 \sum_k (P_k - Q_k) (\log P_k - \log Q_k)

    of shape (N, ...) for logits (N, K, ...) and of shape () for (K,).

    >>> symmetric_kl(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor(0.)
    """
    dim = 1 if input.dim() > 1 else 0
    p, q = input.log_softmax(dim), other.log_softmax(dim)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(dim)


def r_drop_divergence(
    input: torch.Tensor,
    other: torch.Tensor,
    target: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> torch.Tensor:
    """:func:`symmetric_kl`, reduced like a cross entropy with classes as ``target``: places of ``ignore_index`` count nowhere.

    >>> r_drop_divergence(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, -100]))
    tensor(0.)
    """
    divergence = symmetric_kl(input, other)
    counts = torch.ones_like(divergence, dtype=torch.bool)
    if target is not None and not target.is_floating_point():
        counts = target != ignore_index
        divergence = torch.where(counts, divergence, 0)
    if reduction == "none":
        return divergence
    return divergence.sum() if reduction == "sum" else divergence.sum() / counts.sum()


def r_drop_loss(
    input: torch.Tensor,
    other: torch.Tensor,
    target: torch.Tensor,
    alpha: float = 1.0,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    r"""Cross entropy of two passes of a network with dropout, and the divergence of their answers.

    .. math:: \tfrac12 \big(\mathrm{CE}(x_1, t) + \mathrm{CE}(x_2, t)\big)
              + \alpha \, \tfrac12 \big(\mathrm{KL}(P_1 \| P_2) + \mathrm{KL}(P_2 \| P_1)\big), \qquad P_i = \mathrm{softmax}(x_i)

    with logits x_1 and x_2 of shape ``(N, K)`` or ``(N, K, ...)``, both from the same inputs, and ``target`` as in
    ``torch.nn.functional.cross_entropy``. This is the form of the authors' code; the paper's formula adds the two cross
    entropies, so that its alpha is twice this one (and its loss twice as large). Class weights weigh the cross entropy
    alone.

    Args:
        input, other: logits of the two passes.
        target: classes or probabilities.
        alpha: weight of the divergence, not negative.
        weight, ignore_index, reduction, label_smoothing: of the cross entropy; the divergence is reduced alike.

    Raises:
        ValueError: for a negative alpha, or logits of different shapes.

    When it helps: networks with dropout that generalize worse than they fit, fine-tuning of transformers above all. When it
    hurts: time and memory, as every input goes through twice; networks that do not fit.

    Source: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021.

    >>> model = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(4, 3))
    >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
    >>> loss = r_drop_loss(model(x), model(x), y, alpha=1.0)
    """
    check_number("r_drop_loss", "alpha", alpha)
    if not alpha >= 0:
        raise ValueError(f"r_drop_loss(alpha={alpha}): alpha is the weight of the divergence and must not be negative.")
    if input.shape != other.shape:
        raise ValueError(
            f"r_drop_loss got logits of shapes {tuple(input.shape)} and {tuple(other.shape)}. They must come from two passes "
            "of the same inputs and be of one shape."
        )
    first, second = (
        F.cross_entropy(
            x, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
        for x in (input, other)
    )
    return 0.5 * (first + second) + alpha * r_drop_divergence(input, other, target, ignore_index, reduction)
