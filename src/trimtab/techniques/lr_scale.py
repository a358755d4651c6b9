"""Scaling of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import nothing


@dataclass(frozen=True)
class LrScale(Technique):
    """Multiplies the learning rate of every parameter group by a factor, whatever schedule sets it.

    ``lr_t -> factor * lr_t`` for the duration of each step; before and after it the group shows the value that the script
    or its scheduler has set, so schedules stay right.

    Helps: a rate that is off by orders of magnitude. Hurts: a rate that was tuned.
    Good first settings: 0.1, 10.

    Args:
        factor: what to multiply with, positive.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 11.4.1 (the rate is the first thing to tune).

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("lr_scale(factor=10)")
    >>> before = model.weight.item()
    >>> model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4), optimizer.param_groups[0]["lr"]
    (1.0, 0.1)
    """

    acts_on = "update"

    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor} must be positive: it multiplies the learning rate.")

    def apply(self, training: TrainingLike) -> Change:
        if not any("lr" in group for optimizer in training.optimizers for group in optimizer.param_groups):
            raise nothing(self, "no parameter group of the optimizer has a learning rate ('lr').")
        kept: dict[int, list] = {}

        def scale(optimizer: torch.optim.Optimizer) -> None:
            restore(optimizer)  # after a step that ended in an exception
            groups = [group for group in optimizer.param_groups if "lr" in group]
            kept[id(optimizer)] = [(group, group["lr"]) for group in groups]
            for group in groups:
                group["lr"] = group["lr"] * self.factor

        def restore(optimizer: torch.optim.Optimizer) -> None:
            for group, rate in kept.pop(id(optimizer), []):
                group["lr"] = rate

        stops = [training.on("before_step", scale), training.on("after_step", restore)]

        def undo() -> None:
            for stop in stops:
                stop()

        return Change(f"learning rate times {self.factor:g}", undo)
