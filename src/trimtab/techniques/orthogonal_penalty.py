"""A penalty on weights that are not orthogonal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.nn.orthogonal import orthogonal_penalty
from trimtab.reading.weights import trained
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.choose import chosen, left_alone
from trimtab.techniques.engines.penalties import act_on, check_factors, gradient_of
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class OrthogonalPenalty(Technique):
    """Pulls the rows of every weight towards orthogonal vectors of length 1.

    ``loss + factor * ||W W^T - I||_F^2`` with W the weight as a matrix of one row per unit (its columns instead, if it has more
    rows than columns); convolution kernels are flattened. The stacked weights of recurrent and attention layers count as one matrix. The
    recorded loss stays plain.

    Helps: deep networks without normalization, redundant filters. Hurts: layers that have to shrink or stretch; together with
    weight decay, which pulls the lengths the other way. Good first settings: 1e-4 to 1e-2.

    Args:
        factor: the strength of the penalty, positive.
        only: parameters to penalise in the place of the weights of linear, convolution, recurrent, bilinear and attention
            layers, by a pattern of their names or the class of their module.

    Source: Bansal, Chen, Wang, "Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?", NeurIPS 2018;
    :func:`trimtab.nn.functional.orthogonal_penalty`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(8, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("orthogonal_penalty(factor=0.5)")
    >>> for _ in range(50):
    ...     optimizer.zero_grad(); (model(torch.ones(1, 8)) * 0).sum().backward(); optimizer.step()
    >>> torch.allclose(model.weight @ model.weight.T, torch.eye(4), atol=1e-4)
    True
    """

    acts_on = "update"
    moment = "penalty"
    group = "regularization"

    factor: float = 0.001
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)

    def apply(self, training: TrainingLike) -> Change:
        found = [(name, p) for name, p in chosen(self, training, self.only) if p.ndim > 1]
        if not found:
            raise nothing_for(self, f"no parameter that {self.only!r} names has two dimensions or more.")
        weights: list[torch.Tensor] = [p for _, p in found]

        def penalty(moved: list[torch.Tensor]) -> torch.Tensor:
            return self.factor * torch.stack([orthogonal_penalty(w) for w in moved]).sum()

        stop, acted = act_on(self, training, weights, gradient_of(penalty))
        now = trained(training, found)
        summary = f"orthogonal penalty of {self.factor:g} on {len(now)} weights: {listed_names(now)}"

        @torch.no_grad()
        def outcome() -> str:
            return f"the penalty is {float(penalty([w for w in weights if w.requires_grad])):.4g}"

        return Change(summary, stop, acted, left_alone(training, self.only), outcome)
