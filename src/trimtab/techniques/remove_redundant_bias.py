"""Removing biases that the normalization behind them takes away again."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from trimtab.graph import ModelGraph, follow
from trimtab.reading.norms import Norm, recognise
from trimtab.reading.order import BEFORE, NORM, layers
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.insert import features_of
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class RemoveRedundantBias(Technique):
    """Removes the bias of linear and convolution layers whose output goes straight into a norm that subtracts a mean per channel.

    ``norm(W x + b) = norm(W x)`` where the norm takes the mean of each channel off: batch norm, instance norm, and group norm with one
    channel a group. Layer norm and other group norms subtract the mean *over* channels, which a bias per channel shifts, and RMS norm
    subtracts none: in front of those the bias stays, and so it does in front of frozen statistics. That nothing else takes the
    layer's output is read from the code of the model. Running means take the bias over, so evaluation gives what it
    gave. The bias leaves the optimizer; undo puts it and its state back.

    Helps: a little memory, and momentum and weight decay no longer work on numbers without effect. Hurts: checkpoints that were
    saved with the biases no longer fit without ``strict=False``. Good first setting: the default (there is nothing to set).

    Args:
        only: look at layers whose name matches this pattern, ``"encoder.*"``.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, section 3.2.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("remove_redundant_bias")
    >>> print(model[0].bias)
    None
    """

    acts_on = "model"
    moment = "prune"
    group = "normalization"
    evaluates = True
    suite = Suite(network="normed", same_losses="takes away what has no effect")

    only: str = "*"

    def apply(self, training: TrainingLike) -> Change:
        removed: list[tuple[str, _Removed]] = []
        told, left = [], []
        for model in training.models:
            flow, mine = follow(model), {id(module) for module in model.modules()}
            for name, layer in layers(training):
                if layer._parameters.get("bias") is None or id(layer) not in mine or not fnmatchcase(name, self.only):
                    continue
                norm = _norm_behind(flow, layer)
                if norm is None:
                    continue
                why_not = _why_it_stays(norm, layer)
                if why_not:
                    left.append(f"{name}: bias stays: {why_not}")
                    continue
                removed.append((name, _Removed(training, layer, norm.module)))
                told.append(f"{name}: {type(norm.module).__name__} takes the bias away again; removed")
        if not removed:
            raise nothing_for(self, " ".join(left[:3]) or "no layer with a bias goes straight into a normalization.")

        def undo() -> None:
            for _, one in reversed(removed):
                one.undo()

        summary = f"{len(removed)} redundant bias{'es' if len(removed) > 1 else ''} removed: {listed_names(removed)}"
        return Change(summary, undo, details=(*told, *left))


def _norm_behind(flow: ModelGraph, layer: nn.Module) -> Norm | None:
    """The norm that alone takes the layer's output, and takes nothing else."""
    for role, child in layer.named_children():
        if isinstance(child, NORM) and role not in BEFORE:  # hung on the layer by a technique
            found = recognise(child)
            return found if isinstance(found, Norm) else None
    call = flow.call(layer)
    node = call.only_user() if call else None
    while call and node is not None and isinstance(call.scope.module(node), nn.Identity):
        node = next(iter(node.users)) if len(node.users) == 1 else None
    module = call.scope.module(node) if call else None
    if module is None or flow.call(module) is None:
        return None
    found = recognise(module)
    return found if isinstance(found, Norm) else None


def _why_it_stays(norm: Norm, layer: nn.Module) -> str:
    title = type(norm.module).__name__
    if norm.why_not:
        return f"{title}: {norm.why_not}"
    if norm.kind == "frozen_batch_norm":
        return f"{title} subtracts means that do not follow it"
    if norm.kind == "rms_norm":
        return f"{title} subtracts no mean"
    if norm.kind == "layer_norm" or (norm.kind == "group_norm" and norm.groups != norm.features):
        return f"{title} subtracts a mean over several channels, which the bias of each shifts"
    if norm.features != features_of(layer):
        return f"{title} has {norm.features} channels and the layer {features_of(layer)}"
    return ""


class _Removed:
    """A bias taken out of its layer and optimizer, the running mean behind it that took it over, and the way back."""

    @torch.no_grad()
    def __init__(self, training: TrainingLike, layer: nn.Module, norm: Any) -> None:
        self.layer, self.norm = layer, norm
        bias: Any = layer._parameters["bias"]
        self.bias, self.put_back = bias, training.remove_parameters([bias])
        layer._parameters["bias"] = None
        mean = getattr(norm, "running_mean", None)
        self.before = None if mean is None else mean.clone()
        self.after = None if mean is None else mean.sub_(self.bias).clone()

    @torch.no_grad()
    def undo(self) -> None:
        self.layer._parameters["bias"] = self.bias
        self.put_back()
        mean = getattr(self.norm, "running_mean", None)
        if mean is not None and self.before is not None and self.after is not None:
            # where it did not move since, exactly what it was
            mean.copy_(torch.where(mean == self.after.to(mean), self.before.to(mean), mean + self.bias))
