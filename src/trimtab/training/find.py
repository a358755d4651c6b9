"""Finding a model from its parameters, inside of wrappers."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from trimtab.structure import children, own, parts, weights


def models_of(parameters: Iterable[torch.Tensor]) -> tuple[nn.Module, ...]:
    """The outermost modules alive that hold these parameters (by identity), without wrappers such as DDP.

    Containers that cannot be called (``ModuleList``, ``ModuleDict``) do not count as models: several models kept in one
    list are several models. Scans all objects known to the garbage collector once, some 20 ms.
    """
    wanted = {id(parameter) for parameter in parameters if isinstance(parameter, nn.Parameter)}
    if not wanted:  # only they are held by modules
        return ()
    classes = _subclasses(nn.Module)
    things = gc.get_objects()
    modules = list(itertools.compress(things, map(classes.__contains__, map(type, things))))
    del things
    parents: dict[int, list[nn.Module]] = {}
    owners = []
    for module in modules:
        for _, child in children(module):
            parents.setdefault(id(child), []).append(module)
        if any(id(p) in wanted for _, p in own(module)):
            owners.append(module)
    roots: dict[int, nn.Module] = {}
    for owner in owners:
        if any(_holds(root, owner) for root in roots.values()):
            continue
        root = unwrap(_outermost(owner, parents))
        roots[id(root)] = root
    inner = {id(part) for root in roots.values() for _, part in parts(root) if part is not root}
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
    return any(part is module for _, part in parts(root))


def called_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules whose calls are those of a model: itself, and where others of its methods are called than ``forward`` its parts too.

    So it is with a module of Lightning, whose ``training_step`` calls what it likes, and with one that has no ``forward``.
    """
    if callable(getattr(type(model), "training_step", None)):
        return (model, *_parts(model))
    return tuple(_parts(model)) if _has_no_forward(model) else (model,)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for _, part in children(model):
        if _has_no_forward(part):
            yield from _parts(part)
        elif any(True for _ in weights(part)):  # and no loss or metric
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
        module = inner


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return next((child for key, child in children(module) if key == name), None)


def is_compiled(module: nn.Module) -> bool:
    """Whether the module is known to run compiled, by ``torch.compile(module)`` or ``module.compile()``."""
    if module.__dict__.get("_compiled_call_impl") is not None:
        return True
    if "torch._dynamo.eval_frame" not in sys.modules:
        return False
    wrapper = sys.modules["torch._dynamo.eval_frame"].OptimizedModule
    return any(_child(thing, "_orig_mod") is module for thing in gc.get_objects() if type(thing) is wrapper)


def is_installed(file: str) -> bool:
    """Whether a source file belongs to an installed package, and not to the user's own code."""
    return "site-packages" in file or "dist-packages" in file
