"""AdaDelta in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class Adadelta(Becomes, Technique):
    """Turns the optimizer into AdaDelta, in place: the script and its schedulers go on holding it.

    ``w <- w - lr sqrt(X + eps) / sqrt(G + eps) g`` with G and X running means of squared gradients and of squared steps. The rate is
    that of the group with the largest one; the others keep their ratio to it, and a schedule keeps its shape. All optimizers
    of the training are turned. Their state begins anew.

    Helps: where no rate can be tuned, gradients of very unlike size. Hurts: steps begin near sqrt(eps) and need long to grow, so short
    trainings; it is often behind adam. Good first setting: the default. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate, positive; 1 is the paper's.
        rho: the share of the old means that stays.
        eps: what the first steps grow out of, positive.
        weight_decay: added to the gradient as ``weight_decay * w``; None keeps the factors of the script, and their kind.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012; :class:`trimtab.optim.Adadelta`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> training = tt.attach(model, optimizer).apply("adadelta(eps=0.01)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 200.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)  # sqrt(0.01) / sqrt(0.1 * 200^2 + 0.01) * 200
    0.3162
    """

    part = optim.Adadelta

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float | None = None
