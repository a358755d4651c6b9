"""What the recorded series and profiles are called, and what they tell.

A signal's series or profile has its line here; ``tests/report/test_plots.py`` walks over all signals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A recorded quantity.

    Args:
        title: of its picture.
        tells: what it is, and how to read it.
        share: of a profile: it lies between 0 and 1.
        owed: of a profile: its absence is worth a line.
    """

    title: str
    tells: str
    share: bool = False
    owed: bool = False


PROFILES = {
    "grad_norms": Measured("Gradient profile", "How much gradient reaches each layer, input at the top. Even colours are healthy: a slope over depth is a vanishing or exploding gradient.", owed=True),
    "activation_std": Measured("Activation spread", "Standard deviation of each layer's output. It should neither die out nor blow up with depth.", owed=True),
    "dead_units": Measured("Dead units", "Share of units that were zero for every sample seen.", share=True, owed=True),
    "activation_mean": Measured("Activation mean", "Mean of each layer's output."),
    "update_ratio": Measured("Update ratio", "Size of a step relative to the weights it changes; about 1e-3 is usual."),
    "shrinkage": Measured("Shrinkage of the weights", "Share of a weight that one step takes away along the weight itself; negative where it grows. About the learning rate times the weight decay is usual."),
    "shrinkage_share": Measured("Shrinkage in the updates", "How much of an update only makes the weight smaller: 1 all of it, 0 none, negative where it grows."),
    "zeros": Measured("Zero weights", "Share of a weight's entries that are exactly zero.", share=True),
    "near_zeros": Measured("Weights next to zero", "Share of a weight's entries below a thousandth of its usual size, zeros included.", share=True),
}  # fmt: skip
SERIES = {
    "loss": Measured("loss", ""),
    "accuracy": Measured("accuracy", "Share of right predictions."),
    "lr": Measured("learning rate", ""),
    "grad_norm": Measured("gradient norm", "Norm of the whole gradient. Single peaks far above the rest are an exploding gradient."),
    "movement": Measured("movement of the weights", "Distance of the weights from where they started, relative to their size there."),
    "input_largest": Measured("input, largest feature", "Root mean square of the largest input feature; about 1 is usual."),
    "input_typical": Measured("input, typical feature", "Median over the input features of their root mean square; about 1 is usual."),
    "input_offset": Measured("input, offset", "Median over the input features of their mean relative to their spread; 0 is centred."),
    "input_condition": Measured("input, condition number", "How unlike the input features are in size and direction: 1 is ideal, and gradient descent takes as many more steps as this is larger."),
    "label_grouping": Measured("label grouping", "How alike the classes in a batch are: 0 as in shuffled data, 1 one class in each batch."),
    "label_grouping_p": Measured("label grouping, by chance", "Probability that shuffled data would have batches so unlike each other."),
}  # fmt: skip


def of_series(name: str) -> Measured:
    """What is known of a series by the name of its quantity; of others what the name says.

    >>> of_series("grad_norm").title, of_series("printed_f1").title
    ('gradient norm', 'printed f1')
    """
    return SERIES.get(name.lower()) or Measured(name.replace("_", " "), _origin(name))


def _origin(name: str) -> str:
    if re.match(r"metric\b", name):
        return "Read by --metric from what the script printed."
    return "Read from what the script printed." if re.match(r"printed\b", name) else ""
