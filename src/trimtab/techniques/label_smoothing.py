"""Label smoothing in cross-entropy losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.nn.cross_entropy import check_smoothing, spread
from trimtab.recipe import Change, LossCall, Technique, TrainingLike


@dataclass(frozen=True)
class LabelSmoothing(Technique):
    """Trains on targets that leave a little probability to the other classes.

    ``q = (1 - smoothing) onehot(y) + smoothing / K`` over K classes, in every ``cross_entropy`` of the training; losses that are
    evaluated without gradients, and the recorded training loss, stay plain. Class weights and ``ignore_index`` keep their
    meaning. With ``convention="seed"`` the true class gets exactly ``1 - smoothing`` and each other one ``smoothing / (K - 1)``.

    Helps: networks that grow too sure of themselves, noisy labels, calibration. Hurts: distillation from the trained network
    (Müller et al. 2019), and rankings of how sure it is. Good first setting: 0.1.

    Args:
        smoothing: the probability that is spread, strictly between 0 and 1.
        convention: "torch" (over all classes) or "seed" (over the others).

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016; :func:`trimtab.nn.functional.cross_entropy`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("label_smoothing(smoothing=0.1)")
    >>> print(training.changes[0])
    label smoothing of 0.1 (torch's convention) in cross-entropy losses
    """

    acts_on = "loss"
    moment = "loss"
    group = "regularization"

    smoothing: float = 0.1
    convention: str = "torch"

    def __post_init__(self) -> None:
        check_smoothing("label_smoothing", self.smoothing, self.convention, positive=True, name="smoothing")

    def plain(self, training: TrainingLike) -> str:
        if self.convention != "torch":
            return ""
        return f"label_smoothing={self.smoothing:g} in the cross_entropy of the training. The loss that is printed has it too, then."

    def apply(self, training: TrainingLike) -> Change:
        acted = False

        def smoothed(loss: LossCall) -> torch.Tensor | None:
            nonlocal acted
            if loss.name != "cross_entropy":
                return None
            acted = True
            if self.convention == "torch":
                return loss(label_smoothing=self.smoothing)
            return loss(label_smoothing=spread(self.smoothing, loss.input))

        stop = training.change_loss(smoothed)
        summary = f"label smoothing of {self.smoothing:g} ({self.convention}'s convention) in cross-entropy losses"
        return Change(summary, stop, lambda: acted)
