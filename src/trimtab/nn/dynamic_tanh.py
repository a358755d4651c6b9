"""Dynamic tanh: what may stand in the place of a norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trimtab.nn.checks import check_floating, check_number, check_shape, check_trailing

GROUP = "normalization"


def dynamic_tanh(
    input: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Dynamic tanh as a function: :math:`\gamma \tanh(\alpha x) + \beta`. See :class:`DynamicTanh`.

    >>> dynamic_tanh(torch.tensor([0.0, 2.0]), torch.tensor(0.5), bias=torch.tensor([1.0, 0.0]))
    tensor([1.0000, 0.7616])
    """
    check_floating("dynamic_tanh", input)
    # float32 parameters make a bfloat16 input float32 on the way; rounded once, at the end
    y = torch.tanh(alpha * input.to(torch.promote_types(input.dtype, torch.float32)))
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.to(input.dtype)


class DynamicTanh(nn.Module):
    r"""Dynamic tanh (DyT): squashes extreme values as a trained LayerNorm does, without statistics.

    .. math:: y = \gamma \odot \tanh(\alpha x) + \beta

    with x and y of shape (..., *normalized_shape), gain and bias of shape normalized_shape, and one learned number
    alpha of shape (1,). Names in the ``state_dict`` are those of the authors' code: ``alpha``, ``weight``, ``bias``.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        alpha_init: alpha at the start, positive. 0.5 suits everything but language models, where wide models want less:
            0.8 in attention and 0.2 elsewhere for a width of 4096, 1 and 1 for 1024.
        elementwise_affine: whether there are gain and bias.
        bias: whether there is a bias, if elementwise_affine.
        device, dtype: as in torch.
        channels_first: the input is (N, C, ...), and gain and bias belong to C.

    Raises:
        ValueError: for an alpha_init that is not positive, and for an input whose last dimensions are not
            normalized_shape.

    When it helps: in the place of LayerNorm or RMSNorm in transformers, where sums over a row cost time: each entry
    stands alone. When it hurts: in the place of BatchNorm in convolutional networks, where the paper found it much
    worse; large initial weights or learning rates, which saturate it (then take a smaller alpha_init). It does not make
    a layer indifferent to the scale of its input, as norms do.

    Source: Zhu, Chen, He, LeCun, Liu, "Transformers without Normalization", 2025.

    >>> layer = DynamicTanh(3)
    >>> layer(torch.tensor([[-100.0, 0.0, 2.0]]))
    tensor([[-1.0000,  0.0000,  0.7616]], grad_fn=...)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        alpha_init: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        channels_first: bool = False,
    ) -> None:
        super().__init__()
        self.normalized_shape = check_shape("DynamicTanh", normalized_shape)
        check_number("DynamicTanh", "alpha_init", alpha_init)
        if not alpha_init > 0:
            raise ValueError(
                f"DynamicTanh(alpha_init={alpha_init}): alpha_init must be positive: at 0 the output is constant and "
                "nothing behind it learns. Try 0.5."
            )
        if channels_first and len(self.normalized_shape) != 1:
            raise ValueError(
                f"DynamicTanh({self.normalized_shape}, channels_first=True): gain and bias are those of the channels, so "
                "normalized_shape must be one number, that of the channels."
            )
        self.alpha_init, self.elementwise_affine, self.channels_first = alpha_init, elementwise_affine, channels_first
        empty = {"device": device, "dtype": dtype}
        self.alpha = nn.Parameter(torch.empty(1, **empty))
        self.weight = nn.Parameter(torch.empty(self.normalized_shape, **empty)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.empty(self.normalized_shape, **empty)) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, self.alpha_init)
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = input.movedim(1, -1) if self.channels_first else input
        check_trailing("DynamicTanh", x, self.normalized_shape)
        y = dynamic_tanh(x, self.alpha, self.weight, self.bias)
        return y.movedim(-1, 1) if self.channels_first else y

    def extra_repr(self) -> str:
        told = f"{self.normalized_shape}, alpha_init={self.alpha_init}, elementwise_affine={self.elementwise_affine}"
        told += f", bias={self.bias is not None}"
        return told + (", channels_first" if self.channels_first else "")
