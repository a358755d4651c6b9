"""What goes where in a model, read from one forward pass of a training: which module's value reaches which module.

The pass is followed through autograd's graph: the value of a module has a node there, and the nodes behind the input of another one
lead back to it. Nothing is computed, and nothing is kept beyond the pass.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from trimtab.records import INPUT, OUTPUT, Flow

FAR = 2000  # nodes between two modules at most
_ACTIVATIONS = {  # by the node of the graph that goes back through one
    "Relu": "relu",
    "Threshold": "threshold",
    "Gelu": "gelu",
    "Silu": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Elu": "elu",
    "Hardtanh": "hardtanh",
    "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid",
    "Mish": "mish",
    "Softplus": "softplus",
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "prelu",
}
_NODE = re.compile(r"(\w+?)Backward\d*")


class FlowReader:
    """Follows one forward pass of a training's models.

    Args:
        roots: the models.
        heads: what may be called in their places.
        names: the modules to tell apart, by their ids.
    """

    def __init__(
        self, roots: tuple[nn.Module, ...], names: Mapping[int, str], heads: tuple[nn.Module, ...] = ()
    ) -> None:
        self.names = names
        self._roots = {id(root) for root in roots}
        self._open = {id(root) for root in roots}  # those that were not called yet
        self._heads = {id(head) for head in heads} - self._roots
        self._ends: dict[tuple[str, str, str], None] = {}  # what the heads gave
        self._order: dict[str, None] = {}
        self._edges: dict[tuple[str, str, str], None] = {}
        self._makers: dict[Any, str] = {}  # by the node of a value
        self._values: dict[
            int, tuple[weakref.ref, str]
        ] = {}  # values that have no node, since nothing before them is trained

    def forward(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        """A module gave a value."""
        name = self.names.get(id(module))
        if name is not None and id(module) not in self._roots:
            self._order.setdefault(name)
            self._lead(inputs, name)
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    self._makers.setdefault(tensor.grad_fn, name)
                else:
                    self._values.setdefault(id(tensor), (weakref.ref(tensor), name))
        if id(module) in self._heads:
            self._lead(output, OUTPUT, self._ends)
        if id(module) in self._roots:
            if name is not None and not any(True for _ in module.children()):
                self._order.setdefault(name)
                self._lead(inputs, name)
                self._edges.setdefault((name, OUTPUT, ""))
            else:
                self._lead(output, OUTPUT)
            self._open.discard(id(module))
            self.forget()

    @property
    def done(self) -> bool:
        """Whether every model was called."""
        return not self._open

    def flow(self) -> Flow | None:
        """What was seen."""
        if not self._order:
            return None
        gone_on = {source for source, _, _ in self._edges}
        ends = [edge for edge in self._ends if edge[0] not in gone_on] if self._open else []
        return Flow(order=tuple(self._order), edges=(*self._edges, *ends))

    def forget(self) -> None:
        """The pass is over."""
        self._makers.clear()
        self._values.clear()

    def _lead(self, values: Any, target: str, edges: dict[tuple[str, str, str], None] | None = None) -> None:
        for tensor in _tensors(values):
            for source, activation in self._sources(tensor):
                if source != target:
                    (self._edges if edges is None else edges).setdefault((source, target, activation))

    def _sources(self, tensor: torch.Tensor) -> Iterator[tuple[str, str]]:
        """The modules whose values a tensor was made from, or the input; and the first activation function that lies between."""
        if tensor.grad_fn is None:
            made, name = self._values.get(id(tensor), (None, ""))
            yield (name if made is not None and made() is tensor else INPUT), ""
            return
        found = False
        todo, met = [(tensor.grad_fn, "")], {(tensor.grad_fn, "")}
        while todo and len(met) < FAR:
            node, activation = todo.pop()
            if node in self._makers:
                found = True
                yield self._makers[node], activation
                continue
            kind = _NODE.fullmatch(node.name())
            activation = _ACTIVATIONS.get(kind[1], activation) if kind else activation
            for before, _ in node.next_functions:
                if before is not None and (before, activation) not in met:
                    met.add((before, activation))
                    todo.append((before, activation))
        if not found:
            yield INPUT, ""


def _tensors(values: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif depth < 4 and isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value, depth + 1)
    elif depth < 4 and isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value, depth + 1)
