"""Surrogate losses: what is minimized in the place of the number of errors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.nn.checks import check_class_losses, check_reduction

GROUP = "regularization"
KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "square": lambda margin: (1 - margin).square(),
    "log": lambda margin: -F.logsigmoid(margin),
    "hinge": lambda margin: F.relu(1 - margin),
    "exponential": lambda margin: torch.exp(-margin),
    "zero_one": lambda margin: (margin <= 0).to(margin.dtype),
}


def check_surrogate(what: str, kind: str, kinds: tuple[str, ...] = tuple(KINDS)) -> None:
    """Refuse a surrogate that is not there."""
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{what}(kind={kind!r}): kind must be one of {', '.join(kinds)}.")


def margin(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The margin of each prediction, of the shape of ``target``: positive where it is right. See :class:`SurrogateLoss`.

    >>> margin(torch.tensor([2.0, 3.0]), torch.tensor([1, 0]))
    tensor([ 2., -3.])
    >>> margin(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([1]))
    tensor([3.])
    """
    if input.shape == target.shape:
        return torch.where(target > 0, input, -input)
    classes = 1 if input.ndim > 1 else 0
    if input.ndim != target.ndim + 1 or input.shape[:classes] + input.shape[classes + 1 :] != target.shape:
        raise ValueError(
            f"margin got an input of shape {tuple(input.shape)} and a target of shape {tuple(target.shape)}. They must be of "
            "one shape (two classes), or the input has one dimension more, for the classes: (N, K, ...) and (N, ...)."
        )
    if target.is_floating_point():
        raise ValueError(f"margin needs targets that are class indices; got {target.dtype}.")
    if input.shape[classes] < 2:
        raise ValueError(f"margin needs at least 2 classes; the input of shape {tuple(input.shape)} has one.")
    index = target.unsqueeze(classes)
    others = input.scatter(classes, index, -torch.inf).amax(classes)
    return input.gather(classes, index).squeeze(classes) - others


def surrogate_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    kind: str = "hinge",
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> torch.Tensor:
    """A surrogate loss, or the 0-1 loss itself, as a function. See :class:`SurrogateLoss`.

    >>> surrogate_loss(torch.tensor([[1.0, 5.0, 2.0], [0.0, 0.5, 0.0]]), torch.tensor([1, 1]))
    tensor(0.2500)
    >>> surrogate_loss(torch.tensor([2.0, 3.0]), torch.tensor([1, 0]), kind="zero_one")
    tensor(0.5000)
    """
    check_surrogate("surrogate_loss", kind)
    check_reduction("surrogate_loss", reduction)
    kept = target != ignore_index
    known = torch.where(kept, target, 0)
    if weight is None:
        factor = kept.to(input.dtype)
    elif input.shape == target.shape:
        raise ValueError(
            "surrogate_loss takes a weight for each of several classes; the target here has the shape of the input."
        )
    else:
        factor = torch.where(kept, weight[known], 0)
    # what is left out may be infinite, so that it is not enough to multiply its loss by 0
    losses = KINDS[kind](torch.where(kept, margin(input, known), 0)) * factor
    if reduction == "none":
        return losses
    return losses.sum() / factor.sum() if reduction == "mean" else losses.sum()


class SurrogateLoss(nn.Module):
    r"""A loss that can be minimized in the place of the number of errors: a function of the margin.

    .. math::
        \text{0-1:} \quad & [m \le 0] & \text{square:} \quad & (1 - m)^2 \\
        \text{hinge:} \quad & \max(0, 1 - m) & \text{log:} \quad & \log(1 + e^{-m}) \\
        \text{exponential:} \quad & e^{-m}

    with the margin m of a prediction, which is positive where it is right:

    .. math:: m = y x, \; y \in \{-1, 1\} \quad \text{(two classes)}, \qquad
              m = x_y - \max_{k \ne y} x_k \quad \text{(several)}

    For two classes, ``input`` and ``target`` are of one shape, and targets above 0 are the positive class: both {0, 1} and
    {-1, 1} will do. For several, ``input`` is ``(N, K)`` or ``(N, K, ...)`` and ``target`` holds classes ``(N,)`` or ``(N, ...)``;
    the margin is Crammer and Singer's. (One-vs-rest is the form for two classes with
    ``target=one_hot(y, K)``.) A tie counts as an error. Square, hinge, exponential, and the log loss divided by log 2 are
    nowhere below the 0-1 loss, so the share of errors is at most their mean. The log loss of two logits is the cross entropy.

    Args:
        kind: "square", "log", "hinge", "exponential", or "zero_one", which has no gradient and is for watching.
        weight: a factor for each of several classes, of shape ``(K,)``; the mean is over the weights, as in torch.
        ignore_index: a target that is left out.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: for another kind or reduction, shapes that do not belong together, and a single class.

    When it helps: hinge, where only the border between classes matters and predictions that are right should be left
    alone; square, whose gradient is bounded by the outputs, against exploding logits. When it hurts: hinge and square, where
    probabilities are wanted; square also punishes margins above 1; exponential with noisy labels, since one bad sample
    outweighs all others. With Crammer and Singer's margin only two classes of each sample have a gradient, so with many
    classes it learns more slowly than cross entropy.

    Source: Bartlett, Jordan, McAuliffe, "Convexity, Classification, and Risk Bounds", 2006; Crammer, Singer, "On the
    Algorithmic Implementation of Multiclass Kernel-based Vector Machines", 2001.

    >>> x, y = torch.tensor([[2.0, 1.5, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    >>> SurrogateLoss("hinge")(x, y), SurrogateLoss("zero_one")(x, y)
    (tensor(1.7500), tensor(0.5000))
    """

    def __init__(
        self,
        kind: str = "hinge",
        weight: torch.Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_surrogate("SurrogateLoss", kind)
        check_class_losses("SurrogateLoss", weight, ignore_index, reduction)
        self.kind, self.ignore_index, self.reduction = kind, ignore_index, reduction
        self.weight: torch.Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return surrogate_loss(input, target, self.kind, self.weight, self.ignore_index, self.reduction)

    def extra_repr(self) -> str:
        return f"kind={self.kind}, reduction={self.reduction}"
