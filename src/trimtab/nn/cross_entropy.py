"""Cross entropy with label smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn._reduction import legacy_get_string

from trimtab.nn import ops
from trimtab.nn.checks import check_class_losses, check_number

GROUP = "regularization"
CONVENTIONS = ("torch", "seed")


def check_smoothing(
    what: str, smoothing: float, convention: str, positive: bool = False, name: str = "label_smoothing"
) -> None:
    """Refuse a smoothing outside [0, 1] and unknown conventions."""
    check_number(what, name, smoothing)
    if not (0 < smoothing < 1 if positive else 0 <= smoothing <= 1):
        inside = "strictly between 0 and 1" if positive else "in [0, 1]"
        raise ValueError(
            f"{what}: {name}={smoothing} must lie {inside}: it is the probability spread over the classes."
        )
    if convention not in CONVENTIONS:
        raise ValueError(f"{what}: convention={convention!r} must be one of {', '.join(map(repr, CONVENTIONS))}.")


def spread(smoothing: float, input: torch.Tensor) -> float:
    """The ``label_smoothing`` of torch that leaves exactly ``1 - smoothing`` to the true class of K: ``smoothing K / (K - 1)``."""
    classes = input.shape[1] if input.ndim > 1 else input.shape[0]
    if classes < 2:
        raise ValueError(f"label smoothing needs at least 2 classes; the input of shape {tuple(input.shape)} has one.")
    factor = smoothing * classes / (classes - 1)
    if factor > 1:
        raise ValueError(
            f"smoothing={smoothing} leaves the true class less than each of the other {classes - 1}; it must be at most "
            f"{(classes - 1) / classes:g} here."
        )
    return factor


def reduction_of(what: str, size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction, also in the form in which torch's older calls give it."""
    if size_average is None and reduce is None:
        return reduction
    for name, given in (("size_average", size_average), ("reduce", reduce)):
        if not isinstance(given, bool | None):
            raise ValueError(
                f"{what}({name}={given!r}): {name}, as in torch, is a flag of older calls, of which reduction took the place. "
                "Arguments behind weight are best given by name: ignore_index=-100, reduction='mean'."
            )
    return str(legacy_get_string(size_average, reduce))


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    convention: str = "torch",
) -> torch.Tensor:
    """``torch.nn.functional.cross_entropy`` with a choice of the smoothing's meaning; see :class:`CrossEntropyLoss`.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([0]), label_smoothing=0.1, convention="seed")
    tensor(1.3863)
    """
    reduction = reduction_of("cross_entropy", size_average, reduce, reduction)
    check_class_losses("cross_entropy", weight, ignore_index, reduction)
    check_smoothing("cross_entropy", label_smoothing, convention)
    if convention == "seed" and label_smoothing:
        label_smoothing = spread(label_smoothing, input)
    if (
        input.dim() != 2
        or target.dtype is not torch.int64
        or target.shape != input.shape[:1]
        or _torch_does(input, weight)
    ):
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    losses = ops.cross_entropy(input, target, weight, label_smoothing, ignore_index)
    if reduction == "mean":
        counted = target != ignore_index
        total = counted.sum() if weight is None else (weight[target.where(counted, 0)] * counted).sum()
        loss = losses.sum() / total
    else:
        loss = losses.sum() if reduction == "sum" else losses
    return loss if torch.is_autocast_enabled("cpu") else loss.to(input.dtype)


def _torch_does(input: torch.Tensor, weight: torch.Tensor | None) -> bool:
    # torch's raises where a weight wants a gradient
    plain = weight is None or (
        weight.dtype is torch.float32 and weight.shape == input.shape[1:] and not weight.requires_grad
    )
    return not plain or ops.torch_is_better("cross_entropy", input, weight)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    r"""The negative log likelihood of classes, with label smoothing in either of its two meanings.

    .. math:: \ell = -\sum_{k=1}^K q_k w_k \log \frac{e^{x_k}}{\sum_j e^{x_j}}, \qquad
              q_k = (1 - \varepsilon) [k = y] + \frac{\varepsilon}{K}

    with ``x`` of shape ``(N, K)`` or ``(N, K, ...)`` holding logits and ``target`` the classes ``(N,)`` or ``(N, ...)``, or
    probabilities of the shape of x. With ``convention="seed"`` the true class gets exactly
    ``1 - eps`` and every other ``eps / (K - 1)``: torch's smoothing of ``eps K / (K - 1)``. The mean is over the weights of the
    targets' classes, as in torch; targets equal to ``ignore_index`` count nowhere.

    Args:
        weight: a factor for each class, of shape ``(K,)``.
        ignore_index: a target that is left out.
        reduction: "mean", "sum" or "none"; ``size_average`` and ``reduce`` are its older form, as in torch.
        label_smoothing: eps, in [0, 1].
        convention: "torch" or "seed".

    Raises:
        ValueError: if eps is outside [0, 1], for an unknown reduction or convention, and if with ``convention="seed"`` eps leaves the true class less than the others.

    When it helps: networks that grow too sure of themselves, noisy labels, calibration. When it hurts: distillation from
    the trained network (Müller et al. 2019).

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.

    >>> loss = CrossEntropyLoss(label_smoothing=0.3, convention="seed")
    >>> loss(torch.log(torch.tensor([[0.7, 0.1, 0.1, 0.1]])), torch.tensor([0]))
    tensor(0.9404)
    """

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        convention: str = "torch",
    ) -> None:
        reduction = reduction_of("CrossEntropyLoss", size_average, reduce, reduction)
        check_class_losses("CrossEntropyLoss", weight, ignore_index, reduction)
        check_smoothing("CrossEntropyLoss", label_smoothing, convention)
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        self.convention = convention

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            convention=self.convention,
        )
