"""What the losses of ``torch.nn.functional`` mean: what they are given, and how they take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Output = Literal["logits", "log_probabilities", "binary_logits", "probabilities", "scores", "numbers", "distances"]
Target = Literal["classes", "binary", "signs", "sets of classes", "shares", "numbers", "others"]


@dataclass(frozen=True)
class Meaning:
    """One loss.

    Attributes:
        output: what its input is.
        target: what the input is held against; ``"others"`` for other outputs of the model, or more than one target for each sample.
        likelihood: it is the negative logarithm of the probability of the target's class.
        weight: what its argument ``weight`` is of: ``"classes"``, ``"entries"``, or it has none.
    """

    output: Output
    target: Target
    likelihood: bool = False
    weight: Literal["classes", "entries", ""] = ""

    @property
    def scored(self) -> bool:
        """Whether what the model says are scores of classes, in any form, and no numbers of its own."""
        return self.target != "others" and self.output not in ("numbers", "distances")


LOSSES: dict[str, Meaning] = {
    "cross_entropy": Meaning("logits", "classes", likelihood=True, weight="classes"),
    "nll_loss": Meaning("log_probabilities", "classes", likelihood=True, weight="classes"),
    "binary_cross_entropy": Meaning("probabilities", "binary", weight="entries"),
    "binary_cross_entropy_with_logits": Meaning("binary_logits", "binary", weight="entries"),
    "mse_loss": Meaning("numbers", "numbers"),
    "l1_loss": Meaning("numbers", "numbers"),
    "smooth_l1_loss": Meaning("numbers", "numbers"),
    "huber_loss": Meaning("numbers", "numbers"),
    "kl_div": Meaning("log_probabilities", "shares"),
    "poisson_nll_loss": Meaning("numbers", "numbers"),
    "gaussian_nll_loss": Meaning("numbers", "numbers"),
    "hinge_embedding_loss": Meaning("distances", "signs"),
    "margin_ranking_loss": Meaning("scores", "others"),
    "soft_margin_loss": Meaning("scores", "signs"),
    "multilabel_margin_loss": Meaning("scores", "sets of classes"),
    "multilabel_soft_margin_loss": Meaning("binary_logits", "sets of classes", weight="classes"),
    "multi_margin_loss": Meaning("scores", "classes", weight="classes"),
    "cosine_embedding_loss": Meaning("distances", "others"),
    "triplet_margin_loss": Meaning("distances", "others"),
    "ctc_loss": Meaning("log_probabilities", "others"),
}
"""Every loss function of torch that takes an output of a model, by its name."""
