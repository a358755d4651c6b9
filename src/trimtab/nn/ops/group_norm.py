r"""Norm with statistics of each sample and group of channels: the work behind GroupNorm and InstanceNorm.

.. math:: y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta_c + r))

for x of shape (N, C, ...), with mean and biased variance over the C/G channels of a group and all positions of a sample.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trimtab._kernels import Kernel
from trimtab.nn.ops import common
from trimtab.nn.ops.common import (
    CODES,
    after,
    as_float,
    as_type_of,
    gradient_room,
    in_widest,
    like_input,
    memory_format_of,
    pointer,
    residual_room,
    seed_of,
    why_no_kernel,
    without_residual_if_linear,
)
from trimtab.nn.ops.kernel_op import KernelOp


def reference(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """The formula, without what may follow the norm."""
    rows = x.reshape(x.shape[0], groups, -1)
    centered = rows - rows.mean(-1, keepdim=True)
    y = (centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + eps)).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    if weight is not None:
        y = y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def composed(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    key: torch.Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    p: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By torch's operations: y, and two empty tensors in the place of what the kernel keeps."""

    def norm(x, weight, bias, residual, like=x):  # type: ignore[no-untyped-def]
        return after(F.group_norm(x, groups, weight, bias, eps), residual, activation, p, key, like)

    return in_widest(norm, x, weight, bias, residual), x.new_empty(0), x.new_empty(0)


def _sizes(x: torch.Tensor) -> tuple[int, int, int, bool]:
    samples, channels = x.shape[:2]
    last = memory_format_of(x) is not torch.contiguous_format
    return samples, channels, x.numel() // (samples * channels), last


def _forward(x, weight, bias, residual, key, groups, eps, activation, p):  # type: ignore[no-untyped-def]
    y, w, b = torch.empty_like(x), as_float(weight), as_float(bias)
    mean, rstd = torch.empty(x.shape[0] * groups), torch.empty(x.shape[0] * groups)
    samples, channels, plane, last = _sizes(x)
    common.kernels.group_norm_forward(
        x=pointer(x), weight=pointer(w), bias=pointer(b), y=pointer(y), mean=pointer(mean), rstd=pointer(rstd), eps=eps,
        samples=samples, channels=channels, plane=plane, groups=groups, channels_last=last,
        activation=CODES[activation], residual=pointer(residual),
        dropout_p=p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return y, mean, rstd


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (x, weight, bias, residual, key), (mean, rstd) = tensors, kept
    dy, w, b = like_input(gradients[0], x), as_float(weight), as_float(bias)
    dx, dresidual = torch.empty_like(x), residual_room(dy, wanted[3], settings.activation, key)
    dweight, dbias = gradient_room(w, wanted[1]), gradient_room(b, wanted[2])
    samples, channels, plane, last = _sizes(x)
    common.kernels.group_norm_backward(
        x=pointer(x), weight=pointer(w), bias=pointer(b), mean=pointer(mean), rstd=pointer(rstd), dy=pointer(dy), dx=pointer(dx),
        dresidual=0 if dresidual is dy else pointer(dresidual), dweight=pointer(dweight), dbias=pointer(dbias),
        samples=samples, channels=channels, plane=plane, groups=settings.groups, channels_last=last,
        activation=CODES[settings.activation], residual=pointer(residual),
        dropout_p=settings.p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return dx, as_type_of(dweight, weight), as_type_of(dbias, bias), dresidual


def _fake(x, weight, bias, residual, key, groups, *_):  # type: ignore[no-untyped-def]
    rows = x.shape[0] * groups
    return torch.empty_like(x), x.new_empty(rows, dtype=torch.float32), x.new_empty(rows, dtype=torch.float32)


GROUP_NORM = KernelOp(
    "group_norm",
    tensors="x weight bias residual key",
    differentiable=4,
    settings="int groups, float eps, str activation, float p",
    outputs=1,
    extra=2,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, _forward, _backward)},
    fake=_fake,
    keeps=without_residual_if_linear,
)


def group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    p: float = 0.0,
    key: torch.Tensor | None = None,
) -> torch.Tensor:
    """y. Dropout acts if a key is given (:func:`draw_key`)."""
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups={groups} must divide the {x.shape[1]} channels of the input.")
    x = x.contiguous(memory_format=memory_format_of(x))
    return GROUP_NORM(x, weight, bias, like_input(residual, x), key, groups, eps, activation, p)[0]
