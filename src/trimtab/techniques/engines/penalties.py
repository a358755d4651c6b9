"""Penalties in a live training: what ``l0``, ``l1``, ``l2``, ``elastic_net`` and ``lp`` share.

Their gradient is added once for each step, when the gradients are complete: whatever parts they are accumulated from, unscaled, and
without a part in the loss that is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trimtab.optim.penalties import add_penalty_gradient_, elastic_net_penalty, proximal_step_
from trimtab.optim.sgd import SGD
from trimtab.reading.weights import trained
from trimtab.recipe import Change, TrainingLike
from trimtab.techniques.engines.choose import chosen, left_alone
from trimtab.techniques.engines.surgery import listed_names, nothing_for

Penalty = Callable[[list[torch.Tensor]], torch.Tensor]
Act = Callable[[list[torch.Tensor], torch.optim.Optimizer, dict[str, Any]], None]


def check_factors(**factors: float) -> None:
    """Refuse factors that are not positive numbers."""
    for name, value in factors.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be a positive number: it is the strength of the penalty.")


def penalize(technique: Any, training: TrainingLike, l1: float = 0.0, l2: float = 0.0) -> Change:
    """Add the gradient of an L1 and an L2 penalty, or, if ``technique.proximal``, take their proximal step behind each step."""

    def value(weights: list[torch.Tensor]) -> torch.Tensor:
        return elastic_net_penalty(weights, l1, l2)

    def add(weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        scale = gradient_scale(optimizer, group)
        add_penalty_gradient_(weights, l1=scale * l1, l2=scale * l2)

    def shrink(weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        proximal_step_(weights, _rate(optimizer, group), l1=l1, l2=l2)

    if not getattr(technique, "proximal", False):
        return act_on_chosen(technique, training, value, add)
    if not all("lr" in group for optimizer in training.optimizers for group in optimizer.param_groups):
        raise nothing_for(technique, "its proximal steps are as long as the learning rate, and the optimizer has none.")
    return act_on_chosen(technique, training, value, shrink, after=True)


def act_on_chosen(technique: Any, training: TrainingLike, penalty: Penalty, act: Act, after: bool = False) -> Change:
    """:func:`act_on` the parameters that the technique chooses; ``penalty`` tells its value in the report."""
    found = chosen(technique, training, technique.only)
    weights: list[torch.Tensor] = [p for _, p in found]
    stop, acted = act_on(technique, training, weights, act, after)
    details = [
        f"{type(optimizer).__name__} has weight_decay={decay:g} of its own, which comes on top"
        for optimizer in training.optimizers
        for decay in dict.fromkeys(group.get("weight_decay", 0) for group in optimizer.param_groups)
        if decay
    ]

    @torch.no_grad()
    def outcome() -> str:
        return f"the penalty is {float(penalty([p for p in weights if p.requires_grad])):.4g}"

    now, left = trained(training, found), left_alone(training, technique.only)
    return Change(f"{technique} on {len(now)} parameters: {listed_names(now)}", stop, acted, (*details, *left), outcome)


def act_on(
    technique: Any, training: TrainingLike, weights: Sequence[torch.Tensor], act: Act, after: bool = False
) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Call ``act(weights, optimizer, group)`` with those of the weights in each group that have a gradient.

    When the gradients are complete, or with ``after`` behind the step. Gives what ends it, and what tells whether it ever was.
    """
    ids = {id(w) for w in weights}
    acted = False

    def on_event(optimizer: torch.optim.Optimizer) -> None:
        nonlocal acted
        for group in optimizer.param_groups:
            mine = [p for p in group["params"] if id(p) in ids and p.grad is not None]
            if mine:
                acted = True
                act(mine, optimizer, group)

    for optimizer in training.optimizers:
        if any(group.get("line_search_fn") for group in optimizer.param_groups):
            raise nothing_for(
                technique,
                f"{type(optimizer).__name__} searches along a line for a lower loss, which the penalty is no part of. Make "
                "it without line_search_fn, or add the penalty of trimtab.optim to the loss in the closure.",
            )
    return training.on("after_step" if after else "gradients", on_event), lambda: acted


def gradient_of(penalty: Penalty) -> Act:
    """What adds the gradient of a penalty, for :func:`act_on`."""

    def add(weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        with torch.enable_grad():
            gradients = torch.autograd.grad(penalty(weights), weights)
        own = [w.grad for w in weights if w.grad is not None]
        torch._foreach_add_(own, gradients, alpha=gradient_scale(optimizer, group))

    return add


def gradient_scale(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """What the gradient of a penalty is multiplied with: -1 for an optimizer that maximizes, and the scale of gradients that a
    fused optimizer is going to divide by inside its step."""
    scale = getattr(optimizer, "grad_scale", None)
    return (-1.0 if group.get("maximize") else 1.0) * (1.0 if scale is None else float(scale))


def _rate(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """How far a constant gradient of 1 moves a weight in a step, in the long run; a proximal step must be as long.

    A step of SGD with momentum m is a sum of gradients with the weights 1, m, m^2 ...
    """
    rate = float(group["lr"])
    sgd = isinstance(optimizer, (torch.optim.SGD, SGD))
    return rate * (1 - group["dampening"]) / (1 - group["momentum"]) if sgd else rate
