"""The weights of a model: which module holds them, which are computed from others, which are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from trimtab.reading.order import CONV, LINEAR

WEIGHTED = (*LINEAR, *CONV, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)
"""Modules whose parameters with two or more dimensions are weights proper."""


class Trained(Protocol):
    """What is read here of a training."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...


def weight_of(layer: Any) -> nn.Parameter | None:
    """The parameter that a layer's weight is, or is computed from; ``None`` where that is not one of its shape."""
    if not parametrize.is_parametrized(layer, "weight"):
        return layer.weight
    original = getattr(layer.parametrizations.weight, "original", None)
    return original if original is not None and original.shape == layer.weight.shape else None


def trained(training: Trained, named: Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Those of the parameters that are trained as things stand: they need gradients, and an optimizer, if there is any, holds them."""
    held = {id(p) for optimizer in training.optimizers for group in optimizer.param_groups for p in group["params"]}
    return [(name, p) for name, p in named if p.requires_grad and (id(p) in held or not training.optimizers)]


def own_weights(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, not of those inside it."""
    if isinstance(module, parametrize.ParametrizationList):
        return []
    several = {source for sources in computed_weights(module).values() for source in sources}
    own = [p for name, p in module.named_parameters(recurse=False) if name not in several]
    if parametrize.is_parametrized(module):
        sources = (getattr(computed, "original", None) for computed in module.parametrizations.children())  # type: ignore[union-attr]
        own += [source for source in sources if isinstance(source, nn.Parameter)]
    return own


def computed_weights(module: nn.Module) -> dict[str, list[str]]:
    """The weights of a module that are computed from several of its parameters, and the names of these: both of torch's forms."""
    hooks = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm))
    found = {hook.name: [f"{hook.name}_g", f"{hook.name}_v"] for hook in hooks}
    if parametrize.is_parametrized(module):
        for name, one in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if not one.is_tensor:
                found[name] = [f"parametrizations.{name}.original{place}" for place in range(one.ntensors)]
    return found


def classes_of(module: nn.Module) -> list[str]:
    """The names of a module's class and of those it is derived from, without what a parametrization put in front."""
    lineage = type(module).__mro__[1:] if parametrize.is_parametrized(module) else type(module).__mro__
    return [cls.__name__ for cls in lineage if issubclass(cls, nn.Module) and cls is not nn.Module]
