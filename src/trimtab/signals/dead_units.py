"""Dead units: units whose output is never positive and whose incoming weights get exactly no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, some, unit_axis
from trimtab.structure import weight

ENOUGH = 300  # samples without a sign of life: by the rule of three the unit fires on less than 1 % (95 % confidence)


class DeadUnits(Signal):
    """The share of dead units of each layer with weights.

    A unit is silent in a step when its pre-activation is <= 0 for every sample and position of the batch *and* the gradient
    of its incoming weights is exactly zero. It counts as dead once it has been silent for 300 samples in a row: with zero
    events in n samples the 95 % upper bound of the firing rate is 3/n (Hanley & Lippman-Hand 1983). Sparse units, which
    fire on some samples, do not count, and neither do sigmoid units, whose gradient is never exactly zero.
    """

    measures = (
        Measured(
            "dead_units",
            "Dead units",
            "Share of units that were zero for every sample seen.",
            "layer",
            share=True,
            owed=True,
            rank=3,
        ),
    )
    remembers = True
    cost = "a pass over up to 65 536 entries of each layer's output"

    def __init__(self) -> None:
        self._silent: dict[str, torch.Tensor] = {}
        self._seen: dict[str, tuple[torch.Tensor, int]] = {}

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        own = weight(module)
        if own is None or not own.ndim or not output.is_floating_point() or output.ndim < 2 or not output.numel():
            return
        axis = unit_axis(module, output)
        if isinstance(module, nn.Embedding) or output.shape[axis] != own.shape[0]:
            return
        other = [i for i in range(output.ndim) if i != axis]
        few = some(output)
        self._seen[name] = few.amax(other), few.shape[0]

    def gradients(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        grads = {name: p.grad for name, p in parameters if p.grad is not None and not p.grad.is_sparse}
        for name, (highest, samples) in self._seen.items():
            grad = grads.get(f"{name}.weight" if name else "weight")
            if grad is None or grad.shape[0] != highest.shape[0]:
                continue
            still = highest <= 0
            candidates = still.nonzero().flatten()
            if len(candidates):
                still[candidates] = ~grad.detach()[candidates].reshape(len(candidates), -1).ne(0).any(1)
            before = self._silent.get(name)
            if before is None or before.shape != still.shape:  # another layer may have taken the place of the first
                before = torch.zeros_like(still, dtype=torch.long)
            self._silent[name] = (before + samples) * still
        self._seen.clear()

    def read(self) -> Reading:
        self._seen.clear()
        if not self._silent:
            return {}
        shares = torch.stack([(silent >= ENOUGH).float().mean().cpu() for silent in self._silent.values()]).tolist()
        return {"dead_units": dict(zip(self._silent, shares, strict=True))}
