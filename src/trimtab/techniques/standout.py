"""Standout: dropout of hidden units by a probability that each computes itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn.standout import StandoutMask, check_standout
from trimtab.reading.order import doubts, hidden_layers
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now


@dataclass(frozen=True)
class Standout(Technique):
    """Drops hidden units at random while training, those that speak up less often than others.

    ``z -> m z`` with ``m`` 1 with probability ``g = sigmoid(alpha z + beta)`` and 0 otherwise while training, ``z -> g z`` in
    evaluation, on the output z of every linear and convolution layer but the last, in front of its activation f, which is a
    module or call of its own. That is the paper's ``m f(z)`` for every f with f(0) = 0 (ReLU, GELU, SiLU, tanh; not sigmoid), and
    the paper's ``g f(z)`` in evaluation for ReLU and LeakyReLU, else near it; :class:`trimtab.nn.Standout`, which knows its
    activation, is exact. The gate shares the layer's weights and bias; the mask is a constant for the gradient. Masks come from
    a generator of their own. Evaluation is changed too.

    Helps: fully connected networks that fit their training set and generalize worse. Hurts: networks that do not even fit it, layers
    in front of a batch normalization, and projections inside attention. Good first setting: the default; a larger beta drops less.

    Args:
        alpha: how sharply the probability follows z; 0 is dropout with p = 1 - sigmoid(beta).
        beta: offset of the probability.

    Source: Ba & Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("standout(beta=1.0)")
    >>> model[0].standout
    StandoutMask(alpha=1.0, beta=1.0)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"
    evaluates = True

    alpha: float = 1.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_standout("standout", self.alpha, self.beta)

    def apply(self, training: TrainingLike) -> Change:
        found = hidden_layers(training)
        if not found:
            raise nothing_for(self, "the model has no linear or convolution layer in front of another one.")
        hung = []
        for name, layer in found:
            mask = StandoutMask(self.alpha, self.beta, training.generator(f"standout {name}"))
            hung.append(Hung(layer, "standout", mask, _call))

        def undo() -> None:
            for one in hung:
                one.take_off()

        summary = f"standout with alpha={self.alpha:g} and beta={self.beta:g} behind {len(found)} layers: {listed_names(found)}"
        return Change(summary, undo, lambda: any(one.acted for one in hung), doubts(training))


def _call(mask: nn.Module, z: torch.Tensor) -> torch.Tensor:
    return mask(z, z, training_now(mask))
