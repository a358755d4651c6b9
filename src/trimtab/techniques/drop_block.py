"""DropBlock at convolutions: dropout of contiguous regions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn.draws import check_choice
from trimtab.nn.drop_block import DropBlock as DropBlockPart
from trimtab.nn.drop_block import check_block
from trimtab.reading.order import CONV, behind_the_first, hidden_layers
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.hang_noise import check_rate, hang_noise
from trimtab.techniques.engines.surgery import nothing_for


@dataclass(frozen=True)
class DropBlock(Technique):
    """Sets blocks of neighbouring entries of feature maps to zero while training, at every hidden convolution.

    ``y = m x |m| / sum(m)`` with ``m`` 0 in randomly placed blocks and 1 elsewhere; nothing in evaluation. Masks come from a generator
    of their own, so the data order stays what it was.

    Helps: convolutional networks that fit their training set and generalize worse: a single dropped entry can be told from its
    neighbours. Hurts: small networks, and high rates early in training (hence the ramp). Good first setting: 0.1,
    with blocks of half the side of a map, and a ramp over most of the training.

    Args:
        p: share of entries to drop.
        block_size: side of a block; smaller maps are dropped whole.
        place: "before" every convolution but the model's first layer, or "after" every one but its last layer.
        ramp: number of steps, from here on, over which p rises from 0; 0 for none.

    Source: Ghiasi, Lin & Le, "DropBlock", NeurIPS 2018; :class:`trimtab.nn.DropBlock`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("drop_block(block_size=3)")
    >>> model[2].drop_block
    DropBlock(p=0.1, block_size=3)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"
    suite = Suite(network="cnn")

    p: float = 0.1
    block_size: int = 7
    place: str = "before"
    ramp: int = 0

    def __post_init__(self) -> None:
        check_rate(self)
        check_block(self.name, self.p, self.block_size)
        check_choice(self.name, "place", self.place, ("before", "after"))

    def apply(self, training: TrainingLike) -> Change:
        before = self.place == "before"
        hidden = behind_the_first(training) if before else hidden_layers(training)
        found = [(name, layer) for name, layer in hidden if isinstance(layer, CONV)]
        if not found:
            raise nothing_for(
                self, f"the model has no convolution {'behind' if before else 'before'} another layer with weights."
            )

        def make(_: nn.Module, generator: torch.Generator) -> nn.Module:
            return DropBlockPart(self.p, self.block_size, generator=generator)

        what = f"DropBlock with p={self.p:g} and blocks of {self.block_size}"
        return hang_noise(self, training, what, found, make, before=before, ramp=self.ramp)
