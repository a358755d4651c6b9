"""Finding a model from its parameters, and the place in a script where its optimizer is made."""

from __future__ import annotations

import ast
import gc
import linecache
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from trimtab.records import CodePlace
from trimtab.training.variables import variable

_PACKAGE = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent)
_compiled: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def models_of(parameters: Iterable[torch.Tensor]) -> tuple[nn.Module, ...]:
    """The outermost modules alive that hold these parameters (by identity), without wrappers such as DDP.

    Containers that cannot be called (``ModuleList``, ``ModuleDict``) do not count as models: several models kept in one
    list are several models. Scans all objects known to the garbage collector once, some 50 ms.
    """
    wanted = {id(parameter) for parameter in parameters}
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
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


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside wrappers: ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``."""
    while True:
        inner = module._modules.get("_orig_mod")
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel", "_FabricModule"):
            inner = module._modules.get("module") or module._modules.get("_forward_module")
        if inner is None:
            return module
        if "_orig_mod" in module._modules:
            _compiled.add(inner)
        module = inner


def is_compiled(module: nn.Module) -> bool:
    """Whether the module is known to run compiled, by ``torch.compile(module)`` or ``module.compile()``."""
    return module in _compiled or module._compiled_call_impl is not None


def code_place(model: nn.Module | None, frame: FrameType | None = None) -> CodePlace | None:
    """Where the user's code stands right now, with its names for the model and the optimizer.

    ``None`` where an installed package makes the optimizer by itself: then no line of the user's does.
    """
    frame = frame or sys._getframe(1)
    while frame and (
        frame.f_code.co_filename.startswith((_PACKAGE, _TORCH, "<frozen")) or frame.f_code.co_filename[:1] == "<"
    ):
        frame = frame.f_back
    if frame is None or is_installed(frame.f_code.co_filename):
        return None
    file, line = frame.f_code.co_filename, frame.f_lineno
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    statement = _statement(file, line, positions[2] or 0)
    end = statement.end_lineno if statement else line
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return CodePlace(
        file=file,
        line=end or line,
        source=linecache.getline(file, statement.lineno if statement else line).rstrip(),
        model_name=_name_of(model, frame),
        optimizer_name=ast.unparse(target) if isinstance(target, (ast.Name, ast.Attribute)) else "",
    )


def is_installed(file: str) -> bool:
    """Whether a source file belongs to an installed package, and not to the user's own code."""
    return "site-packages" in file or "dist-packages" in file


def _statement(file: str, line: int, column: int) -> Any:
    """The innermost statement that covers this place; several may share a line."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None
    covering = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        and (node.lineno, node.col_offset)
        <= (line, column)
        < (node.end_lineno or line, node.end_col_offset or column + 1)
    ]
    return max(covering, key=lambda node: (node.lineno, node.col_offset), default=None)


def _name_of(model: nn.Module | None, frame: FrameType) -> str:
    if model is None:
        return ""
    code = frame.f_code
    names = dict.fromkeys([*code.co_varnames, *code.co_cellvars, *code.co_freevars])
    for scope in ({name: variable(frame, name) for name in names}, frame.f_globals):
        for name, value in scope.items():
            if issubclass(type(value), nn.Module) and unwrap(value) is model:
                return name
    holder = variable(frame, "self")
    for name, value in getattr(holder, "__dict__", {}).items():
        if isinstance(value, nn.Module) and unwrap(value) is model:
            return f"self.{name}"
    return "self" if holder is model else ""
