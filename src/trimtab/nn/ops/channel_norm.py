r"""Norm with statistics of each channel: the work behind BatchNorm.

.. math:: y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c + r))

for x of shape (N, C, ...), with mean and biased variance of channel c over everything but C, or given ones.
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
    backend_of,
    gradient_room,
    in_widest,
    like_input,
    memory_format_of,
    pointer,
    residual_room,
    seed_of,
    torch_takes,
    why_no_kernel,
    without_residual_if_linear,
)
from trimtab.nn.ops.kernel_op import KernelOp

Statistics = tuple[torch.Tensor, torch.Tensor]  # mean and biased variance of each channel


def reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    statistics: Statistics | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, Statistics]:
    """The formula, without what may follow the norm. Also returns the mean and the biased variance that were used."""
    axes = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    if statistics is None:
        mean = x.mean(axes)
        statistics = mean, (x - mean.view(shape)).square().mean(axes)
    mean, variance = statistics
    y = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + eps)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y, statistics


def composed(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    key: torch.Tensor | None,
    stats: torch.Tensor | None,
    eps: float,
    activation: str,
    p: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """By torch's operations: y, and the rows mean, 1/deviation and biased variance. ``stats`` given: those are used."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if stats is None:
        axes = [d for d in range(x.dim()) if d != 1]
        with torch.no_grad():
            variance, mean = torch.var_mean(x.detach().to(wide), axes, correction=0)
            stats = torch.stack([mean, (variance + eps).rsqrt(), variance])
        given: tuple = (None, None, weight, bias)
    else:
        given = (stats[0].to(wide), stats[2].to(wide), weight, bias)

    def norm(x, mean, variance, weight, bias):  # type: ignore[no-untyped-def]
        return F.batch_norm(x, mean, variance, weight, bias, mean is None, 0.0, eps)

    z = norm(x, *given) if torch_takes(x, *given) else in_widest(norm, x, *given)
    return after(z, residual, activation, p, key, x), stats


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    """(samples, channels, plane) as the kernel sees them; a plane of 1 means that channels are contiguous."""
    channels, rest = x.shape[1], x.numel() // x.shape[1]
    if memory_format_of(x) is not torch.contiguous_format:
        return rest, channels, 1
    return x.shape[0], channels, rest // x.shape[0]


def _forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    key: torch.Tensor | None,
    stats: torch.Tensor | None,
    eps: float,
    activation: str,
    p: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    y, w, b = torch.empty_like(x), as_float(weight), as_float(bias)
    used = torch.empty(3, x.shape[1], dtype=torch.float64) if stats is None else stats.clone()
    row = used.shape[1] * 8  # bytes
    samples, channels, plane = _sizes(x)
    common.kernels.channel_norm_forward(
        x=pointer(x), weight=pointer(w), bias=pointer(b), y=pointer(y), mean=pointer(used), rstd=pointer(used) + row,
        variance=pointer(used) + 2 * row, eps=eps, batch_statistics=stats is None,
        samples=samples, channels=channels, plane=plane, activation=CODES[activation], residual=pointer(residual),
        dropout_p=p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return y, used


def _backward(gradients, tensors, kept, settings, wanted):  # type: ignore[no-untyped-def]
    (x, weight, bias, residual, key, stats), (used,) = tensors, kept
    dy, w, b = like_input(gradients[0], x), as_float(weight), as_float(bias)
    dx, dresidual = torch.empty_like(x), residual_room(dy, wanted[3], settings.activation, key)
    dweight, dbias = gradient_room(w, wanted[1]), gradient_room(b, wanted[2])
    samples, channels, plane = _sizes(x)
    common.kernels.channel_norm_backward(
        x=pointer(x), weight=pointer(w), bias=pointer(b), mean=pointer(used), rstd=pointer(used) + used.shape[1] * 8,
        dy=pointer(dy), dx=pointer(dx), dresidual=0 if dresidual is dy else pointer(dresidual), dweight=pointer(dweight),
        dbias=pointer(dbias), batch_statistics=stats is None,
        samples=samples, channels=channels, plane=plane, activation=CODES[settings.activation], residual=pointer(residual),
        dropout_p=settings.p if key is not None else 0.0, seed=seed_of(key),
        bfloat16=x.dtype is torch.bfloat16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return dx, as_type_of(dweight, weight), as_type_of(dbias, bias), dresidual


CHANNEL_NORM = KernelOp(
    "channel_norm",
    tensors="x weight bias residual key stats",
    differentiable=4,
    settings="float eps, str activation, float p",
    outputs=1,
    extra=1,
    composed=composed,
    backends={"cpu": Kernel(why_no_kernel, _forward, _backward)},
    fake=lambda x, *_: (torch.empty_like(x), x.new_empty(3, x.shape[1], dtype=torch.float64)),
    keeps=without_residual_if_linear,
)


def channel_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    statistics: Statistics | None = None,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    p: float = 0.0,
    key: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Statistics]:
    """y, and the mean and biased variance that were used. Dropout acts if a key is given (:func:`draw_key`)."""
    stats = None
    if statistics is not None:
        mean, variance = (t.detach().to(torch.promote_types(x.dtype, torch.float32)) for t in statistics)
        if backend_of(x) == "cpu":
            mean, variance = mean.double(), variance.double()
        stats = torch.stack([mean, (variance + eps).rsqrt(), variance])
    x = x.contiguous(memory_format=memory_format_of(x))
    y, used = CHANNEL_NORM(x, weight, bias, like_input(residual, x), key, stats, eps, activation, p)
    return y, (used[0], used[2])
