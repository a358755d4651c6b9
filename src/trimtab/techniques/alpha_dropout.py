"""Alpha dropout on the inputs of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn.alpha_dropout import AlphaDropout as AlphaDropoutPart
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.hang_noise import check_rate, hang_noise, hidden_inputs


@dataclass(frozen=True)
class AlphaDropout(Technique):
    """Sets units to SELU's lowest value at random while training: on the input of every linear and convolution layer but the first.

    ``y = a (m x - 1.7581 (1 - m)) + b`` with ``m`` 1 with probability 1 - p and 0 otherwise, and a and b such that mean 0 and
    variance 1 stay; nothing in evaluation. Masks come from a generator of their own, so the data order stays what it was.

    Helps: networks of SELUs that fit their training set and generalize worse. Hurts: networks of other activations, which never
    give -1.7581: take ``dropout`` there. Good first setting: 0.05 to 0.1.

    Args:
        p: probability of dropping a unit.

    Source: Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017; :class:`trimtab.nn.AlphaDropout`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.SELU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("alpha_dropout")
    >>> model[2].alpha_dropout
    AlphaDropout(p=0.1, inplace=False)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"

    p: float = 0.1

    def __post_init__(self) -> None:
        check_rate(self)

    def apply(self, training: TrainingLike) -> Change:
        def make(_: nn.Module, generator: torch.Generator) -> nn.Module:
            return AlphaDropoutPart(self.p, generator=generator)

        found = hidden_inputs(self, training)
        return hang_noise(self, training, f"alpha dropout with p={self.p:g}", found, make)
