"""RMS normalization put into a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab import nn as tnn
from trimtab.nn.layouts import RMSNormFirst
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.insert import Site, check_place, insert_norms, plain_norms


@dataclass(frozen=True)
class RmsNorm(Technique):
    """Divides each sample by the root mean square of its own units, behind every hidden linear and convolution layer.

    ``y = z / sqrt(mean_u z^2 + eps) * weight``, with the mean over the units of one sample (behind convolutions over the channels of
    each position). The mean is not subtracted and there is no bias: cheaper than layer norm, and in deep transformers as
    good. ``weight``, one per unit, joins the optimizer in the group of the layer it follows. The last layer of the model
    and layers that a normalization already follows are left alone.

    Helps: deep networks, sequences, any batch size. Hurts: where the norm of a sample carries its class.
    Good first setting: the default; in residual networks ``before="linear"``. Clashes with ``batch_norm``, ``layer_norm``, ``group_norm``.

    Args:
        after: ``"linear"``, ``"conv"`` or ``"all"`` layers; or ``"activation"``: behind the activations that follow them.
        eps: added to the mean square.
        before: the same, for norms in front of the layers (all but the first), or between the layers and their activations.
        only: put norms only at layers (behind activations: at modules) whose name matches this pattern, ``"encoder.*"``.
        identity: set the weight from the first training batch so that, on average over it, the norm changes little.

    Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("rms_norm(before='linear')")
    >>> model[2].input_norm
    RMSNorm((8,), eps=1e-06, elementwise_affine=True)
    """

    acts_on = "model"
    moment = "norm"
    takes = ("outputs",)
    group = "normalization"

    after: str = "all"
    eps: float = 1e-6
    before: str = ""
    only: str = "*"
    identity: bool = False

    def __post_init__(self) -> None:
        check_place(self)

    def plain(self, training: TrainingLike) -> str:
        return plain_norms(self, training, self._norm_for)

    def apply(self, training: TrainingLike) -> Change:
        return insert_norms(self, training, "RMS normalization", self._norm_for)

    def _norm_for(self, site: Site) -> tuple[nn.Module, Callable]:
        options: dict[str, Any] = {"eps": self.eps, **site.options}
        return (RMSNormFirst if site.positions else tnn.RMSNorm)(site.features, **options), _call


def _call(norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
    return norm(output)
