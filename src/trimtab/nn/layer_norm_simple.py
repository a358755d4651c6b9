"""Layer normalization without gain and bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trimtab.nn.layer_norm import LayerNorm, layer_norm

GROUP = "normalization"


def layer_norm_simple(input: torch.Tensor, normalized_shape: Sequence[int], eps: float = 1e-5) -> torch.Tensor:
    r"""Layer normalization without gain and bias, as a function. See :class:`LayerNormSimple`.

    >>> x = torch.randn(2, 5)
    >>> torch.allclose(layer_norm_simple(x, (5,)), torch.nn.functional.layer_norm(x, (5,)), atol=1e-6)
    True
    """
    return layer_norm(input, normalized_shape, None, None, eps)


class LayerNormSimple(LayerNorm):
    r"""Layer normalization without gain and bias: each sample gets mean 0 and variance 1, and nothing is learned.

    .. math:: y = \mathrm{dropout}(f(\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + r))

    with x, y and the residual r of shape (..., *normalized_shape), and mean and biased variance of shape (..., 1) over
    those last dimensions. The same as ``LayerNorm(normalized_shape, elementwise_affine=False)``, under the name that
    its paper gives it.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        eps: added to the variance, inside the root; 0 is allowed, and a constant row then gives zeros.
        channels_first, activation, dropout: as in :class:`trimtab.nn.LayerNorm`.

    Raises:
        ValueError: for an input whose last dimensions are not normalized_shape.

    When it helps: where a LayerNorm model overfits. The paper found gain and bias to raise the risk of it, and this
    form the better one on four of its eight data sets. When it hurts: where the scale of the norm's output matters and
    nothing behind it can restore it, as before a softmax; a linear layer behind the norm can. Checkpoints of a
    LayerNorm with gain and bias do not load.

    Source: Xu, Sun, Zhang, Zhao, Lin, "Understanding and Improving Layer Normalization", 2019 (LayerNorm-simple), cited
    by seed 004.

    >>> layer = LayerNormSimple(4)
    >>> list(layer.parameters())
    []
    >>> layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        *,
        channels_first: bool = False,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            normalized_shape, eps, False, False, channels_first=channels_first, activation=activation, dropout=dropout
        )

    def extra_repr(self) -> str:
        return super().extra_repr().replace(", elementwise_affine=False", "").replace(", bias=False", "")
