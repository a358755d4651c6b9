"""Z-loss beside cross-entropy losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.nn.z_loss import check_factor, z_loss
from trimtab.recipe import Change, LossCall, Technique, TrainingLike


@dataclass(frozen=True)
class ZLoss(Technique):
    """Keeps the normalizer of the softmax near 1: adds ``factor * log(sum exp x)^2`` to cross-entropy losses.

    The mean (or sum) over the targets that are not ignored, in every ``cross_entropy`` of the training; losses that are evaluated
    without gradients, and the recorded training loss, stay plain.

    Helps: logits that drift, losses that spike in long trainings with low precision, many classes. Hurts: factors so
    large that they bend the probabilities. Good first setting: 1e-4.

    Args:
        factor: the strength of the penalty.

    Source: Chowdhery et al., "PaLM", 2022; :class:`trimtab.nn.ZLoss`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("z_loss(factor=0.001)")
    >>> print(training.changes[0])
    z-loss of 0.001 beside cross-entropy losses
    """

    name = "z_loss"
    acts_on = "loss"
    moment = "loss"
    group = "regularization"
    clashes = {"surrogate_loss": "it takes the place of the cross entropy that z-loss belongs to"}

    factor: float = 1e-4

    def __post_init__(self) -> None:
        check_factor("z_loss", self.factor)

    def apply(self, training: TrainingLike) -> Change:
        acted = False

        def with_penalty(loss: LossCall) -> torch.Tensor | None:
            nonlocal acted
            if loss.name != "cross_entropy":
                return None
            acted = True
            own = loss()
            given = {key: loss.arguments[key] for key in ("ignore_index", "reduction") if key in loss.arguments}
            return own + z_loss(loss.input, loss.target, self.factor, **given).to(own.dtype)

        stop = training.change_loss(with_penalty)
        return Change(f"z-loss of {self.factor:g} beside cross-entropy losses", stop, lambda: acted)
