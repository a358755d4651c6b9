"""Norms of rows beside LayerNorm and RMSNorm, for the suite in ``test_norms.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.nn.norms import Norm, by_row
from trimtab.nn.ada_norm import AdaNorm
from trimtab.nn.detach_norm import DetachNorm
from trimtab.nn.dynamic_tanh import DynamicTanh
from trimtab.nn.layer_norm_simple import LayerNormSimple

DETACHED = {
    "gradcheck": "part of its gradient is left out on purpose: it is not the derivative of the output",
    "func": "its forward derivative leaves out the same part and is not that of differences; vmap: test_detach_norm.py",
}
ALPHA = {
    "numbers": "the gradient of alpha, one number, is a sum of terms that cancel: measured by the terms in test_dynamic_tanh.py"
}


def statistics(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dims = tuple(range(-len(module.normalized_shape), 0))
    mean = x.mean(dims, keepdim=True)
    return mean, (x.square().mean(dims, keepdim=True) - mean.square() + module.eps).sqrt()


def by_adaption(module: Any, x: torch.Tensor) -> torch.Tensor:
    mean, deviation = statistics(module, x)
    y = (x - mean) / deviation
    return (module.scale - module.scale * module.k * y).detach() * y


def by_constants(mean_too: bool, deviation_too: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def reference(module: Any, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = statistics(module, x)
        return (x - (mean.detach() if mean_too else mean)) / (deviation.detach() if deviation_too else deviation)

    return reference


def by_tanh(module: Any, x: torch.Tensor) -> torch.Tensor:
    e = (2 * module.alpha * x).exp()
    return (e - 1) / (e + 1) * module.weight + module.bias


NORMS_ROWS = (
    Norm("LayerNormSimple", lambda: LayerNormSimple(33), ((7, 33), (2, 5, 33)), lambda m, x: by_row(True)(m, x)),
    Norm("AdaNorm", lambda: AdaNorm(33, scale=1.5), ((7, 33), (2, 5, 33)), by_adaption, residual=False, skip=DETACHED),
    Norm("AdaNorm(two dims)", lambda: AdaNorm((3, 5), k=0.2), ((4, 3, 5),), by_adaption, residual=False, skip=DETACHED),
    Norm(
        "DetachNorm", lambda: DetachNorm(33), ((7, 33), (2, 5, 33)), by_constants(True, True), residual=False, skip=DETACHED
    ),
    Norm(
        "DetachNorm(mean)", lambda: DetachNorm((3, 5), detach="mean"), ((4, 3, 5),), by_constants(True, False),
        residual=False, skip=DETACHED,
    ),
    Norm(
        "DetachNorm(variance)", lambda: DetachNorm(19, detach="variance"), ((4, 19),), by_constants(False, True),
        residual=False, skip=DETACHED,
    ),
    Norm("DynamicTanh", lambda: DynamicTanh(33), ((7, 33), (2, 5, 33)), by_tanh, residual=False, skip=ALPHA),
    Norm(
        "DynamicTanh(channels_first)", lambda: DynamicTanh(5, channels_first=True), ((2, 5, 4, 3),),
        lambda m, x: by_tanh(m, x.movedim(1, -1)).movedim(-1, 1), residual=False, skip=ALPHA,
    ),
)  # fmt: skip
