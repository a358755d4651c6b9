"""Identity skips around the layers of a plain network."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from trimtab.graph import ModelGraph, Scope, follow, only_user
from trimtab.reading.branches import branches
from trimtab.reading.order import CONV, LINEAR, hidden_layers, is_activation, is_norm
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class AddSkips(Technique):
    """Adds the input of each hidden layer to the output of its activation, where both have the same shape.

    ``a_l = a_(l-1) + f(W a_(l-1) + b)`` instead of ``f(W a_(l-1) + b)``: a plain stack becomes a residual network, and the gradient has a way
    past every layer. Skips go around a linear or convolution layer that keeps the shape, together with the norm, activation and
    dropout behind it, as read from the code of the model. Layers in residual branches, and without an activation, are left alone. Part
    of the model from then on, in evaluation too; the ``state_dict`` stays as it was.

    Helps: deep plain networks, whose training loss is worse than that of shallower ones; vanishing gradients. Hurts: a model
    that is trained already, which computes something else from then on; activations grow with depth where no norm holds them.
    Good first setting: the default (there is nothing to set), before the first step.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Veit et al., "Residual Networks Behave Like
    Ensembles of Relatively Shallow Networks", NeurIPS 2016; :class:`trimtab.nn.Residual`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("add_skips")
    >>> print(training.changes[0])
    identity skips around 1 hidden layer: 2
      2: to the output of 3
    """

    acts_on = "model"
    moment = "skip"
    group = "regularization"
    evaluates = True
    suite = Suite(network="mlp")

    def apply(self, training: TrainingLike) -> Change:
        passed_over: list[str] = []
        runs = [run for model in training.models for run in _runs(training, model, passed_over)]
        if not runs:
            why = "the model has no hidden layer with an activation whose output has the shape of its input."
            raise nothing_for(self, " ".join(passed_over[:3]) or why)
        skips = [_Skip(run.name) for run in runs]
        # The last first: where one skip ends at the input of a layer at which the next begins, the sum has to come first.
        handles = [h for run, skip in reversed(list(zip(runs, skips, strict=True))) for h in skip.hang(run)]

        def undo() -> None:
            for handle in handles:
                handle.remove()

        named = {id(module): name for name, module in training.named_modules()}
        details = [f"{run.name}: to the {'input' if run.before else 'output'} of {named[id(run.host)]}" for run in runs]
        summary = f"identity skips around {len(runs)} hidden layer{'s' if len(runs) > 1 else ''}: {listed_names([(run.name, run) for run in runs])}"
        return Change(summary, undo, lambda: any(skip.acted for skip in skips), (*details, *passed_over))


@dataclass(frozen=True)
class _Run:
    """A layer, and the module at whose output (or input, with ``before``) what follows the layer ends."""

    name: str
    layer: nn.Module
    host: nn.Module
    before: bool


class _Skip:
    """Two hooks: one keeps the input of a layer, the other adds it further on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: torch.Tensor | None = None
        self.acted = self.warned = False

    def hang(self, run: _Run) -> Iterator[Any]:
        if run.before:
            yield run.host.register_forward_pre_hook(self._add_before, prepend=True)
        else:
            yield run.host.register_forward_hook(self._add_after)
        yield run.layer.register_forward_pre_hook(self._keep, prepend=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": None}

    def _keep(self, layer: nn.Module, args: tuple) -> None:
        self.kept = args[0] if args else None

    def _add_after(self, host: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return self._sum(output)

    def _add_before(self, host: nn.Module, args: tuple) -> tuple:
        return (self._sum(args[0]), *args[1:])

    def _sum(self, y: torch.Tensor) -> torch.Tensor:
        x, self.kept = self.kept, None
        if x is None or x.shape != y.shape:
            if not self.warned:
                self.warned = True
                shape = "nothing" if x is None else f"shape {tuple(x.shape)}"
                warnings.warn(
                    f"add_skips: no skip around {self.name}: {shape} goes in, and shape {tuple(y.shape)} comes out.",
                    stacklevel=2,
                )
            return y
        self.acted = True
        return x + y


def _runs(training: TrainingLike, model: nn.Module, passed_over: list[str]) -> Iterator[_Run]:
    flow = follow(model)
    inside = {id(module) for module in model.modules()}
    residual = {node for scope in flow.scopes for _, alone in branches(scope) for node in alone}
    for name, layer in hidden_layers(training):
        if id(layer) not in inside or not _keeps_shape(layer):
            continue
        call = flow.call(layer)
        if call is None:
            passed_over.append(f"{name}: left alone: what follows it could not be read from the code.")
            continue
        if call.node in residual:
            passed_over.append(f"{name}: left alone: it stands in a residual branch.")
            continue
        end = _end(call.scope, call.node)
        if end is None:
            passed_over.append(f"{name}: left alone: no activation follows it.")
            continue
        host = _host(flow, call.scope, end)
        if host is None:
            passed_over.append(
                f"{name}: left alone: its activation is no module of its own, and what follows it is no layer either."
            )
        else:
            yield _Run(name, layer, *host)


def _keeps_shape(layer: Any) -> bool:
    if isinstance(layer, LINEAR):
        return layer.in_features == layer.out_features
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or layer.in_channels != layer.out_channels:
        return False
    if any(step != 1 for step in layer.stride):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    sizes = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return all(2 * pad == dilation * (size - 1) for size, dilation, pad in sizes)


def _end(scope: Scope, node: fx.Node) -> fx.Node | None:
    """The last of the norm, activation and dropout that follow a layer; ``None`` without an activation."""
    activated = False
    while (following := only_user(node)) is not None:
        module = scope.module(following)
        active = is_activation(module, following)
        if not (active or _passes(module, following)):
            break
        node, activated = following, activated or active
    return node if activated else None


def _passes(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node is a norm or a dropout."""
    if module is not None:
        return is_norm(module) or isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd))
    return "dropout" in getattr(node.target, "__name__", "")


def _host(flow: ModelGraph, scope: Scope, end: fx.Node) -> tuple[nn.Module, bool] | None:
    """A module that can be hooked for the value of a node: the one that computes it, or the layer that takes it."""
    module = scope.module(end)
    if module is not None and flow.call(module) is not None:
        return module, False
    following = scope.module(only_user(end))
    if isinstance(following, LINEAR + CONV) and flow.call(following) is not None:
        return following, True
    return None
