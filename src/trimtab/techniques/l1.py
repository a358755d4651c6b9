"""L1 penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.penalties import check_factors, penalize


@dataclass(frozen=True)
class L1(Technique):
    """Penalizes the sum of the absolute weights, which pulls every weight towards zero by the same amount.

    ``loss + factor * sum |w|``: the gradient gets ``factor * sign(w)``, with sign(0) = 0. Weights then hover around zero. With
    ``proximal=True`` the penalty is instead a soft threshold behind each step, ``w -> sign(w) max(|w| - lr * factor, 0)``
    (with SGD's momentum m, lr / (1 - m)), and weights become exactly zero. Only weights of linear, convolution,
    recurrent, bilinear and attention layers are penalized, unless ``only`` names others. The recorded loss stays plain.

    Helps: more features than matter, weights that are to be read or pruned. Hurts: networks that under-fit; groups of
    correlated features, of which one is kept by chance (``elastic_net`` keeps them together); without ``proximal``, adaptive optimizers,
    which divide the penalty by the size of the gradient. Good first settings: 1e-5 to 1e-3.

    Args:
        factor: lambda of a loss that is a mean over samples, positive.
        proximal: exact zeros, by a soft threshold behind each step.
        only: a pattern for names of parameters (``"encoder.*weight"``), or a class of modules (``"Conv2d"``).

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 58, 1996; proximal: Daubechies et al.,
    "An iterative thresholding algorithm", CPAM 57, 2004; :func:`trimtab.optim.l1_penalty`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("l1(factor=100.0, proximal=True)")
    >>> model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    >>> model.weight.item()
    0.0
    """

    acts_on = "update"
    moment = "penalty"
    takes = ("L1 penalty",)
    group = "regularization"

    factor: float = 1e-4
    proximal: bool = False
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)

    def apply(self, training: TrainingLike) -> Change:
        return penalize(self, training, l1=self.factor)
