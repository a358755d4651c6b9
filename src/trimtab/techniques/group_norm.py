"""Group normalization put into a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab import nn as tnn
from trimtab.nn.layouts import GroupNormLast
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.converting import fitting_groups
from trimtab.techniques.engines.insert import Site, check_place, insert_norms, plain_norms


@dataclass(frozen=True)
class GroupNorm(Technique):
    """Normalizes each sample over groups of its channels, behind every hidden linear and convolution layer.

    ``y = (z - mean_g z) / sqrt(var_g z + eps) * weight + bias``, with mean and variance over the channels of one group and,
    behind convolutions, all positions of one sample. The same in training and evaluation, for any batch size. ``weight`` and
    ``bias``, one per channel, join the optimizer in the group of the layer they follow. The last layer of the model and layers
    that a normalization already follows are left alone.

    Helps: convolutional networks with small batches: detection, segmentation, video. Hurts: with large batches batch norm usually
    generalizes a little better. Good first setting: the default. Clashes with ``batch_norm``, ``layer_norm``, ``rms_norm``.

    Args:
        groups: how many; where they do not divide the channels, or leave fewer than 2 in each (8 behind linear layers), the next
            smaller number that does.
        after: ``"linear"``, ``"conv"`` or ``"all"`` layers; or ``"activation"``: behind the activations that follow them.
        eps: added to the variance.
        before: the same, for norms in front of the layers (all but the first), or between the layers and their activations.
        only: put norms only at layers (behind activations: at modules) whose name matches this pattern, ``"encoder.*"``.
        identity: set weight and bias from the first training batch so that, on average over it, the norm changes little.

    Source: Wu & He, "Group Normalization", ECCV 2018.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("group_norm")
    >>> model[0].norm.num_groups
    4
    """

    acts_on = "model"
    moment = "norm"
    takes = ("outputs",)
    group = "normalization"

    groups: int = 32
    after: str = "all"
    eps: float = 1e-5
    before: str = ""
    only: str = "*"
    identity: bool = False

    def __post_init__(self) -> None:
        check_place(self)
        if self.groups < 1:
            raise ValueError(f"groups={self.groups} must be at least 1.")

    def plain(self, training: TrainingLike) -> str:
        return plain_norms(self, training, self._norm_for)

    def apply(self, training: TrainingLike) -> Change:
        return insert_norms(self, training, "group normalization", self._norm_for)

    def _norm_for(self, site: Site) -> tuple[nn.Module, Callable]:
        options: dict[str, Any] = {"eps": self.eps, **site.options}
        groups = fitting_groups(site.features, self.groups, 2 if site.positions else 8)
        return (tnn.GroupNorm if site.positions else GroupNormLast)(groups, site.features, **options), _call


def _call(norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
    return norm(output)
