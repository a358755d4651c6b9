"""Layer normalization put into a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.insert import Site, check_place, insert_norms, plain_norms


@dataclass(frozen=True)
class LayerNorm(Technique):
    """Normalizes each sample over its own units, behind every hidden linear and convolution layer.

    ``y = (z - mean_u z) / sqrt(var_u z + eps) * weight + bias``, with mean and variance over the units of one sample (over
    channels and positions behind convolutions, that is a group norm with one group). The same in training and evaluation, for
    any batch size. ``weight`` and ``bias``, one per unit, join the optimizer in the group of the layer they follow. The
    last layer of the model and layers that a normalization already follows are left alone.

    Helps: deep networks with small or uneven batches, sequences. Hurts: where the norm of a sample carries its class.
    Good first setting: the default. Clashes with ``batch_norm``, ``group_norm``, ``rms_norm``.

    Args:
        after: ``"linear"``, ``"conv"`` or ``"all"`` layers; or ``"activation"``: behind the activations that follow them.
        eps: added to the variance.
        before: the same, for norms in front of the layers (all but the first), or between the layers and their activations.
        only: put norms only at layers (behind activations: at modules) whose name matches this pattern, ``"encoder.*"``.
        identity: set weight and bias from the first training batch so that, on average over it, the norm changes little.

    Source: Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450, 2016.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("layer_norm")
    >>> model[0].norm
    LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=True)
    """

    acts_on = "model"
    moment = "norm"
    takes = ("outputs",)
    group = "normalization"

    after: str = "all"
    eps: float = 1e-5
    before: str = ""
    only: str = "*"
    identity: bool = False

    def __post_init__(self) -> None:
        check_place(self)

    def plain(self, training: TrainingLike) -> str:
        return plain_norms(self, training, self._norm_for)

    def apply(self, training: TrainingLike) -> Change:
        return insert_norms(self, training, "layer normalization", self._norm_for)

    def _norm_for(self, site: Site) -> tuple[nn.Module, Callable]:
        options: dict[str, Any] = {"eps": self.eps, **site.options}
        if site.positions == 0:
            return nn.LayerNorm(site.features, **options), _call
        return nn.GroupNorm(1, site.features, **options), _call


def _call(norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
    return norm(output)
