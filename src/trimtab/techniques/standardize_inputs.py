"""Standardization of the inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.data import Standardize
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import CONV, NORM, Hung, nothing


@dataclass(frozen=True)
class StandardizeInputs(Technique):
    """Shifts and scales every input feature to mean 0 and standard deviation 1, fitted on the training batches that pass.

    ``y_j = (x_j - mean_j) / std_j`` in front of the first layer with weights, over the last axis (over channels in front of a
    convolution). The statistics are merged over all training batches so far; evaluation uses them as they are. Part of
    the model from then on: a checkpoint carries them.

    Helps: tables with raw magnitudes, images in 0..255: the condition of the problem improves by the square of the ratio
    of scales. Hurts: where relative magnitudes of the features carry meaning and the data are few. Good first setting: the
    default (there is no other).

    Source: LeCun et al., "Efficient BackProp", 1998; :class:`trimtab.data.Standardize`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("standardize_inputs")
    >>> model[0].standardize
    Standardize(4, axis=-1)
    """

    acts_on = "data"

    def apply(self, training: TrainingLike) -> Change:
        name, layer = next(
            ((n, m) for n, m in training.named_modules() if any(True for _ in m.parameters(recurse=False))), ("", None)
        )
        if layer is None:
            raise nothing(self, "the model has no layer with parameters.")
        if isinstance(layer, (*NORM, nn.Embedding)):
            raise nothing(
                self, f"its first layer, {name}, is a {type(layer).__name__} and takes its inputs as they are."
            )
        if isinstance(layer, nn.Linear):
            features, axis = layer.in_features, -1
        elif isinstance(layer, CONV):
            features, axis = layer.in_channels, 1  # type: ignore[assignment]
        elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            features, axis = layer.input_size, -1
        else:
            raise nothing(
                self, f"its first layer, {name}, is a {type(layer).__name__}, whose input features are not known."
            )
        weight = next(layer.parameters(recurse=False))
        part = Standardize(int(features), axis).to(weight.device)
        hung = Hung(layer, "standardize", part, _call, before=True)
        return Change(
            f"{features} input features standardized before {name or 'the model'}", hung.take_off, lambda: hung.called
        )


def _call(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return part(x) if x.is_floating_point() else x
