"""Random translation of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import RandomTranslation
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class Translate(Technique):
    """Moves every training image by a random way.

    ``y(p) = x(p - t)`` with ``t`` uniform in ±share of the width and of the height. Each image of each batch gets
    a way of its own; evaluation sees the images as they are, labels stay, and the data order too. Acts on inputs of
    shape (N, C, H, W). With rotate or zoom as well, affine does all in one interpolation.

    Helps: objects that are not always centred; networks without pooling most. Hurts: where position is the answer,
    and objects that are moved out of the image. Good first setting: 0.1.

    Args:
        share: the largest way as a share of width and height, in (0, 1].
        padding: what is outside the image: "border" (the nearest pixel), "zeros" or "reflection".

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003;
    :class:`trimtab.data.RandomTranslation`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("translate(share=0.1)")
    >>> print(training.changes[0])
    images moved by up to 0.1 of their size, in training only
    """

    acts_on = "data"
    moment = "geometry"
    takes = ("shift",)
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    share: float = 0.1
    padding: str = "border"

    def __post_init__(self) -> None:
        self.part()

    def part(self, generator: torch.Generator | None = None) -> RandomTranslation:
        """The augmentation itself."""
        return RandomTranslation(self.share, padding=self.padding, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training,
            self,
            lambda x, generator: self.part(generator),
            f"images moved by up to {self.share:g} of their size",
        )
