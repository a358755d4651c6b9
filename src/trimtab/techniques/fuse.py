"""Chains around norms, each done in one pass."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from trimtab import nn as tn
from trimtab.nn.layer_norm import add_norm
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for

DROP_INS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: tn.BatchNorm1d,
    nn.BatchNorm2d: tn.BatchNorm2d,
    nn.BatchNorm3d: tn.BatchNorm3d,
    nn.LayerNorm: tn.LayerNorm,
    nn.RMSNorm: tn.RMSNorm,
    nn.GroupNorm: tn.GroupNorm,
    nn.InstanceNorm1d: tn.InstanceNorm1d,
    nn.InstanceNorm2d: tn.InstanceNorm2d,
    nn.InstanceNorm3d: tn.InstanceNorm3d,
    nn.LocalResponseNorm: tn.LocalResponseNorm,
    nn.Dropout: tn.Dropout,
}
# what our classes have beside torch's, with the values that mean "as torch does it"
EXTRAS: dict[str, Any] = {
    "activation": "none", "dropout": 0.0, "channels_first": False, "unbiased": True, "frozen": False, "units": None,
    "divide_by_size": True, "generator": None,
}  # fmt: skip
TAKES_MORE = (
    tn.BatchNorm1d, tn.BatchNorm2d, tn.BatchNorm3d, tn.LayerNorm, tn.RMSNorm, tn.GroupNorm,
    tn.InstanceNorm1d, tn.InstanceNorm2d, tn.InstanceNorm3d,
)  # fmt: skip
ADDING = {tn.LayerNorm: tn.AddLayerNorm, tn.RMSNorm: tn.AddRMSNorm}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.TransformerEncoder)
ADD = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Fuse(Technique):
    """Does a norm and what stands around it in one pass: activation, dropout, residual addition.

    Replaces torch's norms and dropouts by the drop-in ones of ``trimtab.nn`` (same parameters, same ``state_dict``), then joins

    * ``norm -> activation -> dropout`` and ``norm -> + residual -> activation``,
    * ``dropout -> + residual -> norm`` of transformer blocks,

    found in ``nn.Sequential`` by order, in ``nn.TransformerEncoderLayer`` by its kind, and in every other module whose
    ``forward`` ``torch.fx`` can trace, where it comes out alike in training and evaluation. The numbers stay the same up to
    rounding, and but for the masks of dropout, which come from another generator.

    Helps: networks whose steps spend time in norms, activations and dropout on a CPU; less is kept for the backward pass.
    Hurts: nothing known; modules that were joined into a norm are no longer called, so hooks on them would see nothing: those
    that have hooks are left alone. Under ``torch.compile`` on a CPU it helps all the more. Not for models that will be compiled
    by other backends, which join such chains themselves.

    Source: PERFORMANCE of each part in ``benchmarks/``; Rota Bulo et al., "In-Place Activated BatchNorm", 2018, for the idea.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("fuse")
    >>> model[1]
    BatchNorm1d(8, ..., activation=relu, dropout=0.1)
    """

    acts_on = "model"
    moment = "fuse"
    group = "normalization"
    evaluates = True
    suite = Suite(network="normed")

    def apply(self, training: TrainingLike) -> Change:
        surgeon = _Surgeon()
        for model in training.models:
            for module in list(model.modules()):
                surgeon.drop_in(module)
            for name, module in list(model.named_modules()):
                if isinstance(module, nn.Sequential):
                    surgeon.sequential(name, module)
            for name, module in list(model.named_modules()):
                if type(module) is nn.TransformerEncoderLayer:
                    surgeon.encoder_layer(name, module)
                elif not isinstance(module, CONTAINERS) and any(isinstance(c, TAKES_MORE) for c in module.children()):
                    surgeon.traced(name, module)
        if not surgeon.done:
            raise nothing_for(self, "the model has neither torch norms nor dropouts.")
        joined = [line for line in surgeon.details if not line.startswith("left")]
        summary = f"{surgeon.replaced} norms and dropouts replaced by drop-ins, {len(joined)} chains joined into them"
        return Change(summary, surgeon.undo, details=tuple(surgeon.details))


class _Surgeon:
    """Makes changes and remembers how to take them back."""

    def __init__(self) -> None:
        self.done: list[Callable[[], None]] = []
        self.details: list[str] = []
        self.replaced = 0

    def undo(self) -> None:
        while self.done:
            self.done.pop()()

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute in the instance's own dictionary, past nn.Module's bookkeeping."""
        missing = object()
        before = owner.__dict__.get(name, missing)

        def back() -> None:
            if before is missing:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = before

        owner.__dict__[name] = value
        self.done.append(back)

    def become(self, module: nn.Module, cls: type[nn.Module]) -> None:
        """Changes the class of a module in place: parameters, hooks, buffers and everybody's references stay."""
        before = module.__class__

        def back() -> None:
            module.__class__ = before

        module.__class__ = cls
        self.done.append(back)

    def drop_in(self, module: nn.Module) -> None:
        cls = DROP_INS.get(type(module))
        if cls is None:
            return
        names = [name for name in EXTRAS if name in cls.__init__.__code__.co_varnames]
        for name in names:
            self.set(module, name, EXTRAS[name])
        self.become(module, cls)
        self.replaced += 1

    # -- module order ----------------------------------------------------------------------------------------------------

    def sequential(self, name: str, chain: nn.Sequential) -> None:
        slots = list(chain._modules.items())
        for place, (key, norm) in enumerate(slots):
            if not _joinable(norm):
                continue
            follow = slots[place + 1 : place + 3]
            taken = [norm]
            code = _activation_of(follow[0][1]) if follow else None
            if code:
                taken.append(follow.pop(0)[1])
                self.set(norm, "activation", code)
            if follow and _plain_dropout(follow[0][1]) and not follow[0][1].inplace:
                drop = follow[0][1]
                taken.append(drop)
                self.set(norm, "dropout", drop.p)
            for slot, module in slots[place + 1 : place + len(taken)]:
                self._pass_through(chain, slot, module)
            if len(taken) > 1:
                self.details.append(f"{name or 'model'}.{key}: {_chain(taken)}")

    def _pass_through(self, chain: nn.Sequential, slot: str, module: Any) -> None:
        chain._modules[slot] = nn.Identity()
        self.done.append(lambda: chain._modules.__setitem__(slot, module))

    # -- traced forwards -------------------------------------------------------------------------------------------------

    def traced(self, name: str, module: nn.Module) -> None:
        if "forward" in module.__dict__ or type(module).forward is nn.Module.forward:
            return
        given = inspect.signature(type(module).forward).parameters.values()
        if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given):
            # to torch.fx every argument is there: `if mask is None` would be traced the wrong way
            self.details.append(f"left alone {name or 'model'}: its forward has optional arguments")
            return
        try:
            graphs = [_trace(module, training) for training in (True, False)]
        except Exception as error:  # anything may happen while a foreign forward runs on stand-ins
            self.details.append(f"left alone {name or 'model'}: torch.fx cannot trace it ({_first_line(error)})")
            return
        if str(graphs[0]) != str(graphs[1]):
            self.details.append(f"left alone {name or 'model'}: its forward is another one in evaluation")
            return
        graph = graphs[0]
        found = list(self._chains(module, graph))
        if not found:
            return
        graph.lint()
        # It shares the module's children; unlike a bound method it can be copied and pickled along with the module.
        self.set(module, "forward", fx.GraphModule(module, graph, type(module).__name__))
        self.details += [f"{name or 'model'}: {chain}" for chain in found]

    def _chains(self, module: nn.Module, graph: fx.Graph) -> Iterator[str]:
        calls: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                calls[node.target] = calls.get(node.target, 0) + 1
        for node in list(graph.nodes):
            if node.op != "call_module" or calls[node.target] != 1 or len(node.args) != 1 or node.kwargs:
                continue
            norm = module.get_submodule(node.target)
            if not _joinable(norm):
                continue
            told = self._behind(module, graph, node, norm)
            if told is None and type(norm) in ADDING:
                told = self._before(module, graph, node, norm)
            if told:
                yield told

    def _behind(self, module: nn.Module, graph: fx.Graph, node: fx.Node, norm: nn.Module) -> str | None:
        """norm -> + residual -> activation -> dropout, as much of it as there is."""
        path, residual, words = [node], None, [type(norm).__name__]
        follow = _only_user(node)
        if follow is not None and _is_add(follow):
            other = follow.args[1] if follow.args[0] is node else follow.args[0]
            if isinstance(other, fx.Node) and other is not node:
                path.append(follow)
                residual = other
                words.append("residual")
                follow = _only_user(follow)
        code = _activation_at(module, follow)
        if code:
            assert follow is not None
            path.append(follow)
            words.append(code)
            follow = _only_user(path[-1])
        p = _dropout_at(module, follow) if code or residual is None else None
        if p is not None:
            assert follow is not None
            path.append(follow)
            words.append(f"dropout {p:g}")
        if len(path) == 1 or words[1:] == ["residual"]:
            return None
        with graph.inserting_before(path[-1]):
            inputs: tuple[Any, ...] = (node.args[0],)
            if residual is not None:
                inputs = (*inputs, graph.call_method("expand_as", (residual, node.args[0])))  # additions broadcast
            joined = graph.call_module(str(node.target), inputs)
        path[-1].replace_all_uses_with(joined)
        for member in reversed(path):
            graph.erase_node(member)
        if code:
            self.set(norm, "activation", code)
        if p:
            self.set(norm, "dropout", p)
        return " -> ".join(words)

    def _before(self, module: nn.Module, graph: fx.Graph, node: fx.Node, norm: Any) -> str | None:
        """dropout -> + residual -> norm; the sum is returned too where others want it."""
        total = node.args[0]
        if not isinstance(total, fx.Node) or not _is_add(total) or getattr(norm, "activation", "none") != "none":
            return None
        left, right = total.args[:2]
        if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)) or left is right:
            return None
        if len(norm.normalized_shape) != 1 or getattr(norm, "channels_first", False):
            return None
        p, dropped = 0.0, None
        for side in (left, right):
            found = _dropout_at(module, side)
            if found is not None and len(side.users) == 1:
                p, dropped = found, side
                break
        source = dropped.args[0] if dropped is not None else left
        residual = (right if dropped is left else left) if dropped is not None else right
        shared = len(total.users) > 1
        with graph.inserting_before(total if shared else node):
            both = graph.call_function(torch.broadcast_tensors, (source, residual))
            summands = tuple(graph.call_function(operator.getitem, (both, i)) for i in (0, 1))
            joined = graph.call_module(str(node.target), summands)
        if shared:
            # everything that used the sum takes it from the pair
            with graph.inserting_after(joined):
                y = graph.call_function(operator.getitem, (joined, 0))
                h = graph.call_function(operator.getitem, (joined, 1))
            node.replace_all_uses_with(y)
            graph.erase_node(node)
            total.replace_all_uses_with(h)
        else:
            node.replace_all_uses_with(joined)
            graph.erase_node(node)
        graph.erase_node(total)
        if dropped is not None:
            graph.erase_node(dropped)
        self.set(norm, "dropout", p)
        self.set(norm, "return_sum", shared)
        self.become(norm, ADDING[type(norm)])
        return " -> ".join([*([f"dropout {p:g}"] if p else []), "residual", type(norm).__name__])

    # -- torch's own encoder layer, whose forward torch.fx cannot trace ----------------------------------------------------

    def encoder_layer(self, name: str, layer: nn.TransformerEncoderLayer) -> None:
        parts = (layer.norm1, layer.norm2, layer.dropout, layer.dropout1, layer.dropout2)
        if "forward" in layer.__dict__ or any(_hooked(part) for part in parts):
            return
        if not all(type(norm) is tn.LayerNorm for norm in (layer.norm1, layer.norm2)):
            return
        self.set(layer, "forward", functools.partial(_encoder_forward, layer))
        self.details.append(f"{name or 'model'}: dropout {layer.dropout1.p:g} -> residual -> LayerNorm, twice")


def _encoder_forward(  # type: ignore[no-untyped-def]
    self, src, src_mask=None, src_key_padding_mask=None, is_causal=False
):
    """nn.TransformerEncoderLayer.forward with its additions done by the norms; evaluation is torch's own, with its fast path."""
    if not self.training:
        return type(self).forward(self, src, src_mask, src_key_padding_mask, is_causal)
    src_key_padding_mask = F._canonical_mask(
        src_key_padding_mask, "src_key_padding_mask", F._none_or_dtype(src_mask), "src_mask", src.dtype
    )
    src_mask = F._canonical_mask(src_mask, "src_mask", None, "", src.dtype, False)

    def attend(x):  # type: ignore[no-untyped-def]
        return self.self_attn(
            x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, need_weights=False, is_causal=is_causal
        )[0]

    def feed(x):  # type: ignore[no-untyped-def]
        return self.linear2(self.dropout(self.activation(self.linear1(x))))

    def add(norm, x, residual, p, both):  # type: ignore[no-untyped-def]
        return add_norm(x, residual, norm.weight, norm.bias, norm.eps, True, p, both)

    if self.norm_first:
        y, h = add(self.norm2, attend(self.norm1(src)), src, self.dropout1.p, True)
        return h + self.dropout2(feed(y))
    x = add(self.norm1, attend(src), src, self.dropout1.p, False)
    return add(self.norm2, feed(x), x, self.dropout2.p, False)


class _Tracer(fx.Tracer):
    """Sees the children of a module as they are called, and nothing inside them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module, training: bool) -> fx.Graph:
    """The graph of the module's forward in that mode; the mode is put back."""
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        with torch.random.fork_rng(devices=[]):
            return _Tracer().trace(module)
    finally:
        for part, mode in modes.items():
            part.training = mode


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _joinable(module: nn.Module) -> bool:
    plain = getattr(module, "activation", None) == "none" and getattr(module, "dropout", None) == 0.0
    return isinstance(module, TAKES_MORE) and plain and not _hooked(module)


def _activation_of(module: Any) -> str | None:
    """The name of the activation that a module is, if a norm can do it."""
    if _hooked(module):
        return None
    if type(module) is nn.ReLU:
        return "relu"
    if type(module) is nn.SiLU:
        return "silu"
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return None


def _activation_at(module: nn.Module, node: fx.Node | None) -> str | None:
    if node is None:
        return None
    if node.op == "call_module":
        return _activation_of(module.get_submodule(str(node.target)))
    others = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    if node.op in ("call_function", "call_method") and len(node.args) == 1:
        if node.target in (F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_") and not others:
            return "relu"
        if node.target is F.silu and not others:
            return "silu"
        if node.target is F.gelu:
            return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(others.get("approximate", "none")))
    return None


def _plain_dropout(part: nn.Module) -> bool:
    """Whether a module is a dropout of the kind that norms have in their pass, and nobody looks at its output."""
    return (
        type(part) is tn.Dropout
        and (part.scaling, part.count, part.shape) == ("inverted", "bernoulli", "element")
        and part.generator is None
        and not _hooked(part)
    )


def _dropout_at(module: nn.Module, node: Any) -> float | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    part: Any = module.get_submodule(str(node.target))
    return float(part.p) if _plain_dropout(part) else None


def _is_add(node: fx.Node) -> bool:
    return (
        node.op in ("call_function", "call_method") and node.target in ADD and len(node.args) == 2 and not node.kwargs
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]


def _chain(modules: list[nn.Module]) -> str:
    return " -> ".join(type(module).__name__ for module in modules)
