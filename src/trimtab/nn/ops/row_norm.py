r"""Norm with statistics of each row: the work behind LayerNorm and RMSNorm, with what often stands around them.

.. math::
    h &= \mathrm{dropout}(x) + b \\
    y &= \mathrm{dropout}(f(\gamma \frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + r))

for x of shape (..., D), with mean and biased variance over the last D entries; RMSNorm has mean 0 there.
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
    drop_by_key,
    gradient_room,
    in_widest,
    like_input,
    pointer,
    residual_room,
    seed_of,
    why_no_kernel,
)
from trimtab.nn.ops.kernel_op import KernelOp


def reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    centered: bool = True,
) -> torch.Tensor:
    """The formula, without what may stand around the norm. With eps = 0 a constant row gives zeros, not NaN."""
    if centered:
        x = x - x.mean(-1, keepdim=True)
    square = x.square().mean(-1, keepdim=True) + eps
    y = x / torch.where(square > 0, square, 1).sqrt()
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def composed(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    before: torch.Tensor | None,
    residual: torch.Tensor | None,
    before_key: torch.Tensor | None,
    key: torch.Tensor | None,
    eps: float,
    centered: bool,
    activation: str,
    before_p: float,
    p: float,
    keep_h: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """By torch's operations: y, h (empty unless kept), and two empty tensors in the place of what the kernel keeps."""
    h = drop_by_key(x, before_p, before_key, x)
    if before is not None:
        h = h + before

    def norm(h, weight, bias, residual):  # type: ignore[no-untyped-def]
        if eps == 0:  # torch's gives NaN for a constant row
            z = reference(h, weight, bias, eps, centered)
        elif centered:
            z = F.layer_norm(h, h.shape[-1:], weight, bias, eps)
        else:
            z = F.rms_norm(h, h.shape[-1:], weight, eps)
            z = z if bias is None else z + bias
        return after(z, residual, activation, p, key, x)

    y, nothing = in_widest(norm, h, weight, bias, residual), x.new_empty(0)
    return y, h if keep_h else nothing, nothing, nothing


def _forward(x, weight, bias, before, residual, before_key, key, eps, centered, activation, before_p, p, keep_h):  # type: ignore[no-untyped-def]
    columns, rows = x.shape[-1], x.numel() // x.shape[-1]
    y, h, w, b = (
        torch.empty_like(x),
        torch.empty_like(x) if keep_h else x.new_empty(0),
        as_float(weight),
        as_float(bias),
    )
    mean, rstd = torch.empty(rows if centered else 0), torch.empty(rows)
    common.kernels.row_norm_forward(
        x=pointer(x), before=pointer(before), before_p=before_p if before_key is not None else 0.0, before_seed=seed_of(before_key),
        weight=pointer(w), bias=pointer(b), y=pointer(y), h=pointer(h), mean=pointer(mean), rstd=pointer(rstd),
        rows=rows, columns=columns, eps=eps, centered=centered, activation=CODES[activation], residual=pointer(residual),
        dropout_p=p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return y, h, mean, rstd


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (x, weight, bias, before, residual, before_key, key), (h, mean, rstd) = tensors, kept
    before_p, keep_h = settings.before_p, settings.keep_h
    source = h if keep_h else x
    dy = torch.zeros_like(source) if gradients[0] is None else like_input(gradients[0], source)
    dh, w, b = like_input(gradients[1], source) if keep_h else None, as_float(weight), as_float(bias)
    columns, dropped = source.shape[-1], before_key is not None and before_p > 0
    dx, dafter = torch.empty_like(source), residual_room(dy, wanted[4], settings.activation, key)
    # without dropout, what arrives at x arrives at the other summand too
    dbefore = (torch.empty_like(source) if dropped else dx) if wanted[3] else None
    dweight, dbias = gradient_room(w, wanted[1]), gradient_room(b, wanted[2])
    common.kernels.row_norm_backward(
        x=pointer(source), before=0 if keep_h else pointer(before), before_p=before_p if dropped else 0.0,
        before_seed=seed_of(before_key), h_given=keep_h, weight=pointer(w), bias=pointer(b), mean=pointer(mean), rstd=pointer(rstd),
        dy=pointer(dy), dh=pointer(dh), dx=pointer(dx), dbefore=pointer(dbefore) if dropped else 0,
        dafter=0 if dafter is dy else pointer(dafter), dweight=pointer(dweight), dbias=pointer(dbias),
        rows=source.numel() // columns, columns=columns, centered=settings.centered,
        activation=CODES[settings.activation], residual=pointer(residual),
        dropout_p=settings.p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=source.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return dx, as_type_of(dweight, weight), as_type_of(dbias, bias), dbefore, dafter


def _keeps(tensors, results, settings):  # type: ignore[no-untyped-def]
    x, weight, bias, before, residual, before_key, key = tensors
    if settings.keep_h:  # it says all that x and the other summand could
        x = before = None
    return x, weight, bias, before, None if settings.activation == "none" else residual, before_key, key


def _with_graph(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    if not settings.keep_h:
        return ROW_NORM._with_graph(gradients, tensors, kept, settings, wanted)
    # h is a result of the op itself: what depends on it reaches x and the other summand through the op's own backward
    (_, weight, bias, _, residual, before_key, key), h = tensors, kept[0]
    inner = (h, weight, bias, None, residual, None, key)
    want_h = (True, wanted[1], wanted[2], False, wanted[4])
    found: tuple = (torch.zeros_like(h), None, None, None, None)
    if gradients[0] is not None:
        found = ROW_NORM._with_graph(
            (gradients[0], None), inner, kept, settings._replace(before_p=0.0, keep_h=False), want_h
        )
    dh = found[0] if gradients[1] is None else found[0] + gradients[1]
    return drop_by_key(dh, settings.before_p, before_key, h), found[1], found[2], dh if wanted[3] else None, found[4]


def _fake(x, weight, bias, before, residual, before_key, key, eps, centered, activation, before_p, p, keep_h):  # type: ignore[no-untyped-def]
    rows = x.numel() // x.shape[-1]
    single = x.new_empty(rows, dtype=torch.float32)
    return (
        torch.empty_like(x), torch.empty_like(x) if keep_h else x.new_empty(0),
        single if centered else x.new_empty(0, dtype=torch.float32), x.new_empty(rows, dtype=torch.float32),
    )  # fmt: skip


ROW_NORM = KernelOp(
    "row_norm",
    tensors="x weight bias before residual before_key key",
    differentiable=5,
    settings="float eps, bool centered, str activation, float before_p, float p, bool keep_h",
    outputs=2,
    extra=2,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, _forward, _backward)},
    fake=_fake,
    keeps=_keeps,
    with_graph=_with_graph,
)


def row_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    eps: float = 1e-5,
    centered: bool = True,
    before: torch.Tensor | None = None,
    before_p: float = 0.0,
    before_key: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    p: float = 0.0,
    key: torch.Tensor | None = None,
    keep_h: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, h), contiguous; h is empty unless ``keep_h``. Each dropout acts if its key is given (:func:`draw_key`)."""
    x = x.contiguous()
    y, h, _, _ = ROW_NORM(
        x, weight, bias, like_input(before, x), like_input(residual, x), before_key, key,
        eps, centered, activation, before_p, p, keep_h,
    )  # fmt: skip
    return y, h
