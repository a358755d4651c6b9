"""What techniques share that say how plain torch does the same."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from trimtab.recipe import TrainingLike

COUPLED = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta)
"""Optimizers of torch whose ``weight_decay`` is a term of the gradient."""


def one_optimizer(training: TrainingLike) -> torch.optim.Optimizer | None:
    """The optimizer of a training that has one, for one model."""
    optimizers = list(training.optimizers)
    return optimizers[0] if len(optimizers) == len(training.models) == 1 else None


def number_of(training: TrainingLike, name: str) -> float | None:
    """A number that all groups of its one optimizer have, such as the rate."""
    optimizer = one_optimizer(training)
    found = (
        {float(group[name]) for group in optimizer.param_groups if group.get(name) is not None} if optimizer else set()
    )
    return found.pop() if len(found) == 1 else None


def decay(training: TrainingLike, factor: float, kinds: tuple[type, ...]) -> str:
    """``weight_decay=`` of an optimizer of one of these kinds; empty for others."""
    before = number_of(training, "weight_decay")
    if before is None or type(one_optimizer(training)) not in kinds:
        return ""
    return (
        f"weight_decay={before + factor:g} where the optimizer is made. It comes close: biases and scales decay too, unless they "
        "have a group with weight_decay=0."
    )


def between(training: TrainingLike, parts: Iterable[tuple[str, str, str]], before: bool = False) -> str:
    """Layers to put into ``nn.Sequential``: each as code, the name of the layer that it goes behind, or before, and the kind of that.

    Empty where a layer stands elsewhere, in code that we do not know.
    """
    modules = dict(training.named_modules())
    listed = list(parts)
    if not all(type(modules.get(name.rpartition(".")[0])) is nn.Sequential for _, name, _ in listed):
        return ""
    return ", ".join(f"{code} {'before' if before else 'behind'} {name} ({kind})" for code, name, kind in listed)
