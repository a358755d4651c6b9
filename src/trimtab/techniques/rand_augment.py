"""RandAugment: operations drawn from a list for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import RandAugment as RandAugmentPart
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class RandAugment(Technique):
    """Applies to every training image some operations drawn from a list of 14, all of one magnitude.

    ``y = o2(o1(x))`` with operations drawn for each image: identity, rotate, shear and translate along both axes,
    brightness, contrast, color, sharpness, solarize, posterize, autocontrast, equalize; :class:`trimtab.data.RandAugment` says
    how far each goes. Evaluation sees the images as they are, labels stay, and the data order too. Acts on inputs of shape
    (N, C, H, W), whose values must lie in ``value_range``.

    Helps: photographs and large networks. Hurts: images whose class hangs on color or pose, small images, where little is left
    after two strong operations. Good first setting: 2 operations of magnitude 9; less for small networks.

    Args:
        ops: how many operations for each image.
        magnitude: their strength, from 0 to 10.
        value_range: the lowest and the highest value that a pixel can have, after normalization.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", NeurIPS 2020.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("rand_augment(magnitude=5)")
    >>> print(training.changes[0])
    RandAugment with 2 operations of magnitude 5, in training only
    """

    acts_on = "data"
    moment = "values"
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(text="rand_augment(value_range=(-1.0, 1.0))", network="images")

    ops: int = 2
    magnitude: float = 9.0
    value_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", self.part().value_range)  # TOML reads it back as a list

    def part(self, generator: torch.Generator | None = None) -> RandAugmentPart:
        """The augmentation itself."""
        return RandAugmentPart(self.ops, self.magnitude, self.value_range, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        summary = f"RandAugment with {self.ops} operations of magnitude {self.magnitude:g}"
        return augment_inputs(training, self, lambda x, generator: self.part(generator), summary, host=True)
