"""Learning rate that falls by the same factor with each update."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.schedules import Exponential
from trimtab.recipe import Suite, Technique, TrainingLike
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class ExponentialDecay(Scheduled, Technique):
    """Multiplies the learning rate by the same number with each update.

    ``lr_t = lr * beta^t`` at update t, for the duration of the update, on top of whatever schedule the script has.

    Helps: a constant rate that does not settle. Hurts: a beta meant for epochs: 0.9 for each update is nothing left
    after a hundred of them; a script whose own schedule decays. Good first setting: 0.01 to the power of 1 / (number of
    updates), which ends at a hundredth of the rate: 0.9954 for 1000.

    Args:
        beta: what each update multiplies with, above 0 and at most 1.

    Source: Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020;
    :class:`trimtab.optim.Exponential`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.8)
    >>> training = tt.attach(model, optimizer).apply("exponential_decay(beta=0.5)")
    >>> for _ in range(3):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    0.8
    0.4
    0.2
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule",)
    group = "optimization"
    part = Exponential
    suite = Suite(text="exponential_decay(beta=0.5)", always=True)

    beta: float

    def plain(self, training: TrainingLike) -> str:
        call = f"scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma={self.beta:g})"
        return f"{call}, and scheduler.step() behind every optimizer.step()."

    def words(self) -> str:
        return f"is multiplied by {self.beta:g} with each update"
