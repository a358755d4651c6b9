"""Learning rate that falls along a cosine."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.schedules import Cosine
from trimtab.recipe import Suite, Technique, TrainingLike
from trimtab.techniques.engines.plain import number_of
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class CosineDecay(Scheduled, Technique):
    """Lets the learning rate fall to its floor along half a cosine.

    ``lr_t = lr * (floor + (1 - floor) * (1 + cos(pi * t / steps)) / 2)`` at update t, for the duration of the update,
    on top of whatever schedule the script has; after the last step it stays at the floor.

    Helps: runs of known length at a constant rate. Hurts: runs that go on for longer than ``steps``, at the floor; a
    script whose own schedule decays. Good first setting: steps = the number of updates of the run; with ``warmup`` for
    Adam and large batches.

    Args:
        steps: over how many updates the rate falls.
        floor: what is left at the end, from 0 to 1.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017;
    :class:`trimtab.optim.Cosine`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("cosine_decay(steps=4)")
    >>> for _ in range(3):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    1.0
    0.8536
    0.5
    >>> print(training.changes[0])
    the learning rate falls along a cosine to 0 over 4 updates: times 0.5 at update 3
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule",)
    group = "optimization"
    part = Cosine
    suite = Suite(text="cosine_decay(steps=5)", always=True)

    steps: int
    floor: float = 0.0

    def plain(self, training: TrainingLike) -> str:
        rate = number_of(training, "lr")
        if rate is None:
            return ""
        floor = f", eta_min={rate * self.floor:g}" if self.floor else ""
        call = f"scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={self.steps}{floor})"
        return f"{call}, and scheduler.step() behind every optimizer.step(), for no more than {self.steps} of them."

    def words(self) -> str:
        return f"falls along a cosine to {f'{self.floor:g} of itself' if self.floor else '0'} over {self.steps} updates"
