"""Learning rate that warms up, stays, and falls at the end."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim import schedules
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class WarmupStableDecay(Scheduled, Technique):
    """Lets the learning rate grow, stay at its full size for most of the run, and come down at the end (WSD).

    ``lr_t = lr * t / W`` in the first W updates, then ``lr``, then down from ``lr`` to ``floor * lr`` in the last D of
    ``steps`` updates; for the duration of each update, on top of whatever schedule the script has.

    Helps: runs at a constant rate, which does not settle; checkpoints of the stable part can go on for longer. Hurts: a
    script whose own schedule decays; a run much shorter than ``steps``, whose rate never comes down. Good first
    setting: steps = the number of updates.

    Args:
        steps: how many updates in all.
        warmup: share of them on the way up.
        decay: share of them on the way down.
        shape: how the rate comes down: "linear", "cosine" or "sqrt" (fast, then slowly).
        floor: what is left at the end, from 0 to 1.

    Source: Hu et al., "MiniCPM", 2024; :class:`trimtab.optim.WarmupStableDecay`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("warmup_stable_decay(steps=5, warmup=0.2, decay=0.4)")
    >>> for _ in range(5):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    0.0
    1.0
    1.0
    1.0
    0.5
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule", "warm-up")
    group = "optimization"
    part = schedules.WarmupStableDecay
    suite = Suite(text="warmup_stable_decay(steps=5, decay=0.6)", always=True)

    steps: int
    warmup: float = 0.1
    decay: float = 0.2
    shape: str = "linear"
    floor: float = 0.0

    def words(self) -> str:
        return f"warms up, stays, and falls in the last {self.decay:.0%} of {self.steps} updates"
