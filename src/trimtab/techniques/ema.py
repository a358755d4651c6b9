"""Exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.averaging import EMA
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.averages import evaluate_with


@dataclass(frozen=True)
class Ema(Technique):
    r"""Evaluates with an exponential moving average of the weights; the training itself goes on with its own.

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad \bar w_1 = w_1, \qquad
              d_t = \min\Big(\mathrm{decay}, \frac{t}{t + 9}\Big)

    after every step t, for all floating-point parameters and buffers (with BatchNorm's running statistics among them). When the model is called
    in evaluation (evaluation mode, or without gradients) the average goes in, and out again when training goes on: the optimizer
    never sees it. So a checkpoint saved between an evaluation and the next training step holds the average; one saved after a step, as
    it would be without. Takes the memory of one copy of the weights, and of a second one during an evaluation.

    Helps: evaluations that jump from one to the next; large learning rates that do not decay, small batches. Hurts: scripts that use their
    model without gradients as a part of training (pseudo-labels, sampling), which then get the average, like from a mean teacher.
    Good first setting: 0.999; 0.99 for a few hundred steps. Clashes with another average, and with early stopping.

    Args:
        decay: the share of the old average that stays in every step, once there have been many; 0 < decay < 1.
        batches: gather BatchNorm's statistics anew under the average, from so many of the last training inputs, which are then kept in
            memory; 0 averages them like the weights.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Tarvainen & Valpola, "Mean teachers",
    2017; :class:`trimtab.optim.EMA`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("ema(decay=0.5)")
    >>> x = torch.ones(1, 1)
    >>> with torch.no_grad():
    ...     weight = model(x).item()
    >>> for _ in range(2):
    ...     optimizer.zero_grad(); model(x).sum().backward(); optimizer.step()
    >>> with torch.no_grad():  # weight - 1 and weight - 2 were averaged: the second d is 2/11
    ...     round(weight - model(x).item(), 4)
    1.8182
    """

    acts_on = "loop"
    moment = "average"
    takes = ("final weights",)
    group = "regularization"
    suite = Suite(same_losses="acts in evaluation")

    decay: float = 0.999
    batches: int = 0

    def __post_init__(self) -> None:
        self._average()
        if not isinstance(self.batches, int) or self.batches < 0:
            raise ValueError(f"batches={self.batches!r} must be a whole number of inputs to keep, or 0.")

    def _average(self) -> EMA:
        return EMA(self.decay)

    def apply(self, training: TrainingLike) -> Change:
        summary = f"evaluation with an exponential moving average of the weights, decay {self.decay:g}"
        return evaluate_with(training, self._average(), self.batches, summary)
