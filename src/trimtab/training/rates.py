"""The learning rates of a training: what the script has set, times what techniques say, for the duration of each step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

Factor = Callable[[torch.optim.Optimizer], float]


class Opened(weakref.WeakKeyDictionary):
    """Of steps that are happening, by optimizer and then by :class:`Rates`: what changed the optimizer's groups, as (group, the script's rate,
    what stands there now)."""

    def put_back(self, optimizer: torch.optim.Optimizer) -> None:
        """A step is over: its groups show what the script has set."""
        for changes in reversed(self.pop(optimizer, {}).values()):
            for group, script, ours in changes:
                if group.get("lr") is ours:  # unless somebody has set another rate meanwhile
                    _put(group, script)


class Rates:
    """Multiplies the rates of an optimizer for the duration of a step; around it, groups show what the script has set.

    One for each training, so that several factors multiply, and all that look at the rate within a step (other
    techniques, the watch) see the one that is really used, in whatever order they came. An optimizer may belong to two
    trainings (a script that attaches its own, and is watched): then both multiply.
    """

    def __init__(self, opened: Opened) -> None:
        self._open = opened
        self._factors: list[Factor] = []

    def scale(self, factor: Factor) -> Callable[[], None]:
        """Multiply by ``factor(optimizer)`` from now on; the returned function ends it."""
        self._factors.append(factor)
        return lambda: self._factors.remove(factor) if factor in self._factors else None

    @property
    def any(self) -> bool:
        """Whether a factor is there."""
        return bool(self._factors)

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """A step begins."""
        if self in self._open.get(optimizer, ()):  # the last step ended in an exception
            self._open.put_back(optimizer)
        if not self._factors:
            return
        factor = self._factor(optimizer)
        changes = []
        for group in with_rate(optimizer):
            rate = group["lr"]
            script = rate.clone() if isinstance(rate, torch.Tensor) else rate
            changes.append((group, script, script * factor))
        for group, _, ours in changes:  # only now: groups may share one tensor
            _put(group, ours)
        self._open.setdefault(optimizer, {})[self] = [(group, script, group["lr"]) for group, script, _ in changes]

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """A step is over. The last that entered puts back what the script has set."""
        if self in list(self._open.get(optimizer, ()))[-1:]:
            self._open.put_back(optimizer)

    def now(self, optimizer: torch.optim.Optimizer) -> list[float]:
        """The rate of every group that has one: the one used by the step that is happening, else by the next one."""
        factor = 1.0 if self in self._open.get(optimizer, ()) else self._factor(optimizer)
        return [float(group["lr"]) * factor for group in with_rate(optimizer)]

    def _factor(self, optimizer: torch.optim.Optimizer) -> float:
        product = 1.0
        for factor in self._factors:
            product *= factor(optimizer)
        return product


def with_rate(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups that have a rate; some optimizers choose theirs themselves and have none, or None."""
    return [group for group in optimizer.param_groups if group.get("lr") is not None]


def _put(group: dict[str, Any], rate: Any) -> None:
    if isinstance(group["lr"], torch.Tensor):  # which compiled and captured steps read in its place
        group["lr"].copy_(rate)
    else:
        group["lr"] = rate
