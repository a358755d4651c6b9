"""Gradient descent in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Suite, Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class SGD(Becomes, Technique):
    """Turns the optimizer into gradient descent with momentum, in place: the script and its schedulers go on holding it.

    ``v <- momentum v + g``, ``w <- w - lr v`` (or ``w - lr (g + momentum v)`` with nesterov). The rate is that of the group with the
    largest one; the others keep their ratio to it, and a schedule keeps its shape. All optimizers of the training are turned.
    Their state begins anew.

    Helps: convolutional networks with normalization, where it often generalizes better than adaptive methods. Hurts: gradients of very
    unlike size (embeddings, attention); a constant rate never settles, since the noise of mini-batches does not vanish.
    Good first settings: lr of 0.01 to 0.1, momentum of 0.9. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate, positive.
        momentum: the share of the last direction that stays, from 0 to below 1.
        nesterov: take the step from the point ahead, in its usual form with one gradient.
        weight_decay: added to the gradient as ``weight_decay * w``; None keeps the factors of the script, and their kind.

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Sutskever et al., "On the importance of
    initialization and momentum in deep learning", ICML 2013; :class:`trimtab.optim.SGD`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    >>> training = tt.attach(model, optimizer).apply("sgd(lr=0.1)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 5.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4), type(optimizer).__name__
    (0.5, 'SGD')
    """

    part = optim.SGD
    suite = Suite(text="sgd(lr=0.05)", always=True, anew=True)

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float | None = None
