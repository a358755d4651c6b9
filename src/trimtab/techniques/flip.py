"""Random flips of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.data import RandomHorizontalFlip, RandomVerticalFlip
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs

FLIPS = {
    "horizontal": (RandomHorizontalFlip,),
    "vertical": (RandomVerticalFlip,),
    "both": (RandomHorizontalFlip, RandomVerticalFlip),
}


@dataclass(frozen=True)
class Flip(Technique):
    """Mirrors training images at random.

    ``y(p) = x(-p)`` along the axis, with probability p for each image of each batch; no value changes. With ``"both"``, each of the
    two flips is drawn by itself. Evaluation sees the images as they are, labels stay, and the data order too. Acts on
    inputs of shape (N, C, H, W).

    Helps: photographs (horizontal), images from above or through a microscope (both). Hurts: writing, digits, faces of clocks: a
    mirrored 3 is no 3. Good first setting: the default.

    Args:
        p: the probability of flipping an image, in (0, 1].
        direction: "horizontal" (left and right change places), "vertical" or "both".

    Source: Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012;
    :class:`trimtab.data.RandomHorizontalFlip`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("flip")
    >>> print(training.changes[0])
    images flipped (horizontal) with probability 0.5, in training only
    """

    acts_on = "data"
    moment = "geometry"
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    p: float = 0.5
    direction: str = "horizontal"

    def __post_init__(self) -> None:
        if self.direction not in FLIPS:
            raise ValueError(f"direction={self.direction!r} must be one of {', '.join(map(repr, FLIPS))}.")
        self.part()

    def part(self, generator: torch.Generator | None = None) -> nn.Sequential:
        """The augmentation itself."""
        return nn.Sequential(*(flip(self.p, generator=generator) for flip in FLIPS[self.direction]))

    def apply(self, training: TrainingLike) -> Change:
        summary = f"images flipped ({self.direction}) with probability {self.p:g}"
        return augment_inputs(training, self, lambda x, generator: self.part(generator), summary)
