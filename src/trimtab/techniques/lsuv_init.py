"""Layer-sequential unit-variance initialization of a live model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once

from trimtab.nn.lsuv import LsuvLayer, orthogonal_, scale_in_order
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.initialize import bias_of, redraw, weights_of
from trimtab.techniques.engines.surgery import listed_names, nothing_for, training_now

Found = list[tuple[str, Any, nn.Parameter]]


@dataclass(frozen=True)
class LsuvInit(Technique):
    """Scales all weights on the first training batch so that every layer's output has unit variance.

    Weights become orthonormal and biases zero; then, when the first training batch comes and before anything is learned from it,
    ``W_l <- W_l * std / sqrt(Var(z_l))`` layer by layer in the order of execution, with ``z_l`` the output of a linear or convolution layer
    before norms and activations. The measuring pass uses up no random number and leaves running statistics alone (see
    :func:`trimtab.nn.lsuv_`). Weights that were changed meanwhile, by a checkpoint, are kept. The optimizer's state of the weights is
    forgotten; undo brings values and state back.

    Helps: deep networks without normalization, with activations or structures that no formula for the gain knows. Hurts: pretrained
    weights, which it throws away; deep sigmoid networks, whose variance comes from offsets and not from the signal; batches that say little
    of the data. One process only: several would measure on batches of their own. Clashes with ``he_init``, ``xavier_init``,
    ``orthogonal_init``. Good first setting: the default.

    Args:
        tolerance: of the variance, relative to the one wanted.
        iterations: how often a weight is scaled at most.
        std: the standard deviation wanted.

    Source: Mishkin & Matas, "All you need is a good init", ICLR 2016; :func:`trimtab.nn.lsuv_`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("lsuv_init")
    >>> print(training.changes[0])
    LSUV initialization of 3 layers: 0, 2, 4: waits for the first batch in training mode
    >>> abs(model(torch.randn(64, 4)).std() - 1) < 0.1
    tensor(True)
    """

    acts_on = "model"
    moment = "draw"
    takes = ("weights",)
    group = "optimization"

    tolerance: float = 0.1
    iterations: int = 10
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and self.std > 0):
            raise ValueError(f"tolerance={self.tolerance} and std={self.std} must be positive.")
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1.")

    def apply(self, training: TrainingLike) -> Change:
        if _several_processes():
            raise nothing_for(self, "several processes train, and each would measure on a batch of its own.")
        found, left = weights_of(self, training)
        undo = redraw(training, [p for _, layer, weight in found for p in (weight, bias_of(layer)) if p is not None])
        with torch.no_grad():
            for name, layer, weight in found:
                orthogonal_(weight, 1.0, training.generator(f"init {name}", weight.device))
                if bias_of(layer) is not None:
                    layer.bias.zero_()
        results: list[LsuvLayer] = []
        waiting = []
        for model in training.heads:
            inside = {id(module) for module in model.modules()}
            mine = [one for one in found if id(one[1]) in inside]
            if mine:
                waiting.append(_FirstBatch(self, model, mine, results.extend, undo))

        stepped = False

        def on_step(optimizer: torch.optim.Optimizer) -> None:
            nonlocal stepped
            stepped = True

        stop = training.on("after_step", on_step)

        def put_back() -> None:
            stop()
            for one in waiting:
                one.handle.remove()
            undo()

        def acted() -> bool:  # without a batch in training mode, with orthonormal weights
            return any(not one.why_not for one in results) or (stepped and not results)

        return Change(
            f"LSUV initialization of {len(found)} layers: {listed_names([one[:2] for one in found])}",
            put_back,
            acted,
            left,
            outcome=lambda: _outcome(results),
        )


CHANGED = "its weight was changed since, and is kept"


def _several_processes() -> bool:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return there and torch.distributed.get_world_size() > 1


def _outcome(results: list[LsuvLayer]) -> str:
    if not results:
        return "waits for the first batch in training mode"
    met = [one for one in results if not one.why_not]
    words = [f"{one.name or '(model)'}: {one.why_not}" for one in results if one.why_not][:3]
    if met:
        low, high = min(one.scale for one in met), max(one.scale for one in met)
        stds = min(one.std for one in met), max(one.std for one in met)
        words.insert(
            0,
            f"{len(met)} weights scaled by {low:.3g} to {high:.3g} on the first training batch, outputs have standard deviations of "
            f"{stds[0]:.3g} to {stds[1]:.3g}",
        )
    return "; ".join(words)


class _FirstBatch:
    """A hook of a model that scales its weights when the first training batch comes, and is gone. A copy of it does nothing."""

    def __init__(
        self,
        technique: LsuvInit | None = None,
        model: nn.Module | None = None,
        found: Found | None = None,
        tell: Callable[[list[LsuvLayer]], None] = lambda results: None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.technique, self.model, self.found, self.tell, self.give_up = technique, model, found or [], tell, give_up
        self.versions = [weight._version for _, _, weight in self.found]
        if model is not None:
            self.handle = model.register_forward_pre_hook(self, with_kwargs=True)

    def __reduce__(self) -> tuple:
        return type(self), ()

    @_disable_dynamo
    def __call__(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if model is not self.model or self.technique is None or not training_now(model):
            return
        technique, self.technique = self.technique, None
        applied = list(model._forward_pre_hooks)  # those before this one have changed the arguments already
        applied = applied[: applied.index(self.handle.id)]
        self.handle.remove()
        if _several_processes():
            self.give_up()
            self.tell([_left(name, "several processes train, each on batches of its own") for name, _, _ in self.found])
            return

        def call(twin: nn.Module) -> None:
            for key in applied:
                twin._forward_pre_hooks.pop(key, None)
            for module in twin.modules():  # what the script's own hooks collect is to be collected once
                for hooks in (module._forward_hooks, module._forward_pre_hooks):
                    for key in [key for key, hook in hooks.items() if not _part_of_the_model(hook)]:
                        del hooks[key]
            twin(*_copied(args), **_copied(kwargs))

        mine: Found = []
        changed: Found = []
        for one, version in zip(self.found, self.versions, strict=True):
            (mine if one[2]._version == version else changed).append(one)
        self.tell([_left(name, CHANGED) for name, _, _ in changed])
        try:
            self.tell(scale_in_order(model, mine, call, technique.std, technique.tolerance, technique.iterations))
        except Exception as error:  # the training is the user's: it goes on with its own weights
            self.give_up()
            why = f"the model could not be measured ({type(error).__name__}: {error})"
            self.tell([_left(name, why) for name, _, _ in mine])
            warnings.warn(f"lsuv_init: the weights are what they were: {why}", stacklevel=2)


def _part_of_the_model(hook: Any) -> bool:
    """Whether a hook is torch's or ours: those compute something."""
    hook = getattr(hook, "func", hook)  # of a partial
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.split(".")[0] in ("torch", "trimtab")


def _left(name: str, why: str) -> LsuvLayer:
    return LsuvLayer(name, float("nan"), float("nan"), 1.0, 0, why)


def _copied(value: Any) -> Any:
    """The same with tensors of its own: a model may write into its inputs."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    return {key: _copied(one) for key, one in value.items()} if type(value) is dict else value
