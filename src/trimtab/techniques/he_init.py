"""He initialization of linear and convolution layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.initialize import draw_anew


@dataclass(frozen=True)
class HeInit(Technique):
    """Draws all weights anew so that ReLU layers keep the size of their signal, and sets biases to zero.

    ``w ~ N(0, 2 / fan_in)`` (variance) for hidden layers, ``N(0, 1 / fan_in)`` for the last, which no ReLU follows.

    Helps: deep ReLU networks whose initial activations shrink or grow with depth. Hurts: pretrained weights, which it throws
    away; saturating activations (use ``xavier_init``). Clashes with ``xavier_init``.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("he_init")
    >>> abs(model[0].weight.var().item() * 400 / 2 - 1) < 0.05
    True
    """

    acts_on = "model"
    clashes = {"xavier_init": "both would draw the same weights"}

    def apply(self, training: TrainingLike) -> Change:
        def draw(weight: torch.Tensor, is_last: bool, generator: torch.Generator) -> None:
            nn.init.kaiming_normal_(weight, nonlinearity="linear" if is_last else "relu", generator=generator)

        return draw_anew(self, training, draw)
