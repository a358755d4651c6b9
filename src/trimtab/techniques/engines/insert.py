"""Putting normalizations into a live model: where, and with which gain at the start.

What ``batch_norm``, ``layer_norm``, ``group_norm`` and ``rms_norm`` share. A norm stands *behind* the layers of a kind (``after="linear"``), in
*front* of them (``before="linear"``), or on either side of the activations that follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from trimtab.graph import ModelGraph, follow, only_user
from trimtab.nn.identity_init import identity_init
from trimtab.nn.layouts import BatchNormLast, GroupNormLast
from trimtab.reading.order import (
    CONV,
    LAYER_KINDS,
    LINEAR,
    NORM,
    behind_the_first,
    doubts,
    followed_by_norm,
    hidden_layers,
    is_activation,
    preceded_by_norm,
)
from trimtab.reading.weights import weight_of
from trimtab.recipe import Change, TrainingLike
from trimtab.techniques.engines.plain import between
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now

PLACES = (*LAYER_KINDS, "activation")


@dataclass(frozen=True)
class Site:
    """A place for a norm: which module it hangs on, at which end, and the layer whose optimizer group it joins.

    ``features`` stand last behind linear layers, and second, with ``positions`` dimensions behind them, behind convolutions.
    """

    name: str
    host: nn.Module
    beside: Any
    features: int
    before: bool = False

    @property
    def positions(self) -> int:
        return 0 if isinstance(self.beside, nn.Linear) else self.beside.weight.ndim - 2

    @property
    def options(self) -> dict[str, Any]:
        return {"device": self.beside.weight.device, "dtype": self.beside.weight.dtype}


Make = Callable[[Site], tuple[nn.Module, Callable[[Any, torch.Tensor], torch.Tensor]]]


def check_place(technique: Any) -> None:
    """Raise for an ``after`` or ``before`` that is none of the places."""
    if technique.before and technique.after != "all":
        raise ValueError(f"{technique.name} takes after={technique.after!r} or before={technique.before!r}, not both.")
    field = "before" if technique.before else "after"
    if getattr(technique, field) not in PLACES:
        raise ValueError(
            f"{technique.name}({field}={getattr(technique, field)!r}): {field} must be one of "
            f"{', '.join(map(repr, PLACES))}."
        )


def insert_norms(technique: Any, training: TrainingLike, what: str, make: Make) -> Change:
    """Hang a norm at every place that ``technique.after``, ``before`` and ``only`` name and that has none yet.

    ``make(site)`` gives the norm and how it is called; its parameters join the optimizer in the group of the layer beside it.
    """
    passed_over: list[str] = []
    sites = [site for site in _sites(technique, training, passed_over) if fnmatchcase(site.name, technique.only)]
    if not sites:
        raise nothing_for(technique, _why_none(technique, passed_over))
    hung: list[Hung] = []
    try:
        for site in sites:
            norm, call = make(site)
            if technique.identity:
                Recover(norm)
            hung.append(Hung(site.host, "input_norm" if site.before else "norm", norm, call, site.before))
            training.add_parameters(norm.parameters(), beside=weight_of(site.beside))
    except BaseException:
        _take_off(training, hung)
        raise
    end = "before" if technique.before else "behind"
    kind = "activations" if technique.before == "activation" or technique.after == "activation" else "layers"
    told = [(site.name, site) for site in sites]
    summary = f"{what} {end} {len(sites)} {kind if len(sites) > 1 else kind[:-1]}: {listed_names(told)}"
    details = [
        f"{site.name}: {type(one.layer._modules[one.child]).__name__}({site.features})"
        for site, one in zip(sites, hung, strict=True)
    ]
    return Change(
        summary,
        lambda: _take_off(training, hung),
        lambda: any(one.acted for one in hung),
        (*details, *passed_over, *doubts(training)),
    )


def plain_norms(technique: Any, training: TrainingLike, make: Make) -> str:
    """How plain torch says the same of layers in ``nn.Sequential``; empty where they stand elsewhere, or their norms are ours."""
    sites = [site for site in _sites(technique, training, []) if fnmatchcase(site.name, technique.only)]
    norms = [make(site)[0] for site in sites]
    if technique.identity or not sites or any(not type(norm).__module__.startswith("torch.nn") for norm in norms):
        return ""
    parts = [(_code(norm), site.name, type(site.host).__name__) for norm, site in zip(norms, sites, strict=True)]
    said = between(training, parts, before=bool(technique.before))
    modes = ", with model.eval() for evaluations and model.train() behind them" if "Batch" in said else ""
    return f"{said}{modes}." if said else ""


def _code(norm: Any) -> str:
    """The call that makes a norm of torch."""
    standard = type(norm)(*_shape(norm))
    given = [repr(one) for one in _shape(norm)]
    given += [
        f"{name}={getattr(norm, name):g}"
        for name in ("eps", "momentum")
        if getattr(norm, name, None) != getattr(standard, name, None)
    ]
    return f"nn.{type(norm).__name__}({', '.join(given)})"


def _shape(norm: Any) -> tuple[int, ...]:
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups, norm.num_channels
    return (norm.normalized_shape[0],) if hasattr(norm, "normalized_shape") else (norm.num_features,)


def _take_off(training: TrainingLike, hung: list[Hung]) -> None:
    for one in hung:
        training.remove_parameters(one.layer._modules[one.child].parameters())  # type: ignore[union-attr]
        one.take_off()


def _why_none(technique: Any, passed_over: list[str]) -> str:
    if passed_over:
        return " ".join(passed_over[:3])
    where = f" under the name {technique.only!r}" if technique.only != "*" else ""
    if "activation" in (technique.after, technique.before):
        return f"the model has no activation behind a hidden layer{where} without a normalization."
    if technique.before:
        return (
            f"the model has no linear or convolution layer{where} behind another one without a normalization before it."
        )
    return f"the model has no hidden linear or convolution layer{where} without a normalization behind it."


def _sites(technique: Any, training: TrainingLike, passed_over: list[str]) -> Iterator[Site]:
    if "activation" in (technique.after, technique.before):
        yield from _at_activations(technique, training, passed_over)
    elif technique.before:
        for name, layer in behind_the_first(training, technique.before):
            if not preceded_by_norm(training, layer):
                features = getattr(layer, "in_features" if isinstance(layer, LINEAR) else "in_channels")
                yield Site(name, layer, layer, int(features), True)
    else:
        for name, layer in hidden_layers(training, technique.after):
            if not followed_by_norm(training, layer):
                yield Site(name, layer, layer, features_of(layer))


def features_of(layer: Any) -> int:
    """How many features a linear or convolution layer gives."""
    return int(getattr(layer, "out_features" if isinstance(layer, LINEAR) else "out_channels"))


# -- at activations ------------------------------------------------------------------------------------------------------


def _at_activations(technique: Any, training: TrainingLike, passed_over: list[str]) -> Iterator[Site]:
    named = {id(module): name for name, module in training.named_modules()}
    for model in training.models:
        flow = follow(model)
        for name, layer in hidden_layers(training):
            if id(layer) not in {id(part) for part in model.modules()}:
                continue
            call = flow.call(layer)
            if call is None:
                passed_over.append(f"{name}: left alone: what follows it could not be read from the code.")
                continue
            node = call.only_user()
            module = call.scope.module(node)
            if node is None or not is_activation(module, node):
                continue
            if technique.before:
                if not followed_by_norm(training, layer):
                    yield Site(name, layer, layer, features_of(layer))
                continue
            host = _behind(flow, call, node, module)
            if isinstance(host, str):
                passed_over.append(f"{name}: left alone: {host}")
            elif host is not None:
                at, before = host
                yield Site(named[id(at)], at, layer, features_of(layer), before)


def _behind(
    flow: ModelGraph, call: Any, node: fx.Node, module: nn.Module | None
) -> tuple[nn.Module, bool] | str | None:
    """What to hang a norm on so that it acts on the activation's value; or why nothing can be."""
    after = only_user(node)
    following = call.scope.module(after)
    if isinstance(following, NORM):
        return None
    if module is not None and flow.call(module) is not None:
        return None if any(isinstance(child, NORM) for child in module.children()) else (module, False)
    if following is not None and isinstance(following, LINEAR + CONV) and flow.call(following) is not None:
        taken = any(isinstance(child, NORM) for child in following.children())
        return None if taken else (following, True)
    return "its activation is no module of its own, and what follows it is no layer either."


# -- gains that start as the identity ------------------------------------------------------------------------------------


class Recover:
    """Sets gain and shift from the first training batch so that the norm hands it on unchanged; then goes away.

    A checkpoint that is loaded before has gains of its own, and they are left alone. ``keep(norm)`` is called before anything is changed,
    ``tell(error)`` with how far the output is off, or why nothing could be done. A copy has neither.
    """

    def __init__(
        self,
        norm: nn.Module | None = None,
        keep: Callable[[nn.Module], None] = lambda norm: None,
        tell: Callable[[float | str], None] = lambda error: None,
    ) -> None:
        self.keep, self.tell = keep, tell
        if norm is not None:
            norm.register_forward_pre_hook(self)
            norm.register_load_state_dict_post_hook(forget)

    def __reduce__(self) -> tuple:
        return type(self), ()

    def __call__(self, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if training_now(norm):
            forget(norm)
            x = inputs[0].detach()
            if isinstance(norm, (BatchNormLast, GroupNormLast)):
                x = x.reshape(-1, x.shape[-1])
            self.keep(norm)
            try:
                self.tell(identity_init(norm, x, rtol=float("inf")))
            except ValueError as error:  # an input that is not finite
                self.tell(str(error))


def forget(norm: nn.Module, *loaded: Any) -> None:
    """Let a norm start with the gain and shift that it has."""
    for hooks in (norm._forward_pre_hooks, {} if loaded else norm._load_state_dict_post_hooks):
        for key in [key for key, hook in hooks.items() if hook is forget or isinstance(hook, Recover)]:
            del hooks[key]
