r"""Dropout whose mask is drawn again in the backward pass instead of being stored.

.. math:: y_i = \frac{m_i}{1 - p} x_i, \qquad m_i = [\mathrm{hash}(i, key) \ge p]
"""

from __future__ import annotations

import torch

from trimtab.nn.ops import common
from trimtab.nn.ops.common import drop, memory_format_of, pointer, seed_of
from trimtab.nn.ops.kernel_op import KernelOp

FORMS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def composed(x: torch.Tensor, key: torch.Tensor, p: float, form: int) -> tuple[torch.Tensor]:
    """By torch's operations; ``form`` is the place of x's memory format in :data:`FORMS`, by which the mask goes."""
    return (drop(x, p, key, x.contiguous(memory_format=FORMS[form])),)


def _run(x: torch.Tensor, key: torch.Tensor, p: float) -> torch.Tensor:
    y = torch.empty_like(x)
    common.kernels.dropout(
        pointer(x), pointer(y), x.numel(), p, seed_of(key), x.dtype is torch.bfloat16, torch.get_num_threads()
    )
    return y


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (dy,), (_, key), (p, form) = gradients, tensors, settings
    return (_run(dy.contiguous(memory_format=FORMS[form]), key, p),)


_op = KernelOp(
    "dropout",
    tensors="x key",
    differentiable=1,
    settings="float p, int form",
    outputs=1,
    extra=0,
    composed=composed,
    forward=lambda x, key, p, form: (_run(x, key, p),),
    fake=lambda x, *_: (torch.empty_like(x),),
    backward=_backward,
    keeps=lambda tensors, results, settings: (None, tensors[1]),
)


def dropout(x: torch.Tensor, p: float, key: torch.Tensor) -> torch.Tensor:
    """y, for a key of :func:`draw_key`."""
    form = memory_format_of(x)
    return _op(x.contiguous(memory_format=form), key, p, FORMS.index(form))[0]
