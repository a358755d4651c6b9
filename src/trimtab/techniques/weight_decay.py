"""Weight decay of the weights proper."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch

from trimtab.optim.weight_decay import check_decay, scheduled_base_lr, weight_decay_
from trimtab.reading.weights import trained
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.choose import chosen, left_alone
from trimtab.techniques.engines.plain import COUPLED, decay


@dataclass(frozen=True)
class WeightDecay(Technique):
    """Shrinks the weights a little at every step.

    ``w -> w - lr * factor * w`` before the step, with the step's learning rate (Loshchilov & Hutter's *decoupled* decay; for
    plain SGD the same as an L2 penalty of ``factor / 2 ||w||^2``). *Coupled* decay adds ``factor * w`` to the gradient, as
    ``weight_decay`` of torch's SGD and Adam. *Independent* decay is ``w -> w - factor * lr / base_lr * w``: it follows the schedule, but
    not the base rate, which is the peak of a one-cycle schedule, the rate where another scheduler of torch started, or,
    without a scheduler, the largest rate so far.

    Only weights of linear, convolution, recurrent, bilinear and attention layers decay; biases, scales of normalizations and
    embeddings are left out, by the type of their module, and so are the direction and the gains of a weight norm, which can be
    named with ``only``. Comes on top of any decay that the optimizer has of its own.

    Helps: networks that fit their training set and generalize worse. Hurts: under-fitting ones; in front of a
    normalization it only changes the effective learning rate (van Laarhoven 2017).
    Good first settings: 0.01 to 0.1 with SGD, 0.1 to 1 with Adam at a rate of 0.001; independent 1e-4.

    Args:
        factor: the share that decays, positive: per unit of learning rate, or (independent) per step at the base rate.
        kind: "decoupled", "coupled" or "independent".
        only: parameters to decay in the place of these weights, by a pattern of their names or the class of their module.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; :func:`trimtab.optim.weight_decay_`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("weight_decay(factor=0.5)")
    >>> before = model.weight.item()
    >>> (model(torch.ones(1, 1)) * 0).sum().backward(); optimizer.step()
    >>> round(model.weight.item() / before, 4)
    0.95
    """

    acts_on = "update"
    moment = "decay"
    group = "regularization"

    factor: float = 0.01
    kind: str = "decoupled"
    only: str = ""

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor} must be positive: it is the strength of the decay.")
        check_decay("weight_decay", self.kind)

    def plain(self, training: TrainingLike) -> str:
        kinds = {"coupled": COUPLED, "decoupled": (torch.optim.AdamW,)}.get(self.kind, ())
        return "" if self.only else decay(training, self.factor, kinds)

    def apply(self, training: TrainingLike) -> Change:
        found = chosen(self, training, self.only)
        decayed = [p for _, p in found]
        largest: weakref.WeakKeyDictionary[torch.optim.Optimizer, list[float]] = weakref.WeakKeyDictionary()

        def base_lr(optimizer: torch.optim.Optimizer) -> list[float]:
            rates = [float(group.get("lr", 0)) for group in optimizer.param_groups]
            before = largest.get(optimizer, [])
            largest[optimizer] = [max(pair) for pair in zip(rates, [*before, *rates[len(before) :]], strict=True)]
            known = [scheduled_base_lr(group) for group in optimizer.param_groups]
            return [seen if rate is None else rate for rate, seen in zip(known, largest[optimizer], strict=True)]

        def decay(optimizer: torch.optim.Optimizer) -> None:
            rates = base_lr(optimizer) if self.kind == "independent" else None
            weight_decay_(optimizer, decayed, self.factor, self.kind, base_lr=rates)

        stop = training.on("gradients" if self.kind == "coupled" else "before_step", decay)
        summary = f"{self.kind} weight decay of {self.factor:g} on {len(trained(training, found))} weights"
        return Change(summary, stop, details=left_alone(training, self.only))
