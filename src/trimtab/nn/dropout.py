"""Dropout without a stored mask."""

from __future__ import annotations

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_p


def dropout(
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """``torch.nn.functional.dropout`` without a stored mask, with an optional generator; see :class:`Dropout`.

    >>> dropout(torch.ones(3), training=False)
    tensor([1., 1., 1.])
    """
    check_p("dropout", "p", p)
    if not training or p == 0:
        return input
    y = input * 0.0 if p == 1 else ops.dropout(input, p, ops.draw_key(generator))
    return input.copy_(y) if inplace else y


class Dropout(nn.Dropout):
    r"""Sets entries to zero with probability p while training, and scales the others so that the mean stays.

    .. math:: y_i = \frac{m_i}{1 - p} x_i, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with ``x`` and ``y`` of any one shape and ``p`` the probability of *dropping* (torch's meaning; the papers'
    and 003's p is often the probability of keeping). In evaluation mode ``y = x``.

    A drop-in for ``torch.nn.Dropout``. Where it differs: no mask is stored, it is drawn again in the backward pass from a
    seed of 8 bytes, which takes a twentieth of torch's time on a CPU; and masks can come from a generator given here, so that
    adding dropout leaves the data order and everything else that draws from torch's global generator as it was. Masks are
    reproducible by ``torch.manual_seed``, but not the ones that torch would have drawn.

    Args:
        p: probability of dropping an entry, 0 <= p <= 1.
        inplace: write the result into the input.
        generator: source of the masks; torch's global generator if ``None``.

    Raises:
        ValueError: if p is outside [0, 1].

    When it helps: networks that fit their training set and generalize worse. When it hurts: networks that do not even fit
    it, and before a batch normalization, which then sees another variance in evaluation.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

    >>> layer = Dropout(0.5, generator=torch.Generator().manual_seed(0))
    >>> sorted(set(layer(torch.ones(100)).tolist()))
    [0.0, 2.0]
    >>> layer.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, generator: torch.Generator | None = None) -> None:
        check_p("Dropout", "p", p)
        super().__init__(p, inplace)
        self.generator = generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dropout(input, self.p, self.training, self.inplace, generator=self.generator)

    def __getstate__(self) -> dict:
        # generators do not pickle; their state does
        state = self.__dict__.copy()
        if self.generator is not None:
            state["generator"] = (str(self.generator.device), self.generator.get_state())
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if self.generator is not None:
            device, bits = state["generator"]
            self.generator = torch.Generator(device)
            self.generator.set_state(bits)
