"""The norms of ``trimtab.nn`` and what each of them means: the list that ``test_norms.py`` runs over.

A new norm adds one entry here and gets every test of the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import trimtab.nn as tn
from trimtab.nn.ops.channel_norm import reference as channel_reference
from trimtab.nn.ops.group_norm import reference as group_reference
from trimtab.nn.ops.response_norm import reference as response_reference
from trimtab.nn.ops.row_norm import reference as row_reference


@dataclass(frozen=True)
class Norm:
    """One norm.

    name: shown in test names. make: a fresh module in float32. shapes: of inputs, odd sizes among them.
    reference: (module with its parameters in float64, input) -> output by the formula, before residual and activation.
    twin: torch's module of the same meaning and state_dict, if there is one. residual: forward takes one.
    skip: tests that do not apply, each with the reason.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    reference: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    twin: Callable[[], nn.Module] | None = None
    residual: bool = True
    skip: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def by_channel(module: Any, x: torch.Tensor) -> torch.Tensor:
    return channel_reference(x, module.weight, module.bias, eps=module.eps)[0]


def by_row(centered: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def reference(module: Any, x: torch.Tensor) -> torch.Tensor:
        dims = len(module.normalized_shape)
        flat = [t if t is None else t.flatten(-dims) for t in (x, module.weight, getattr(module, "bias", None))]
        return row_reference(*flat, eps=module.eps, centered=centered).view(x.shape)

    return reference


def by_group(module: Any, x: torch.Tensor) -> torch.Tensor:
    groups = getattr(module, "num_groups", x.shape[1])
    return group_reference(x, groups, module.weight, module.bias, module.eps)


def lively(module: nn.Module) -> nn.Module:
    """The module with parameters that are not the ones it starts from, so that a forgotten one is noticed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.8)
    return module


NORMS = (
    Norm("BatchNorm1d", lambda: tn.BatchNorm1d(5), ((7, 5), (4, 5, 9)), by_channel, lambda: nn.BatchNorm1d(5)),
    Norm("BatchNorm2d", lambda: tn.BatchNorm2d(19), ((3, 19, 7, 5), (2, 19, 16, 16)), by_channel, lambda: nn.BatchNorm2d(19)),
    Norm("BatchNorm3d", lambda: tn.BatchNorm3d(3), ((2, 3, 4, 3, 5),), by_channel, lambda: nn.BatchNorm3d(3)),
    Norm(
        "BatchNorm2d(affine=False)", lambda: tn.BatchNorm2d(4, affine=False), ((3, 4, 5, 5),), by_channel,
        lambda: nn.BatchNorm2d(4, affine=False),
    ),
    Norm("LayerNorm", lambda: tn.LayerNorm(33), ((7, 33), (2, 5, 33)), by_row(True), lambda: nn.LayerNorm(33)),
    Norm("LayerNorm(two dims)", lambda: tn.LayerNorm((3, 5)), ((4, 3, 5),), by_row(True), lambda: nn.LayerNorm((3, 5))),
    Norm("RMSNorm", lambda: tn.RMSNorm(65, 1e-6), ((3, 65), (2, 4, 65)), by_row(False), lambda: nn.RMSNorm(65, 1e-6)),
    Norm("GroupNorm", lambda: tn.GroupNorm(3, 6), ((4, 6, 7, 3), (2, 6, 11)), by_group, lambda: nn.GroupNorm(3, 6)),
    Norm("InstanceNorm1d", lambda: tn.InstanceNorm1d(4), ((3, 4, 9),), by_group, lambda: nn.InstanceNorm1d(4)),
    Norm(
        "InstanceNorm2d", lambda: tn.InstanceNorm2d(4, affine=True), ((3, 4, 9, 5),), by_group,
        lambda: nn.InstanceNorm2d(4, affine=True),
    ),
    Norm("InstanceNorm3d", lambda: tn.InstanceNorm3d(2), ((2, 2, 3, 4, 5),), by_group, lambda: nn.InstanceNorm3d(2)),
    Norm(
        "LocalResponseNorm", lambda: tn.LocalResponseNorm(3, alpha=0.1), ((2, 7, 5, 3), (3, 6, 9)),
        lambda m, x: response_reference(x, m.size, m.alpha / m.size, m.beta, m.k),
        lambda: nn.LocalResponseNorm(3, alpha=0.1), residual=False,
    ),
    Norm(
        "LocalResponseNorm(seed)", lambda: tn.LocalResponseNorm(4, alpha=0.1, beta=0.6, divide_by_size=False), ((2, 7, 5, 3),),
        lambda m, x: response_reference(x, 5, m.alpha, m.beta, m.k), residual=False,
    ),
)  # fmt: skip
