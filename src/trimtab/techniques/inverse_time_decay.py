"""Learning rate that falls like 1/t."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.schedules import InverseTime
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class InverseTimeDecay(Scheduled, Technique):
    """Divides the learning rate by a number that grows with the updates: it is halved after 1/beta of them.

    ``lr_t = lr / (1 + beta * t)`` at update t, for the duration of the update, on top of whatever schedule the script
    has.

    Helps: plain SGD at a constant rate, which does not settle as the noise of its mini-batches does not vanish at the
    minimum; runs of unknown length. Hurts: a beta so large that most updates are tiny; a script whose own schedule
    decays. Good first setting: beta of 10 / (number of updates), which ends at a tenth of the rate.

    Args:
        beta: how fast, positive: 1 over the number of updates until the rate is halved.

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951; :class:`trimtab.optim.InverseTime`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.6)
    >>> training = tt.attach(model, optimizer).apply("inverse_time_decay(beta=1.0)")
    >>> for _ in range(3):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    0.6
    0.3
    0.2
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule",)
    group = "optimization"
    part = InverseTime
    suite = Suite(text="inverse_time_decay(beta=0.5)", always=True)

    beta: float

    def words(self) -> str:
        return f"is divided by 1 + {self.beta:g} t at update t"
