"""CutOut: covering a square of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import CutOut
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class Cutout(Technique):
    """Covers a square of every training image, at a random place.

    ``y(p) = fill`` where p lies in the square, else ``x(p)``; the centre of the square is uniform over all pixels,
    so that part of it may lie outside. Each image of each batch gets a place of its own; evaluation sees the images
    as they are, labels stay, and the data order too. Acts on inputs of shape (N, C, H, W).

    Helps: objects that show more than one part of theirs. Hurts: small objects, which it covers whole. Good first
    setting: 0.5 for objects that fill the image, 0.25 otherwise.

    Args:
        size: the side of the square as a share of the side of the image, in (0, 1].
        fill: the value; 0 is the mean of standardized images, and black in those of 0..1.

    Source: DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017;
    :class:`trimtab.data.CutOut`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("cutout(size=0.25)")
    >>> print(training.changes[0])
    squares of 0.25 of the side covered with 0, in training only
    """

    acts_on = "data"
    moment = "parts"
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    size: float = 0.5
    fill: float = 0.0

    def __post_init__(self) -> None:
        self.part()

    def part(self, generator: torch.Generator | None = None) -> CutOut:
        """The augmentation itself."""
        return CutOut(self.size, self.fill, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training,
            self,
            lambda x, generator: self.part(generator),
            f"squares of {self.size:g} of the side covered with {self.fill:g}",
        )
