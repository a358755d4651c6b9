"""What is inside of a module, as it is stored.

Nothing that a class may have made its own is called or asked for: an attribute that is computed may draw a random number, and
``parameters`` or ``modules`` may mean something else there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A module and all that are inside of it, each once, with the names that ``named_modules`` gives.

    >>> [name for name, _ in parts(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU())))]
    ['', '0', '1', '1.0']
    """
    met: set[int] = set()
    todo = [(name, module)]
    while todo:
        name, one = todo.pop()
        if id(one) not in met:
            met.add(id(one))
            yield name, one
            inside = [(f"{name}.{key}" if name else key, child) for key, child in children(one)]
            todo += reversed(inside)


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that a module holds itself, with the names of their places."""
    held = module.__dict__.get("_modules") or {}  # it may not be initialized yet
    return [(name, child) for name, child in held.items() if child is not None]


def own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that a module holds itself, with their names: those that it computes (a parametrization's) are not among them.

    >>> [name for name, _ in own(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1)))]
    ['bias']
    """
    held = module.__dict__.get("_parameters") or {}
    return [(name, parameter) for name, parameter in held.items() if parameter is not None]


def weight(module: nn.Module) -> nn.Parameter | None:
    """What a module holds as ``weight``."""
    return next((parameter for name, parameter in own(module) if name == "weight"), None)


def weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters of a module and of those inside of it, each once, with the names that ``named_parameters`` gives."""
    met: set[int] = set()
    for name, part in parts(module):
        for key, parameter in own(part):
            if id(parameter) not in met:
                met.add(id(parameter))
                yield f"{name}.{key}" if name else key, parameter


def size(module: nn.Module) -> int:
    """How many numbers the parameters of a module hold, as far as they are made yet."""
    return parameters_made(parameter for _, parameter in weights(module))


def parameters_made(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers parameters hold, as far as they are made yet: those of lazy layers are not before the first forward pass."""
    return sum(parameter.numel() for parameter in parameters if not is_lazy(parameter))
