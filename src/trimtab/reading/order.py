"""The order in which a model calls its layers, and what goes from which to which.

The order in which modules are defined says little of it: a head may be defined before the body, norms apart from their layers. It is read
from the code of the model (:mod:`trimtab.graph`); where that cannot be followed, from a forward pass that was recorded (``Training.seen``);
and only where there is none, from the order of definition.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import fx, nn

from trimtab.graph import Scope, follow
from trimtab.reading.norms import Norm, recognise
from trimtab.records import INPUT, OUTPUT, Flow

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear,)
CONV: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd,)
NORM: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
LAYER_KINDS = {"linear": LINEAR, "conv": CONV, "all": LINEAR + CONV}
BEFORE = ("input_norm", "trimtab_input_norm")  # the roles of norms that are hung on a layer's input

_ACTIVATIONS = frozenset(
    "relu relu_ relu6 leaky_relu leaky_relu_ prelu elu elu_ celu selu gelu silu mish sigmoid sigmoid_ tanh tanh_ hardswish "
    "hardtanh hardsigmoid softplus softsign rrelu".split()
)
_MIXING = frozenset(  # functions that are layers without a module
    "matmul bmm mm einsum baddbmm scaled_dot_product_attention linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d embedding multi_head_attention_forward".split()
)


class Models(Protocol):
    """What is read here of a training. ``read`` is what was read of it already, by the ids of its models and what they were made of then."""

    @property
    def models(self) -> Sequence[nn.Module]: ...
    @property
    def seen(self) -> Flow | None: ...
    @property
    def read(self) -> dict[int, tuple[tuple, Order]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization: by its class, or by what it computes."""
    return isinstance(module, NORM) or isinstance(recognise(module), Norm)


def is_activation(module: nn.Module | None, node: fx.Node | None) -> bool:
    """Whether a node of a graph applies an activation function, as a module or as a function."""
    if isinstance(module, nn.Module):
        kind = type(module)
        known = kind.__module__ in ("torch.nn.modules.activation", "transformers.activations")
        return known and not any(word in kind.__name__ for word in ("Softmax", "Softmin", "Attention"))
    if node is None or node.op not in ("call_function", "call_method"):
        return False
    return (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")) in _ACTIVATIONS


def is_layer(module: nn.Module) -> bool:
    """Whether a module mixes features by weights: no norm, no scale."""
    return any(p.ndim > 1 for p in module.parameters()) and not is_norm(module)


# -- one model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Edge:
    """A value goes from a module to another one (or from the input, or to the output) with no layer and no norm in between, but perhaps
    an activation: a module, or a function of that name."""

    source: int
    target: int
    activation: nn.Module | str = ""


_IN, _OUT = 0, 1  # no object has these ids


@dataclass
class Order:
    """What is known of a model: the modules in the order of their first call, and the edges between layers and norms."""

    how: Literal["code", "run", "definition"]
    places: dict[int, int] = field(default_factory=dict)
    edges: dict[_Edge, None] = field(default_factory=dict)  # an ordered set
    norms: set[int] = field(default_factory=set)

    def behind(self, module: nn.Module) -> list[_Edge]:
        """What the value of a module goes to."""
        return [edge for edge in self.edges if edge.source == id(module)]

    def before(self, module: nn.Module) -> list[_Edge]:
        """Where the input of a module comes from."""
        return [edge for edge in self.edges if edge.target == id(module)]

    def reach(self, start: int, forward: bool) -> set[int]:
        """The layers next to a place, or the input, or the output, through norms."""
        found: set[int] = set()
        seen, todo = {start}, [start]
        while todo:
            at = todo.pop()
            for edge in self.edges:
                here, there = (edge.source, edge.target) if forward else (edge.target, edge.source)
                if here != at or there in seen:
                    continue
                seen.add(there)
                if there in self.norms:
                    todo.append(there)
                else:
                    found.add(there)
        return found


def order_of(model: nn.Module, named: Iterable[tuple[str, nn.Module]], seen: Flow | None) -> Order:
    """The order of one model; ``named`` are the modules of its training by their names in ``seen``."""
    scope = next((scope for scope in follow(model).scopes if not scope.name), None)
    if scope is not None:
        return _from_code(scope)
    inside = {id(module) for module in model.modules()}
    known = {name: module for name, module in named if id(module) in inside}
    if seen is not None and any(name in known for name in seen.order):
        return _from_run(seen, known)
    return _from_definition(model)


def _from_code(scope: Scope) -> Order:
    order = Order("code")
    stops: dict[fx.Node, int] = {}
    for node in scope.graph.nodes:
        module = scope.module(node)
        if module is not None:
            order.places.setdefault(id(module), len(order.places))
            if is_norm(module):
                order.norms.add(id(module))
            if is_layer(module) or id(module) in order.norms:
                stops[node] = id(module)
        elif node.op == "placeholder":
            stops[node] = _IN
        elif node.op == "output":
            stops[node] = _OUT
        elif _name(node) in _MIXING:
            stops[node] = id(node)
    for node, source in stops.items():
        start: tuple[fx.Node, nn.Module | str] = (node, "")
        todo, seen = deque([start]), {start}
        while todo:
            at, activation = todo.popleft()
            for user in at.users:
                if user in stops:
                    order.edges.setdefault(_Edge(source, stops[user], activation))
                    continue
                module = scope.module(user)
                step = (user, activation or (module or _name(user) if is_activation(module, user) else ""))
                if step not in seen:
                    seen.add(step)
                    todo.append(step)
    return order


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _from_run(seen: Flow, known: dict[str, nn.Module]) -> Order:
    order = Order("run")
    ids = {INPUT: _IN, OUTPUT: _OUT, **{name: id(module) for name, module in known.items()}}
    for name in seen.order:
        if name in known:
            order.places.setdefault(ids[name], len(order.places))
    order.norms = {id(module) for module in known.values() if is_norm(module)}
    stops = order.norms | {id(m) for name, m in known.items() if name in seen.order and is_layer(m)} | {_IN, _OUT}
    steps = [(ids[one], ids[other], by) for one, other, by in seen.edges if {one, other} <= set(ids)]
    activations = {id(module): module for module in known.values() if is_activation(module, None)}
    for first in stops:
        start: tuple[int, nn.Module | str] = (first, "")
        todo, met = deque([start]), {start}
        while todo:
            at, activation = todo.popleft()
            for source, target, by in steps:
                if source != at:
                    continue
                step = (target, activation or by or activations.get(target, ""))
                if target in stops:
                    order.edges.setdefault(_Edge(first, target, step[1]))
                elif step not in met:
                    met.add(step)
                    todo.append(step)
    return order


def _from_definition(model: nn.Module) -> Order:
    """As if every module were called once, one after the other."""
    order = Order("definition")
    last: int = _IN
    activation: nn.Module | str = ""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in BEFORE or (any(module.children()) and not is_layer_itself(module)):
            continue
        order.places[id(module)] = len(order.places)
        activation = activation or (module if is_activation(module, None) else "")
        norm = is_norm(module)
        if norm or is_layer_itself(module):
            order.edges.setdefault(_Edge(last, id(module), activation))
            last, activation = id(module), ""
        if norm:
            order.norms.add(id(module))
    order.edges.setdefault(_Edge(last, _OUT, activation))
    return order


def is_layer_itself(module: nn.Module) -> bool:
    """Whether a module has weights of its own, whatever is in it."""
    return (
        any(p is not None and p.ndim > 1 for p in module._parameters.values()) or "parametrizations" in module._modules
    )


# -- all models of a training ----------------------------------------------------------------------------------------


def orders(training: Models) -> list[Order]:
    """The order of each model of a training, in the order of the models."""
    found = []
    named = list(training.named_modules())
    for model in training.models:
        signature = (tuple(id(module) for module in model.modules()), training.seen)
        kept = training.read.get(id(model))
        if kept is None or kept[0] != signature:
            training.read[id(model)] = kept = signature, order_of(model, named, training.seen)
        found.append(kept[1])
    return found


def doubts(training: Models) -> tuple[str, ...]:
    """A sentence for every model whose order could only be taken from its definition."""
    return tuple(
        f"The code of {type(model).__name__} could not be followed: what is first, last or behind is said by the order of definition."
        for model, order in zip(training.models, orders(training), strict=True)
        if order.how == "definition" and len(order.places) > 1 and not isinstance(model, nn.Sequential)
    )


def layers(training: Models, kind: str = "all") -> list[tuple[str, Any]]:
    """Linear and convolution layers with their names, in the order in which they are called.

    Projections inside ``nn.MultiheadAttention`` are left out: it uses their weights without calling them.
    """
    inside_attention: set[int] = set()
    found: list[tuple[tuple, str, Any]] = []
    places = [_places_with_inner(model, order) for model, order in zip(training.models, orders(training), strict=True)]
    for number, (name, module) in enumerate(training.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            inside_attention |= {id(part) for part in module.modules()}
        if isinstance(module, LAYER_KINDS[kind]) and id(module) not in inside_attention:
            if isinstance(module.weight, nn.UninitializedParameter):
                continue
            which = next((i for i, one in enumerate(places) if id(module) in one), len(places))
            place = places[which][id(module)] if which < len(places) else 0
            found.append(((which, place, number), name, module))
    return [(name, module) for _, name, module in sorted(found, key=lambda one: one[0])]


def _places_with_inner(model: nn.Module, order: Order) -> dict[int, int]:
    """The place of every module; one that lies inside of a module which is called as a whole has that one's."""
    places: dict[int, int] = {}

    def descend(module: nn.Module, above: int) -> None:
        place = order.places.get(id(module), above)
        if id(module) not in places:
            places[id(module)] = place
        for child in module.children():
            descend(child, place)

    descend(model, len(order.places))
    return places


def answers(training: Models) -> set[int]:
    """The ids of the layers whose value is an answer of its model: no other layer comes behind it."""
    found: set[int] = set()
    known = layers(training)
    for model, order in zip(training.models, orders(training), strict=True):
        inside = {id(module) for module in model.modules()}
        mine = [id(module) for _, module in known if id(module) in inside]
        last = order.reach(_OUT, forward=False)
        heads = {one for one in mine if one in last}
        if not heads:  # inside of a module that is called as a whole, or nothing is known
            whole = {id(part) for module in model.modules() if id(module) in last for part in module.modules()}
            heads = {
                one for one in mine if one in whole and one == next((m for m in reversed(mine) if m in whole), None)
            }
        found |= heads or set(mine[-1:])
    return found


def hidden_layers(training: Models, kind: str = "all") -> list[tuple[str, Any]]:
    """:func:`layers` without those whose value is an answer."""
    ends = answers(training)
    return [(name, module) for name, module in layers(training, kind) if id(module) not in ends]


def takes_input(training: Models) -> set[int]:
    """The ids of the modules with parameters that are given what the model is given, and nothing else, by way of no other one."""
    found: set[int] = set()
    for order in orders(training):
        given = {edge.target for edge in order.edges if edge.source == _IN and edge.target != _OUT}
        found |= {one for one in given if all(edge.source == _IN for edge in order.edges if edge.target == one)}
    return found


def first_layers(training: Models) -> set[int]:
    """The ids of the layers (of any kind that has weights) that take the input of their model, by way of norms at most."""
    found: set[int] = set()
    for model, order in zip(training.models, orders(training), strict=True):
        reached = order.reach(_IN, forward=True)
        inside = [part for module in model.modules() if id(module) in reached for part in module.modules()]
        mine = [id(part) for part in inside if is_layer_itself(part) and not is_norm(part)]
        found |= reached & set(mine) or set(mine[:1])  # of what is called as a whole, the first that is defined
    return found


def behind_the_first(training: Models, kind: str = "all") -> list[tuple[str, Any]]:
    """:func:`layers` without those that take the input of their model, by way of norms at most."""
    first = first_layers(training)
    return [(name, module) for name, module in layers(training, kind) if id(module) not in first]


def recorded_behind(training: Models, layer: nn.Module) -> list[tuple[nn.Module | str, bool]]:
    """Where a value of a layer goes, for models whose code could not be followed and whose pass was recorded: by which activation, and whether
    it then is an answer. It may pass through norms."""
    found: list[tuple[nn.Module | str, bool]] = []
    for order in orders(training):
        todo, met = deque([id(layer)] if order.how == "run" else []), {id(layer)}
        while todo:
            at = todo.popleft()
            for edge in order.edges:
                if edge.source != at:
                    continue
                if edge.target not in order.norms or edge.activation:
                    found.append((edge.activation, edge.target == _OUT))
                elif edge.target not in met:
                    met.add(edge.target)
                    todo.append(edge.target)
    return found


def followed_by_norm(training: Models, layer: nn.Module) -> bool:
    """Whether a normalization takes the layer's value before an activation does (or one is hung on the layer)."""
    if any(isinstance(child, NORM) and role not in BEFORE for role, child in layer.named_children()):
        return True
    return any(
        edge.target in order.norms and not edge.activation for order in orders(training) for edge in order.behind(layer)
    )


def preceded_by_norm(training: Models, layer: nn.Module) -> bool:
    """Whether the layer takes the value of a normalization, with no activation between (or one is hung on its input)."""
    if any(isinstance(child, NORM) and role in BEFORE for role, child in layer.named_children()):
        return True
    return any(
        edge.source in order.norms and not edge.activation for order in orders(training) for edge in order.before(layer)
    )


def hidden_modules(training: Models) -> list[tuple[str, nn.Module]]:
    """All modules, with their names, that are called before the last layer is, in the order of their calls."""
    ends = answers(training)
    found: list[tuple[tuple[int, int], str, nn.Module]] = []
    for which, (model, order) in enumerate(zip(training.models, orders(training), strict=True)):
        places = _places_with_inner(model, order)
        last = max((places[id(m)] for _, m in layers(training) if id(m) in ends and id(m) in places), default=0)
        named = [(name, module) for name, module in training.named_modules() if name and id(module) in places]
        found += [((which, places[id(m)]), n, m) for n, m in named if places[id(m)] < last]
    return [(name, module) for _, name, module in sorted(found, key=lambda one: one[0])]
