"""Warm-up of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trimtab.optim import schedules
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class Warmup(Scheduled, Technique):
    """Lets the learning rate grow from almost nothing to its full size over the first updates.

    ``lr_t = lr * (start + (1 - start) * t / steps)`` at update t < steps, for the duration of the update; then as the
    script has it. Multiplies with a decay, which counts from the first update too.

    Helps: Adam, whose first steps rest on a few gradients; large batches; transformers with normalization behind the
    residual; a loss that jumps up at the start. Hurts: short runs, in which it takes away updates. Good first settings:
    100, or 5 % of the run.

    Args:
        steps: how many updates it takes.
        start: the factor of the first update, from 0 (which moves nothing) to 1.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017; :class:`trimtab.optim.Warmup`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("warmup(steps=2)")
    >>> for _ in range(3):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    0.0
    0.5
    1.0
    """

    acts_on = "update"
    moment = "rate"
    takes = ("warm-up",)
    group = "optimization"
    part = schedules.Warmup
    suite = Suite(always=True)

    steps: int = 100
    start: float = 0.0

    def schedule(self) -> Callable[[int], float]:
        return schedules.Warmup(self.steps, start=self.start)

    @classmethod
    def plotted(cls) -> Any:
        return schedules.curves_of({f"start={start:g}": cls(200, start).schedule() for start in (0.0, 0.3)})

    def words(self) -> str:
        return f"warms up over {self.steps} updates"
