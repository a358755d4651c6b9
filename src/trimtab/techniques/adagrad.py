"""AdaGrad in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class Adagrad(Becomes, Technique):
    """Turns the optimizer into AdaGrad, in place: the script and its schedulers go on holding it.

    ``w <- w - lr g / (sqrt(G) + eps)`` with G the sum of all squared gradients so far. The rate is that of the group with the largest
    one; the others keep their ratio to it, and a schedule keeps its shape. All optimizers of the training are turned. Their
    state begins anew.

    Helps: sparse features and embeddings, inputs in raw units, convex problems. Hurts: long trainings of deep networks, whose steps
    die out as the sum grows. Good first settings: lr of 0.01 to 0.1. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate, positive.
        lr_decay: how fast the rate falls beside: ``lr / (1 + steps * lr_decay)``.
        eps: added to the root.
        initial_accumulator_value: G before the first step.
        weight_decay: added to the gradient as ``weight_decay * w``; None keeps the factors of the script, and their kind.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011;
    :class:`trimtab.optim.Adagrad`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> training = tt.attach(model, optimizer).apply("adagrad(lr=0.1)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 5.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)
    0.1
    """

    part = optim.Adagrad

    lr: float = 1e-2
    lr_decay: float = 0.0
    eps: float = 1e-10
    initial_accumulator_value: float = 0.0
    weight_decay: float | None = None
