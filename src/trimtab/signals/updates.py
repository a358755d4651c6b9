"""Update-to-weight ratio: how far one step moves each parameter, relative to its size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, norms, thin


class Updates(Signal):
    """The size of the update of each weight relative to the weight.

    ``update_ratio_p = ||p_after - p_before|| / ||p_before||`` over up to 4096 evenly spaced entries of each parameter with
    two or more dimensions (scales and biases start at special values, where a ratio means nothing).
    It is what the optimizer really did: after momentum, adaptive scaling, weight decay and the learning rate.
    """

    measures = (
        Measured(
            "update_ratio",
            "Update ratio",
            "Size of a step relative to the weights it changes; about 1e-3 is usual.",
            "parameter",
            rank=5,
        ),
    )
    cost = "a copy of up to 4096 entries per weight, and one pass over them"

    def __init__(self) -> None:
        self._before: dict[str, torch.Tensor] = {}
        self._ratios: dict[str, float] = {}

    def before_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        self._before = {name: thin(p) for name, p in parameters if p.ndim > 1}

    def after_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        now = {name: thin(p) for name, p in parameters if name in self._before and p.grad is not None}
        old = [self._before[name] for name in now]
        moved = norms([after - before for after, before in zip(now.values(), old, strict=True)])
        sizes = norms(old)
        self._ratios |= {name: step / size for name, step, size in zip(now, moved, sizes, strict=True) if size > 0}
        self._before.clear()

    def read(self) -> Reading:
        reading = {"update_ratio": dict(self._ratios)} if self._ratios else {}
        self._ratios.clear()
        return reading
