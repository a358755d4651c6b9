"""Learning rate that goes up and down once."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim import schedules
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.schedules import Scheduled


@dataclass(frozen=True)
class OneCycle(Scheduled, Technique):
    """Takes the learning rate up to its full size and down to almost nothing, once.

    ``lr_t`` goes from ``start * lr`` to ``lr`` in the first ``peak_share`` of the updates, and to ``end * lr`` in the
    rest, along half cosines or lines; for the duration of each update, on top of whatever schedule the script has. The
    momentum stays as it is.

    Helps: short runs of known length, together with a larger rate than usual (``lr_scale``, ``learning_rate``). Hurts:
    runs that go on for longer than ``steps``, at almost no rate; a script whose own schedule decays. Good first
    setting: steps = the number of updates.

    Args:
        steps: how many updates in all.
        peak_share: which share of them is on the way up, between 0 and 1.
        start: where the rate starts, as a share of its full size.
        end: where it ends.
        shape: "cosine" or "linear".

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    2018; :class:`trimtab.optim.OneCycle`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("one_cycle(steps=6, peak_share=0.5, start=0.2, end=0.1, shape='linear')")
    >>> for _ in range(6):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     print(round(before - model.weight.item(), 4))
    0.2
    0.6
    1.0
    0.7
    0.4
    0.1
    """

    acts_on = "update"
    moment = "rate"
    takes = ("schedule", "warm-up")
    group = "optimization"
    part = schedules.OneCycle
    suite = Suite(text="one_cycle(steps=5)", always=True)

    steps: int
    peak_share: float = 0.3
    start: float = 1 / 25
    end: float = 4e-6
    shape: str = "cosine"

    def words(self) -> str:
        return f"goes up and down once over {self.steps} updates"
