"""Xavier initialization of linear and convolution layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.initialize import check_distribution, check_gain, draw_anew, fans, fill


@dataclass(frozen=True)
class XavierInit(Technique):
    """Draws all weights anew so that activations and gradients keep their size through near-linear layers.

    ``w ~ N(0, gain^2 * 2 / (fan_in + fan_out))`` (variance; 003's second argument is the standard deviation), biases zero. The gain is that of
    the activation that follows the layer in the code of the model: 5/3 for tanh, 4 for sigmoid, whose slope at 0 is 1/4 (torch has 1, with
    which signal and gradient shrink fourfold a layer), 1 for none and for SELU (torch: 3/4); others from :func:`trimtab.nn.calculate_gain`. Where it cannot be read, 1
    is taken, and the change says so.

    Helps: tanh and sigmoid networks that start saturated or too small. Hurts: pretrained weights, which it throws away;
    deep ReLU networks (use ``he_init``). Clashes with ``he_init``, ``orthogonal_init``, ``lsuv_init``. Good first setting: the default;
    ``gain=1.0`` is the formula of the paper for every layer.

    Args:
        gain: one gain for all layers. By default each has its own.
        distribution: ``"normal"``, or ``"uniform"`` on [-r, r] with r = gain sqrt(6 / (fan_in + fan_out)), of the same variance.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010; seed 003.

    >>> import trimtab as tt
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("xavier_init(gain=1.0)")
    >>> abs(model[0].weight.var().item() * 350 - 1) < 0.05
    True
    >>> print(training.undo().apply("xavier_init").changes[0])
    xavier_init of 2 layers: 0, 2
      0: gain 1.667: Tanh follows
      2: gain 1: its output is the model's
    """

    acts_on = "model"
    moment = "draw"
    takes = ("weights",)
    group = "optimization"

    gain: float | None = None
    distribution: str = "normal"

    def __post_init__(self) -> None:
        check_gain(self.gain)
        check_distribution(self.distribution)

    def plain(self, training: TrainingLike) -> str:
        gain = "nn.init.calculate_gain(...)" if self.gain is None else f"{self.gain:g}"
        return (
            f"nn.init.xavier_{self.distribution}_(layer.weight, gain={gain}) and nn.init.zeros_(layer.bias) for every linear and convolution "
            "layer. It comes close: it draws other random numbers."
        )

    def apply(self, training: TrainingLike) -> Change:
        def draw(layer: Any, weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
            fill(weight, gain * math.sqrt(2 / sum(fans(layer, weight))), self.distribution, generator)

        return draw_anew(self, training, draw, self.gain)
