"""Finding a model from its parameters, inside of wrappers."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import nn

_compiled: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def models_of(parameters: Iterable[torch.Tensor]) -> tuple[nn.Module, ...]:
    """The outermost modules alive that hold these parameters (by identity), without wrappers such as DDP.

    Containers that cannot be called (``ModuleList``, ``ModuleDict``) do not count as models: several models kept in one
    list are several models. Scans all objects known to the garbage collector once, some 20 ms.
    """
    wanted = {id(parameter) for parameter in parameters}
    classes = _subclasses(nn.Module)
    modules = [thing for thing in gc.get_objects() if type(thing) in classes]
    parents: dict[int, list[nn.Module]] = {}
    owners = []
    for module in modules:
        for child in module.__dict__.get("_modules", {}).values():
            parents.setdefault(id(child), []).append(module)
        if any(id(p) in wanted for p in module.__dict__.get("_parameters", {}).values()):
            owners.append(module)
    roots: dict[int, nn.Module] = {}
    for owner in owners:
        if any(_holds(root, owner) for root in roots.values()):
            continue
        root = unwrap(_outermost(owner, parents))
        roots[id(root)] = root
    inner = {id(m) for root in roots.values() for m in root.modules() if m is not root}
    return tuple(root for key, root in roots.items() if key not in inner)


def _subclasses(of: type) -> set[type]:
    found, todo = set(), [of]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += type.__subclasses__(one)
    return found


def _outermost(module: nn.Module, parents: dict[int, list[nn.Module]]) -> nn.Module:
    seen = set()
    while id(module) not in seen:
        seen.add(id(module))
        callable_parents = [p for p in parents.get(id(module), []) if not _is_shelf(p, parents)]
        if not callable_parents:
            break
        module = callable_parents[0]
    return module


def _is_shelf(module: nn.Module, parents: dict[int, list[nn.Module]]) -> bool:
    """A list or dict of modules that nothing callable holds: a shelf with models on it, not a part of a model."""
    if type(module) not in (nn.ModuleList, nn.ModuleDict):
        return False
    return all(_is_shelf(parent, parents) for parent in parents.get(id(module), []) if parent is not module)


def _holds(root: nn.Module, module: nn.Module) -> bool:
    return any(part is module for part in root.modules())


def called(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules whose calls are those of a model: itself, and where others of its methods are called than ``forward`` its parts too.

    So it is with a module of Lightning, whose ``training_step`` calls what it likes, and with one that has no ``forward``.
    """
    if hasattr(model, "training_step"):
        return (model, *_parts(model))
    return tuple(_parts(model)) if _has_no_forward(model) else (model,)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for part in model.children():
        if _has_no_forward(part):
            yield from _parts(part)
        elif any(True for _ in part.parameters()):  # and no loss or metric
            yield part


def _has_no_forward(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule) and type(module).forward is nn.Module.forward


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside wrappers: ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``."""
    while True:
        inner = _child(module, "_orig_mod")
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel", "_FabricModule"):
            inner = _child(module, "module") or _child(module, "_forward_module")
        if inner is None:
            return module
        if "_orig_mod" in module._modules:
            _compiled.add(inner)
        module = inner


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return next(
        (child for key, child in module._modules.items() if key == name), None
    )  # those of TorchScript have no get


def is_compiled(module: nn.Module) -> bool:
    """Whether the module is known to run compiled, by ``torch.compile(module)`` or ``module.compile()``."""
    return module in _compiled or module._compiled_call_impl is not None


def is_installed(file: str) -> bool:
    """Whether a source file belongs to an installed package, and not to the user's own code."""
    return "site-packages" in file or "dist-packages" in file
