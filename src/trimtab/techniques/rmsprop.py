"""RMSProp in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class RMSprop(Becomes, Technique):
    """Turns the optimizer into RMSProp, in place: the script and its schedulers go on holding it.

    ``w <- w - lr g / (sqrt(G) + eps)`` with G a running mean of squared gradients (less the square of their running mean when
    centered), and a momentum of these steps. The rate is that of the group with the largest one; the others keep their ratio
    to it, and a schedule keeps its shape. All optimizers of the training are turned. Their state begins anew.

    Helps: recurrent networks, gradients that change in size along the way, inputs in raw units. Hurts: the first steps are up to ten
    times the rate, since G starts at 0: warm up. Good first settings: lr of 0.001 to 0.01. Clashes with other optimizers and
    learning_rate.

    Args:
        lr: the base learning rate, positive.
        alpha: the share of the old mean square that stays.
        eps: added to the root.
        momentum: the share of the last step that stays, from 0 to below 1.
        centered: divide by the deviation of the gradient.
        weight_decay: added to the gradient as ``weight_decay * w``; None keeps the factors of the script, and their kind.

    Source: Tieleman & Hinton, "Lecture 6.5: RMSProp", 2012; :class:`trimtab.optim.RMSprop`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> training = tt.attach(model, optimizer).apply("rmsprop(lr=0.01)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 5.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)  # the mean square of one gradient among a hundred: ten times the rate
    0.1
    """

    part = optim.RMSprop

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float | None = None
