"""A penalty on confident predictions in cross-entropy losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.nn.activation_penalties import confidence_penalty
from trimtab.reading.losses import LOSSES
from trimtab.recipe import Change, LossCall, Technique, TrainingLike
from trimtab.techniques.engines.penalties import check_factors


@dataclass(frozen=True)
class ConfidencePenalty(Technique):
    """Rewards predictions for being unsure: the entropy of the softmax, times a factor, comes off the loss.

    ``loss - factor * H(softmax(x))`` in every ``cross_entropy`` and ``nll_loss`` of the training, reduced as the loss is: the mean or sum
    over all targets that are not ``ignore_index``. Class weights do not weigh the entropy. Losses that are evaluated without
    gradients, and the recorded training loss, stay plain.

    Helps: networks that grow too sure of themselves, noisy labels, calibration. Hurts: under-fitting networks.
    Good first settings: 0.1 for images, 1 to 2.5 for language.

    Args:
        factor: beta, the worth of a nat of entropy, positive.

    Source: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", ICLR 2017 workshop;
    :func:`trimtab.nn.functional.confidence_penalty`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("confidence_penalty(factor=0.1)")
    >>> print(training.changes[0])
    confidence penalty of 0.1 in cross-entropy losses
    """

    acts_on = "loss"
    moment = "loss"
    group = "regularization"

    factor: float = 0.1

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)

    def apply(self, training: TrainingLike) -> Change:
        acted = False

        def less_sure(loss: LossCall) -> torch.Tensor | None:
            nonlocal acted
            if not LOSSES[loss.name].likelihood:
                return None
            acted = True
            return loss() + self.factor * _reduced(confidence_penalty(loss.input), loss)

        stop = training.change_loss(less_sure)
        return Change(f"confidence penalty of {self.factor:g} in cross-entropy losses", stop, lambda: acted)


def _reduced(values: torch.Tensor, loss: LossCall) -> torch.Tensor:
    """One value for each target, reduced as the loss is."""
    count: torch.Tensor | int = values.numel()
    if not loss.target.is_floating_point():  # classes
        counted = loss.target != loss.arguments.get("ignore_index", -100)
        values, count = torch.where(counted, values, 0), counted.sum()
    reduction = loss.arguments.get("reduction", "mean")
    return values if reduction == "none" else values.sum() / (count if reduction == "mean" else 1)
