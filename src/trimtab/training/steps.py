"""What a step is made of: the calls of ``backward`` whose gradients wait for an optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch

_MOST = 4096  # backward calls that one update may sum up; older ones belong to gradients that nobody is going to use


class Backward:
    """One call of ``backward``: the value it started from, if that was one number, and the trainings that counted it."""

    def __init__(self, value: torch.Tensor | None) -> None:
        self.value = None if value is None else value.clone()  # users may change theirs in place
        self.counted: weakref.WeakSet[Any] = weakref.WeakSet()


class Member:
    """An optimizer that takes part in a training, and the backward calls whose gradients wait for its next step."""

    def __init__(self, optimizer: torch.optim.Optimizer, hooks: tuple[Any, ...]) -> None:
        self.optimizer = weakref.ref(optimizer)
        self.hooks = hooks
        self.waiting: list[Backward] = []
        self.erased: list[Backward] = []  # gradients were zeroed since: used only if nothing newer comes
        self.asked: list[Backward] = []  # gradients that were given to the script: used only if it computes no others
        self._seen: list[tuple[torch.Tensor | None, int]] = []

    def parameters(self) -> Iterator[torch.Tensor]:
        optimizer = self.optimizer()
        if optimizer is not None:
            for group in optimizer.param_groups:
                yield from group["params"]

    def wait(self, call: Backward) -> None:
        """The gradients of a backward call wait for the next step."""
        self.waiting = [*self.waiting[-_MOST:], call]

    def ask(self, call: Backward) -> None:
        """Gradients were given to the script, which may put them in place itself."""
        self.asked = [*self.asked[-_MOST:], call]

    def erase(self) -> None:
        """The gradients were thrown away."""
        if self.waiting:
            self.erased, self.waiting = self.waiting, []

    def take(self) -> list[Backward]:
        """The backward calls that the step happening now makes use of."""
        taken = self.waiting or self.asked or self.erased
        self.waiting, self.asked, self.erased = [], [], []
        return taken

    def look(self) -> None:
        """Remember the gradients as they are before a backward."""
        self._seen = [(p.grad, -1 if p.grad is None else p.grad._version) for p in self.parameters()]

    def touched(self) -> bool:
        """Whether the backward since :meth:`look` reached any of the parameters."""
        seen, self._seen = self._seen, []
        grads = (p.grad for p in self.parameters())
        return any(
            now is not None and (now is not before or now._version != version)
            for now, (before, version) in zip(grads, seen, strict=False)
        )
