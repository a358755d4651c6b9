"""AdamW in the place of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab import optim
from trimtab.recipe import Technique
from trimtab.techniques.engines.becoming import Becomes


@dataclass(frozen=True)
class AdamW(Becomes, Technique):
    """Turns the optimizer into Adam with decoupled weight decay, in place: the script and its schedulers go on holding it.

    ``w <- (1 - lr weight_decay) w - lr m / (sqrt(v) + eps)`` with m and v as in adam. The decay stands in the place of the
    script's: groups that the script lets decay less keep their ratio, and those that it does not let decay still do not. The rate is
    that of the group with the largest one; the others keep their ratio to it, and a schedule keeps its shape. All optimizers
    of the training are turned. Their state begins anew.

    Helps: as adam; with it, weights decay alike however large their gradients are. Hurts: as adam; a decay that stands in front of a
    normalization only changes the rate. Good first setting: the default. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate, positive.
        betas: the shares of the old means that stay.
        eps: added to the root.
        weight_decay: the share of a weight that decays per unit of learning rate; None keeps the factors of the script, and their
            kind.
        amsgrad: divide by the largest mean square so far.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; :class:`trimtab.optim.AdamW`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=1e-4)
    >>> training = tt.attach(model, optimizer).apply("adamw(lr=0.1)")
    >>> optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[0]["decay"]
    (0.01, 'decoupled')
    """

    name = "adamw"
    part = optim.AdamW

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | None = 0.01
    amsgrad: bool = False
