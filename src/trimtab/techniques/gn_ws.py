"""Group normalization with weight standardization, as one recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from trimtab.graph import follow
from trimtab.nn.weight_norms import weight_standardization
from trimtab.reading.order import followed_by_norm, layers
from trimtab.recipe import Change, NothingToDo, Suite, Technique, TrainingLike
from trimtab.techniques.engines.converting import convert_norms
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class GnWs(Technique):
    """Makes batch norms group norms, and standardizes the weights of the convolutions in front of them.

    Batch norms become group norms around the same gains and biases (``convert_norm``). Convolutions whose output goes into a group norm
    use ``(w - mean) / std`` of the weights of each output channel in the place of w; w itself stays the parameter, keeps its
    optimizer state, and is called ``parametrizations.weight.original`` in checkpoints.

    Helps: convolutional networks with batches of 1 to 8 samples, transfer from large pretrained networks. Hurts: depthwise
    convolutions, which have few weights per channel; weight decay on the convolutions loses its effect on the output. Good
    first setting: the default. Clashes with ``convert_norm``.

    Args:
        groups: of the group norms, as in ``convert_norm``.
        eps: added to the variance of each channel's weights.

    Source: Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019; Kolesnikov et
    al., "Big Transfer (BiT)", ECCV 2020.

    >>> import torch, trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("gn_ws")
    >>> type(model[1]).__name__, bool(model[0].weight.mean((1, 2, 3)).abs().max() < 1e-6)
    ('GroupNorm', True)
    """

    acts_on = "model"
    moment = "convert"
    takes = ("norms",)
    group = "normalization"
    evaluates = True
    suite = Suite(network="normed")

    groups: int = 32
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups={self.groups} must be at least 1.")

    def apply(self, training: TrainingLike) -> Change:
        try:
            converted = convert_norms(self, training, "group_norm", self.groups, from_="batch_norm")
        except NothingToDo:  # its norms may be group norms from the start
            converted = Change("no norm converted", lambda: None)
        found = _convolutions(training)
        if not found:
            converted.undo()
            raise nothing_for(self, "the model has no convolution with a batch or group norm behind it.")
        back = [_standardize(layer, self.eps) for _, layer in found]

        def undo() -> None:
            for one in reversed(back):
                one()
            converted.undo()

        summary = f"weights of {len(found)} convolutions standardized: {listed_names(found)}; {converted.summary}"
        return Change(
            summary, undo, details=(*(f"{name}: weight standardized" for name, _ in found), *converted.details)
        )


def _convolutions(training: TrainingLike) -> list[tuple[str, Any]]:
    """Convolutions with a group norm behind them, by the code of the model where it can be followed, else by definition."""
    flows = [follow(model) for model in training.models]
    found = []
    for name, layer in layers(training, "conv"):
        if getattr(layer, "transposed", False) or parametrize.is_parametrized(layer):
            continue
        calls = [call for flow in flows for call in flow.calls.get(id(layer), ())]
        behind = [call.scope.module(call.only_user()) for call in calls]
        hung = any(isinstance(child, nn.GroupNorm) for child in layer.children())
        by_code = bool(behind) and all(isinstance(module, nn.GroupNorm) for module in behind)
        if hung or by_code or (not calls and followed_by_norm(training, layer)):
            found.append((name, layer))
    return found


def _standardize(layer: nn.Module, eps: float) -> Callable[[], None]:
    order, kind = list(layer._parameters), type(layer)
    weight_standardization(layer, eps=eps)

    def undo() -> None:
        # Not remove_parametrizations: it takes the property off the class, which deep copies of the model share.
        parameters = {**layer._parameters, "weight": layer.get_parameter("parametrizations.weight.original")}
        del layer._modules["parametrizations"]
        layer.__class__ = kind
        layer._parameters = {name: parameters[name] for name in order}

    return undo
