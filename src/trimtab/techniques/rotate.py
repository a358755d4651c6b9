"""Random rotation of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import RandomRotation
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class Rotate(Technique):
    """Rotates every training image by a random angle.

    ``y(p) = x(R(-a) p)`` about the centre, with ``a`` uniform in ±degrees. Each image of each batch gets an angle
    of its own; evaluation sees the images as they are, labels stay, and the data order too. Acts on inputs of shape
    (N, C, H, W). With zoom or translate as well, affine does all in one interpolation.

    Helps: images whose class does not depend on how they are held, few of them. Hurts: where the angle is the answer
    (6 and 9), and networks that do not even fit the plain images. Good first setting: 15.

    Args:
        degrees: the largest angle, in (0, 180].
        padding: what is outside the image: "border" (the nearest pixel), "zeros" or "reflection".

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003;
    :class:`trimtab.data.RandomRotation`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("rotate(degrees=15)")
    >>> print(training.changes[0])
    images rotated by up to 15 degrees, in training only
    """

    acts_on = "data"
    moment = "geometry"
    takes = ("rotation",)
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    degrees: float = 15.0
    padding: str = "border"

    def __post_init__(self) -> None:
        self.part()

    def part(self, generator: torch.Generator | None = None) -> RandomRotation:
        """The augmentation itself."""
        return RandomRotation(self.degrees, padding=self.padding, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training,
            self,
            lambda x, generator: self.part(generator),
            f"images rotated by up to {self.degrees:g} degrees",
        )
