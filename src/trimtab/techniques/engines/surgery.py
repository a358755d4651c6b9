"""Finding layers in a model and hanging modules on them, without moving or renaming anything that is there.

A module that acts on a layer's output (or input) becomes a child of that layer and is called by a hook of it. The layer, its
parameters and their names in ``state_dict`` stay what they were; the child's parameters are added under the layer's name;
``train()``, ``eval()``, ``to()``, ``deepcopy`` and checkpoints reach it like any other module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trimtab.recipe import NothingToDo, evaluated


def training_now(module: nn.Module) -> bool:
    """Whether an inserted module should behave as in training.

    Scripts without normalization or dropout often never call ``eval()``, which is right for them; a module that we insert
    must not make it wrong. So training behaviour needs training mode *and* gradients, and that nothing else tells of an evaluation.
    """
    return module.training and torch.is_grad_enabled() and not evaluated(module)


class Hung:
    """A module hung on a layer; calls it on the layer's output (or, with ``before``, on its first input).

    Attributes:
        acted: whether it gave another value than it got, with gradients: what is evaluated trains nothing.
    """

    def __init__(
        self, layer: nn.Module, role: str, child: nn.Module, call: Callable[..., Any], before: bool = False
    ) -> None:
        self.layer, self.call = layer, call
        self.child = role if role not in layer._modules and not hasattr(layer, role) else f"trimtab_{role}"
        self.acted = False
        child.train(layer.training)
        layer.add_module(self.child, child)
        self.handle = (
            layer.register_forward_pre_hook(self._before) if before else layer.register_forward_hook(self._after)
        )

    # The child is looked up by name, so that a deep copy of the layer calls its own copy.
    def _after(self, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return self._tell(output, self.call(layer._modules[self.child], output))

    def _before(self, layer: nn.Module, inputs: tuple) -> tuple:
        return (self._tell(inputs[0], self.call(layer._modules[self.child], inputs[0])), *inputs[1:])

    def _tell(self, given: torch.Tensor, value: Any) -> Any:
        if not self.acted and value is not given and torch.is_grad_enabled():
            self.acted = True
        return value

    def take_off(self) -> None:
        self.handle.remove()
        del self.layer._modules[self.child]


def nothing_for(technique: object, why: str) -> NothingToDo:
    """The error of a technique that finds nothing to act on."""
    return NothingToDo(f"{technique} found nothing to act on: {why}")


def listed_names(found: list[tuple[str, Any]]) -> str:
    """Layer names for a sentence: the first few and how many more."""
    listed = [name or "(model)" for name, _ in found]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
