"""The base learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trimtab.optim.weight_decay import scheduled_base_lr
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.plain import number_of
from trimtab.techniques.engines.schedules import check_rates
from trimtab.techniques.engines.surgery import nothing_for


@dataclass(frozen=True)
class LearningRate(Technique):
    """Sets the base learning rate; groups keep their ratios, and schedules their shape.

    ``lr_t -> lr_t * lr / base`` for the duration of each update, with ``base`` the rate of the first parameter group
    when this is applied: the peak of a one-cycle schedule, where another scheduler of torch started (``initial_lr``),
    or the rate itself.

    Helps: a rate found by a range test, or known from the literature. Hurts: scripts whose optimizers should each have
    another one: all keep their ratio to the first. Good first settings: 0.1 for SGD with momentum and normalization,
    0.001 for Adam.

    Args:
        lr: the base rate, positive.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 11.4.1 (the rate is the first thing to tune).

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("learning_rate(lr=0.5)")
    >>> before = model.weight.item()
    >>> model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4), optimizer.param_groups[0]["lr"]
    (0.5, 0.1)
    """

    acts_on = "update"
    moment = "rate"
    takes = ("rate",)
    group = "optimization"
    suite = Suite(text="learning_rate(lr=0.02)", always=True)

    lr: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr} must be a positive number: it is the base learning rate.")

    def plain(self, training: TrainingLike) -> str:
        rate = number_of(training, "lr")
        return "" if rate is None else f"lr={self.lr:g} in the place of {rate:g}, where the optimizer is made."

    def apply(self, training: TrainingLike) -> Change:
        check_rates(self, training)
        named = [(type(o).__name__, g) for o in training.optimizers for g in o.param_groups if g.get("lr") is not None]
        bases = [(name, scheduled_base_lr(group) or float(group["lr"])) for name, group in named]
        base = next((base for _, base in bases if base > 0), 0.0)
        if not base:
            raise nothing_for(self, "all learning rates are 0, so that there are no ratios to keep.")
        scale = self.lr / base
        details = [
            f"{name}: {rate:g} becomes {rate * scale:g}" for name, rate in dict.fromkeys(bases) if len(set(bases)) > 1
        ]
        stop = training.change_rate(lambda optimizer: scale)
        return Change(f"base learning rate {base:g} becomes {self.lr:g}", stop, details=tuple(details))
