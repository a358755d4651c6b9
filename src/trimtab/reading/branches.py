"""The residual branches of a model, read from its code."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from trimtab.graph import Scope
from trimtab.reading.order import CONV, LINEAR

_ADDITIONS = (operator.add, operator.iadd, torch.add)
PASSING = frozenset(
    "permute transpose contiguous view reshape movedim flatten squeeze unsqueeze dropout dropout2d".split()
)
"""Calls that hand a branch on as it is."""


def branches(scope: Scope) -> Iterator[tuple[fx.Node, set[fx.Node]]]:
    """The residual branches in a scope: the node that is added to the shortcut, and all nodes of the branch alone."""
    for node in scope.graph.nodes:
        sides = [a for a in node.args if isinstance(a, fx.Node)]
        if node.op != "call_function" or node.target not in _ADDITIONS or len(sides) != 2:
            continue
        above = [_above(side) for side in sides]
        if not any(n.op == "placeholder" or n.op.startswith("call") for n in above[0] & above[1]):
            continue  # nothing in common: two streams, not a branch and its shortcut
        alone = [_layers(scope, above[0] - above[1]), _layers(scope, above[1] - above[0])]
        branch = 0 if alone[0] > alone[1] else 1
        if alone[0] == alone[1] or alone[1 - branch] > 1:
            continue
        yield sides[branch], above[branch] - above[1 - branch]


def _above(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    seen, todo = set(), [node]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += one.all_input_nodes
    return seen


def _layers(scope: Scope, nodes: set[fx.Node]) -> int:
    """How many linear and convolution layers are among the nodes, also inside of modules that were not followed."""
    called = (module for module in map(scope.module, nodes) if module is not None)
    return sum(isinstance(part, LINEAR + CONV) for module in called for part in module.modules())
