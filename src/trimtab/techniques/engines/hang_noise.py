"""Hanging modules that draw random numbers while training on the layers of a live model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trimtab.nn.rates import linear_ramp
from trimtab.reading.order import behind_the_first, doubts
from trimtab.recipe import Change, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now

Call = Callable[[Any, torch.Tensor], torch.Tensor]


def in_training(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Calls a part that changes nothing in evaluation."""
    return part(x) if training_now(part) else x


def hidden_inputs(technique: Any, training: TrainingLike) -> list[tuple[str, Any]]:
    """Every linear and convolution layer but the first of a model: what goes into them are hidden units."""
    found = behind_the_first(training)
    if not found:
        raise nothing_for(technique, "the model has no linear or convolution layer behind another one.")
    return found


def hang_noise(
    technique: Any,
    training: TrainingLike,
    what: str,
    found: list[tuple[str, Any]],
    make: Callable[[Any, torch.Generator], nn.Module],
    *,
    call: Call = in_training,
    before: bool = True,
    ramp: int = 0,
) -> Change:
    """Hang ``make(layer, generator)`` on the input of each layer (or its output), with a rate that rises over ``ramp`` steps."""
    hung, parts = [], []
    for name, layer in found:
        parts.append(make(layer, training.generator(f"{technique.name} {name}")))
        hung.append(Hung(layer, technique.name, parts[-1], call, before))
    details = tuple(f"{name or 'model'}: {part}" for (name, _), part in zip(found, parts, strict=True))
    stop = _raise_rates(training, parts, ramp) if ramp else None

    def undo() -> None:
        if stop is not None:
            stop()
        for one in hung:
            one.take_off()

    slowly = f", reached after {ramp} steps," if ramp else ""
    summary = f"{what}{slowly} {'before' if before else 'behind'} {len(found)} layers: {listed_names(found)}"
    return Change(summary, undo, lambda: any(one.acted for one in hung), (*details, *doubts(training)))


def _raise_rates(training: TrainingLike, parts: list[Any], steps: int) -> Callable[[], None]:
    """Let the rates of the parts rise from 0 to what they are."""
    ends = [part.p for part in parts]
    done: Counter[int] = Counter()  # steps of each optimizer

    def set_rates() -> None:
        for part, end in zip(parts, ends, strict=True):
            part.p = linear_ramp(max(done.values(), default=0), steps, end)

    def count(optimizer: torch.optim.Optimizer) -> None:
        done[id(optimizer)] += 1
        set_rates()

    set_rates()
    return training.on("after_step", count)


def check_rate(technique: Any) -> None:
    """Refuse a p outside (0, 1) and a negative ramp."""
    if not 0 < technique.p < 1:
        raise ValueError(
            f"p={technique.p} must lie strictly between 0 and 1: it is the probability of dropping a unit."
        )
    if getattr(technique, "ramp", 0) < 0:
        raise ValueError(f"ramp={technique.ramp} must be 0 or a number of steps: p rises from 0 over these.")
