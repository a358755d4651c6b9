"""What techniques that augment inputs share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trimtab.recipe import Change, Refused, Technique, TrainingLike, said_by


def check_scale(low: float, high: float) -> None:
    """Refuse factors of size that are not positive, or stand in the wrong order."""
    if not 0 < low <= high:
        raise ValueError(
            f"low={low} and high={high} must be positive factors, the smaller first, such as low=0.9, high=1.1."
        )


def augment_inputs(
    training: TrainingLike,
    technique: Technique,
    make: Callable[[torch.Tensor, torch.Generator], nn.Module],
    summary: str,
    host: bool = False,
) -> Change:
    """Put an augmentation in front of the model, in training only; inputs that are not floating point pass.

    ``make(x, generator)`` is called with the first input; the generator is on its device, or on the CPU with ``host``.
    """
    part: nn.Module | None = None

    def change(x: torch.Tensor) -> torch.Tensor | None:
        nonlocal part
        if not x.is_floating_point():
            return None
        if part is None:
            place = torch.device("cpu") if host else x.device
            part = make(x, training.generator(technique.name, place)).to(x.device)
        try:
            return part(x)
        except ValueError as error:  # of a form that it does not take
            raise Refused(said_by(technique.name, error)) from None

    return Change(f"{summary}, in training only", training.change_input(change), lambda: part is not None)
