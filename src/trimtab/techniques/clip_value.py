"""Clipping of the gradient by value."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.optim.clip_stats import ClipStats
from trimtab.optim.clipping import bounds, clip_grad_value_
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.clips import clipping


@dataclass(frozen=True)
class ClipValue(Technique):
    """Clips each entry of the gradient into an interval.

    ``g -> max(min(g, high), low)``; one number c stands for the interval [-c, c]. The direction of the gradient changes. An infinite
    entry becomes the bound, a NaN stays, both with a warning.

    It acts on the gradients with all penalties of the recipe, and before the recipe's weight decay.

    Helps: single entries that are far too large, such as rows of embeddings that come up rarely. Hurts: bounds near the usual
    size of entries, which bend the direction of every step. Good first setting: 0.5, or ten times the usual largest entry.

    Args:
        low: the least entry that is let through, or, alone, the size of both bounds.
        high: the largest one.

    Source: Mikolov, "Statistical Language Models Based on Neural Networks", 2012; :func:`trimtab.optim.clip_grad_value_`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("clip_value(low=-2.0, high=0.5)")
    >>> weight, bias = model.weight.item(), model.bias.item()
    >>> model(torch.full((1, 1), -100.0)).sum().backward(); optimizer.step()
    >>> round(weight - model.weight.item(), 4), round(bias - model.bias.item(), 4)
    (-2.0, 0.5)
    """

    acts_on = "update"
    moment = "clip"
    group = "optimization"
    unbounded = ("low", "high")
    suite = Suite(text="clip_value(low=0.001)", always=True)

    low: float = 0.5
    high: float | None = None

    def __post_init__(self) -> None:
        bounds(str(self), self.low, self.high)

    def plain(self, training: TrainingLike) -> str:
        if self.high not in (None, -self.low):
            return ""
        return f"torch.nn.utils.clip_grad_value_(model.parameters(), {abs(self.low):g}) before optimizer.step()."

    def apply(self, training: TrainingLike) -> Change:
        stats = ClipStats()
        low, high = bounds(str(self), self.low, self.high)
        return clipping(
            training,
            f"entries of gradients clipped into [{low:g}, {high:g}]",
            lambda: stats,
            lambda parameters, scale, _: clip_grad_value_(parameters, (low * scale, high * scale), stats=stats),
        )
