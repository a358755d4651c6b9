"""The learning rate of a live training: what techniques that scale and schedule it share."""

from __future__ import annotations

import dataclasses
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from trimtab.recipe import Change, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for


def check_rates(technique: Any, training: TrainingLike) -> None:
    """Refuse a training whose optimizers have no rate to change."""
    if not any(group.get("lr") is not None for optimizer in training.optimizers for group in optimizer.param_groups):
        raise nothing_for(technique, "no parameter group of the optimizer has a learning rate ('lr').")


class Scheduled(ABC):
    """A technique that is a schedule of :mod:`trimtab.optim`: ``part``, whose arguments are the technique's fields.

    The rate is multiplied for the duration of each update; what the script and its scheduler set stays theirs. Each
    optimizer counts its own updates, from the moment of application.
    """

    part: ClassVar[Any]

    def __post_init__(self) -> None:
        self.schedule()

    def schedule(self) -> Callable[[int], float]:
        """The factor of each update."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return self.part(*(getattr(self, field.name) for field in fields))

    @abstractmethod
    def words(self) -> str:
        """What happens to the rate, for "the learning rate ..."."""

    @classmethod
    def plotted(cls) -> Any:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return cls.part.plotted()

    def apply(self, training: TrainingLike) -> Change:
        check_rates(self, training)
        schedule = self.schedule()
        updates: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        scripts: dict[str, float] = {}  # the script's own rate, first and last

        def factor(optimizer: torch.optim.Optimizer) -> float:
            if optimizer is next(iter(training.optimizers), None):
                rate = next((float(g["lr"]) for g in optimizer.param_groups if g.get("lr") is not None), 0.0)
                scripts.setdefault("first", rate)
                scripts["last"] = rate
            return schedule(updates.get(optimizer, 0))

        def count(optimizer: torch.optim.Optimizer) -> None:
            updates[optimizer] = updates.get(optimizer, 0) + 1

        stops = [training.change_rate(factor), training.on("after_step", count)]

        def undo() -> None:
            for stop in stops:
                stop()

        def outcome() -> str:
            done = max(updates.values(), default=0)
            if not done:
                return ""
            said = f"times {schedule(done - 1):.3g} at update {done}"
            if scripts and scripts["first"] != scripts["last"]:
                said += f", on top of the script's own schedule ({scripts['first']:.3g}, now {scripts['last']:.3g})"
            return said

        details = [
            f"{type(optimizer).__name__} has a scheduler of its own, which goes on: the two multiply"
            for optimizer in training.optimizers
            if any("initial_lr" in group for group in optimizer.param_groups)
        ]
        return Change(f"the learning rate {self.words()}", undo, details=tuple(details), outcome=outcome)
