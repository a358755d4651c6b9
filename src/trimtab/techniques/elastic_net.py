"""Elastic net: an L1 and an L2 penalty together."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.penalties import check_factors, penalize


@dataclass(frozen=True)
class ElasticNet(Technique):
    """Penalizes the absolute weights and half their squares: sparse, and steady where features are correlated.

    ``loss + l1 * sum |w| + l2 / 2 * sum w^2``: the gradient gets ``l1 * sign(w) + l2 * w``. With ``proximal=True`` the penalty is
    instead a soft threshold and a division behind each step, ``w -> sign(w) max(|w| - lr * l1, 0) / (1 + lr * l2)``
    (with SGD's momentum m, lr / (1 - m)), and weights become exactly zero. On the same weights as ``l1`` and ``l2``.
    scikit-learn's ``ElasticNet(alpha, l1_ratio)`` is ``l1 = alpha * l1_ratio``, ``l2 = alpha * (1 - l1_ratio)``.

    Helps: more features than matter, in correlated groups. Hurts: networks that under-fit; without ``proximal``, adaptive
    optimizers, which divide the penalty by the size of the gradient. Good first settings: 1e-5 to 1e-3 each.

    Args:
        l1: factor of the absolute weights, positive.
        l2: factor of half their squares, positive.
        proximal: exact zeros, by a proximal step behind each step.
        only: a pattern for names of parameters (``"encoder.*weight"``), or a class of modules (``"Conv2d"``).

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", JRSS B 67, 2005;
    :func:`trimtab.optim.elastic_net_penalty`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("elastic_net(l1=0.01, l2=0.1)")
    >>> training.changes[0].summary
    'elastic_net(l1=0.01, l2=0.1) on 1 parameters: weight'
    """

    acts_on = "update"
    moment = "penalty"
    takes = ("L1 penalty", "L2 penalty")
    group = "regularization"

    l1: float = 1e-4
    l2: float = 1e-4
    proximal: bool = False
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(l1=self.l1, l2=self.l2)

    def apply(self, training: TrainingLike) -> Change:
        return penalize(self, training, self.l1, self.l2)
