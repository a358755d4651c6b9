"""Dropout on the inputs of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab.nn import functional
from trimtab.nn.draws import check_choice
from trimtab.nn.dropout import Dropout as DropoutPart
from trimtab.nn.dropout import check_dropout
from trimtab.nn.rates import rates_by_width
from trimtab.reading.order import LINEAR, behind_the_first
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.hang_noise import check_rate, hang_noise, hidden_inputs
from trimtab.techniques.engines.plain import between
from trimtab.techniques.engines.surgery import training_now


@dataclass(frozen=True)
class Dropout(Technique):
    """Drops units at random while training: on the input of every linear and convolution layer but the first.

    ``y = m x / (1 - p)`` with ``m`` 1 with probability 1 - p and 0 otherwise, drawn anew for every entry and step; nothing
    in evaluation. Masks come from a generator of their own, so the data order stays what it was.

    With ``shape="channel"`` or ``"locked"`` (here they mean the same, each layer knowing where its features stand) a sample's feature is
    dropped at all its positions, pixels or time steps. :class:`trimtab.nn.Dropout` explains ``scaling`` and ``count``.

    Helps: networks that fit their training set and generalize worse. Hurts: networks that do not even fit it, narrow layers, and
    (slightly) before a batch normalization, which then sees another variance in evaluation.
    Good first setting: 0.2 to 0.5.

    Args:
        p: probability of dropping a unit.
        shape: what is dropped by itself: "element", "channel" or "locked".
        scaling: "inverted" (while training), or "original": evaluation multiplies by 1 - p.
        count: "bernoulli", or "exact": round(p n) of a sample's n units.
        by: "width" gives p to the layer with most inputs, and others less in proportion (:func:`trimtab.nn.rates_by_width`).
        ramp: number of steps, from here on, over which p rises from 0; 0 for none.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014; Morerio et al., "Curriculum Dropout", ICCV 2017, for the ramp.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("dropout(p=0.2)")
    >>> model[2].dropout
    Dropout(p=0.2, inplace=False)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"

    p: float = 0.5
    shape: str = "element"
    scaling: str = "inverted"
    count: str = "bernoulli"
    by: str | None = None
    ramp: int = 0

    def __post_init__(self) -> None:
        check_rate(self)
        check_dropout(self.name, self.p, self.scaling, self.count, self.shape)
        if self.by is not None:
            check_choice(self.name, "by", self.by, ("width",))

    def plain(self, training: TrainingLike) -> str:
        if (self.shape, self.scaling, self.count, self.by, self.ramp) != ("element", "inverted", "bernoulli", None, 0):
            return ""
        found = [(f"nn.Dropout({self.p:g})", name, type(layer).__name__) for name, layer in behind_the_first(training)]
        said = between(training, found, before=True)
        return f"{said}. It comes close: it draws other random numbers." if said else ""

    def apply(self, training: TrainingLike) -> Change:
        found = hidden_inputs(self, training)
        widths = [getattr(layer, "in_features" if isinstance(layer, LINEAR) else "in_channels") for _, layer in found]
        rates = iter(rates_by_width(widths, self.p) if self.by == "width" else [self.p] * len(found))

        def make(layer: Any, generator: torch.Generator) -> nn.Module:
            whole = "locked" if isinstance(layer, LINEAR) else "channel"
            shape = "element" if self.shape == "element" else whole
            return DropoutPart(next(rates), scaling=self.scaling, count=self.count, shape=shape, generator=generator)

        what = f"dropout with p={self.p:g}" + (" in proportion to the width" if self.by else "")
        return hang_noise(self, training, what, found, make, call=_call, ramp=self.ramp)


def _call(part: Any, x: torch.Tensor) -> torch.Tensor:
    if training_now(part):
        return part(x)
    return functional.dropout(x, part.p, False, scaling=part.scaling, count=part.count, shape=part.shape)
