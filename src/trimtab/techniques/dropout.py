"""Dropout on the inputs of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn import Dropout as DropoutPart
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import Hung, layers, names, nothing, training_now


@dataclass(frozen=True)
class Dropout(Technique):
    """Drops units at random while training: on the input of every linear and convolution layer but the first.

    ``y = m x / (1 - p)`` with ``m`` 1 with probability 1 - p and 0 otherwise, drawn anew for every entry and step; nothing
    in evaluation. Masks come from a generator of their own, so the data order stays what it was.

    Helps: networks that fit their training set and generalize worse. Hurts: networks that do not even fit it, narrow layers, and
    (slightly) before a batch normalization, which then sees another variance in evaluation.
    Good first setting: 0.2 to 0.5.

    Args:
        p: probability of dropping a unit.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("dropout(p=0.2)")
    >>> model[2].dropout
    Dropout(p=0.2, inplace=False)
    """

    acts_on = "model"

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"p={self.p} must lie strictly between 0 and 1: it is the probability of dropping a unit.")

    def apply(self, training: TrainingLike) -> Change:
        found = list(layers(training))[1:]
        if not found:
            raise nothing(self, "the model has no linear or convolution layer behind another one.")
        hung = []
        for name, layer in found:
            generator = training.generator(f"dropout {name}", layer.weight.device)
            hung.append(Hung(layer, "dropout", DropoutPart(self.p, generator=generator), _call, before=True))

        def undo() -> None:
            for one in hung:
                one.take_off()

        summary = f"dropout with p={self.p:g} before {len(found)} layers: {names(found)}"
        return Change(summary, undo, lambda: any(one.called for one in hung))


def _call(dropout: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return dropout(x) if training_now(dropout) else x
