"""L2 penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.penalties import check_factors, penalize
from trimtab.techniques.engines.plain import COUPLED, decay


@dataclass(frozen=True)
class L2(Technique):
    """Penalizes half the sum of the squared weights, which pulls every weight towards zero in proportion to its size.

    ``loss + factor / 2 * sum w^2``: the gradient gets ``factor * w``, before momentum and adaptive scaling. With SGD this is
    weight decay; with adaptive optimizers it is not (``weight_decay`` is decoupled from them). Only weights of linear,
    convolution, recurrent, bilinear and attention layers are penalized, unless ``only`` names others. The recorded loss
    stays plain.

    Helps: networks that fit their training set and generalize worse, ill-conditioned problems. Hurts: networks that
    under-fit; adaptive optimizers, which divide the penalty by the size of the gradient; in front of a normalization it
    only changes the effective learning rate. Good first settings: 1e-5 to 1e-3.

    Args:
        factor: lambda of a loss that is a mean over samples, positive.
        only: a pattern for names of parameters (``"encoder.*weight"``), or a class of modules (``"Conv2d"``).

    Source: Hoerl and Kennard, "Ridge Regression", Technometrics 12, 1970; Krogh and Hertz, "A Simple Weight Decay Can Improve
    Generalization", NeurIPS 1991; :func:`trimtab.optim.l2_penalty`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("l2(factor=0.5)")
    >>> before = model.weight.item()
    >>> (model(torch.ones(1, 1)) * 0).sum().backward(); optimizer.step()
    >>> round(model.weight.item() / before, 4)
    0.95
    """

    acts_on = "update"
    moment = "penalty"
    takes = ("L2 penalty",)
    group = "regularization"

    factor: float = 1e-4
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)

    def plain(self, training: TrainingLike) -> str:
        return "" if self.only else decay(training, self.factor, COUPLED)

    def apply(self, training: TrainingLike) -> Change:
        return penalize(self, training, l2=self.factor)
