"""Residual branches that start at zero."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from trimtab.graph import Scope, follow
from trimtab.reading.branches import PASSING, branches
from trimtab.reading.norms import Norm, recognise
from trimtab.reading.order import CONV, LINEAR
from trimtab.reading.weights import trained, weight_of
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.initialize import redraw
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class ZeroInitResidual(Technique):
    """Sets the last scale of every residual branch to 0, so that each block starts as the identity.

    ``y = x + gamma * branch(x)`` with gamma the gain of the norm that ends the branch (ResNet; a shift that is no longer 0 is set
    to 0 too), or its layer scale (ConvNeXt; the one number of ReZero). The
    branches are read from the code of the model: an addition of which one side ends in a scale and the other is the input, or a
    shortcut of it of at most one layer. Blocks whose branch ends in a linear or convolution layer (ViT) have no such
    scale and are left alone, unless ``weights`` is on: then weight and bias of that layer become 0 (Fixup), also in
    ``nn.TransformerEncoderLayer``. The optimizer's state of what is set is forgotten; undo brings values and state back.

    Helps: deep residual networks trained from scratch, large batches and learning rates. Hurts: a model that is trained already,
    whose branches it switches off. Good first setting: the default (there is nothing to set), before the first step.

    Args:
        only: look at scales (or weights) whose name matches this pattern, ``"encoder.*"``.
        weights: also set the weight and bias of a layer that ends a branch.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section 5.1; Bachlechner et
    al., "ReZero is All You Need", UAI 2021; Zhang, Dauphin, Ma, "Fixup Initialization", ICLR 2019, for the weights.

    >>> import trimtab as tt
    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    ...     def forward(self, x):
    ...         return x + self.norm(self.conv(x))
    >>> model = nn.Sequential(Block(), Block())
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("zero_init_residual")
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.equal(model(x), x)
    True
    """

    acts_on = "model"
    moment = "set"
    group = "optimization"
    suite = Suite(network="normed")

    only: str = "*"
    weights: bool = False

    def apply(self, training: TrainingLike) -> Change:
        named = {id(parameter): name for name, parameter in training.named_parameters()}
        held = {id(p) for _, p in trained(training, training.named_parameters())}
        found: list[tuple[str, list[nn.Parameter]]] = []
        for model in training.models:
            ends = (_scales(scope, self.weights) for scope in follow(model).scopes)
            for one in (*ends, _of_encoders(model) if self.weights else ()):
                for scales in one:
                    name = named.get(id(scales[0]), "")
                    if (
                        fnmatchcase(name, self.only)
                        and id(scales[0]) in held
                        and all(scales[0] is not known[0] for _, known in found)
                    ):
                        found.append((name, scales))
        if not found:
            also = ", or in a layer" if self.weights else ""
            raise nothing_for(
                self,
                f"the model has no residual branch that ends in a norm with a gain or in a layer scale{also}, and that is trained.",
            )
        changed = [parameter for _, scales in found for parameter in scales]
        undo = redraw(training, changed)
        with torch.no_grad():
            for parameter in changed:
                parameter.zero_()
        summary = f"{len(found)} residual branch{'es' if len(found) > 1 else ''} set to zero: {listed_names(found)}"
        return Change(
            summary,
            undo,
            details=tuple(
                f"{name}: 0" + (_AND[scales[0].ndim > 1] if len(scales) > 1 else "") for name, scales in found
            ),
        )


_AND = {False: ", and its shift", True: ", and its bias"}


def _scales(scope: Scope, weights: bool) -> Iterator[list[nn.Parameter]]:
    """The last scale (or weight) of each residual branch in a scope."""
    for end, _ in branches(scope):
        scales = _scales_at_the_end(scope, end, weights)
        if scales:
            yield scales


def _of_encoders(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The weights that end the branches of torch's own transformer blocks, which are not followed inside."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            yield _weights(module.self_attn.out_proj)
            yield _weights(module.linear2)


def _weights(layer: Any) -> list[nn.Parameter]:
    weight = weight_of(layer)
    return [p for p in (weight, layer.bias) if p is not None] if isinstance(weight, nn.Parameter) else []


def _scales_at_the_end(scope: Scope, node: fx.Node, weights: bool) -> list[nn.Parameter]:
    """The scale that ends a branch, with the shift behind it where that is not 0; or weight and bias of a layer."""
    while True:
        module = scope.module(node)
        source = next((a for a in node.args if isinstance(a, fx.Node)), None)
        if len(node.users) != 1:
            return []  # somebody else wants this value as it is
        if module is not None:
            norm = recognise(module)
            if isinstance(norm, Norm):
                gain = None if norm.gain is None or norm.offset else module._parameters.get(norm.gain)
                shift = None if norm.shift is None else module._parameters.get(norm.shift)
                moved = shift is not None and bool(shift.detach().any())
                return [p for p in (gain, shift if moved else None) if p is not None] if gain is not None else []
            if isinstance(module, LINEAR + CONV):
                return _weights(module) if weights else []
            passes = not any(True for _ in module.parameters()) and (
                isinstance(module, nn.Identity) or "drop" in type(module).__name__.lower()
            )
        elif node.op == "call_function" and node.target in (operator.mul, torch.mul):
            return _layer_scale(scope, node)
        else:
            target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            passes = node.op in ("call_method", "call_function") and target in PASSING
        if not passes or source is None:
            return []
        node = source


def _layer_scale(scope: Scope, node: fx.Node) -> list[nn.Parameter]:
    for factor in node.all_input_nodes:
        if factor.op == "get_attr":
            path, _, name = str(factor.target).rpartition(".")
            value = getattr(scope.modules.get(path), name, None)
            if isinstance(value, nn.Parameter) and value.squeeze().ndim <= 1:
                return [value]
    return []
