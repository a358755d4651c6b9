"""Clipping of the gradient by its norm."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.clip_stats import ClipStats
from trimtab.optim.clipping import clip_grad_norm_
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.clips import clipping


@dataclass(frozen=True)
class ClipNorm(Technique):
    """Scales the whole gradient back to a given norm when it is longer.

    ``g -> g * min(1, max_norm / ||g||)`` with ``||g||`` over all parameters of the optimizer: the direction stays. With
    ``per_parameter`` the gradient of each parameter is scaled back to that norm by itself. A gradient that is not finite is left as
    it is, with a warning: clipping cannot mend it.

    It acts on the gradients with all penalties of the recipe, and before the recipe's weight decay.

    Helps: recurrent and very deep networks, cliffs, rare bad batches. Hurts: a bound far below the usual norm makes every
    step small. Good first setting: 1.0, or a little above the usual norm.

    Args:
        max_norm: the longest gradient that is let through, positive.
        per_parameter: clip each parameter by its own norm.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013;
    :func:`trimtab.optim.clip_grad_norm_`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("clip_norm(max_norm=0.5)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 100.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)
    0.5
    >>> print(training.changes[0])
    gradient norm clipped at 0.5: acted in 1 of 1 steps (100 %), mean factor 0.005, strongest 0.005
    """

    acts_on = "update"
    moment = "clip"
    group = "optimization"
    unbounded = ("max_norm",)
    suite = Suite(text="clip_norm(max_norm=0.01)", always=True)

    max_norm: float = 1.0
    per_parameter: bool = False

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm={self.max_norm} must be positive: it is the longest gradient let through.")

    def plain(self, training: TrainingLike) -> str:
        each, of = ("for p in model.parameters(): ", "p") if self.per_parameter else ("", "model.parameters()")
        call = f"{each}torch.nn.utils.clip_grad_norm_({of}, {self.max_norm:g}) before optimizer.step()"
        return f"{call}. It clips a little more: it divides by the norm + 1e-6."

    def apply(self, training: TrainingLike) -> Change:
        stats = ClipStats()
        what = "norm of each parameter's gradient" if self.per_parameter else "gradient norm"
        return clipping(
            training,
            f"{what} clipped at {self.max_norm:g}",
            lambda: stats,
            lambda parameters, scale, _: clip_grad_norm_(
                parameters, self.max_norm * scale, per_parameter=self.per_parameter, stats=stats
            ),
        )
