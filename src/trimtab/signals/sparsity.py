"""Sparsity: how many entries of every weight are zero, or as good as zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal

MOST = 1 << 14  # entries that are looked at: the standard error of a share is 0.4 % at most
NEAR = 1e-3  # of the root mean square


class Sparsity(Signal):
    """The share of zeros of each weight, and of entries that are next to zero.

    ``zeros = mean(w_i == 0)``, ``near_zeros = mean(|w_i| < 1e-3 rms(w))`` after the update, over all entries of each parameter
    with two or more dimensions (over 16 384 of them, spread evenly over rows and columns, where it has more). An L1 penalty
    with proximal steps, an L0 penalty or pruning makes zeros; L2 and weight decay make none. Of normally distributed
    weights, 0.08 % are next to zero.
    """

    measures = (
        Measured(
            "zeros",
            "Zero weights",
            "Share of a weight's entries that are exactly zero.",
            "parameter",
            share=True,
            rank=8,
        ),
        Measured(
            "near_zeros",
            "Weights next to zero",
            "Share of a weight's entries below a thousandth of its usual size, zeros included.",
            "parameter",
            share=True,
            rank=9,
        ),
    )
    cost = "a copy of up to 16 384 entries per weight, and three passes over them"

    def __init__(self) -> None:
        self._shares: dict[str, torch.Tensor] = {}

    def after_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        for name, p in parameters:
            if p.ndim > 1 and p.numel():
                size = spread(p).abs()
                near = NEAR * size.square().mean().sqrt()
                self._shares[name] = torch.stack([(size == 0).float().mean(), (size <= near).float().mean()])

    def read(self) -> Reading:
        if not self._shares:
            return {}
        device = next(iter(self._shares.values())).device
        both = torch.stack([shares.to(device) for shares in self._shares.values()]).tolist()
        names = list(self._shares)
        self._shares.clear()
        return {
            "zeros": {name: zeros for name, (zeros, _) in zip(names, both, strict=True)},
            "near_zeros": {name: near for name, (_, near) in zip(names, both, strict=True)},
        }


def spread(tensor: torch.Tensor, most: int = MOST) -> torch.Tensor:
    """Up to ``most`` entries in float32, all rows, columns and kernel positions alike: a stride that has no factor in common with
    any dimension does not walk down a single column, of which a pruned one would be all or nothing."""
    flat = tensor.detach().reshape(-1)
    stride = -(-flat.numel() // most)
    while math.gcd(stride, flat.numel()) > 1:
        stride += 1
    return flat[::stride].float()
