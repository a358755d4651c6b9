"""Movement: how far the weights have come from where they started."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, norms, thin


class Movement(Signal):
    """The distance of the weights from their initial values, relative to their initial size.

    ``movement = ||w_t - w_0|| / ||w_0||`` over all parameters with two or more dimensions, up to 1024 entries of each.
    Under a learning rate that is far too small it stays near zero while the loss still falls.
    """

    measures = (
        Measured(
            "movement",
            "movement of the weights",
            "Distance of the weights from where they started, relative to their size there.",
        ),
    )
    cost = "a copy of up to 1024 entries per weight, once, and one pass over them"

    def __init__(self) -> None:
        self._start: dict[str, torch.Tensor] = {}
        self._scale: dict[str, float] = {}
        self._moved: dict[str, float] = {}

    def before_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        now = {name: thin(p, 1024) for name, p in parameters if p.ndim > 1}
        for name, parameter in parameters:
            if name in now and (name not in self._start or self._start[name].shape != now[name].shape):
                self._start[name] = now[name]
                # the entries stand for the whole tensor: weigh them by how many each of them stands for
                self._scale[name] = parameter.numel() / max(1, now[name].numel())
        distances = norms([entries - self._start[name] for name, entries in now.items()])
        self._moved |= dict(zip(now, distances, strict=True))

    def read(self) -> Reading:
        if not self._moved:
            return {}
        start = norms([self._start[name] for name in self._moved])
        far = sum(self._scale[name] * moved**2 for name, moved in self._moved.items())
        size = sum(self._scale[name] * norm**2 for name, norm in zip(self._moved, start, strict=True))
        self._moved.clear()
        return {"movement": math.sqrt(far / size)} if size > 0 else {}
