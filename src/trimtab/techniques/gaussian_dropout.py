"""Gaussian dropout on the inputs of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn.gaussian_dropout import GaussianDropout as GaussianDropoutPart
from trimtab.nn.gaussian_dropout import check_gaussian
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.hang_noise import check_rate, hang_noise, hidden_inputs


@dataclass(frozen=True)
class GaussianDropout(Technique):
    """Multiplies units by normal noise of mean 1 while training: on the input of every linear and convolution layer but the first.

    ``y = x e`` with ``e ~ N(1, p / (1 - p))``, drawn anew for every entry and step; nothing in evaluation. The noise has the variance
    of dropout with the same p, and comes from a generator of its own, so the data order stays what it was.

    Helps: where dropout does, every unit learning in every step. Hurts: networks that do not fit their training set, and
    (slightly) before a batch normalization. Good first setting: 0.2 to 0.5.

    Args:
        p: probability of dropping of the dropout that it is like.
        variance: "paper" for p / (1 - p), "seed" for p (1 - p).

    Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 10; :class:`trimtab.nn.GaussianDropout`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("gaussian_dropout(p=0.2)")
    >>> print(training.changes[0])
    Gaussian dropout with p=0.2 before 1 layers: 2
      2: GaussianDropout(p=0.2, variance=paper)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"

    p: float = 0.5
    variance: str = "paper"

    def __post_init__(self) -> None:
        check_rate(self)
        check_gaussian(self.name, self.p, self.variance)

    def apply(self, training: TrainingLike) -> Change:
        def make(_: nn.Module, generator: torch.Generator) -> nn.Module:
            return GaussianDropoutPart(self.p, variance=self.variance, generator=generator)

        found = hidden_inputs(self, training)
        return hang_noise(self, training, f"Gaussian dropout with p={self.p:g}", found, make)
