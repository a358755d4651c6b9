"""RMS normalization, alone and with the residual addition that stands before it in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trimtab.nn.checks import check_after, check_eps, check_p, check_residual, check_shape, check_trailing, extra
from trimtab.nn.layer_norm import add_norm, over_last

GROUP = "normalization"


def _eps(eps: float | None, dtype: torch.dtype) -> float:
    # torch computes bfloat16 and float16 in float32, and takes that type's eps
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps if eps is None else eps


def rms_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
    *,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
    training: bool = True,
) -> torch.Tensor:
    r"""``torch.nn.functional.rms_norm`` with a residual (added behind the norm), an activation and a dropout in the same pass.

    >>> x = torch.randn(2, 5)
    >>> torch.allclose(rms_norm(x, (5,)), torch.nn.functional.rms_norm(x, (5,)), atol=1e-6)
    True
    """
    check_trailing("rms_norm", input, tuple(normalized_shape))
    return over_last(
        input,
        len(normalized_shape),
        weight,
        None,
        _eps(eps, input.dtype),
        False,
        residual,
        activation,
        dropout if training else 0.0,
    )


class RMSNorm(nn.RMSNorm):
    r"""RMS normalization: each sample is divided by its root mean square over the last dimensions, then scaled.

    .. math:: y = \mathrm{dropout}(f(\gamma \frac{x}{\sqrt{\frac1D \sum x^2 + \epsilon}} + r))

    f and dropout only where asked for, and r, the residual, where given: ``forward(input, residual=None)``.

    A drop-in for ``torch.nn.RMSNorm``: same arguments, same ``state_dict``, and an instance of it.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        eps: added to the mean square, inside the root. None: the smallest float32 (or float64) step at 1, as in torch.
        elementwise_affine, device, dtype: as in torch.
        activation: ``none``, ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``, in the same pass.
        dropout: probability of dropping an entry of the result while training.

    Raises:
        ValueError: for an input whose last dimensions are not normalized_shape.

    When it helps: wherever LayerNorm does, at less cost; the mean is left as it is. When it hurts: inputs with a large
    offset that all features share, which then makes up most of what is divided by; and, like LayerNorm, where the norm of a
    sample says something.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    >>> RMSNorm(4)(torch.full((1, 4), 3.0))
    tensor([[1., 1., 1., 1.]], grad_fn=...)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_shape(name, normalized_shape)
        if eps is not None:
            check_eps(name, eps)
        check_after(name, activation, dropout)
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self.activation, self.dropout = activation, dropout

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        check_trailing("RMSNorm", input, tuple(self.normalized_shape))
        check_residual("RMSNorm", input, residual)
        dropout = self.dropout if self.dropout and self.training else 0.0
        dims, eps = len(self.normalized_shape), _eps(self.eps, input.dtype)
        return over_last(input, dims, self.weight, None, eps, False, residual, self.activation, dropout)

    def extra_repr(self) -> str:
        return super().extra_repr() + extra(self.activation, self.dropout)


class AddRMSNorm(nn.RMSNorm):
    r"""Residual addition and RMS normalization in one pass, as pre-norm transformer blocks have them.

    .. math:: h = r + \mathrm{dropout}(x), \qquad y = \gamma \frac{h}{\sqrt{\frac1D \sum h^2 + \epsilon}}

    ``forward(input, residual)`` returns y, or (y, h) with ``return_sum``. See :class:`trimtab.nn.AddLayerNorm`.

    >>> y, h = AddRMSNorm(8, return_sum=True)(torch.randn(2, 8), torch.randn(2, 8))
    >>> torch.allclose(y, torch.nn.functional.rms_norm(h, (8,)), atol=1e-6)
    True
    """

    def __init__(
        self,
        normalized_shape: int,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dropout: float = 0.0,
        return_sum: bool = False,
    ) -> None:
        check_shape("AddRMSNorm", normalized_shape)
        if eps is not None:
            check_eps("AddRMSNorm", eps)
        check_p("AddRMSNorm", "dropout", dropout)
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        if len(self.normalized_shape) != 1:
            raise ValueError(
                f"AddRMSNorm({tuple(self.normalized_shape)}): normalized_shape must be one number, the last dimension."
            )
        self.dropout, self.return_sum = dropout, return_sum

    def forward(self, input: torch.Tensor, residual: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        check_trailing("AddRMSNorm", input, tuple(self.normalized_shape))
        check_residual("AddRMSNorm", input, residual)
        dropout = self.dropout if self.training else 0.0
        return add_norm(
            input, residual, self.weight, None, _eps(self.eps, input.dtype), False, dropout, self.return_sum
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + extra("none", self.dropout) + (", return_sum" if self.return_sum else "")
