"""Adaptive normalization: layer normalization whose gain depends on the value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from trimtab.nn.checks import check_eps, check_number, check_shape, check_trailing
from trimtab.nn.layer_norm import layer_norm

GROUP = "normalization"


def ada_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], eps: float = 1e-5, k: float = 0.1, scale: float = 1.0
) -> torch.Tensor:
    r"""Adaptive normalization as a function. See :class:`AdaNorm`.

    >>> x = torch.randn(2, 5)
    >>> y = torch.nn.functional.layer_norm(x, (5,))
    >>> torch.allclose(ada_norm(x, (5,), scale=2.0), 2 * (1 - 0.1 * y) * y, atol=1e-6)
    True
    """
    check_trailing("ada_norm", input, tuple(normalized_shape))
    # rounded to the input's type once, at the end
    y = layer_norm(input.to(torch.promote_types(input.dtype, torch.float32)), normalized_shape, eps=eps)
    return (scale * (1 - k * y.detach()) * y).to(input.dtype)


class AdaNorm(nn.Module):
    r"""Adaptive normalization: layer normalization with a factor that falls as the value grows, for gain and bias.

    .. math::
        y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad z = \varphi(y) \odot y, \qquad \varphi(y) = C (1 - k y)

    with x, y and z of shape (..., *normalized_shape), and mean and biased variance of shape (..., 1) over those last
    dimensions. The backward pass takes the factor :math:`\varphi(y)` for a constant, as the paper does: only the y
    behind it has a gradient. The mean of z over a row is -C k times its variance, which the paper keeps small by its k.

    Nothing is learned, so there is nothing in the ``state_dict``.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        eps: added to the variance, inside the root. (The authors' code adds it to an unbiased deviation outside the
            root.)
        k: how fast the factor falls, 0 or more. It changes sign at y = 1/k; the paper's 1/10 leaves at most 1 % of a
            row beyond that, whatever the distribution (Chebyshev).
        scale: C, the factor at 0, a hyper-parameter of the model. Good first setting: 1.

    Raises:
        ValueError: for a negative k, a scale that is not positive, and an input whose last dimensions are not
            normalized_shape.

    When it helps: in the place of LayerNorm in transformers that overfit; in the paper better than LayerNorm on seven
    of eight data sets. When it hurts: rows with an entry more than 1/k deviations out, whose sign turns; that takes
    more than 1/k² = 100 entries. As its gradient is not the derivative of its output, ``torch.autograd.gradcheck`` and
    forward-mode derivatives disagree with it.

    Source: Xu, Sun, Zhang, Zhao, Lin, "Understanding and Improving Layer Normalization", 2019, cited by seed 004.

    >>> layer = AdaNorm(4, scale=1.5)
    >>> layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[-2.2825, -0.7008,  0.6408,  1.7425]])
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, k: float = 0.1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.normalized_shape = check_shape("AdaNorm", normalized_shape)
        check_eps("AdaNorm", eps)
        check_number("AdaNorm", "k", k)
        check_number("AdaNorm", "scale", scale)
        if not k >= 0:
            raise ValueError(f"AdaNorm(k={k}): k must not be negative. The paper's is 0.1; 0 is LayerNormSimple.")
        if not scale > 0:
            raise ValueError(f"AdaNorm(scale={scale}): scale must be positive, it is the norm's gain at 0. Try 1.0.")
        self.eps, self.k, self.scale = eps, k, scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        check_trailing("AdaNorm", input, self.normalized_shape)
        return ada_norm(input, self.normalized_shape, self.eps, self.k, self.scale)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, k={self.k}, scale={self.scale}"
