"""Batch normalization put into a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.insert import Site, check_place, insert_norms, plain_norms
from trimtab.techniques.engines.surgery import training_now


@dataclass(frozen=True)
class BatchNorm(Technique):
    """Normalizes each unit's pre-activation over the batch, behind every hidden linear and convolution layer.

    ``y = (z - mean_B z) / sqrt(var_B z + eps) * weight + bias``, with mean and variance over the samples (and positions)
    of the batch while training, and their running averages in evaluation. ``weight`` and ``bias``, one per unit, join
    the optimizer in the group of the layer they follow. The last layer of the model and layers that a normalization
    already follows are left alone. A batch of one sample uses the running averages.

    Helps: deep plain networks, saturating activations, large learning rates, careless initialization.
    Hurts: batches of fewer than about 8 samples, unshuffled data, recurrent layers, where predictions must not depend on
    a batch. Good first setting: the default. Clashes with ``layer_norm``, ``group_norm``, ``rms_norm``.

    Args:
        after: ``"linear"``, ``"conv"`` or ``"all"`` layers; or ``"activation"``: behind the activations that follow them.
        momentum: share of the new batch in the running averages.
        eps: added to the variance.
        before: the same, for norms in front of the layers (all but the first), or between the layers and their activations.
        only: put norms only at layers (behind activations: at modules) whose name matches this pattern, ``"encoder.*"``.
        identity: set weight and bias from the first training batch so that the norm changes nothing at the start, for networks
            that are trained already.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("batch_norm")
    >>> [name for name, _ in model.named_parameters()]
    ['0.weight', '0.bias', '0.norm.weight', '0.norm.bias', '2.weight', '2.bias']
    """

    acts_on = "model"
    moment = "norm"
    takes = ("outputs",)
    group = "normalization"

    after: str = "all"
    momentum: float = 0.1
    eps: float = 1e-5
    before: str = ""
    only: str = "*"
    identity: bool = False

    def __post_init__(self) -> None:
        check_place(self)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1]: it is the share of the new batch.")
        if not self.eps > 0:
            raise ValueError(f"eps={self.eps} must be positive: what a channel that is constant is divided by.")

    def plain(self, training: TrainingLike) -> str:
        return plain_norms(self, training, self._norm_for)

    def apply(self, training: TrainingLike) -> Change:
        return insert_norms(self, training, "batch normalization", self._norm_for)

    def _norm_for(self, site: Site) -> tuple[nn.Module, Callable]:
        options: dict[str, Any] = {"eps": self.eps, "momentum": self.momentum, **site.options}
        if site.positions == 0:
            return nn.BatchNorm1d(site.features, **options), _linear
        kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[site.positions]
        return kind(site.features, **options), _call


def _linear(norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
    return _call(norm, output.reshape(-1, output.shape[-1])).reshape(output.shape)


def _call(norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # converted since
        return norm(output)
    if training_now(norm) and output.numel() > output.shape[1]:
        return norm(output)
    return F.batch_norm(output, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
