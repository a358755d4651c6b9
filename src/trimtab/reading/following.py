"""Which activation follows each layer: what decides the gain of an initialization.

It is read from the code of the model (:mod:`trimtab.graph`), where activations may be modules or function calls; norms, dropouts, pooling,
reshaping and residual additions may stand in between. Where the code cannot be followed, a forward pass that was recorded says it, and where there
is none the order in which modules are defined; then it is said so.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from trimtab.copies import copied_module
from trimtab.graph import ModelGraph, Scope, follow
from trimtab.nn.gains import calculate_gain
from trimtab.reading.order import Models, answers, is_activation, is_norm, layers, recorded_behind

# Where torch's gain does not do what it is for. A sigmoid has slope 1/4 at 0, and its outputs have a mean that carries no signal: with torch's
# gain of 1 the signal, and the gradient, of a deep network shrink by 4 with every layer. So the slope decides (Glorot & Bengio 2010, whose
# activations have slope 1 at 0). SELU is made for a gain of 1, as torch's documentation says beside its 3/4.
OWN = {"sigmoid": 4.0, "hardsigmoid": 6.0, "selu": 1.0}

_GATES = ("sigmoid", "hardsigmoid")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_MIXING = frozenset(
    "softmax log_softmax softmin gumbel_softmax glu matmul bmm mm einsum baddbmm scaled_dot_product_attention linear bilinear conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d embedding multi_head_attention_forward".split()
)
_LOOKING = frozenset(
    "getattr size dim numel ndimension stride is_contiguous".split()
)  # at a tensor's shape, not its numbers


@dataclass(frozen=True)
class Following:
    """What follows a layer: the gain that goes with it, ``None`` where that is not known, and the words for both."""

    gain: float | None
    why: str


ANSWER = Following(1.0, "its output is the model's")
_LAST = Following(1.0, "the last layer by the order of definition")


def following(training: Models) -> dict[int, Following]:
    """What follows each linear and convolution layer, by the ``id`` of the layer."""
    found: dict[int, Following] = {}
    ends = answers(training)
    known = [layer for _, layer in layers(training)]
    for model in training.models:
        flow = follow(model)
        inside = {id(module) for module in model.modules()}
        of_torch = dict(_inside_encoders(model))
        for layer in known:
            if id(layer) in inside:
                last = _LAST if id(layer) in ends else None
                read = _read(flow, layer) or of_torch.get(id(layer)) or _seen(training, layer)
                found[id(layer)] = read or last or _defined_next(model, layer)
    return found


def _read(flow: ModelGraph, layer: nn.Module) -> Following | None:
    """What the code says of a layer that is called once or several times; ``None`` where it says nothing."""
    found = [_behind(call.scope, call.node) for call in flow.calls.get(id(layer), ())]
    if len({one.gain for one in found}) > 1:
        return Following(found[0].gain, f"{found[0].why} where it is called first")
    return found[0] if found else None


def _seen(training: Models, layer: nn.Module) -> Following | None:
    """What a recorded forward pass says of a layer."""
    ways = recorded_behind(training, layer)
    for activation, ends in ways:
        if activation:
            name = activation if isinstance(activation, str) else type(activation).__name__
            if ends:
                return Following(1.0, f"{name} follows, but behind it comes the model's output")
            function = activation if isinstance(activation, nn.Module) else getattr(F, name, None)
            return Following(_gain(name.lower(), function), f"{name} follows")
    if not ways:
        return None
    return ANSWER if any(ends for _, ends in ways) else Following(1.0, "no activation follows in the recorded pass")


def _behind(scope: Scope, node: fx.Node) -> Following:
    """The first activation on the ways from a node, else what they end at."""
    ends: Following | None = None
    seen, todo = {node}, deque([node])
    while todo:
        at = todo.popleft()
        for user in at.users:
            if user in seen:
                continue
            seen.add(user)
            if user.op == "output":
                ends = ends or (_left(scope) if scope.name else ANSWER)
                continue
            found = _activation(scope, at, user)
            if found is not None:
                if not _hidden(scope, user):
                    return Following(1.0, f"{found.why}, but behind it comes the model's output")
                return found
            end = _end(scope, user)
            if end:
                ends = Following(1.0, f"{end} follows without an activation between")
            elif not _looks(user):
                todo.append(user)
    return ends or ANSWER


def _left(scope: Scope) -> Following:
    return Following(
        1.0, f"assumed linear: no activation follows in {scope.name}, and the code around it could not be read"
    )


def _activation(scope: Scope, at: fx.Node, node: fx.Node) -> Following | None:
    """The activation that a node applies to another one's value."""
    module = scope.module(node)
    if module is not None:
        joined = getattr(module, "activation", None)  # a norm with an activation in its pass
        if is_norm(module) and isinstance(joined, str) and joined != "none":
            return _named(joined)
        if not is_activation(module, None):
            return _elementwise(module)
        name, function = type(module).__name__, module
    elif is_activation(None, node):
        name = _name(node).strip("_")
        function = _partial(name, node)
    else:
        return None
    gain = _gain(name.lower(), function)
    if gain is None:
        return Following(1.0, f"{name} follows, which has no gain")
    gated = _gated(at, node)
    if gated == "itself":
        return Following(_gain("", lambda z: z * function(z)), f"x * {name}(x) follows")
    if gated and name.lower() in _GATES:
        return Following(1.0, f"{name} follows as a gate")
    return Following(gain, f"{name} follows")


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _partial(name: str, node: fx.Node) -> Any:
    """The function that a node computes, as a function of one tensor; a slope that is learned has its first value, 1/4."""
    arguments = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
    options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input") and not isinstance(v, fx.Node)}
    if name == "prelu":
        return lambda z: F.leaky_relu(z, 0.25)
    if name == "leaky_relu":
        return nn.LeakyReLU(*[float(a) for a in arguments[:1]], **options)  # type: ignore[arg-type]
    function = getattr(F, name, None) or getattr(torch, name)
    return lambda z: function(z, *arguments, **options)


def _gain(name: str, function: Any) -> float | None:
    if name in OWN:
        return OWN[name]
    try:
        return calculate_gain(name if name in ("tanh", "relu") else function)
    except Exception:  # a function of more than each number by itself
        return None


def _named(name: str) -> Following:
    function = nn.GELU("tanh") if name == "gelu_tanh" else name
    return Following(calculate_gain(function), f"{name} follows in the pass of its norm")


def _gated(at: fx.Node, node: fx.Node) -> str:
    """What an activation's value is multiplied by: ``"itself"`` for the activation's own input, ``"another"`` value, or nothing."""
    for user in node.users:
        if user.target in _PRODUCTS:
            others = [factor for factor in user.args if isinstance(factor, fx.Node) and factor is not node]
            if others:
                return "itself" if others[0] is at else "another"
    return ""


def _elementwise(module: nn.Module) -> Following | None:
    """A module without parameters that is none of torch's, if it turns out to be a function of each number by itself."""
    if type(module).__module__.startswith(("torch.nn.", "trimtab.nn.")) or any(True for _ in module.state_dict()):
        return None
    if any(module.children()):
        return None
    z = torch.linspace(-3, 3, 24).view(2, 3, 2, 2)
    others = torch.arange(24).view_as(z) % 5 < 2
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial = copied_module(module).eval()
            y, changed = trial(z.clone()), trial(torch.where(others, 2 - z, z))
            if torch.equal(y, z) or not torch.allclose(y[~others], changed[~others], atol=1e-5):
                return None
            return Following(calculate_gain(trial), f"{type(module).__name__} follows")
    except Exception:  # foreign code that was not made for our numbers
        return None


def _end(scope: Scope, node: fx.Node) -> str:
    """The name of a layer, or of a function that mixes its inputs as layers do; empty for everything that lets an activation follow."""
    module = scope.module(node)
    if module is None:
        return _name(node) if node.op != "placeholder" and _name(node) in _MIXING else ""
    mixes = any(p.ndim > 1 for p in module.parameters()) or "Softm" in type(module).__name__
    return type(module).__name__ if mixes and not is_norm(module) else ""


def _looks(node: fx.Node) -> bool:
    return node.op != "call_module" and _name(node) in _LOOKING


def _hidden(scope: Scope, node: fx.Node) -> bool:
    """Whether a layer comes further on, so that the node's value is not the answer itself. Outside of the code nobody knows: then yes."""
    seen, todo = {node}, [node]
    while todo:
        for user in todo.pop().users:
            if user in seen:
                continue
            seen.add(user)
            if user.op == "output":
                if scope.name:
                    return True
            elif _end(scope, user) and "softmax" not in _end(scope, user).lower():
                return True
            else:
                todo.append(user)
    return False


def _inside_encoders(model: nn.Module) -> Iterator[tuple[int, Following]]:
    """The layers of torch's own transformer blocks, which are not followed inside."""
    for module in model.modules():
        if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
            function: Any = module.activation
            name = getattr(function, "__name__", type(function).__name__)
            gain = _gain(name.lower(), function)
            yield id(module.linear1), Following(gain, f"{name} follows")
            yield id(module.linear2), Following(1.0, "it ends a residual branch")


def _defined_next(model: nn.Module, layer: nn.Module) -> Following:
    """The activation that is defined next behind a layer in the same module, for code that cannot be followed."""
    parent = next((module for module in model.modules() if any(child is layer for child in module.children())), model)
    modules = list(parent.children())
    place = next((i for i, module in enumerate(modules) if module is layer), len(modules))
    for module in modules[place + 1 :]:
        if is_activation(module, None):
            name = type(module).__name__
            return Following(_gain(name.lower(), module), f"assumed, since {name} is defined next")
        if any(p.ndim > 1 for p in module.parameters()):
            break
    return Following(None, "what follows it could not be read from the code")
