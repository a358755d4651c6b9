"""Shrinkage: how much of an update only makes the weight smaller."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, thin


class Shrinkage(Signal):
    """The effective decay of each weight: what share of it one step takes away, along the weight itself.

    ``shrinkage_p = -<p_after - p_before, p_before> / ||p_before||^2``, and ``shrinkage_share_p``, the cosine of the angle between the
    update and -p_before: 1 if the step does nothing but shrink, -1 if it only grows the weight, near 0 if it turns it. Over up
    to 4096 evenly spaced entries of each parameter with two or more dimensions. It is all that shrinks: weight decay of any kind, L2 and
    L1 penalties, constraints, and the gradient itself. In front of a normalization the gradient has no part along the
    weight (van Laarhoven 2017), and with SGD the shrinkage is lr times the decay; elsewhere compare with a run without.
    """

    measures = (
        Measured(
            "shrinkage",
            "Shrinkage of the weights",
            "Share of a weight that one step takes away along the weight itself; negative where it grows. About the learning rate "
            "times the weight decay is usual.",
            "parameter",
            rank=6,
        ),
        Measured(
            "shrinkage_share",
            "Shrinkage in the updates",
            "How much of an update only makes the weight smaller: 1 all of it, 0 none, negative where it grows.",
            "parameter",
            rank=7,
        ),
    )
    cost = "a copy of up to 4096 entries per weight, and three passes over them"

    def __init__(self) -> None:
        self._before: dict[str, torch.Tensor] = {}
        self._products: dict[str, torch.Tensor] = {}

    def before_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        self._before = {name: thin(p) for name, p in parameters if p.ndim > 1}

    def after_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        for name, p in parameters:
            if name in self._before and p.grad is not None:
                before = self._before[name]
                inward = before - thin(p)
                self._products[name] = torch.stack([inward @ before, before @ before, inward @ inward])
        self._before.clear()

    def read(self) -> Reading:
        if not self._products:
            return {}
        device = next(iter(self._products.values())).device
        rows = torch.stack([products.to(device) for products in self._products.values()]).tolist()
        shrinkage, share = {}, {}
        for name, (along, size, moved) in zip(self._products, rows, strict=True):
            if size > 0:
                shrinkage[name] = along / size
                share[name] = along / (size * moved) ** 0.5 if moved > 0 else 0.0
        self._products.clear()
        return {"shrinkage": shrinkage, "shrinkage_share": share}
