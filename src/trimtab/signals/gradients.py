"""Gradient norms: of every parameter, and of all together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, norms


class Gradients(Signal):
    """The Euclidean norm of each parameter's gradient, and of the whole gradient.

    ``grad_norm_p = ||dL/dp||``, ``grad_norm = sqrt(sum_p grad_norm_p^2)``, read when the gradients of a step are complete:
    after accumulation, unscaling and the script's own clipping.
    """

    measures = (
        Measured(
            "grad_norm",
            "gradient norm",
            "Norm of the whole gradient. Single peaks far above the rest are an exploding gradient.",
        ),
        Measured(
            "grad_norms",
            "Gradient profile",
            "How much gradient reaches each layer, input at the top. Even colours are healthy: a slope over depth is a vanishing "
            "or exploding gradient.",
            "parameter",
            owed=True,
            rank=1,
        ),
    )
    cost = "one pass over the gradients"

    def __init__(self) -> None:
        self._norms: dict[str, float] = {}

    def gradients(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        having = [(name, p.grad.detach()) for name, p in parameters if p.grad is not None]
        self._norms.update(zip((name for name, _ in having), norms([grad for _, grad in having]), strict=True))

    def read(self) -> Reading:
        if not self._norms:
            return {}
        reading: Reading = {
            "grad_norms": dict(self._norms),
            "grad_norm": math.sqrt(sum(norm**2 for norm in self._norms.values()))
            if all(map(math.isfinite, self._norms.values()))
            else math.nan,
        }
        self._norms.clear()
        return reading
