"""CutMix of the images that a training sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data.mixup import Mix, cutmix
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.mixing import check_alpha, mix_batches


@dataclass(frozen=True)
class Cutmix(Technique):
    """Trains on images with a box of another image of the batch, and on the targets of both by their areas.

    The box has the sides ``sqrt(1 - lam0)`` of the image's, ``lam0 ~ Beta(alpha, alpha)``, around a pixel drawn evenly; what of it
    is outside is lost, and the loss is ``lam loss(y) + (1 - lam) loss(y[partner])`` with lam the area that is left. Drawn once for
    every step, like :class:`~trimtab.techniques.Mixup`, whose words on losses, inputs and records hold here, too. The first
    floating-point input of the model must be images ``(N, C, H, W)``, with one target (or one row of them) for each.

    Helps: image classifiers that fit their training set and generalize worse; keeps the textures that mixup blurs.
    Hurts: small networks, which under-fit, and images whose classes show in one place. Good first setting: alpha=1. Clashes with
    mixup and surrogate_loss.

    Args:
        alpha: how evenly sizes are drawn: 1 draws the box's area evenly, before its edges are cut off.

    Source: Yun et al., "CutMix", ICCV 2019; :class:`trimtab.data.CutMix`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("cutmix")
    >>> print(training.changes[0])
    cutmix with boxes by Beta(1, 1)
    """

    acts_on = "data"
    moment = "mix"
    takes = ("batch mix",)
    inputs = ("images",)
    group = "augmentation"
    clashes = {"surrogate_loss": "it computes the loss anew, from targets that are not mixed"}
    suite = Suite(network="images")

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def apply(self, training: TrainingLike) -> Change:
        def mix(x: torch.Tensor, generator: torch.Generator) -> Mix:
            return cutmix(x, self.alpha, generator=generator)[1]

        return mix_batches(training, self.name, mix, f"cutmix with boxes by Beta({self.alpha:g}, {self.alpha:g})")
