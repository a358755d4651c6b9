"""Lp penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.optim.penalties import check_power, lp_sum
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.penalties import act_on_chosen, check_factors, gradient_of


@dataclass(frozen=True)
class Lp(Technique):
    """Penalizes a power of the absolute weights: between L1 and L2, beyond, or below.

    ``loss + factor / p * sum |w|^p``: the gradient gets ``factor * sign(w) * |w|^(p - 1)``; p = 1 is ``l1``, p = 2 is ``l2``. Below 1, where
    the derivative at 0 would be infinite, it is rounded off within ``eps`` of 0, and there is a warning: the result then depends on
    where the weights start. On the same weights as ``l1`` and ``l2``.

    Helps: p between 1 and 2 shrinks small weights more than L2 does; p below 1 stands closer to the number of weights that are
    not zero than L1 does. Hurts: networks that under-fit. Good first settings: p=1.5, factor 1e-5 to 1e-3.

    Args:
        factor: lambda of a loss that is a mean over samples, positive.
        p: the exponent, positive.
        eps: for p < 1, the size below which a weight counts as zero.
        only: a pattern for names of parameters (``"encoder.*weight"``), or a class of modules (``"Conv2d"``).

    Source: Frank and Friedman, "A Statistical View of Some Chemometrics Regression Tools", Technometrics 35, 1993;
    :func:`trimtab.optim.lp_penalty`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("lp(factor=0.01, p=1.2)")
    >>> training.changes[0].summary
    'lp(factor=0.01, p=1.2) on 1 parameters: weight'
    """

    acts_on = "update"
    moment = "penalty"
    group = "regularization"

    factor: float = 1e-4
    p: float = 1.5
    eps: float = 1e-3
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)
        check_power(self.p, self.eps)

    def apply(self, training: TrainingLike) -> Change:
        def penalty(weights: list[torch.Tensor]) -> torch.Tensor:
            return self.factor * lp_sum(weights, self.p, self.eps)

        return act_on_chosen(self, training, penalty, gradient_of(penalty))
