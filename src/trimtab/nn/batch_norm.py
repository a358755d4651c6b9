"""Batch normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn.checks import (
    check_after,
    check_channels,
    check_count,
    check_entries,
    check_eps,
    check_has_channels,
    check_mask,
    check_momentum,
    check_residual,
    extra,
)
from trimtab.nn.ops import channel_norm, draw_key, torch_is_better
from trimtab.nn.ops.common import after as follow
from trimtab.nn.ops.common import torch_takes

GROUP = "normalization"
Momentum = float | tuple[float, float] | None


def batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float | tuple[float, float] = 0.1,
    eps: float = 1e-5,
    *,
    unbiased: bool = True,
    mask: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
) -> torch.Tensor:
    r"""``torch.nn.functional.batch_norm`` with a residual, an activation and a dropout in the same pass.

    .. math:: y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c + r))

    Arguments up to ``eps`` are torch's; running statistics are updated in place while training. ``momentum`` may be a pair, one
    for the mean and one for the variance; ``unbiased`` chooses the variance that is stored; ``mask`` is as in
    :class:`BatchNorm2d`. Dropout acts while training.

    >>> x = torch.randn(8, 3, 4, 4)
    >>> y = batch_norm(x, None, None, training=True, activation="relu")
    >>> torch.allclose(y, torch.relu(torch.nn.functional.batch_norm(x, None, None, training=True)), atol=1e-6)
    True
    """
    check_has_channels("batch_norm", input)
    check_entries(
        "batch_norm", input, input.shape[1:2],
        weight=weight, bias=bias, running_mean=running_mean, running_var=running_var,
    )  # fmt: skip
    check_after("batch_norm", activation, dropout)
    check_eps("batch_norm", eps)
    if training and eps == 0:
        raise ValueError(
            "batch_norm(eps=0.0): while training eps must be positive, for a channel of one value has variance 0."
        )
    if not training and (running_mean is None or running_var is None):
        raise ValueError(
            "batch_norm(training=False) needs running_mean and running_var: the statistics to normalize with."
        )
    if (
        residual is None and mask is None and activation == "none" and (dropout == 0 or not training)
        and unbiased and not isinstance(momentum, tuple) and (not training or torch_is_better("batch", input))
        and torch_takes(input, running_mean, running_var, weight, bias)
    ):  # fmt: skip
        if training:
            check_more_than_one(input)
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    key = draw_key() if training and dropout > 0 else None
    after = {"residual": residual, "activation": activation, "p": dropout, "key": key}
    if not training:
        y, _ = channel_norm(input, weight, bias, statistics=(running_mean, running_var), eps=eps, **after)  # type: ignore[arg-type]
        return y if mask is None else torch.where(mask.unsqueeze(1), y, 0)
    if mask is None:
        check_more_than_one(input)
        count: Any = input.numel() // max(1, input.shape[1])
        y, (mean, variance) = channel_norm(input, weight, bias, eps=eps, **after)  # type: ignore[arg-type]
    else:
        y, mean, variance, count = _masked(input, weight, bias, mask, eps, after)
    if running_mean is not None and running_var is not None:
        share, share_of_variance = momentum if isinstance(momentum, tuple) else (momentum, momentum)
        with torch.no_grad():
            if unbiased:
                variance = variance * (count / (count - 1))
            running_mean.lerp_(mean.to(running_mean), share)
            running_var.lerp_(variance.to(running_var), share_of_variance)
    return y


def check_more_than_one(input: torch.Tensor) -> None:
    if input.numel() == input.shape[1] and not torch.compiler.is_compiling():
        raise ValueError(
            f"batch_norm got a batch of shape {tuple(input.shape)}, one value per channel, whose variance is 0. While "
            "training it needs more than one: use a larger batch (drop_last=True in the loader), or a norm that does "
            "not look at the batch, such as GroupNorm or LayerNorm."
        )


def _masked(x, weight, bias, mask, eps, after):  # type: ignore[no-untyped-def]
    """The norm with statistics of the positions that count; gradients reach the statistics by torch's own operations."""
    axes = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    kind = torch.promote_types(x.dtype, torch.float32)
    inside, count, wide = mask.unsqueeze(1), mask.sum(dtype=kind), x.to(kind)
    if not torch.compiler.is_compiling() and count < 2:
        raise ValueError(
            f"batch_norm got a mask that lets {int(count)} of {mask.numel()} positions count. While training it needs more "
            "than one: the variance of fewer is 0."
        )
    mean = torch.where(inside, wide, 0).sum(axes) / count
    centered = torch.where(inside, wide - mean.view(shape), 0)
    variance = centered.square().sum(axes) / count
    z = centered * (variance + eps).rsqrt().view(shape)
    z = z if weight is None else z * weight.view(shape)
    z = z if bias is None else z + bias.view(shape)
    y = follow(z.to(x.dtype), after["residual"], after["activation"], after["p"], after["key"], x)
    return torch.where(inside, y, 0), mean.detach(), variance.detach(), count


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    _dims: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Momentum = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        statistics: str = "ema",
        unbiased: bool = True,
        frozen: bool = False,
        units: Sequence[int] | None = None,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_count(name, "num_features", num_features, 0, "is the number of channels")
        check_eps(name, eps)
        check_momentum(name, momentum)
        check_after(name, activation, dropout)
        if statistics not in ("ema", "population"):
            raise ValueError(f"{name}(statistics={statistics!r}): statistics must be 'ema' or 'population'.")
        if frozen and not track_running_stats:
            raise ValueError(f"{name}(frozen=True, track_running_stats=False): a frozen norm uses running statistics.")
        if statistics == "population" and not track_running_stats:
            raise ValueError(
                f"{name}(statistics='population', track_running_stats=False): population statistics are running statistics, of "
                "all batches: leave track_running_stats=True."
            )
        if statistics == "population" and momentum not in (0.1, None):  # the default of others, and its own
            raise ValueError(
                f"{name}(statistics='population', momentum={momentum}): every batch counts the same in the mean of all, so "
                "that there is no momentum. Leave it out, or use statistics='ema'."
            )
        super().__init__(
            num_features, eps, None if statistics == "population" else momentum, affine, track_running_stats,  # type: ignore[arg-type]
            device=device, dtype=dtype,
        )  # fmt: skip
        if affine and not bias:
            self.register_parameter("bias", None)
        self.unbiased, self.frozen, self.activation, self.dropout = unbiased, frozen, activation, dropout
        self.units = None if units is None else tuple(units) if isinstance(units, Sequence) else (units,)
        if self.units is not None and not all(
            isinstance(unit, int) and -num_features <= unit < num_features for unit in self.units
        ):
            raise ValueError(
                f"{name}({num_features}, units={self.units}): units must be channel numbers below {num_features}."
            )

    def _check_input_dim(self, input: torch.Tensor) -> None:
        check_channels(type(self).__name__, input, self.num_features, self._dims)

    def forward(
        self, input: torch.Tensor, residual: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._check_input_dim(input)
        check_residual(type(self).__name__, input, residual)
        check_mask(type(self).__name__, input, mask)
        updates = self.training and not self.frozen
        momentum: Any = self.momentum
        if updates and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean of all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        of_batch = updates or (self.running_mean is None and self.running_var is None)
        tracks = self.track_running_stats and updates
        y = batch_norm(
            input,
            self.running_mean if not of_batch or tracks else None,
            self.running_var if not of_batch or tracks else None,
            self.weight,
            self.bias,
            of_batch,
            momentum if momentum is not None else 0.0,
            self.eps,
            unbiased=self.unbiased,
            mask=mask,
            residual=residual if self.units is None else None,
            activation=self.activation if self.units is None else "none",
            dropout=self.dropout if self.training and self.units is None else 0.0,
        )
        return y if self.units is None else self._only_units(input, y, residual)

    def _only_units(self, input: torch.Tensor, normalized: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        chosen = torch.zeros(self.num_features, dtype=torch.bool, device=input.device)
        chosen[list(self.units or ())] = True
        z = torch.where(chosen.view([1, -1] + [1] * (input.dim() - 2)), normalized, input)
        key = draw_key() if self.training and self.dropout > 0 else None
        return follow(z, residual, self.activation, self.dropout, key, input)

    def extra_repr(self) -> str:
        told = super().extra_repr() + extra(self.activation, self.dropout)
        return told + (", frozen" if self.frozen else "") + (f", units={self.units}" if self.units is not None else "")


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L). See :class:`BatchNorm2d`.

    >>> BatchNorm1d(5)(torch.randn(4, 5)).shape
    torch.Size([4, 5])
    """

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of (N, C, H, W): each channel gets mean 0 and variance 1 over the batch, then a scale and a shift.

    .. math::
        \mu_c = \frac{1}{m} \sum x, \quad \sigma_c^2 = \frac{1}{m} \sum (x - \mu_c)^2, \quad
        y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c + r))

    sums over the m = N H W entries of channel c; f and dropout only where asked for, and r, the residual, where given. In
    evaluation mode running statistics take the place of the batch's.

    A drop-in for ``torch.nn.BatchNorm2d``: same arguments, same ``state_dict``, and an instance of it.

    Args:
        num_features: C.
        eps: added to the variance, inside the root.
        momentum: share of the *new* value in the running statistics (Keras and 002 mean the share of the old one, which is
            1 - momentum). A pair gives mean and variance their own (002). None: the mean over all batches.
        affine, track_running_stats, device, dtype, bias: as in torch.
        statistics: ``"ema"``, or ``"population"`` for the mean of all batch means and of all batch variances times
            m/(m-1) (000), the same as ``momentum=None``. While a network learns this averages over *all steps so far*, over weights
            long gone, and evaluation is worse than with ``"ema"``; the population statistics of the network as it now is (000, and
            the paper's Algorithm 2) come from :func:`recalibrate`.
        unbiased: whether the running variance is that of m/(m-1) (torch) or the biased one (Keras, ONNX).
        frozen: use running statistics and leave them alone, also while training and whatever ``train()`` is called; weights learn on.
        units: normalize only these channels (000); the others pass.
        activation: ``none``, ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``, in the same pass.
        dropout: probability of dropping an entry of the result while training.

    Forward takes ``(input, residual=None, mask=None)``. The residual is added before the activation. The mask, (N, H, W) of
    bools, says which positions count: others (padding) enter no statistics and give 0.

    Raises:
        ValueError: for an input of wrong shape, for a batch of one value per channel while training, and for a momentum or
            ``track_running_stats=False`` beside ``statistics="population"``.

    When it helps: deep networks that train slowly or need a small learning rate; it also regularizes a little. When it
    hurts: batches of less than about 8, test data of another distribution, recurrent layers, ``statistics="population"`` without
    :func:`recalibrate` at the end. Clashes with dropout before
    it (the variance shifts between training and evaluation), and makes the bias of the layer before it redundant.

    Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
    Shift", 2015; seeds 000-003.

    >>> layer = BatchNorm2d(3, activation="relu")
    >>> x = torch.randn(8, 3, 4, 4)
    >>> layer(x, residual=x).min() >= 0
    tensor(True)
    """

    _dims = (4,)


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W). See :class:`BatchNorm2d`.

    >>> BatchNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    _dims = (5,)


def batch_norm_backward(
    grad_output: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""The gradients of training-mode batch normalization in closed form: by input, weight and bias.

    With :math:`\hat x = (x - \mu)/\sqrt{\sigma^2 + \epsilon}`, :math:`g = \partial L/\partial y` and m entries a channel,
    seed 003 (the paper's chain):

    .. math::
        \frac{\partial L}{\partial \sigma^2} &= -\tfrac12 \sum g \gamma (x - \mu) (\sigma^2 + \epsilon)^{-3/2} \\
        \frac{\partial L}{\partial \mu} &= -\sum \frac{g \gamma}{\sqrt{\sigma^2 + \epsilon}}
            + \frac{\partial L}{\partial \sigma^2} \frac{\sum -2 (x - \mu)}{m} \\
        \frac{\partial L}{\partial x} &= \frac{g \gamma}{\sqrt{\sigma^2 + \epsilon}}
            + \frac{\partial L}{\partial \sigma^2} \frac{2 (x - \mu)}{m} + \frac{1}{m} \frac{\partial L}{\partial \mu}

    and :math:`\partial L/\partial \gamma = \sum g \hat x`, :math:`\partial L/\partial \beta = \sum g`. The last line collected is
    what seed 000 arrives at and kernels compute: :func:`batch_norm_backward_collected`.

    >>> x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    >>> g = torch.randn(6, 2, dtype=torch.float64)
    >>> torch.allclose(batch_norm_backward(g, x.detach())[0], torch.autograd.grad(batch_norm(x, None, None, training=True), x, g)[0])
    True
    """
    axes = [d for d in range(input.dim()) if d != 1]
    shape = [1, -1] + [1] * (input.dim() - 2)
    m = input.numel() / input.shape[1]
    centered = input - input.mean(axes).view(shape)
    variance = centered.square().mean(axes).view(shape)
    upstream = grad_output if weight is None else grad_output * weight.view(shape)  # dL/dxhat
    by_variance = -0.5 * (upstream * centered * (variance + eps) ** -1.5).sum(axes).view(shape)
    by_mean = (
        -(upstream / torch.sqrt(variance + eps)).sum(axes).view(shape)
        + by_variance * (-2 * centered).sum(axes).view(shape) / m
    )
    by_input = upstream / torch.sqrt(variance + eps) + by_variance * 2 * centered / m + by_mean / m
    by_weight = (grad_output * centered / torch.sqrt(variance + eps)).sum(axes)
    return by_input, by_weight, grad_output.sum(axes)


def batch_norm_backward_collected(
    grad_output: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""The same with the terms of :math:`\partial L/\partial x` collected, seed 000:

    .. math:: \frac{\partial L}{\partial x} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
        \Bigl(g - \frac1m \sum g - \hat x \frac1m \sum g \hat x\Bigr)

    (000's middle line has a typing error: its indicator term is :math:`1/\sqrt{\sigma^2 + \epsilon}`; the last line is right.)

    >>> x, g = torch.randn(6, 2), torch.randn(6, 2)
    >>> torch.allclose(batch_norm_backward_collected(g, x)[0], batch_norm_backward(g, x)[0], atol=1e-5)
    True
    """
    axes = [d for d in range(input.dim()) if d != 1]
    shape = [1, -1] + [1] * (input.dim() - 2)
    centered = input - input.mean(axes).view(shape)
    rstd = (centered.square().mean(axes) + eps).rsqrt().view(shape)
    normalized = centered * rstd
    share = (
        grad_output
        - grad_output.mean(axes).view(shape)
        - normalized * (grad_output * normalized).mean(axes).view(shape)
    )
    by_input = rstd * share if weight is None else weight.view(shape) * rstd * share
    return by_input, (grad_output * normalized).sum(axes), grad_output.sum(axes)
