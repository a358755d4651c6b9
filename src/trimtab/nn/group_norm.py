"""Group normalization."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn import ops
from trimtab.nn.checks import (
    channels_last,
    check_after,
    check_count,
    check_entries,
    check_eps,
    check_groups,
    check_has_channels,
    check_residual,
    divisors,
    extra,
)
from trimtab.nn.ops.common import in_widest

GROUP = "normalization"


def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
    training: bool = True,
) -> torch.Tensor:
    r"""``torch.nn.functional.group_norm`` with a residual (added behind the norm), an activation and a dropout in the same pass.

    >>> x = torch.randn(2, 6, 3)
    >>> torch.allclose(group_norm(x, 3), torch.nn.functional.group_norm(x, 3), atol=1e-6)
    True
    """
    check_has_channels("group_norm", input)
    check_groups("group_norm", input, num_groups)
    check_entries("group_norm", input, input.shape[1:2], weight=weight, bias=bias)
    check_after("group_norm", activation, dropout)
    if (
        residual is None
        and activation == "none"
        and (dropout == 0 or not training)
        and input.is_contiguous()  # of channels-last tensors with a large mean, torch's is 2,000 times less exact
        and ops.torch_is_better("group", input, weight)
    ):
        return in_widest(lambda x, w, b: F.group_norm(x, num_groups, w, b, eps), input, weight, bias)
    key = ops.draw_key() if training and dropout > 0 else None
    return ops.group_norm(
        input, num_groups, weight, bias, eps=eps, residual=residual, activation=activation, p=dropout, key=key
    )


class GroupNorm(nn.GroupNorm):
    r"""Group normalization: each sample's channels in groups, each group with mean 0 and variance 1, then a scale and a shift.

    .. math:: y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta_c + r))

    with mean and biased variance over the C/G channels of a group and all positions of a sample; f and dropout only where
    asked for, and r, the residual, where given: ``forward(input, residual=None)``.

    A drop-in for ``torch.nn.GroupNorm``: same arguments (groups first), same ``state_dict``, and an instance of it.

    Args:
        num_groups: G; C/G = 1 is instance normalization. One group is not LayerNorm: gain and bias belong to channels.
        num_channels: C, a multiple of G.
        eps: added to the variance, inside the root.
        affine, device, dtype: as in torch.
        bias: False leaves out the shift.
        activation: ``none``, ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``, in the same pass.
        dropout: probability of dropping an entry of the result while training.

    Raises:
        ValueError: for channels that do not divide into groups, and inputs of another number of channels.

    When it helps: convolutional networks with small batches, detection, fine-tuning. When it hurts: large batches, where
    BatchNorm usually generalizes a little better. Source: Wu and He, "Group Normalization", 2018; seeds 001, 003.

    >>> GroupNorm(2, 6)(torch.randn(4, 6, 8, 8)).shape
    torch.Size([4, 6, 8, 8])
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_count(name, "num_groups", num_groups, 0)
        check_count(name, "num_channels", num_channels, 0)
        check_eps(name, eps)
        check_after(name, activation, dropout)
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm({num_groups}, {num_channels}): num_channels must be a multiple of num_groups. "
                f"{divisors(num_channels)}"
            )
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        if affine and not bias:
            self.register_parameter("bias", None)
        self.activation, self.dropout = activation, dropout

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if input.dim() < 2 or input.shape[1] != self.num_channels:
            given, groups = input.shape[1] if input.dim() > 1 else 0, self.num_groups
            raise ValueError(
                f"GroupNorm({groups}, {self.num_channels}) got an input of shape {tuple(input.shape)}. It must be "
                f"(N, {self.num_channels}, ...)."
                + (f" Did you mean GroupNorm({math.gcd(groups, given)}, {given})?" if given else "")
                + channels_last(input, self.num_channels)
            )
        check_residual("GroupNorm", input, residual)
        return group_norm(
            input, self.num_groups, self.weight, self.bias, self.eps,
            residual=residual, activation=self.activation, dropout=self.dropout if self.dropout and self.training else 0.0,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return super().extra_repr() + extra(self.activation, self.dropout)
