"""Gaussian noise on inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import FeatureNoise, GaussianNoise
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class Noise(Technique):
    """Adds normal noise to the inputs of the training: images, tables or sequences.

    ``y = x + std s z`` with ``z`` standard normal for each entry, and ``s`` the standard deviation of its feature in a table of
    shape (N, features), that of all entries in other inputs; both over all training batches so far. With ``relative=False``,
    ``y = x + std z``. Evaluation sees the inputs as they are, labels stay, and the data order too.

    Helps: networks that learn the training set by heart; small noise acts like a penalty on the slope of the network. Hurts:
    columns that are codes of categories, and noise as large as what tells the classes apart. Good first setting: 0.1.

    Args:
        std: the standard deviation of the noise, positive: as a share of the input's, or in its unit.
        relative: whether it is a share.

    Source: Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7, 1995;
    :class:`trimtab.data.FeatureNoise`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(8, 2)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("noise(std=0.2)")
    >>> print(training.changes[0])
    noise of 0.2 standard deviations on inputs, in training only
    """

    acts_on = "data"
    moment = "values"
    group = "augmentation"

    std: float = 0.1
    relative: bool = True

    def __post_init__(self) -> None:
        GaussianNoise(self.std)

    def apply(self, training: TrainingLike) -> Change:
        def make(x: torch.Tensor, generator: torch.Generator) -> GaussianNoise | FeatureNoise:
            if not self.relative:
                return GaussianNoise(self.std, generator=generator)
            return FeatureNoise(x.shape[1] if x.ndim == 2 else None, self.std, generator=generator)

        unit = " standard deviations" if self.relative else ""
        return augment_inputs(training, self, make, f"noise of {self.std:g}{unit} on inputs")
