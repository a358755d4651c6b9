"""Explicit constraints on weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from trimtab.optim import constraints
from trimtab.optim.lagrangian import Lagrangian
from trimtab.reading.weights import trained
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.choose import chosen, left_alone
from trimtab.techniques.engines.penalties import act_on, gradient_of

METHODS = ("projection", "lagrangian")
Dims = tuple[int, ...]


class Set(NamedTuple):
    """How to project ``(weight, radius, dims of its units)``, and what a Lagrangian keeps below the radius: a number for each constraint."""

    project: Callable[[torch.Tensor, float, Dims], torch.Tensor]
    size: Callable[[torch.Tensor, Dims], torch.Tensor] | None = None


def _lengths(weight: torch.Tensor, dims: Dims) -> torch.Tensor:
    others = [d for d in range(weight.ndim) if d not in dims]
    return torch.linalg.vector_norm(weight, dim=others) if others else weight.abs()


SETS = {
    "max_norm": Set(constraints.max_norm_, _lengths),
    "unit_norm": Set(lambda w, radius, dims: constraints.unit_norm_(w, dims)),
    "non_negative": Set(lambda w, radius, dims: constraints.non_negative_(w)),
    "l1_ball": Set(lambda w, radius, dims: constraints.l1_ball_(w, radius), lambda w, dims: w.abs().sum()),
    "l2_ball": Set(lambda w, radius, dims: constraints.l2_ball_(w, radius), lambda w, dims: _lengths(w, ())),
    "linf_ball": Set(lambda w, radius, dims: constraints.linf_ball_(w, radius), lambda w, dims: w.abs()),
    "simplex": Set(lambda w, radius, dims: constraints.simplex_(w, radius)),
}


@dataclass(frozen=True)
class Constrain(Technique):
    """Keeps weights inside a set: ``minimise the loss subject to size(w) <= radius``.

    The sets are ``max_norm``: the incoming weights of every unit no longer than the radius; ``unit_norm``: of length 1;
    ``non_negative``; and, for each weight tensor as a whole, ``l1_ball``, ``l2_ball``, ``linf_ball`` (every entry in -radius..radius)
    and ``simplex`` (non-negative entries that sum to the radius).

    ``method="projection"`` moves each weight to the nearest point of its set after every step. ``method="lagrangian"`` adds
    ``mu * (size(w) - radius)`` to the loss and lets the multiplier ``mu >= 0`` grow by ``multiplier_lr * (size(w) - radius)`` after every
    step: the constraint holds in the end, not at every step, and mu is its price; reports tell the largest.
    There is one multiplier for each unit (max_norm), each tensor (l1_ball, l2_ball) or each entry (linf_ball).

    Helps: networks with dropout and large learning rates (max_norm); weights with a meaning of their own (mixtures, non-negative
    factors). Hurts: in front of a normalization, where lengths have no effect on the output; sets so small that the network
    cannot fit. A decay on top of a constraint is rarely needed.
    Good first settings: max_norm with a radius of 3 or 4.

    Args:
        to: the set.
        radius: its size, positive; without effect on unit_norm and non_negative.
        method: "projection", or "lagrangian" for max_norm and the balls.
        multiplier_lr: the learning rate of the multipliers.
        only: parameters to constrain in the place of the weights of linear, convolution, recurrent, bilinear and attention
            layers, by a pattern of their names or the class of their module.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014 (max_norm); Platt & Barr, "Constrained Differential Optimization", NIPS
    1987 (the multipliers); :mod:`trimtab.optim.constraints`, :class:`trimtab.optim.Lagrangian`.

    >>> import trimtab as tt
    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("constrain(to='max_norm', radius=0.5)")
    >>> model(torch.ones(1, 4)).sum().backward(); optimizer.step()
    >>> bool((model.weight.norm(dim=1) <= 0.5001).all())
    True
    """

    acts_on = "update"
    moment = "constraint"
    group = "regularization"
    suite = Suite(text="constrain(radius=0.1)")

    to: str = "max_norm"
    radius: float = 3.0
    method: str = "projection"
    multiplier_lr: float = 0.01
    only: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {', '.join(map(repr, METHODS))}.")
        possible = [name for name, one in SETS.items() if self.method == "projection" or one.size]
        if self.to not in possible:
            raise ValueError(
                f"to={self.to!r} with method={self.method!r} must be one of {', '.join(map(repr, possible))}."
            )
        for field in ("radius", "multiplier_lr"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}={getattr(self, field)} must be positive.")

    def apply(self, training: TrainingLike) -> Change:
        found, left = chosen(self, training, self.only), left_alone(training, self.only)
        weights: list[torch.Tensor] = [p for _, p in found]
        ids = {id(w) for w in weights}
        groups = {
            id(module._parameters["weight"]): module.groups
            for _, module in training.named_modules()
            if isinstance(module, nn.modules.conv._ConvTransposeNd) and "weight" in module._parameters
        }
        project, size = SETS[self.to]

        def by_unit(weight: torch.Tensor) -> tuple[torch.Tensor, Dims]:
            if id(weight) in groups:  # (in, out / groups, ...) of a transposed convolution
                return weight.unflatten(0, (groups[id(weight)], -1)), (0, 2)
            return weight, (0,) if weight.ndim else ()

        radius = "" if self.to in ("unit_norm", "non_negative") else f" of radius {self.radius:g}"
        summary = f"{len(trained(training, found))} weights constrained to {self.to}{radius} by {self.method}"

        if self.method == "projection" or size is None:
            steps, moved = 0, torch.zeros((), dtype=torch.long)  # weights that were stepped, and that left the set

            @torch.no_grad()
            def step(optimizer: torch.optim.Optimizer) -> None:
                nonlocal steps, moved
                for weight in (w for group in optimizer.param_groups for w in group["params"]):
                    if id(weight) in ids and weight.grad is not None:
                        view, dims = by_unit(weight)
                        before = view.clone()
                        project(view, self.radius, dims)
                        steps, moved = steps + 1, moved.to(weight.device) + (view != before).any()

            return Change(
                summary,
                training.on("after_step", step),
                lambda: bool(moved),
                left,
                outcome=lambda: (
                    f"they had left it, and were put back, in {100 * int(moved) / steps:.0f} % of the steps"
                    if steps
                    else ""
                ),
            )

        lagrangians = {
            id(w): Lagrangian(self.radius, self.multiplier_lr, size(*by_unit(w)).shape).to(
                w.device, torch.promote_types(w.dtype, torch.float32)
            )
            for w in weights
        }

        def penalty(moved: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([lagrangians[id(w)](size(*by_unit(w))) for w in moved]).sum()

        @torch.no_grad()
        def ascend(moved: list[torch.Tensor], *_: Any) -> None:
            for w in moved:
                lagrangians[id(w)].ascend(size(*by_unit(w)))

        stop_penalty, acted = act_on(self, training, weights, gradient_of(penalty))
        stop_ascent, _ = act_on(self, training, weights, ascend, after=True)

        def undo() -> None:
            stop_penalty()
            stop_ascent()

        def outcome() -> str:
            mus = {name: float(lagrangians[id(w)].multiplier.max()) for name, w in found}
            where = max(mus, key=lambda name: mus[name])
            above = sum(int((one.multiplier > 0).sum()) for one in lagrangians.values())
            count = sum(one.multiplier.numel() for one in lagrangians.values())
            return f"{above} of {count} multipliers are above 0, the largest is {mus[where]:.4g} ({where})"

        return Change(summary, undo, acted, left, outcome)
