"""Dropout: of entries, of whole channels, of features for all time steps; by chance or by count."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn import ops
from trimtab.nn.checks import check_has_channels, check_p
from trimtab.nn.draws import OwnGenerator, bernoulli, check_choice, check_generator, exactly, kept, units

GROUP = "regularization"
SCALINGS = ("inverted", "original")
COUNTS = ("bernoulli", "exact")
SHAPES = ("element", "channel", "locked")


def dropout(
    input: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    scaling: str = "inverted",
    count: str = "bernoulli",
    shape: str = "element",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """``torch.nn.functional.dropout`` with other masks and scalings, and an optional generator; see :class:`Dropout`.

    >>> dropout(torch.ones(3), training=False)
    tensor([1., 1., 1.])
    """
    check_dropout("dropout", p, scaling, count, shape)
    key = ops.draw_key(generator) if training and 0 < p < 1 else None
    y = drop(input, p, training, key, scaling, count, shape)
    return input.copy_(y) if inplace and y is not input else y


def check_dropout(part: str, p: float, scaling: str, count: str = "bernoulli", shape: str = "element") -> None:
    """Refuse settings that mean nothing."""
    check_p(part, "p", p)
    check_choice(part, "scaling", scaling, SCALINGS)
    check_choice(part, "count", count, COUNTS)
    check_choice(part, "shape", shape, SHAPES)


def drop(
    x: torch.Tensor, p: float, training: bool, key: torch.Tensor | None, scaling: str, count: str, shape: str
) -> torch.Tensor:
    """Dropout with the mask of ``key``; ``shape="sample"`` drops samples whole."""
    mask = mask_shape(x, shape)
    n = units(mask)
    dropped = round(float(p * n)) if count == "exact" else 0
    share = dropped / max(n, 1) if count == "exact" else p  # of entries that are dropped
    if share == 0:
        return x
    if not training:
        return x * (1 - share) if scaling == "original" else x
    if share == 1:
        return x * 0.0
    assert key is not None
    if (scaling, count, shape) == ("inverted", "bernoulli", "element"):
        return ops.dropout(x, p, key)
    keep = exactly(mask, dropped, key, x.device) if count == "exact" else bernoulli(mask, p, key, x.device)
    return kept(keep, x / (1 - share) if scaling == "inverted" else x)


def mask_shape(x: torch.Tensor, shape: str) -> tuple[int, ...]:
    """The shape of a mask for x, with 1 where it is the same for all."""
    if shape == "element":
        return tuple(x.shape)
    if shape == "sample":
        return (x.shape[0], *(1 for _ in x.shape[1:]))
    check_has_channels(f"Dropout(shape={shape!r})", x)
    between = tuple(1 for _ in x.shape[2:])
    return (x.shape[0], x.shape[1], *between) if shape == "channel" else (x.shape[0], *between, x.shape[-1])


class Dropout(OwnGenerator, nn.Dropout):
    r"""Sets entries to zero at random while training, and scales so that the mean is the same in training and evaluation.

    .. math:: y_i = \frac{m_i}{1 - p} x_i, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    with ``p`` the probability of *dropping* (torch's meaning). The papers' p, 000's, and the p of "times 1/p" (004) is the probability
    of *keeping*: give ``p = 1 - keep``. In evaluation mode ``y = x``.

    * ``scaling="original"``: ``y = m x`` while training and ``y = (1 - p) x`` in evaluation, as first published (003).
    * ``count="exact"``: exactly ``round(p n)`` of a sample's n units are dropped, every choice as likely, and the others are
      scaled by n / (number kept): the stochastic approximation of a sum over n units by one over a random part of them (002).
    * ``shape="channel"``, for ``(N, C, ...)``: whole feature maps, as torch's Dropout1d, 2d and 3d. ``shape="locked"``, for
      ``(N, ..., C)`` such as ``(N, T, C)``: one mask of the features for all time steps of a sample. ``"element"``: each entry of
      an input of any shape.

    Units are the entries that are dropped by themselves: all entries of a sample, its C channels, or its C features.

    A drop-in for ``torch.nn.Dropout``. In its plain form no mask is stored, it is drawn again in the backward pass from a
    seed of 8 bytes, which takes a twentieth of torch's time on a CPU; the others store theirs, a byte for each of its entries. Masks
    can come from a generator given here, so that adding dropout leaves the data order and everything else that draws from
    torch's global generator as it was; such a module is to be called once a pass where activation checkpointing is used. Masks are
    reproducible by ``torch.manual_seed``, but not the ones that torch would have drawn.

    Args:
        p: probability of dropping a unit, 0 <= p <= 1.
        inplace: write the result into the input.
        scaling: "inverted" (while training) or "original" (in evaluation).
        count: "bernoulli" (each unit by itself) or "exact".
        shape: "element", "channel" or "locked".
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: if p is outside [0, 1], for an unknown choice, and for an input without channels where they are needed.

    When it helps: networks that fit their training set and generalize worse; "channel" in front of convolutions, where neighbours
    tell what an entry was; "locked" in sequences. When it hurts: networks that do not even fit their training set, and before a
    batch normalization, which then sees another variance in evaluation.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014; channels: Tompson et al.,
    2015; locked: Gal & Ghahramani, 2016; seeds 000 to 004.

    >>> layer = Dropout(0.5, generator=torch.Generator().manual_seed(0))
    >>> sorted(set(layer(torch.ones(100)).tolist()))
    [0.0, 2.0]
    >>> layer.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    >>> Dropout(0.25, count="exact")(torch.ones(2, 8)).count_nonzero(dim=1)
    tensor([6, 6])
    """

    # for modules that were made as torch's and became ours
    scaling, count, shape = "inverted", "bernoulli", "element"

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        scaling: str = "inverted",
        count: str = "bernoulli",
        shape: str = "element",
        generator: torch.Generator | None = None,
    ) -> None:
        check_dropout("Dropout", p, scaling, count, shape)
        check_generator("Dropout", generator)
        super().__init__(p, inplace)
        self.scaling, self.count, self.shape, self.generator = scaling, count, shape, generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return F.dropout(input, self.p, self.training, self.inplace)
        else:
            return self._forward(input)

    def _forward(self, input: torch.Tensor) -> torch.Tensor:
        key = self.draw_key() if self.training and 0 < self.p < 1 else None
        y = drop(input, self.p, self.training, key, self.scaling, self.count, self.shape)
        return input.copy_(y) if self.inplace and y is not input else y

    def __prepare_scriptable__(self) -> Any:
        plain = (self.scaling, self.count, self.shape) == ("inverted", "bernoulli", "element")
        return self if plain and self.generator is None else super().__prepare_scriptable__()

    def extra_repr(self) -> str:
        told = {name: getattr(self, name) for name in ("scaling", "count", "shape")}
        extra = [f", {name}={value}" for name, value in told.items() if value != getattr(Dropout, name)]
        return super().extra_repr() + "".join(extra)
