"""Schedule-free optimizers in the place of the optimizer, from the package of their authors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trimtab.optim.averaging import WeightAverage
from trimtab.optim.tensors import ModelOrTensors, tensors_of, write
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.averages import evaluate_with
from trimtab.techniques.engines.becoming import Becomes, Turn, check_lr, defaults_of

FORMS = ("adamw", "sgd")


@dataclass(frozen=True)
class ScheduleFree(Becomes, Technique):
    r"""Turns the optimizer into a schedule-free one, in place: an average of all steps stands in for a decay of the learning rate.

    .. math::
        y_t &= (1 - \beta) z_t + \beta x_t, \quad z_{t+1} = z_t - \eta \, d(\nabla L(y_t)), \quad
        x_{t+1} = (1 - c) x_t + c z_{t+1}

    with d the direction of AdamW (without its running mean of gradients) or of gradient descent, ``beta`` the momentum, and c = 1/(t+1) at a
    constant rate. Training goes on at y; when the model is called in evaluation (evaluation mode, or without gradients), x goes
    in, and out again when training goes on, bit for bit. BatchNorm's running statistics are gathered anew for it from the last
    ``batches`` training inputs, and restored with the weights. A checkpoint saved between an evaluation and the next training step holds x, one
    saved after a step y.

    The learning rate of the script is set aside, with all its schedules; those of other techniques multiply. Groups keep their
    ratios. All optimizers of the training are turned. Their state begins anew. Needs the package ``schedulefree``.

    Helps: trainings whose length is not known beforehand, and those without a good schedule. Hurts: networks that are used without
    gradients as a part of training, which then get the average. Good first settings: the default with 5 % of the steps as
    warm-up; sgd with ten times the rate that SGD would have. Clashes with other optimizers, averages, early stopping and learning_rate.

    Args:
        form: "adamw" or "sgd".
        lr: the learning rate, positive; None is the authors' default: 0.0025 for adamw, 1.0 for sgd.
        momentum: beta, strictly between 0 and 1.
        weight_decay: the share of a weight that decays per unit of learning rate, at y; None keeps the factors of the script.
        warmup_steps: over how many steps the rate rises from 0.
        r: later steps weigh more in the average, with the power r of their number.
        batches: how many training inputs to keep for BatchNorm's statistics; 0 leaves them.

    Source: Defazio et al., "The Road Less Scheduled", NeurIPS 2024; ``schedulefree`` of the authors.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("schedule_free(form='sgd', lr=1.0)")
    >>> x, start = torch.ones(1, 1), model.weight.item()
    >>> for _ in range(2):  # z = start - 1, start - 2
    ...     optimizer.zero_grad(); model(x).sum().backward(); optimizer.step()
    >>> with torch.no_grad():
    ...     round(start - model(x).item(), 4)
    1.5
    """

    takes = ("optimizer", "rate", "final weights")

    form: str = "adamw"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup_steps: int = 0
    r: float = 0.0
    batches: int = 10

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} must be one of {', '.join(map(repr, FORMS))}.")
        if not 0 < self.momentum < 1:
            raise ValueError(
                f"momentum={self.momentum} must lie strictly between 0 and 1: it is the share of the average."
            )
        for name in ("warmup_steps", "batches"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}={value!r} must be a whole number, 0 or more.")
        if not 0 <= self.r <= 10:
            raise ValueError(
                f"r={self.r} must be from 0 to 10: it is the power of the step that weighs it in the average."
            )
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be 0 or more.")
        if self.lr is not None:
            check_lr(self.lr)
        self.kind()

    def kind(self) -> type[torch.optim.Optimizer]:
        """The optimizer of the package."""
        try:
            import schedulefree
        except ImportError:
            raise ImportError(
                "schedule_free needs the package of its authors. Install it: pip install 'schedulefree>=1.4'"
            ) from None
        return {"adamw": schedulefree.AdamWScheduleFree, "sgd": schedulefree.SGDScheduleFree}[self.form]

    def numbers(self) -> dict[str, Any]:
        given: dict[str, Any] = (
            {"betas": (self.momentum, 0.999)} if self.form == "adamw" else {"momentum": self.momentum}
        )
        given |= {"warmup_steps": self.warmup_steps, "r": self.r}
        given |= {key: getattr(self, key) for key in ("lr", "weight_decay") if getattr(self, key) is not None}
        return {**defaults_of(self.kind(), **given), "train_mode": True}

    def apply(self, training: TrainingLike) -> Change:
        turn = Turn(self, training, self.kind(), self.numbers(), self.weight_decay, steady=True).change()
        average = evaluate_with(training, _Average(training, self.momentum), self.batches, "")

        def undo() -> None:
            average.undo()
            turn.undo()

        details = (*turn.details, *average.details)
        return Change(f"{turn.summary}; evaluation with the average", undo, turn.acted, details)


class _Average(WeightAverage):
    """x, which the optimizer does not keep: the point from which y is pulled towards z."""

    def __init__(self, training: TrainingLike, beta: float) -> None:
        super().__init__()
        self.training, self.beta = training, beta

    def update(self, model: ModelOrTensors) -> None:
        self.averaged += 1

    def copy_to(self, model: ModelOrTensors) -> None:
        there: dict[int, torch.Tensor] = {}
        for optimizer in self.training.optimizers:
            for group in optimizer.param_groups:
                if group.get("train_mode"):  # else somebody has called the optimizer's own eval()
                    known = [(p, optimizer.state[p]["z"]) for p in group["params"] if "z" in optimizer.state.get(p, ())]
                    there |= {id(p): p.detach().lerp(z.to(p.device), 1 - 1 / self.beta) for p, z in known}
        write(model, {name: there[id(p)] for name, p in tensors_of(model).items() if id(p) in there})
