"""Random factors on the features of tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import FeatureScaling as FeatureScalingPart
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class FeatureScaling(Technique):
    """Multiplies every feature of every training row by a random factor near 1.

    ``y = x (1 + std z)`` with ``z`` standard normal for each entry, on inputs of shape (N, features);
    evaluation sees the rows as they are. Not standardization, which is also called feature scaling: that is
    standardize_inputs.

    Helps: measurements whose gain varies: sensors, concentrations, counts. Hurts: features with a large offset
    (years, kelvin), which it moves by more than they vary. Good first setting: 0.1.

    Args:
        std: the standard deviation of the factors, positive.

    Source: Um et al., "Data Augmentation of Wearable Sensor Data", ICMI 2017; :class:`trimtab.data.FeatureScaling`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(8, 2)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("feature_scaling(std=0.1)")
    >>> print(training.changes[0])
    features multiplied by 1 ± 0.1, in training only
    """

    acts_on = "data"
    moment = "values"
    inputs = ("tables",)
    group = "augmentation"

    std: float = 0.1

    def __post_init__(self) -> None:
        self.part()

    def part(self, generator: torch.Generator | None = None) -> FeatureScalingPart:
        """The augmentation itself."""
        return FeatureScalingPart(self.std, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training, self, lambda x, generator: self.part(generator), f"features multiplied by 1 ± {self.std:g}"
        )
