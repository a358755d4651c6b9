"""Random scaling of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import RandomScale
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs, check_scale


@dataclass(frozen=True)
class Zoom(Technique):
    """Enlarges or shrinks every training image by a random factor.

    ``y(p) = x(p / s)`` about the centre, with ``s`` uniform in low..high; above 1 enlarges. Each image of each
    batch gets a factor of its own; evaluation sees the images as they are, labels stay, and the data order too. Acts
    on inputs of shape (N, C, H, W). With rotate or translate as well, affine does all in one interpolation.

    Helps: objects seen from different distances. Hurts: where size is the answer, and details that shrinking loses.
    Good first setting: 0.8 to 1.2.

    Args:
        low: the smallest factor, positive.
        high: the largest factor.
        padding: what is outside the image: "border" (the nearest pixel), "zeros" or "reflection".

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003;
    :class:`trimtab.data.RandomScale`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("zoom(low=0.9, high=1.1)")
    >>> print(training.changes[0])
    images scaled by 0.9 to 1.1, in training only
    """

    acts_on = "data"
    moment = "geometry"
    takes = ("zoom",)
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    low: float = 0.8
    high: float = 1.2
    padding: str = "border"

    def __post_init__(self) -> None:
        check_scale(self.low, self.high)
        self.part()

    def part(self, generator: torch.Generator | None = None) -> RandomScale:
        """The augmentation itself."""
        return RandomScale((self.low, self.high), padding=self.padding, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training, self, lambda x, generator: self.part(generator), f"images scaled by {self.low:g} to {self.high:g}"
        )
