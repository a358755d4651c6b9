"""Copies of tensors and of the state of optimizers, to go back to in place."""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trimtab.optim.gradients import local_part


class Snapshot:
    """Copies of tensors, and of the state of optimizers (not of their groups: learning rates stay what schedulers make them).

    >>> w = torch.ones(2)
    >>> snapshot = Snapshot()
    >>> snapshot.take([w])
    >>> _ = w.fill_(5.0)
    >>> snapshot.restore()
    >>> w
    tensor([1., 1.])
    """

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._states: list[tuple[weakref.ref[torch.optim.Optimizer], dict[Any, Any]]] = []
        self._asked = 0

    @property
    def taken(self) -> bool:
        """Whether there is anything to go back to."""
        return bool(self._tensors)

    def is_due(self, every: int) -> bool:
        """Whether to take one: at the first time of asking, and at every ``every``-th from there."""
        self._asked += 1
        return (self._asked - 1) % every == 0

    @torch.no_grad()
    def take(self, tensors: Iterable[torch.Tensor], optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
        """Copy these, in the place of what was copied before."""
        listed = list(tensors)
        memory = [local_part(tensor.data) for tensor in listed]
        if (
            len(listed) == len(self._tensors)
            and all(map(operator.is_, listed, self._tensors))
            and _fit(memory, self._values)
        ):
            _copy(self._values, memory)
        else:
            self._tensors, self._values = listed, []
            self._values = [tensor.clone() for tensor in memory]
        self._states = []  # freed first: two copies of it never lie in memory
        self._states = [
            (weakref.ref(one), {p: copy.deepcopy(state) for p, state in one.state.items()}) for one in optimizers
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Write all of it back, in place."""
        memory = [local_part(tensor.data) for tensor in self._tensors]
        pairs = [(tensor, value) for tensor, value in zip(memory, self._values, strict=True) if _fit([tensor], [value])]
        _copy([tensor for tensor, _ in pairs], [value for _, value in pairs])
        for reference, states in self._states:
            optimizer = reference()
            if optimizer is not None:
                for parameter in [p for p in optimizer.state if p not in states]:
                    del optimizer.state[parameter]
                for parameter, state in states.items():
                    _write(optimizer.state[parameter], state)


def _fit(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(one.shape == other.shape for one, other in zip(some, others, strict=True))


def _copy(into: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    if into:  # torch refuses an empty list
        torch._foreach_copy_(into, values)


def _write(state: dict[Any, Any], kept: dict[Any, Any]) -> None:
    """Make a state what it was, in the tensors that it has."""
    for key in [key for key in state if key not in kept]:
        del state[key]
    for key, value in kept.items():
        now = state.get(key)
        if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor) and now.shape == value.shape:
            local_part(now).copy_(local_part(value))
        else:
            state[key] = copy.deepcopy(value)


def buffers_of(*models: nn.Module) -> list[torch.Tensor]:
    """The buffers that a ``state_dict`` of these models has, each once."""
    found = {
        id(buffer): buffer
        for model in models
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set
    }
    return list(found.values())
