"""Clipping in a live training: what ``clip_norm``, ``clip_value``, ``agc`` and ``zclip`` share.

They clip the gradients after accumulation and unscaling, and after the penalties of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from trimtab.optim.clip_stats import ClipStats
from trimtab.recipe import Change, TrainingLike

Clip = Callable[[list[torch.Tensor], float, torch.optim.Optimizer], object]


def clipping(
    training: TrainingLike, summary: str, stats: Callable[[], ClipStats], clip: Clip, details: tuple[str, ...] = ()
) -> Change:
    """Call ``clip(parameters, scale, optimizer)`` when the gradients of an optimizer are complete.

    The scale is what the gradients were multiplied with, where a fused optimizer divides by it inside its step; else 1.
    """

    def on_gradients(optimizer: torch.optim.Optimizer) -> None:
        if not skipped_by_scaler(optimizer):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip(parameters, scale_of(optimizer), optimizer)

    return Change(
        summary,
        training.on("gradients", on_gradients),
        lambda: stats().calls > 0,
        details,
        lambda: str(stats()),
    )


def scale_of(optimizer: torch.optim.Optimizer) -> float:
    """What the gradients were multiplied with by a ``GradScaler`` and are not yet divided by."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def skipped_by_scaler(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the scaler has found an overflow and a fused optimizer is going to leave out this step by itself."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and float(found) > 0
