"""Drawing the weights of a live training anew: what He and Xavier initialization share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import layers, names, nothing, weight_of


def draw_anew(
    technique: Technique, training: TrainingLike, draw: Callable[[torch.Tensor, bool, torch.Generator], None]
) -> Change:
    """Draw every linear and convolution weight by ``draw(weight, is_last, generator)`` and set biases to zero.

    The optimizer's state of these parameters is forgotten; undo brings values and state back. Random numbers come from a
    generator of their own.
    """
    found = [(name, layer, weight) for name, layer in layers(training) if (weight := weight_of(layer)) is not None]
    if not found:
        raise nothing(technique, "the model has no linear or convolution layer.")
    changed: list[nn.Parameter] = [p for _, layer, weight in found for p in (weight, layer.bias) if p is not None]
    values = [parameter.detach().clone() for parameter in changed]
    states = [(o, p, o.state.pop(p)) for o in training.optimizers for p in changed if p in o.state]
    with torch.no_grad():
        for number, (name, layer, weight) in enumerate(found):
            draw(weight, number == len(found) - 1, training.generator(f"init {name}", weight.device))
            if layer.bias is not None:
                layer.bias.zero_()

    def undo() -> None:
        with torch.no_grad():
            for parameter, value in zip(changed, values, strict=True):
                parameter.copy_(value)
        for optimizer, parameter, state in states:
            optimizer.state[parameter] = state

    return Change(f"{technique.name} of {len(found)} layers: {names([one[:2] for one in found])}", undo)
