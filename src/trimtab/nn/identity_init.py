"""Gain and shift with which a norm undoes itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from trimtab.copies import copied_module
from trimtab.nn.rms_norm import _eps

GROUP = ("normalization", "optimization")
PER_CHANNEL = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
PER_ROW = (nn.LayerNorm, nn.RMSNorm)


@torch.no_grad()
def identity_init(norm: nn.Module, x: torch.Tensor, rtol: float = 1e-3) -> float:
    r"""Sets gain and shift of a norm from a batch so that it hands this batch on unchanged.

    .. math:: \gamma = \sqrt{\sigma^2 + \epsilon}, \quad \beta = \mu \qquad \Rightarrow \qquad
        y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta = x

    with x of a shape that the norm takes, mean and biased variance those that the norm would use, and gain and shift of
    the norm's ``weight`` and ``bias``. (003 writes sqrt(sigma²) + eps at one place; with eps inside the root, as its
    formula of the norm has it, the exact gain is sqrt(sigma² + eps).) So a norm can be put into a trained network
    without changing what it computes, and be learned from there.

    What can be met depends on whose statistics they are:

    * BatchNorm: statistics of a channel are shared by the batch, and the identity is exact. While training they are the
      batch's, and the running statistics are set to them too, so that evaluation is the identity as well. In
      evaluation, and when frozen, they are the running ones, and the norm becomes the identity on every input.
    * LayerNorm, GroupNorm, InstanceNorm, RMSNorm: each sample has its own statistics, while gain and shift are shared.
      They become the means over samples of what each sample would need, which is exact for one sample, and for samples
      with equal statistics. RMSNorm, and norms without bias, need no shift or cannot make one.

    Args:
        norm: a BatchNorm, LayerNorm, GroupNorm, InstanceNorm or RMSNorm (torch's or ours) with a gain, changed in
            place. Of ours, the norm itself becomes the identity; an activation or dropout behind it stays.
        x: the batch.
        rtol: the largest deviation to accept, relative to the largest entry of x. ``float("inf")`` accepts the means
            over samples however far they are off.

    Returns:
        The largest deviation of the norm's output from x, relative to the largest entry of x.

    Raises:
        TypeError: for a module that is not one of these norms.
        ValueError: for a norm without a gain, and where the identity is not met to rtol; the norm then is as it was.

    When it helps: adding norms to a trained network before fine-tuning. When it hurts: at the start of training from
    scratch, where the scale that the norm takes away is what it is there for.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, section 3 ("could recover the original activations, if that
    were the optimal thing to do"); seeds 003 (N8), 004.

    >>> norm, x = torch.nn.BatchNorm1d(3), 5 * torch.randn(16, 3) + 2
    >>> identity_init(norm, x) < 1e-6
    True
    >>> torch.allclose(norm(x), x, atol=1e-4)
    True
    """
    name = type(norm).__name__
    if not isinstance(norm, PER_CHANNEL + PER_ROW):
        raise TypeError(
            f"identity_init got a {name}. It must be a BatchNorm, LayerNorm, GroupNorm, InstanceNorm or RMSNorm."
        )
    part: Any = norm  # mypy knows too little of what norms have in common
    weight, bias = part.weight, getattr(part, "bias", None)
    if weight is None:
        option = "elementwise_affine" if isinstance(norm, PER_ROW) else "affine"
        raise ValueError(
            f"identity_init got a {name} without gain, which cannot undo its division. Make it with {option}=True."
        )
    own = _own_dimensions(norm, x)
    if tuple(x.shape[d] for d in own) != tuple(weight.shape):
        raise ValueError(
            f"identity_init({name}) got a batch of shape {tuple(x.shape)}. Its dimensions {own} must be "
            f"{tuple(weight.shape)}, as the norm's weight: give the norm's input, with its batch dimension."
        )
    wide, others = x.double(), [d for d in range(x.dim()) if d not in own]
    mean, deviation = _statistics(part, wide, _eps(part.eps, x.dtype))

    def shared(each: torch.Tensor) -> torch.Tensor:
        return each.expand_as(wide).mean(others, keepdim=True) if others else each.expand_as(wide)

    gain, center = shared(deviation), shared(mean)
    probe = copied_module(part).double()
    probe._forward_hooks.clear()  # they are not to hear of it
    probe._forward_pre_hooks.clear()
    probe.eps, probe.activation, probe.dropout = _eps(part.eps, x.dtype), "none", 0.0
    _set(probe, gain, center)
    off = probe(wide) - wide
    error = (off.abs().max() / wide.abs().max().clamp_min(torch.finfo(torch.float64).tiny)).item()
    if not error <= rtol:
        raise ValueError(
            f"identity_init({name}) got a batch of shape {tuple(x.shape)} that no gain and shift give back to "
            f"rtol={rtol:g}: the output would be off by {error:.2g} of the largest entry. {_advice(part, bias, error)}"
        )
    _set(part, gain, center)
    return error


def _set(norm: Any, gain: torch.Tensor, center: torch.Tensor) -> None:
    norm.weight.copy_(gain.reshape(norm.weight.shape))
    if getattr(norm, "bias", None) is not None:
        norm.bias.copy_(center.reshape(norm.bias.shape))
    if getattr(norm, "running_mean", None) is not None and not _uses_running(norm):
        norm.running_mean.copy_(center.flatten())
        # what makes gain / sqrt(running_var + eps) = 1
        norm.running_var.copy_((gain.square() - norm.eps).clamp_min(0).flatten())


def _uses_running(norm: Any) -> bool:
    return getattr(norm, "running_mean", None) is not None and (not norm.training or getattr(norm, "frozen", False))


def _own_dimensions(norm: Any, x: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of x along which the norm has a gain for each entry."""
    if isinstance(norm, PER_ROW) and not getattr(norm, "channels_first", False):
        return tuple(range(max(0, x.dim() - len(norm.normalized_shape)), x.dim()))
    return (1,) if x.dim() > 1 else ()


def _statistics(norm: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation sqrt(variance + eps) that the norm would use, of shapes that broadcast to x."""
    if _uses_running(norm):
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, variance = norm.running_mean.to(x).view(shape), norm.running_var.to(x).view(shape)
    elif isinstance(norm, _BatchNorm):
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0, keepdim=True)
    elif isinstance(norm, PER_ROW):
        own = _own_dimensions(norm, x)
        mean = torch.zeros_like(x) if isinstance(norm, nn.RMSNorm) else x.mean(own, keepdim=True)
        variance = (x - mean).square().mean(own, keepdim=True)
    else:
        groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else x.shape[1]
        statistics = torch.var_mean(x.reshape(x.shape[0], groups, -1), 2, correction=0)
        shape = [*x.shape[:2], *[1] * (x.dim() - 2)]
        variance, mean = (s.repeat_interleave(x.shape[1] // groups, 1).view(shape) for s in statistics)
    square = variance + eps
    return mean, torch.where(square > 0, square, 1).sqrt()  # a constant channel with eps = 0: any gain will do


def _advice(norm: nn.Module, bias: torch.Tensor | None, error: float) -> str:
    if math.isnan(error):
        return "The batch or the norm's statistics are not finite."
    if bias is None and not isinstance(norm, nn.RMSNorm):
        return "Without bias the norm cannot put the mean back: make it with bias=True."
    return (
        "Samples, or parts of the batch, have statistics of their own, which one gain and shift cannot all undo. "
        "rtol=float('inf') takes their means; a BatchNorm can be the identity."
    )
