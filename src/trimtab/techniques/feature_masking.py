"""Masking the features of tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import FeatureMasking as FeatureMaskingPart
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class FeatureMasking(Technique):
    """Hides random entries of every training row behind the mean of their feature, or behind 0.

    ``y = m mean + (1 - m) x`` with ``m`` 1 with probability p and 0 otherwise for each entry, and the means over all training batches
    so far, on inputs of shape (N, features). Unlike dropout, the other entries are not scaled up. Evaluation sees the rows
    as they are.

    Helps: tables whose features repeat each other, and where values will be missing. Hurts: answers that hang on one feature.
    Good first setting: 0.1.

    Args:
        p: the probability of hiding an entry, in (0, 1].
        fill: "mean" or "zero".

    Source: Yoon et al., "VIME: Extending the Success of Self- and Semi-supervised Learning to Tabular Domain", NeurIPS 2020;
    :class:`trimtab.data.FeatureMasking`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(8, 2)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("feature_masking(p=0.2)")
    >>> print(training.changes[0])
    features hidden behind their mean with probability 0.2, in training only
    """

    acts_on = "data"
    moment = "parts"
    inputs = ("tables",)
    group = "augmentation"

    p: float = 0.1
    fill: str = "mean"

    def __post_init__(self) -> None:
        FeatureMaskingPart(1, self.p, self.fill)

    def apply(self, training: TrainingLike) -> Change:
        def make(x: torch.Tensor, generator: torch.Generator) -> FeatureMaskingPart:
            return FeatureMaskingPart(x.shape[-1] if x.ndim else 1, self.p, self.fill, generator=generator)

        behind = "their mean" if self.fill == "mean" else "0"
        return augment_inputs(training, self, make, f"features hidden behind {behind} with probability {self.p:g}")
