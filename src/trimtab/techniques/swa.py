"""Stochastic weight averaging."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.averaging import SWA
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.averages import evaluate_with


@dataclass(frozen=True)
class Swa(Technique):
    r"""Evaluates with the equal average of the weights at many steps; the training itself goes on with its own.

    .. math:: \bar w = \frac1n \sum_{i=1}^n w_{t_i}, \qquad t_i = \mathrm{start} + (i - 1)\,\mathrm{every}

    with :math:`w_t` the floating-point parameters and buffers after step t. Up to ``start`` evaluations are as without. From
    then on the average goes in when the model is called in evaluation (evaluation mode, or without gradients), and out again when training
    goes on: the optimizer never sees it. BatchNorm's running statistics are gathered anew for it, from the last ``batches`` training
    inputs (without drawing random numbers, dropout off), and restored with the weights. A checkpoint saved between an evaluation and the next
    training step holds the average; one saved after a step, as it would be without. Takes the memory of one copy of the weights, of
    a second one during an evaluation, and of ``batches`` inputs where there are BatchNorms.

    The learning rate is left alone: the paper holds it high in the last quarter, over which it averages.

    Helps: generalization, with a learning rate that stays high to the end. Hurts: when started while the weights are still on their way; and
    scripts that use their model without gradients as a part of training, which then get the average.
    Good first setting: start at three quarters of the steps, every = the steps of an epoch, or 10. Clashes with another average, and with
    early stopping.

    Args:
        start: the step whose weights are the first to be averaged, at least 1.
        every: how many steps from one to the next, at least 1.
        batches: how many training inputs to keep for BatchNorm's statistics; 0 averages them like the weights.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018;
    :class:`trimtab.optim.SWA`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("swa(start=2, every=1)")
    >>> x = torch.ones(1, 1)
    >>> with torch.no_grad():
    ...     weight = model(x).item()
    >>> for _ in range(3):
    ...     optimizer.zero_grad(); model(x).sum().backward(); optimizer.step()
    >>> with torch.no_grad():  # weight - 2 and weight - 3 were averaged
    ...     round(weight - model(x).item(), 4)
    2.5
    """

    acts_on = "loop"
    moment = "average"
    takes = ("final weights",)
    group = "regularization"
    suite = Suite(text="swa(start=1, every=1)", same_losses="acts in evaluation")

    start: int = 100
    every: int = 10
    batches: int = 10

    def __post_init__(self) -> None:
        self._average()
        if not isinstance(self.batches, int) or self.batches < 0:
            raise ValueError(f"batches={self.batches!r} must be a whole number of inputs to keep, or 0.")

    def _average(self) -> SWA:
        return SWA(self.start, self.every)

    def apply(self, training: TrainingLike) -> Change:
        summary = (
            f"evaluation with the average of the weights at step {self.start} and every {self.every} steps from there"
        )
        return evaluate_with(training, self._average(), self.batches, summary)
