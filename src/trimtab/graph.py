"""Which module's output goes where: the data flow of a model, read from its code without any data.

The order in which modules are defined says little about the order in which they are called. ``torch.fx`` follows the code itself. Where the
forward of a whole model cannot be followed (branches on data, unusual arguments), the modules inside it are followed one by one;
what happens between those stays unknown, and nothing is claimed of it.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from trimtab.copies import copied_module


@dataclass(frozen=True)
class Call:
    """One call of a module: its node in the graph, and the scope that graph belongs to."""

    node: fx.Node
    scope: Scope

    def source(self) -> fx.Node | None:
        """The node whose value the module is called on."""
        return next((a for a in self.node.args if isinstance(a, fx.Node)), None)

    def only_user(self) -> fx.Node | None:
        """The one node that takes the value; ``None`` if there are several, or if it is handed out."""
        return only_user(self.node)


@dataclass(frozen=True)
class Scope:
    """A module whose forward was followed, as a graph of calls."""

    name: str
    graph: fx.Graph
    modules: dict[str, nn.Module]

    def module(self, node: fx.Node | None) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules.get(str(node.target)) if node is not None and node.op == "call_module" else None


@dataclass(frozen=True)
class ModelGraph:
    """The scopes of a model that could be followed."""

    scopes: tuple[Scope, ...]
    calls: dict[int, tuple[Call, ...]]

    def call(self, module: nn.Module) -> Call | None:
        """The call of a module that is called exactly once; ``None`` for one called more often, or never seen."""
        found = self.calls.get(id(module), ())
        return found[0] if len(found) == 1 else None


def only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op != "output" else None


class _Tracer(fx.Tracer):
    """Follows containers; takes modules without modules inside, and torch's own layers, as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layer = isinstance(
            m, (nn.Linear, nn.modules.conv._ConvNd)
        )  # a class derived from one, with something hung on it
        return layer or super().is_leaf_module(m, module_qualified_name) or not any(m.children())


def _stand_in(module: nn.Module) -> Any:
    """A copy to be followed, since a forward may change its module. Parameters are shared, hooks stay out."""
    memo: dict[int, Any] = {id(p): p for p in module.parameters()}
    for part in module.modules():
        memo |= {id(value): OrderedDict() for name, value in part.__dict__.items() if name.endswith("_hooks")}
    return copied_module(module, memo)


def follow(model: nn.Module) -> ModelGraph:
    """The data flow of a model.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
    >>> call = follow(model).call(model[0])
    >>> call.scope.module(call.only_user()) is model[1]
    True
    """
    scopes = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module, graph in _graphs("", model, set()):
            scopes.append(Scope(name, graph, dict(module.named_modules(remove_duplicate=False))))
    calls: dict[int, tuple[Call, ...]] = {}
    for scope in scopes:
        for node in scope.graph.nodes:
            called = scope.module(node)
            if called is not None:
                calls[id(called)] = (*calls.get(id(called), ()), Call(node, scope))
    return ModelGraph(tuple(scopes), calls)


def _graphs(name: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module, fx.Graph]]:
    if id(module) in seen or not any(module.children()) or _is_layer(module):
        return
    seen.add(id(module))
    if isinstance(module, torch.jit.ScriptModule):
        return
    if type(module).forward is not nn.Module.forward:  # else a list of modules, without a forward of its own
        try:
            graph = _Tracer().trace(_stand_in(module))
        except Exception:  # whatever the code does with a stand-in for data: it could not be followed
            pass
        else:
            yield name, module, graph
            return
    for child_name, child in module.named_children():
        yield from _graphs(f"{name}.{child_name}" if name else child_name, child, seen)


def _is_layer(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )
