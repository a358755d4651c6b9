"""A penalty on how strongly outputs react to inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.nn.activation_penalties import jacobian_penalty
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.penalties import check_factors


@dataclass(frozen=True)
class JacobianPenalty(Technique):
    """Makes outputs react less to small changes of the inputs.

    ``loss + factor / (2 N) * sum_n ||dy_n/dx_n||_F^2`` over the N samples of a batch, with y the output of the model and x its first
    floating-point input. The norm is estimated by random projections, one additional backward pass each, drawn from a generator
    of their own. The recorded training loss stays plain.

    Helps: robustness to noise and small shifts of inputs, few training data. Hurts: tasks decided by fine detail, and time: a step
    takes two to three times as long. With batch normalization the derivatives also run through the statistics of the batch. All
    operations of the model must have second derivatives. Good first setting: 0.01, on inputs of unit scale.

    Args:
        factor: the strength of the penalty, positive.
        projections: random directions for each sample and step, at least 1.

    Source: Hoffman, Roberts, Yaida, "Robust Learning with Jacobian Regularization", 2019;
    :func:`trimtab.nn.functional.jacobian_penalty`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("jacobian_penalty(factor=0.5)")
    >>> before = model.weight.detach().clone()
    >>> (model(torch.ones(2, 4)) * 0).sum().backward(); optimizer.step()
    >>> torch.allclose(model.weight, before / 2)  # the Jacobian of a linear model is its weight
    True
    """

    acts_on = "loss"
    moment = "term"
    group = "regularization"

    factor: float = 0.01
    projections: int = 1

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)
        if self.projections < 1:
            raise ValueError(
                f"projections={self.projections} must be at least 1: each is a random direction of the output."
            )

    def apply(self, training: TrainingLike) -> Change:
        passed: dict[str, torch.Tensor] = {}  # the input and output of the call whose loss comes next
        generators: dict[torch.device, torch.Generator] = {}
        acted = False

        def enter(x: torch.Tensor) -> torch.Tensor | None:
            passed.clear()
            if not x.is_floating_point():
                return None
            passed["input"] = x if x.requires_grad else x.detach().requires_grad_()
            return passed["input"].clone()  # the model may change its input in place

        def leave(y: torch.Tensor) -> None:
            if "input" in passed and y.requires_grad:
                passed["output"] = y

        def term() -> torch.Tensor | None:
            nonlocal acted
            if "output" not in passed:
                return None
            acted = True
            y = passed["output"]
            if y.device not in generators:
                generators[y.device] = training.generator("jacobian_penalty", y.device)
            value = jacobian_penalty(**passed, projections=self.projections, generator=generators[y.device])
            passed.clear()
            return self.factor * value

        stops = [training.change_input(enter), training.change_output(leave), training.add_loss(term)]

        def undo() -> None:
            passed.clear()
            for stop in stops:
                stop()

        return Change(f"Jacobian penalty of {self.factor:g} on the model's outputs", undo, lambda: acted)
