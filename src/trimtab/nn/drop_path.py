"""DropPath (stochastic depth): dropout of residual branches, by sample."""

from __future__ import annotations

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.draws import OwnGenerator, check_generator
from trimtab.nn.dropout import check_dropout, drop

GROUP = "regularization"


def drop_path(
    input: torch.Tensor,
    p: float = 0.1,
    training: bool = True,
    *,
    scaling: str = "inverted",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Drops samples whole; see :class:`DropPath`.

    >>> drop_path(torch.ones(3, 2), training=False)
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """
    check_dropout("drop_path", p, scaling)
    key = ops.draw_key(generator) if training and 0 < p < 1 else None
    return drop(input, p, training, key, scaling, "bernoulli", "sample")


class DropPath(OwnGenerator, nn.modules.dropout._DropoutNd):
    r"""Drops a residual branch for some samples of the batch while training, so that these skip its layers.

    .. math:: y_n = h_n + \frac{m_n}{1 - p} f(h)_n, \qquad m_n \sim \mathrm{Bernoulli}(1 - p)

    ``DropPath(p)(f(h))`` is the second summand, for ``f(h)`` of shape ``(N, ...)``, and ``p`` the probability of *dropping* (the
    paper's p keeps). In evaluation mode it gives its input. With ``scaling="original"`` it is ``m f(h)`` while training and
    ``(1 - p) f(h)`` in evaluation, as in the paper, which draws one ``m`` for the whole batch; later uses, and this one, draw one for each
    sample. timm's ``DropPath`` has the default; EfficientNet and Keras call it "drop connect", which is another thing.

    Rates that rise with depth: :func:`trimtab.nn.rates_by_depth`.

    Args:
        p: probability of dropping the branch, 0 <= p <= 1.
        scaling: "inverted" (while training) or "original" (in evaluation).
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: if p is outside [0, 1], or for an unknown scaling.

    When it helps: deep residual networks that fit their training set; they also learn faster, since gradients have
    short ways. When it hurts: shallow networks, and short trainings.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; Larsson et al., "FractalNet", 2017, for the name.

    >>> branch = DropPath(0.5, generator=torch.Generator().manual_seed(3))
    >>> sorted({tuple(sample) for sample in branch(torch.ones(100, 2)).tolist()})
    [(0.0, 0.0), (2.0, 2.0)]
    """

    def __init__(self, p: float = 0.1, *, scaling: str = "inverted", generator: torch.Generator | None = None) -> None:
        check_dropout("DropPath", p, scaling)
        check_generator("DropPath", generator)
        super().__init__(p)
        self.scaling, self.generator = scaling, generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        key = self.draw_key() if self.training and 0 < self.p < 1 else None
        return drop(input, self.p, self.training, key, self.scaling, "bernoulli", "sample")

    def extra_repr(self) -> str:
        return f"p={self.p}" + (f", scaling={self.scaling}" if self.scaling != "inverted" else "")
