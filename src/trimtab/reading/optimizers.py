"""What an optimizer is: how it decays weights, which rate it started from, which parameters it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from trimtab.optim.weight_decay import DECAYS, scheduled_base_lr


def decay_of(kind: type, group: Mapping[str, Any]) -> tuple[float, str]:
    """The weight decay of a group, and in which of the three kinds its optimizer takes it."""
    factor = float(group.get("weight_decay") or 0.0)
    if group.get("decay") in DECAYS:
        return factor, str(group["decay"])
    names = {cls.__name__ for cls in kind.__mro__}
    decoupled = group.get("decoupled_weight_decay") or names & {"AdamW", "Muon", "Lion"}
    return factor, "decoupled" if decoupled else "coupled"


def base_rate(groups: Iterable[Mapping[str, Any]]) -> float:
    """The script's base rate, of the group where it is largest: the peak of a one-cycle schedule, where another
    scheduler of torch started, or the rate that the group was made with."""
    rates = [
        float(scheduled_base_lr(dict(group)) or group.get("base_lr") or group["lr"])
        for group in groups
        if group.get("lr") is not None
    ]
    return max(rates, default=0.0)


def refusal(optimizer: torch.optim.Optimizer, new: Sequence[torch.Tensor]) -> str:
    """Why an optimizer takes no such parameters in addition, or none any more; empty if it does."""
    if type(optimizer).__name__ == "Muon" and any(p.ndim != 2 for p in new):
        return "Muon only takes two-dimensional parameters, so a norm's scale and shift cannot join it."
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        return "LBFGS has begun and its history has a fixed length; apply the recipe before the first step."
    return ""
