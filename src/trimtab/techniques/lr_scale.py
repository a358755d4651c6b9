"""Scaling of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.plain import number_of
from trimtab.techniques.engines.schedules import check_rates


@dataclass(frozen=True)
class LrScale(Technique):
    """Multiplies the learning rate of every parameter group by a factor, whatever schedule sets it.

    ``lr_t -> factor * lr_t`` for the duration of each step; before and after it the group shows the value that the script
    or its scheduler has set, so schedules stay right.

    Helps: a rate that is off by orders of magnitude. Hurts: a rate that was tuned.
    Good first settings: 0.1, 10.

    Args:
        factor: what to multiply with, positive.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 11.4.1 (the rate is the first thing to tune).

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("lr_scale(factor=10)")
    >>> before = model.weight.item()
    >>> model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4), optimizer.param_groups[0]["lr"]
    (1.0, 0.1)
    """

    acts_on = "update"
    moment = "rate"
    group = "optimization"
    suite = Suite(text="lr_scale(factor=0.5)", always=True)

    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor} must be positive: it multiplies the learning rate.")

    def plain(self, training: TrainingLike) -> str:
        rate = number_of(training, "lr")
        return (
            "" if rate is None else f"lr={rate * self.factor:g} in the place of {rate:g}, where the optimizer is made."
        )

    def apply(self, training: TrainingLike) -> Change:
        check_rates(self, training)
        return Change(f"learning rate times {self.factor:g}", training.change_rate(lambda optimizer: self.factor))
