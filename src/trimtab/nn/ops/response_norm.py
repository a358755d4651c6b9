r"""Local response normalization: each entry is divided by a power of the squares around it, across channels.

.. math:: y_c = x_c \Bigl(k + \alpha \sum_{j = c - \lfloor n/2 \rfloor}^{c - \lfloor n/2 \rfloor + n - 1} x_j^2\Bigr)^{-\beta}

for x of shape (N, C, ...), the sum over those of the n channels that exist.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trimtab._kernels import Kernel
from trimtab.nn.ops import common
from trimtab.nn.ops.common import like_input, pointer, why_no_kernel
from trimtab.nn.ops.kernel_op import KernelOp


def reference(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """The formula; alpha is not divided by the size here."""
    channels = x.shape[1]
    near = torch.arange(channels, device=x.device)
    offset = near[None, :] - near[:, None] + size // 2  # place of channel j in the window of channel c
    window = ((offset >= 0) & (offset < size)).to(x.dtype)
    squares = torch.einsum("cj,nj...->nc...", window, x.square())
    return x * (k + alpha * squares) ** -beta


def composed(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> tuple[torch.Tensor]:
    """By torch's operations: a sum over channels as a pooling, which takes no empty plane."""
    if x.numel() == 0:
        return (x,)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    flat = wide.square().reshape(x.shape[0], 1, x.shape[1], -1)
    padded = F.pad(flat, (0, 0, size // 2, (size - 1) // 2))
    squares = F.avg_pool2d(padded, (size, 1), stride=1).reshape(x.shape) * size
    return ((wide * (k + alpha * squares) ** -beta).to(x.dtype),)


def _forward(x, size, alpha, beta, k):  # type: ignore[no-untyped-def]
    y = torch.empty_like(x)
    common.kernels.response_norm_forward(
        x=pointer(x), y=pointer(y), samples=x.shape[0], channels=x.shape[1], plane=x[0, 0].numel(), size=size, alpha=alpha, beta=beta, k=k,
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return (y,)


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (x,) = tensors
    dy, dx = like_input(gradients[0], x), torch.empty_like(x)
    common.kernels.response_norm_backward(
        x=pointer(x), dy=pointer(dy), dx=pointer(dx), samples=x.shape[0], channels=x.shape[1], plane=x[0, 0].numel(), **settings._asdict(),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return (dx,)


RESPONSE_NORM = KernelOp(
    "response_norm",
    tensors="x",
    differentiable=1,
    settings="int size, float alpha, float beta, float k",
    outputs=1,
    extra=0,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, _forward, _backward)},
    fake=lambda x, *_: (torch.empty_like(x),),
)


def response_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """y; alpha is not divided by the size here."""
    return RESPONSE_NORM(x.contiguous(), size, alpha, beta, k)[0]
