"""Layer normalization, alone and with the residual addition that stands before it in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn.checks import (
    channels_last,
    check_after,
    check_entries,
    check_eps,
    check_p,
    check_residual,
    check_shape,
    check_trailing,
    extra,
)
from trimtab.nn.ops import draw_key, row_norm, torch_is_better
from trimtab.nn.ops.common import in_widest, laid_out_like, memory_format_of, of_type

GROUP = "normalization"


def layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
    training: bool = True,
) -> torch.Tensor:
    r"""``torch.nn.functional.layer_norm`` with a residual (added behind the norm), an activation and a dropout in the same pass.

    .. math:: y = \mathrm{dropout}(f(\gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + r))

    >>> x = torch.randn(2, 5)
    >>> torch.allclose(layer_norm(x, (5,)), torch.nn.functional.layer_norm(x, (5,)), atol=1e-6)
    True
    """
    dropout = dropout if training else 0.0
    if (
        residual is None
        and activation == "none"
        and dropout == 0
        and eps > 0
        and torch_is_better("layer", input, weight)
    ):
        return _by_torch("layer_norm", input, normalized_shape, weight, bias, eps)
    check_trailing("layer_norm", input, tuple(normalized_shape))
    return over_last(input, len(normalized_shape), weight, bias, eps, True, residual, activation, dropout)


def _by_torch(part, input, normalized_shape, weight, bias, eps):  # type: ignore[no-untyped-def]
    # checks only when something is wrong: for a small tensor they would cost as much as the norm
    try:
        if of_type(input, weight, bias):
            return F.layer_norm(input, normalized_shape, weight, bias, eps)
        return in_widest(lambda x, w, b: F.layer_norm(x, normalized_shape, w, b, eps), input, weight, bias)
    except RuntimeError:
        check_trailing(part, input, tuple(normalized_shape))
        check_entries(part, input, torch.Size(normalized_shape), weight=weight, bias=bias)
        raise


def over_last(
    input: torch.Tensor,
    dims: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    centered: bool,
    residual: torch.Tensor | None,
    activation: str,
    dropout: float,
) -> torch.Tensor:
    """The norm over the last ``dims`` dimensions."""
    name = "layer_norm" if centered else "rms_norm"
    check_entries(name, input, input.shape[input.dim() - dims :], weight=weight, bias=bias)
    check_after(name, activation, dropout)

    def flat(tensor: torch.Tensor | None) -> Any:
        return tensor if tensor is None or dims == 1 else tensor.flatten(tensor.dim() - dims)

    key = draw_key() if dropout > 0 else None
    y, _ = row_norm(
        flat(input), flat(weight), flat(bias), eps=eps, centered=centered,
        residual=flat(residual), activation=activation, p=dropout, key=key,
    )  # fmt: skip
    y = y if dims == 1 else y.view(input.shape)
    # as torch's: RMSNorm keeps channels_last, LayerNorm does not
    return y if centered else y.contiguous(memory_format=memory_format_of(input))


def add_norm(
    input: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    centered: bool,
    dropout: float,
    return_sum: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """norm(residual + dropout(input)), and the sum where wanted."""
    check_entries("layer_norm" if centered else "rms_norm", input, input.shape[-1:], weight=weight, bias=bias)
    key = draw_key() if dropout > 0 else None
    y, h = row_norm(
        input,
        weight,
        bias,
        eps=eps,
        centered=centered,
        before=residual,
        before_p=dropout,
        before_key=key,
        keep_h=return_sum,
    )
    return (y, h) if return_sum else y


class LayerNorm(nn.LayerNorm):
    r"""Layer normalization: each sample gets mean 0 and variance 1 over its last dimensions, then a gain and a bias.

    .. math:: y = \mathrm{dropout}(f(\gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + r))

    with mean and biased variance over the last ``len(normalized_shape)`` dimensions; f and dropout only where asked for,
    and r, the residual, where given: ``forward(input, residual=None)``.

    A drop-in for ``torch.nn.LayerNorm``: same arguments, same ``state_dict``, and an instance of it.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        eps: added to the variance, inside the root (002); 0 is allowed (004), and a constant row then gives zeros.
        elementwise_affine, bias, device, dtype: as in torch.
        channels_first: normalize (N, C, ...) over C, as ConvNeXt does between its convolutions.
        activation: ``none``, ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``, in the same pass.
        dropout: probability of dropping an entry of the result while training.

    Raises:
        ValueError: for an input whose last dimensions are not normalized_shape.

    When it helps: transformers, recurrent networks, small batches. When it hurts: it erases the norm of each sample, which
    a small fully connected classifier may need (002); convolutional networks usually do better with BatchNorm or GroupNorm.

    Accuracy: sums are kept in float32 and better. torch's CPU kernel sums the gradients of gain and bias in bfloat16 when the
    input is bfloat16, and is off by about a tenth.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016; seeds 002-004.

    >>> layer = LayerNorm(4, dtype=torch.float64)
    >>> x = torch.arange(8.0, dtype=torch.float64).view(2, 4)
    >>> layer(x).mean(1).abs().max() < 1e-12
    tensor(True)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        channels_first: bool = False,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_shape(name, normalized_shape)
        check_eps(name, eps)
        check_after(name, activation, dropout)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        if channels_first and len(self.normalized_shape) != 1:
            raise ValueError(
                f"LayerNorm({tuple(self.normalized_shape)}, channels_first=True): the norm is over the channels alone, so "
                "normalized_shape must be one number, that of the channels."
            )
        self.channels_first, self.activation, self.dropout = channels_first, activation, dropout

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if self.channels_first:
            if input.dim() < 2 or input.shape[1] != self.normalized_shape[0]:
                self._complain_of_channels(input)
            check_residual("LayerNorm", input, residual)
            # in channels_last layout these views are contiguous, and nothing is copied
            moved = None if residual is None else residual.movedim(1, -1)
            return laid_out_like(self._normalize(input.movedim(1, -1), moved).movedim(-1, 1), input)
        return self._normalize(input, residual)

    def _complain_of_channels(self, input: torch.Tensor) -> NoReturn:
        (channels,) = self.normalized_shape
        given = f" Did you mean LayerNorm({input.shape[1]}, channels_first=True)?" if input.dim() > 1 else ""
        raise ValueError(
            f"LayerNorm({channels}, channels_first=True) got an input of shape {tuple(input.shape)}. It must be "
            f"(N, {channels}, ...).{given}{channels_last(input, channels)}"
        )

    def _normalize(self, input: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        dropout = self.dropout if self.dropout and self.training else 0.0
        plain = residual is None and self.activation == "none" and dropout == 0 and self.eps > 0
        if plain and torch_is_better("layer", input, self.weight):
            return _by_torch("LayerNorm", input, self.normalized_shape, self.weight, self.bias, self.eps)
        check_trailing("LayerNorm", input, tuple(self.normalized_shape))
        check_residual("LayerNorm", input, residual)
        dims = len(self.normalized_shape)
        return over_last(input, dims, self.weight, self.bias, self.eps, True, residual, self.activation, dropout)

    def extra_repr(self) -> str:
        told = super().extra_repr() + extra(self.activation, self.dropout)
        return told + (", channels_first" if self.channels_first else "")


class AddLayerNorm(nn.LayerNorm):
    r"""Residual addition and layer normalization in one pass, as transformer blocks have them.

    .. math:: h = r + \mathrm{dropout}(x), \qquad y = \gamma \frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    ``forward(input, residual)`` returns y (post-norm blocks), or (y, h) with ``return_sum`` (pre-norm blocks, where h is the
    next residual). The mask of the dropout is not stored, and of the sum only what is returned: the backward pass draws the mask again.

    Same ``state_dict`` as ``torch.nn.LayerNorm``. Arguments up to ``dtype`` as there.

    Args:
        normalized_shape: size of the last dimension.
        eps, elementwise_affine, bias, device, dtype: as for :class:`LayerNorm`.
        dropout: probability of dropping an entry of the input while training.
        return_sum: also return h.

    Raises:
        ValueError: for shapes that do not fit.

    When it helps: transformer blocks, which do both at every sublayer: the sum is not written and read again. When it hurts:
    nowhere by its numbers, which are those of the two steps; what looks at the sum in between (hooks, taps) sees nothing.

    Source: Vaswani et al., "Attention Is All You Need", 2017 (post-norm); Xiong et al., "On Layer Normalization in the
    Transformer Architecture", 2020 (pre-norm).

    >>> block = AddLayerNorm(8, dropout=0.1, return_sum=True)
    >>> y, h = block(torch.randn(2, 8), torch.randn(2, 8))
    >>> torch.allclose(y, torch.nn.functional.layer_norm(h, (8,)), atol=1e-6)
    True
    """

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dropout: float = 0.0,
        return_sum: bool = False,
    ) -> None:
        check_shape("AddLayerNorm", normalized_shape)
        check_eps("AddLayerNorm", eps)
        check_p("AddLayerNorm", "dropout", dropout)
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        if len(self.normalized_shape) != 1:
            raise ValueError(
                f"AddLayerNorm({tuple(self.normalized_shape)}): normalized_shape must be one number, the last dimension."
            )
        self.dropout, self.return_sum = dropout, return_sum

    def forward(self, input: torch.Tensor, residual: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        check_trailing("AddLayerNorm", input, tuple(self.normalized_shape))
        check_residual("AddLayerNorm", input, residual)
        dropout = self.dropout if self.training else 0.0
        return add_norm(input, residual, self.weight, self.bias, self.eps, True, dropout, self.return_sum)

    def extra_repr(self) -> str:
        return super().extra_repr() + extra("none", self.dropout) + (", return_sum" if self.return_sum else "")
