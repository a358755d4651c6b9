"""Activation statistics: mean and standard deviation of every layer's output."""

from __future__ import annotations

import torch
from torch import nn

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, some


class Activations(Signal):
    """Mean and standard deviation of each layer's output over the batch and all units.

    ``mean_l = E[h_l]``, ``std_l = sqrt(E[(h_l - mean_l)^2])`` over all entries of the output (of its first samples, where it
    has more than 65 536). A standard deviation that falls or grows layer by layer is the forward side of vanishing and
    exploding gradients (He et al. 2015); one that is not finite shows where numbers break first.
    """

    measures = (
        Measured("activation_mean", "Activation mean", "Mean of each layer's output.", "layer", rank=4),
        Measured(
            "activation_std",
            "Activation spread",
            "Standard deviation of each layer's output. It should neither die out nor blow up with depth.",
            "layer",
            owed=True,
            rank=2,
        ),
    )
    cost = "two passes over up to 65 536 entries of each layer's output"

    def __init__(self) -> None:
        self._stats: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if not output.is_floating_point() or output.numel() == 0:
            return
        few = (some(output) if output.ndim else output.detach()).float()
        mean = few.mean()
        self._stats[name] = mean, (few - mean).square_().mean()  # var_mean takes five times as long on a CPU

    def read(self) -> Reading:
        if not self._stats:
            return {}
        device = next(iter(self._stats.values()))[0].device
        both = torch.stack([torch.stack(pair).to(device) for pair in self._stats.values()]).tolist()
        names = list(self._stats)
        self._stats.clear()
        return {
            "activation_mean": {name: mean for name, (mean, _) in zip(names, both, strict=True)},
            "activation_std": {name: variance**0.5 for name, (_, variance) in zip(names, both, strict=True)},
        }
