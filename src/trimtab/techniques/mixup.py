"""Mixup of the batches that a training sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data.mixup import Mix, mixup
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.mixing import check_alpha, mix_batches


@dataclass(frozen=True)
class Mixup(Technique):
    """Trains on points between two samples of a batch, and on their targets in the same shares.

    ``x' = lam x + (1 - lam) x[partner]`` and ``lam loss(y) + (1 - lam) loss(y[partner])`` with ``lam ~ Beta(alpha, alpha)`` and a
    random permutation ``partner``, drawn once for every step: calls of the model in the same step with batches of one size
    are mixed alike, so gradient accumulation, closures and models that are called twice stay right. Acts on the first
    floating-point input of the model, batch first, and on the losses of ``torch.nn.functional`` for classes and numbers with one
    target (or one row of them) for each sample. Integers as inputs are left alone. Evaluations stay plain; the recorded
    training loss and accuracy are those of mixed inputs against the unmixed targets, so they look worse than they are.

    Helps: classifiers that fit their training set and generalize worse, noisy labels, calibration. Hurts: short trainings and
    small networks, which under-fit; inputs whose mean has no meaning; losses between outputs of the same model.
    Good first settings: alpha of 0.2 to 1. Clashes with cutmix and surrogate_loss.

    Args:
        alpha: how much is mixed: small leaves most batches nearly as they are, 1 draws lam evenly.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; :class:`trimtab.data.MixUp`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("mixup(alpha=0.4)")
    >>> print(training.changes[0])
    mixup with lambda from Beta(0.4, 0.4)
    """

    acts_on = "data"
    moment = "mix"
    takes = ("batch mix",)
    group = "augmentation"
    clashes = {"surrogate_loss": "it computes the loss anew, from targets that are not mixed"}

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def apply(self, training: TrainingLike) -> Change:
        def mix(x: torch.Tensor, generator: torch.Generator) -> Mix:
            return mixup(x, self.alpha, generator=generator)[1]

        return mix_batches(training, self.name, mix, f"mixup with lambda from Beta({self.alpha:g}, {self.alpha:g})")
