"""Learning rate that falls exponentially, by its time constant."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.schedules import NaturalExponential
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class NaturalExpDecay(Scheduled, Technique):
    """Lets the learning rate fall exponentially: to 37 % after 1/beta updates, to 1 % after 4.6/beta.

    ``lr_t = lr * exp(-beta * t)`` at update t, for the duration of the update, on top of whatever schedule the script
    has. The same as ``exponential_decay`` with ``exp(-beta)``.

    Helps: a constant rate that does not settle. Hurts: a time constant far shorter than the run; a script whose own
    schedule decays. Good first setting: 4.6 / (number of updates), which ends at a hundredth of the rate.

    Args:
        beta: how fast, positive: 1 over the number of updates until the rate is down to 37 %.

    Source: Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020;
    :class:`trimtab.optim.NaturalExponential`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("natural_exp_decay(beta=0.1)")
    >>> for _ in range(3):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    1.0
    0.9048
    0.8187
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule",)
    group = "optimization"
    part = NaturalExponential
    suite = Suite(text="natural_exp_decay(beta=0.5)", always=True)

    beta: float

    def words(self) -> str:
        return f"is multiplied by exp(-{self.beta:g} t) at update t"
