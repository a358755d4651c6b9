r"""Cross entropy of rows of logits against one class each, without a stored softmax.

.. math:: \ell = (1 - s)\, w_y (\operatorname{lse}(x) - x_y) + \frac sK \sum_k w_k (\operatorname{lse}(x) - x_k)
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trimtab._kernels import Kernel
from trimtab.nn.ops import common
from trimtab.nn.ops.common import pointer, why_no_kernel
from trimtab.nn.ops.kernel_op import KernelOp


def composed(x, target, weight, smoothing: float, ignore: int):  # type: ignore[no-untyped-def]
    """By torch's operations."""
    wide = x.float()
    loss = F.cross_entropy(wide, target, weight, ignore_index=ignore, reduction="none", label_smoothing=smoothing)
    return loss, torch.where(target == ignore, 0, wide.logsumexp(1))


def _forward(x, target, weight, smoothing, ignore):  # type: ignore[no-untyped-def]
    rows, classes = x.shape
    wrong = (target != ignore) & ((target < 0) | (target >= classes))
    if bool(wrong.any()):
        raise IndexError(
            f"cross_entropy: target {int(target[wrong][0])} is out of bounds: with an input of shape {tuple(x.shape)} targets "
            f"must lie in 0..{classes - 1}, or be ignore_index={ignore}."
        )
    loss = torch.empty(rows, dtype=torch.float32)
    lse = torch.empty(rows, dtype=torch.float32)
    common.kernels.cross_entropy_forward(
        x=pointer(x), target=pointer(target), weight=pointer(weight), loss=pointer(loss), lse=pointer(lse),
        rows=rows, classes=classes, ignore=ignore, smoothing=smoothing,
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return loss, lse


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (x, target, weight), (lse,) = tensors, kept
    dloss, dx = gradients[0].contiguous(), torch.empty_like(x)
    common.kernels.cross_entropy_backward(
        x=pointer(x), target=pointer(target), weight=pointer(weight), lse=pointer(lse), dloss=pointer(dloss), dx=pointer(dx),
        rows=x.shape[0], classes=x.shape[1], **settings._asdict(),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return (dx,)


def _fake(x, *_):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape[0], dtype=torch.float32) for _ in range(2))


CROSS_ENTROPY = KernelOp(
    "cross_entropy",
    tensors="x target weight",
    differentiable=1,
    settings="float smoothing, int ignore",
    outputs=1,
    extra=1,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, _forward, _backward)},
    fake=_fake,
)


def cross_entropy(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, smoothing: float, ignore: int
) -> torch.Tensor:
    """The loss of each row, float32: x (N, K) of logits, target (N,) of classes, weight (K,) of float32."""
    return CROSS_ENTROPY(x.contiguous(), target.contiguous(), weight, smoothing, ignore)[0]
