"""Clipping of the gradient by its norm."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch

from trimtab.recipe import Change, Technique, TrainingLike


@dataclass(frozen=True)
class ClipNorm(Technique):
    """Scales the whole gradient back to a given norm when it is longer.

    ``g -> g * min(1, max_norm / ||g||)`` with ``||g||`` over all parameters of the optimizer: the direction stays. A gradient
    that is not finite is left as it is, with a warning: clipping cannot mend it.

    Helps: recurrent and very deep networks, cliffs, rare bad batches. Hurts: a bound far below the usual norm makes every
    step small. Good first setting: 1.0, or a little above the usual norm.

    Args:
        max_norm: the longest gradient that is let through, positive.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("clip_norm(max_norm=0.5)")
    >>> before = model.weight.item()
    >>> model(torch.full((1, 1), 100.0)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)
    0.5
    """

    acts_on = "update"

    max_norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm={self.max_norm} must be positive: it is the longest gradient let through.")

    def apply(self, training: TrainingLike) -> Change:
        def clip(optimizer: torch.optim.Optimizer) -> None:
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer unscales inside its step
            total = (
                float(torch.nn.utils.get_total_norm(grads)) / (1.0 if scale is None else float(scale)) if grads else 0.0
            )
            if not math.isfinite(total):
                warnings.warn(f"clip_norm: the gradient norm is {total}; it is passed on unclipped.", stacklevel=2)
            elif total > self.max_norm:
                torch._foreach_mul_(grads, self.max_norm / total)

        return Change(f"gradient norm clipped at {self.max_norm:g}", training.on("gradients", clip))
