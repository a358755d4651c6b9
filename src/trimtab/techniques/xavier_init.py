"""Xavier initialization of linear and convolution layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.initialize import draw_anew


@dataclass(frozen=True)
class XavierInit(Technique):
    """Draws all weights anew so that activations and gradients keep their size through near-linear layers.

    ``w ~ N(0, gain^2 * 2 / (fan_in + fan_out))`` (variance), biases zero.

    Helps: tanh and sigmoid networks that start saturated or too small. Hurts: pretrained weights, which it throws away;
    deep ReLU networks (use ``he_init``). Clashes with ``he_init``.

    Args:
        gain: 1 for linear layers, 5/3 for tanh, 4 for sigmoid (whose slope at 0 is 1/4).

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("xavier_init")
    >>> abs(model[0].weight.var().item() * 350 - 1) < 0.05
    True
    """

    acts_on = "model"
    clashes = {"he_init": "both would draw the same weights"}

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise ValueError(f"gain={self.gain} must be positive: it scales the standard deviation of the weights.")

    def apply(self, training: TrainingLike) -> Change:
        def draw(weight: torch.Tensor, is_last: bool, generator: torch.Generator) -> None:
            nn.init.xavier_normal_(weight, gain=self.gain, generator=generator)

        return draw_anew(self, training, draw)
