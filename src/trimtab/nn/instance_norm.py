"""Instance normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn import ops
from trimtab.nn.checks import (
    check_after,
    check_channels,
    check_count,
    check_entries,
    check_eps,
    check_has_channels,
    check_number,
    check_residual,
    extra,
)
from trimtab.nn.ops.common import in_widest, laid_out_like, memory_format_of, torch_takes

GROUP = "normalization"


def instance_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
    training: bool = True,
) -> torch.Tensor:
    r"""``torch.nn.functional.instance_norm`` with a residual (added behind the norm), an activation and a dropout in the same pass.

    >>> x = torch.randn(2, 3, 4, 4)
    >>> torch.allclose(instance_norm(x), torch.nn.functional.instance_norm(x), atol=1e-6)
    True
    """
    check_has_channels("instance_norm", input, 3)
    check_entries(
        "instance_norm", input, input.shape[1:2],
        weight=weight, bias=bias, running_mean=running_mean, running_var=running_var,
    )  # fmt: skip
    check_after("instance_norm", activation, dropout)
    key = ops.draw_key() if training and dropout > 0 else None
    after = {"residual": residual, "activation": activation, "p": dropout, "key": key}
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise ValueError(
                "instance_norm(use_input_stats=False) needs running_mean and running_var to normalize with."
            )
        return ops.channel_norm(input, weight, bias, statistics=(running_mean, running_var), eps=eps, **after)[0]  # type: ignore[arg-type]
    if input.shape[2:].numel() == 1:
        raise ValueError(
            f"instance_norm got an input of shape {tuple(input.shape)}, one value per channel and sample, whose variance is 0. "
            "It needs more than one position: leave it out where maps have shrunk to one, or use GroupNorm there."
        )
    plain = residual is None and activation == "none" and key is None
    if plain and running_mean is None and ops.torch_is_better("instance", input, weight):

        def norm(x: torch.Tensor, w: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor:
            return F.instance_norm(x, None, None, w, b, True, momentum, eps)

        y = norm(input, weight, bias) if torch_takes(input, weight, bias) else in_widest(norm, input, weight, bias)
        return laid_out_like(y, input) if memory_format_of(input) is not torch.contiguous_format else y
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            wide = input.detach().flatten(2).to(running_mean.dtype)
            variance, mean = torch.var_mean(wide, 2, correction=1)
            running_mean.lerp_(mean.mean(0), momentum)
            running_var.lerp_(variance.mean(0), momentum)
    return ops.group_norm(input, input.shape[1], weight, bias, eps=eps, **after)  # type: ignore[arg-type]


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    _dims: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_count(name, "num_features", num_features, 0, "is the number of channels")
        check_eps(name, eps)
        if momentum is not None:
            check_number(name, "momentum", momentum, "[0, 1]", "is the share of the new value in running statistics")
        check_after(name, activation, dropout)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if affine and not bias:
            self.register_parameter("bias", None)
        self.activation, self.dropout = activation, dropout

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        name = type(self).__name__
        batched = max(self._dims)
        if input.dim() == batched - 1:  # torch also takes one sample without a batch dimension
            return self(input.unsqueeze(0), None if residual is None else residual.unsqueeze(0)).squeeze(0)
        check_channels(name, input, self.num_features, (batched,))
        check_residual(name, input, residual)
        return instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum if self.momentum is not None else 0.0, self.eps,
            residual=residual, activation=self.activation, dropout=self.dropout, training=self.training,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + extra(self.activation, self.dropout)


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """Instance normalization of (N, C, L). See :class:`InstanceNorm2d`.

    >>> InstanceNorm1d(5)(torch.randn(4, 5, 7)).shape
    torch.Size([4, 5, 7])
    """

    _dims = (2, 3)


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    r"""Instance normalization of (N, C, H, W): each channel of each sample gets mean 0 and variance 1 over its positions.

    .. math:: y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta_c + r))

    f and dropout only where asked for, and r, the residual, where given: ``forward(input, residual=None)``.

    A drop-in for ``torch.nn.InstanceNorm2d``: same arguments, same ``state_dict``, and an instance of it; as there, affine and
    track_running_stats are off by default.

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats, device, dtype, bias: as in torch.
        activation: ``none``, ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``, in the same pass.
        dropout: probability of dropping an entry of the result while training.

    Raises:
        ValueError: for an input of wrong shape (without affine too, where torch warns of other channels), and for one with a
            single position.

    When it helps: style transfer and image generation, where contrast should not matter. When it hurts: classification,
    since it erases how strongly each feature responds. Source: Ulyanov et al., "Instance Normalization: The Missing
    Ingredient for Fast Stylization", 2016; seeds 001, 003.

    >>> InstanceNorm2d(3)(torch.randn(2, 3, 8, 8)).mean((2, 3)).abs().max() < 1e-5
    tensor(True)
    """

    _dims = (3, 4)


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """Instance normalization of (N, C, D, H, W). See :class:`InstanceNorm2d`.

    >>> InstanceNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    _dims = (4, 5)
