"""Stochastic depth on the residual branches of a live model."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from trimtab.graph import ModelGraph, Scope, follow
from trimtab.nn.drop_path import DropPath as DropPathPart
from trimtab.nn.rates import rates_by_depth
from trimtab.reading.branches import PASSING, branches
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now

_FOUND = ("DropPath", "StochasticDepth")  # ours, timm's, torchvision's
_PRODUCTS = (operator.mul, torch.mul)


@dataclass(frozen=True)
class DropPath(Technique):
    """Leaves out residual branches at random while training, for each sample by itself (stochastic depth).

    ``y = x + m / (1 - p_l) branch(x)`` with ``m`` 0 with probability p_l and 1 otherwise, and ``p_l = p l / L`` rising with depth over the L
    branches; nothing in evaluation. The branches are read from the code of the model: an addition of the input and of something
    computed from it by layers; both branches of ``nn.TransformerEncoderLayer`` with ``batch_first``. Samples are expected along the
    first dimension. Branches that drop already are left alone. Masks come from a generator of their own.

    Helps: deep residual networks that fit their training set and generalize worse. Hurts: networks that do not fit it, shallow ones,
    short trainings. Good first setting: 0.1; 0.2 to 0.5 for 50 blocks and more.

    Args:
        p: probability of leaving out the last branch.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; :class:`trimtab.nn.DropPath`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(tt.nn.Residual(nn.Linear(4, 4)), tt.nn.Residual(nn.Linear(4, 4)), nn.Linear(4, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("drop_path(p=0.2)")
    >>> print(training.changes[0])
    stochastic depth with p up to 0.2 on 2 residual branches: 0.drop_path, 1.drop_path
      0.drop_path: p=0.1
      1.drop_path: p=0.2
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"
    suite = Suite(network="normed")

    p: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(
                f"p={self.p} must lie strictly between 0 and 1: it is the probability of leaving out a branch."
            )

    def apply(self, training: TrainingLike) -> Change:
        passed_over: list[str] = []
        ends = {id(module) for model in training.models for module in _ends(model, passed_over)}
        found = [(name, module) for name, module in training.named_modules() if id(module) in ends]
        if not found:
            raise nothing_for(
                self, " ".join(passed_over[:3]) or "no residual branch can be read from the code of the model."
            )
        rates = rates_by_depth(len(found), self.p)
        hung = []
        for (name, module), rate in zip(found, rates, strict=True):
            part = DropPathPart(rate, generator=training.generator(f"drop_path {name}"))
            hung.append(Hung(module, "drop_path", part, _call))

        def undo() -> None:
            for one in hung:
                one.take_off()

        summary = f"stochastic depth with p up to {self.p:g} on {len(found)} residual branch{'es' if len(found) > 1 else ''}: {listed_names(found)}"
        details = [f"{name}: p={rate:g}" for (name, _), rate in zip(found, rates, strict=True)]
        return Change(summary, undo, lambda: any(one.acted for one in hung), (*details, *passed_over))


def _call(part: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return part(y) if training_now(part) else y


def _ends(model: nn.Module, passed_over: list[str]) -> Iterator[nn.Module]:
    """The modules whose outputs are the residual branches of a model."""
    flow = follow(model)
    for scope in flow.scopes:
        for node, _ in branches(scope):
            end = _end(flow, scope, node)
            if isinstance(end, str):
                name = str(node.target) if node.op == "call_module" else node.name
                passed_over.append(f"{'.'.join(filter(None, (scope.name, name)))}: left alone: {end}")
            else:
                yield end
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            if module.self_attn.batch_first:
                yield module.dropout1
                yield module.dropout2
            else:
                passed_over.append(
                    f"{name}: left alone: its samples stand along the second dimension (batch_first=False)."
                )


def _end(flow: ModelGraph, scope: Scope, node: fx.Node) -> nn.Module | str:
    """The last module of a branch, or why there is none to act on."""
    while len(node.users) == 1:
        module = scope.module(node)
        if module is not None:
            if type(module).__name__ in _FOUND and any(getattr(module, rate, 0) for rate in ("p", "drop_prob")):
                return "it is dropped at random already."
            return module if flow.call(module) is not None else "the module that ends it is called several times."
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(sources) != 1 or not (function in PASSING or node.target in _PRODUCTS):
            return "it ends in a function, and not in a module."
        node = sources[0]
    return "what it computes is used elsewhere too."
