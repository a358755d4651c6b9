"""Local response normalization."""

from __future__ import annotations

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_count, check_floating, check_has_channels, check_number
from trimtab.nn.ops.common import laid_out_like

GROUP = "normalization"


def local_response_norm(
    input: torch.Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    divide_by_size: bool = True,
) -> torch.Tensor:
    """``torch.nn.functional.local_response_norm``; see :class:`LocalResponseNorm` for ``divide_by_size``.

    >>> x = torch.randn(2, 6, 3, 3)
    >>> torch.allclose(local_response_norm(x, 3), torch.nn.functional.local_response_norm(x, 3), atol=1e-6)
    True
    """
    check_has_channels("local_response_norm", input, 3)
    check_floating("local_response_norm", input)
    check_count("local_response_norm", "size", size, 1, "is a number of channels")
    if divide_by_size:
        alpha = alpha / size
    else:
        size += 1 - size % 2
    return laid_out_like(ops.response_norm(input, size, alpha, beta, k), input)


class LocalResponseNorm(nn.LocalResponseNorm):
    r"""Local response normalization: an entry is divided by a power of the squares in the channels around it.

    .. math:: y_c = x_c \Bigl(k + \frac{\alpha}{n} \sum_{j = c - \lfloor n/2 \rfloor}^{c + \lfloor (n-1)/2 \rfloor} x_j^2\Bigr)^{-\beta}

    for input (N, C, ...), the sum over those channels that exist.

    A drop-in for ``torch.nn.LocalResponseNorm``.

    Args:
        size: n, the channels in a window.
        alpha, beta, k: of the formula.
        divide_by_size: False gives 003's (and the paper's) meaning: alpha is not divided by n, and the window runs from
            c - floor(n/2) to c + floor(n/2), n + 1 channels for even n.

    Raises:
        ValueError: for inputs of less than 3 dimensions.

    When it helps: to reproduce AlexNet and GoogLeNet. When it hurts: elsewhere; it costs time and memory, the authors of VGG
    saw no gain from it, and BatchNorm does what it was meant for.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012; seed 003.

    >>> LocalResponseNorm(5)(torch.zeros(1, 8, 2, 2)).sum()
    tensor(0.)
    """

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, divide_by_size: bool = True
    ) -> None:
        check_count("LocalResponseNorm", "size", size, 1, "is a number of channels")
        for name, given in (("alpha", alpha), ("beta", beta), ("k", k)):
            check_number("LocalResponseNorm", name, given, "(-inf, inf)")
        super().__init__(size, alpha, beta, k)
        self.divide_by_size = divide_by_size

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k, divide_by_size=self.divide_by_size)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.divide_by_size else ", divide_by_size=False")
