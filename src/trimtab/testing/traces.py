"""What a member may leave behind where it must leave nothing: random numbers that were drawn, hooks, tensors that were changed or kept.

What goes wrong inside a member is told in its name: see :func:`blamed`.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.training.gates import Gate

Hook = tuple[str, Any]


@contextlib.contextmanager
def blamed(name: str, where: str) -> Iterator[None]:
    """Inside, every error becomes an ``AssertionError`` that names the member, and says where it came.

    >>> with blamed("my_rule", "on the record 'empty' it"):
    ...     1 / 0
    Traceback (most recent call last):
    ...
    AssertionError: my_rule: on the record 'empty' it raises ZeroDivisionError: division by zero
    """
    try:
        yield
    except AssertionError as error:
        if name in str(error):
            raise
        raise AssertionError(f"{name}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{name}: {where} raises {type(error).__name__}: {error}") from error


def name_of(member: Any) -> str:
    """What a member is called in messages, whatever was given in its place.

    >>> name_of(nn.Linear), name_of(nn.Linear(1, 1))
    ('Linear', 'Linear')
    """
    return getattr(member, "__name__", None) or type(member).__name__


def described(member: Any) -> str:
    """What was given in the place of a member.

    >>> described(nn.Linear), described(nn.ReLU()), described(described)
    ('the class Linear', 'an instance of ReLU', 'the function described')
    """
    if isinstance(member, type):
        return f"the class {member.__name__}"
    return f"the function {member.__name__}" if hasattr(member, "__name__") else f"an instance of {name_of(member)}"


def check_class(member: Any, base: type) -> None:
    """A member is a class that is derived from the base of its kind."""
    derived = isinstance(member, type) and issubclass(member, base) and member is not base
    assert derived, f"{name_of(member)}: it must be a class derived from {base.__name__}, and is {described(member)}"


def random_states() -> dict[str, Any]:
    """How far the random generators are that a script shares with everybody: torch's, NumPy's and Python's."""
    _, keys, *rest = np.random.get_state()
    return {
        "torch's": torch.get_rng_state(),
        "NumPy's": (np.asarray(keys).tobytes(), *rest),
        "Python's": random.getstate(),
    }


def drawn_since(before: Mapping[str, Any]) -> str:
    """Which of these generators were drawn from since; empty for none."""
    now = random_states()
    drawn = [
        whose
        for whose, state in before.items()
        if not (torch.equal(state, now[whose]) if isinstance(state, torch.Tensor) else state == now[whose])
    ]
    return " and ".join(drawn)


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have the same numbers, of which some may be none."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def hooks_of(
    modules: Iterable[nn.Module] = (),
    tensors: Iterable[torch.Tensor] = (),
    optimizers: Iterable[torch.optim.Optimizer] = (),
) -> list[Hook]:
    """All hooks of modules, tensors and optimizers, and those of all modules and all optimizers, each with its place.

    But the gates of trainings: they stand at all while one asks, and one that was forgotten may be collected at any moment.
    """
    holders: list[tuple[str, Mapping[str, Any]]] = [
        ("all modules", vars(nn.modules.module)),
        ("all optimizers", vars(sys.modules[torch.optim.Optimizer.__module__])),
        *((f"{type(one).__name__} {number}", vars(one)) for number, one in enumerate((*modules, *optimizers))),
    ]
    found = [
        (f"{key} of {whose}", hook)
        for whose, held in holders
        for key, hooks in list(held.items())
        if key.endswith("hooks") and isinstance(hooks, dict)
        for hook in hooks.values()
        if not isinstance(hook, Gate)
    ]
    for number, one in enumerate(tensors):
        for key in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            found += [(f"{key} of tensor {number}", hook) for hook in (getattr(one, key, None) or {}).values()]
        if not one.is_leaf and one.retains_grad:
            found.append((f"retain_grad of tensor {number}", None))
    return found


def new_hooks(before: list[Hook], now: list[Hook]) -> str:
    """Where hooks have come that were not there, or have gone that were; empty for nowhere."""
    old, new = ({(place, id(hook)): place for place, hook in hooks} for hooks in (before, now))
    return ", ".join(sorted({(old | new)[key] for key in old.keys() ^ new.keys()}))


def tensors_held(value: Any, _seen: set[int] | None = None) -> list[torch.Tensor]:
    """All tensors that a value holds, at any depth: in containers, and in attributes of objects."""
    seen = set[int]() if _seen is None else _seen
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        inside: Iterable[Any] = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        inside = list(value)
    elif isinstance(value, type) or inspect.isroutine(value):
        return []
    else:
        inside = list(getattr(value, "__dict__", {}).values())
    return [tensor for one in inside for tensor in tensors_held(one, seen)]


def place_of(tensor: torch.Tensor) -> int:
    """Where the numbers of a tensor lie in memory; 0 for one that has no such place."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse ones, and others without a storage
        return 0
