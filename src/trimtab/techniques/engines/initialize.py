"""Drawing the weights of a live training anew: what the initializations share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trimtab.reading.following import ANSWER, Following, following
from trimtab.reading.order import layers
from trimtab.reading.weights import trained, weight_of
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.surgery import listed_names, nothing_for

DISTRIBUTIONS = ("normal", "uniform")

LINEAR = Following(1.0, "assumed linear")

Draw = Callable[[Any, torch.Tensor, float, torch.Generator], None]


def check_distribution(distribution: str) -> None:
    """Refuse unknown distributions."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution={distribution!r} must be 'normal' or 'uniform'.")


def check_gain(gain: float | None) -> None:
    """Refuse gains that are not positive."""
    if gain is not None and not gain > 0:
        raise ValueError(
            f"gain={gain} must be positive: it scales the standard deviation of the weights. None takes it from the activation that "
            "follows each layer."
        )


def fans(layer: Any, weight: torch.Tensor) -> tuple[float, float]:
    """How many inputs each output of a layer has, and how many outputs each input goes to.

    The groups of a convolution count, as they do not in ``torch.nn.init``. So does the stride of a transposed one, whose outputs each get
    ``in_channels * kernel / stride`` numbers.
    """
    if isinstance(layer, nn.Linear):
        return float(layer.in_features), float(layer.out_features)
    kernel = math.prod(layer.kernel_size) / layer.groups
    n_in, n_out = layer.in_channels * kernel, layer.out_channels * kernel
    return (n_in / math.prod(layer.stride) if layer.transposed else n_in), n_out


def fill(weight: torch.Tensor, std: float, distribution: str, generator: torch.Generator) -> None:
    """Fill a weight with numbers of mean 0 and this standard deviation."""
    if distribution == "normal":
        weight.normal_(0, std, generator=generator)
    else:
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)


def draw_anew(
    technique: Technique,
    training: TrainingLike,
    draw: Draw,
    gain: float | None = None,
    otherwise: Following = LINEAR,
) -> Change:
    """Draw every linear and convolution weight by ``draw(layer, weight, gain, generator)`` and set biases to zero.

    The gain is the one given, or comes from the activation that follows the layer, or, where that is not known, from ``otherwise``. The
    optimizer's state of these parameters is forgotten; undo brings values and state back. Random numbers come from a generator of
    their own.
    """
    found, left = weights_of(technique, training)
    behind = following(training) if gain is None else {}
    told, gains = [], []
    for name, layer, _ in found:
        one = Following(gain, "as given") if gain is not None else behind.get(id(layer), ANSWER)
        why = one.why
        if one.gain is None:
            one, why = otherwise, f"{otherwise.why}: {one.why}"
        assert one.gain is not None
        gains.append(one.gain)
        told.append(f"{name or '(model)'}: gain {one.gain:.4g}: {why}")
    undo = redraw(training, [p for _, layer, weight in found for p in (weight, bias_of(layer)) if p is not None])
    with torch.no_grad():
        for (name, layer, weight), factor in zip(found, gains, strict=True):
            draw(layer, weight, factor, training.generator(f"init {name}", weight.device))
            if bias_of(layer) is not None:
                layer.bias.zero_()
    summary = f"{technique.name} of {len(found)} layers: {listed_names([one[:2] for one in found])}"
    return Change(summary, undo, details=(*told, *left))


def weights_of(
    technique: Technique, training: TrainingLike
) -> tuple[list[tuple[str, Any, nn.Parameter]], tuple[str, ...]]:
    """The linear and convolution layers that are trained, with the parameters that their weights are, or are computed from; and a line for
    each of those that are not: what they have learned elsewhere is not drawn anew."""
    found = [(name, layer, weight) for name, layer in layers(training) if (weight := weight_of(layer)) is not None]
    found = [one for one in found if isinstance(one[2], nn.Parameter)]  # else a hook computes it from others
    if not found:
        raise nothing_for(technique, "the model has no linear or convolution layer.")
    moving = {id(p) for _, p in trained(training, [(name, weight) for name, _, weight in found])}
    left = [one[:2] for one in found if id(one[2]) not in moving]
    if len(left) == len(found):
        raise nothing_for(technique, f"no layer is trained, they are frozen or in no optimizer: {listed_names(left)}.")
    told = tuple(f"{name or '(model)'}: left alone: it is not trained" for name, _ in left)
    return [one for one in found if id(one[2]) in moving], told


def bias_of(layer: Any) -> nn.Parameter | None:
    """The bias of a layer, if it has one that is not frozen."""
    return layer.bias if layer.bias is not None and layer.bias.requires_grad else None


def redraw(training: TrainingLike, changed: Iterable[torch.Tensor]) -> Callable[[], None]:
    """Get ready to overwrite parameters (or buffers): forget the optimizers' state of them; the returned function undoes both."""
    tensors = list(changed)
    values = [tensor.detach().clone() for tensor in tensors]
    states: list[tuple[Any, torch.Tensor, Any]] = []
    for optimizer in training.optimizers:
        states += [(optimizer, tensor, optimizer.state.pop(tensor)) for tensor in tensors if tensor in optimizer.state]

    def undo() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for optimizer, tensor, state in states:
            optimizer.state[tensor] = state

    return undo
