r"""Dropout whose mask is drawn again in the backward pass instead of being stored.

.. math:: y_i = \frac{m_i}{1 - p} x_i, \qquad m_i = [\mathrm{hash}(i, key) \ge p]
"""

from __future__ import annotations

import torch

from trimtab._kernels import Kernel
from trimtab.nn.ops import common
from trimtab.nn.ops.common import drop_by_key, inverse, memory_order, pointer, seed_of, why_no_kernel
from trimtab.nn.ops.kernel_op import KernelOp


def composed(x: torch.Tensor, key: torch.Tensor, p: float) -> tuple[torch.Tensor]:
    """By torch's operations."""
    return (drop_by_key(x, p, key, x),)


def _run(x: torch.Tensor, key: torch.Tensor, p: float) -> torch.Tensor:
    y = torch.empty_like(x)
    common.kernels.dropout(
        x=pointer(x), y=pointer(y), count=x.numel(), p=p, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return y


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (dy,), (_, key) = gradients, tensors
    return (_run(dy.contiguous(), key, settings.p),)


def _with_graph(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (dy,), (_, key) = gradients, tensors
    return (
        drop_by_key(dy, settings.p, key, torch.empty(dy.shape, device=dy.device)),
    )  # dy may be a batch, which the mask is not


DROPOUT = KernelOp(
    "dropout",
    tensors="x key",
    differentiable=1,
    settings="float p",
    outputs=1,
    extra=0,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, lambda x, key, p: (_run(x, key, p),), _backward)},
    fake=lambda x, *_: (torch.empty_like(x),),
    with_graph=_with_graph,
    keeps=lambda tensors, results, settings: (None, tensors[1]),
)


def dropout(x: torch.Tensor, p: float, key: torch.Tensor) -> torch.Tensor:
    """y, for a key of :func:`draw_key`. The mask goes by the place in memory, of which the op sees one long row."""
    order = memory_order(x)
    if order is None:
        return DROPOUT(x.contiguous(), key, p)[0]
    y = DROPOUT(x.permute(order).contiguous(), key, p)[0]
    return y.permute(inverse(order))
