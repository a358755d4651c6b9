"""Random affine maps of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import RandomAffine
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs, check_scale


@dataclass(frozen=True)
class Affine(Technique):
    """Rotates, scales and moves every training image at random, in one interpolation.

    ``y(p) = x(R(-a) (p - t) / s)`` with ``a`` uniform in ±degrees, ``s`` in low..high and ``t`` in ±share of
    width and height. Each image of each batch gets a map of its own; evaluation sees the images as they are, labels
    stay, and the data order too. Acts on inputs of shape (N, C, H, W). rotate, zoom and translate in a row would
    blur the image three times.

    Helps: images whose class does not depend on pose, few of them. Hurts: where pose is the answer (6 and 9), and
    networks that do not even fit the plain images. Good first setting: the defaults.

    Args:
        degrees: the largest angle, in [0, 180].
        share: the largest way as a share of width and height, in [0, 1].
        low: the smallest factor, positive.
        high: the largest factor.
        padding: what is outside the image: "border" (the nearest pixel), "zeros" or "reflection".

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003;
    :class:`trimtab.data.RandomAffine`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("affine(degrees=5)")
    >>> print(training.changes[0])
    images rotated by up to 5 degrees, moved by up to 0.1 of their size, scaled by 0.9 to 1.1, in training only
    """

    acts_on = "data"
    moment = "geometry"
    takes = ("rotation", "shift", "zoom")
    inputs = ("images",)
    group = "augmentation"
    suite = Suite(network="images")

    degrees: float = 10.0
    share: float = 0.1
    low: float = 0.9
    high: float = 1.1
    padding: str = "border"

    def __post_init__(self) -> None:
        check_scale(self.low, self.high)
        self.part()

    def part(self, generator: torch.Generator | None = None) -> RandomAffine:
        """The augmentation itself."""
        return RandomAffine(self.degrees, self.share, (self.low, self.high), padding=self.padding, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training,
            self,
            lambda x, generator: self.part(generator),
            (
                f"images rotated by up to {self.degrees:g} degrees, moved by up to {self.share:g} of their size, scaled by "
                f"{self.low:g} to {self.high:g}"
            ),
        )
