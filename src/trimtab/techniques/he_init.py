"""He initialization of linear and convolution layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.reading.following import Following
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.initialize import check_distribution, draw_anew, fans, fill


@dataclass(frozen=True)
class HeInit(Technique):
    """Draws all weights anew so that ReLU layers keep the size of their signal, and sets biases to zero.

    ``w ~ N(0, gain^2 / fan_in)`` (variance): 2 / fan_in where a ReLU follows, and 1 / fan_in for the last layer, which none follows. The gain
    is that of the activation that follows the layer in the code of the model (:func:`trimtab.nn.calculate_gain`): sqrt(2) for ReLU, 1.53 for
    GELU, 1.68 for SiLU, 5/3 for tanh, 4 for sigmoid (torch: 1), 1 for none. Where it cannot be read, a ReLU is assumed, and the change says so.

    Helps: deep ReLU networks whose initial activations shrink or grow with depth. Hurts: pretrained weights, which it throws
    away; saturating activations (use ``xavier_init``). Clashes with ``xavier_init``, ``orthogonal_init``, ``lsuv_init``. Good first
    setting: the default.

    Args:
        distribution: ``"normal"``, or ``"uniform"`` on [-r, r] with r = gain sqrt(3 / fan_in), of the same variance.
        mode: ``"fan_in"`` keeps the size of activations, ``"fan_out"`` that of gradients.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015.

    >>> import trimtab as tt
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("he_init")
    >>> abs(model[0].weight.var().item() * 400 / 2 - 1) < 0.05
    True
    >>> print(training.changes[0])
    he_init of 2 layers: 0, 2
      0: gain 1.414: ReLU follows
      2: gain 1: its output is the model's
    """

    acts_on = "model"
    moment = "draw"
    takes = ("weights",)
    group = "optimization"

    distribution: str = "normal"
    mode: str = "fan_in"

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        if self.mode not in ("fan_in", "fan_out"):
            raise ValueError(f"mode={self.mode!r} must be 'fan_in' (activations) or 'fan_out' (gradients).")

    def plain(self, training: TrainingLike) -> str:
        mode = "" if self.mode == "fan_in" else ", mode='fan_out'"
        return (
            f'nn.init.kaiming_{self.distribution}_(layer.weight{mode}, nonlinearity="relu") and nn.init.zeros_(layer.bias) for every linear '
            'and convolution layer ("linear" for the last one, and the name of another activation). It comes close: it draws other random '
            "numbers."
        )

    def apply(self, training: TrainingLike) -> Change:
        def draw(layer: Any, weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
            fan = fans(layer, weight)[self.mode == "fan_out"]
            fill(weight, gain / math.sqrt(fan), self.distribution, generator)

        return draw_anew(self, training, draw, otherwise=Following(math.sqrt(2), "assumed ReLU"))
