"""Norms by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, overload

from torch import nn

from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from trimtab.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from trimtab.nn.dynamic_tanh import DynamicTanh
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from trimtab.nn.group_norm import GroupNorm
from trimtab.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from trimtab.nn.layer_norm import LayerNorm
from trimtab.nn.power_norm import PowerNorm
from trimtab.nn.rms_norm import RMSNorm
from trimtab.nn.sync_batch_norm import SyncBatchNorm

GROUP = "normalization"


def _group(num_channels: int, *, groups: int = 32, **options: Any) -> GroupNorm:
    return GroupNorm(groups, num_channels, **options)


# Each makes a norm from the number of channels, which torch's GroupNorm takes second.
NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch1d": BatchNorm1d,
    "batch2d": BatchNorm2d,
    "batch3d": BatchNorm3d,
    "dynamic_tanh": DynamicTanh,
    "ghost1d": GhostBatchNorm1d,
    "ghost2d": GhostBatchNorm2d,
    "ghost3d": GhostBatchNorm3d,
    "group": _group,
    "instance1d": InstanceNorm1d,
    "instance2d": InstanceNorm2d,
    "instance3d": InstanceNorm3d,
    "layer": LayerNorm,
    "layer_channels_first": partial(LayerNorm, channels_first=True),
    "none": nn.Identity,
    "power": PowerNorm,
    "renorm1d": BatchRenorm1d,
    "renorm2d": BatchRenorm2d,
    "renorm3d": BatchRenorm3d,
    "rms": RMSNorm,
    "sync": SyncBatchNorm,
}


@overload
def norm_layer(name: str, num_channels: int, **options: Any) -> nn.Module: ...
@overload
def norm_layer(name: str, num_channels: None = None, **options: Any) -> Callable[..., nn.Module]: ...
def norm_layer(name: str, num_channels: int | None = None, **options: Any) -> nn.Module | Callable[..., nn.Module]:
    """A norm by its name; without ``num_channels`` what makes one, as the ``norm_layer=`` of torchvision and timm want it.

    ============================================  ==================================================
    name                                          norm of
    ============================================  ==================================================
    batch1d, batch2d, batch3d, sync               (N, C, ...), by channel over the batch
    ghost1d, ghost2d, ghost3d                     the same in parts, ``ghost_batch_size=32``
    renorm1d, renorm2d, renorm3d                  the same with a correction, for small batches
    instance1d, instance2d, instance3d            (N, C, ...), by sample and channel
    group                                         (N, C, ...), by sample and group, ``groups=32``
    layer_channels_first                          (N, C, ...), by sample and position over C
    layer, rms, dynamic_tanh                      (..., C), by position
    power                                         (N, L, C), by feature over the batch
    none                                          nothing: ``torch.nn.Identity``
    ============================================  ==================================================

    Args:
        name: one of these.
        num_channels: C.
        options: further arguments of the norm, those of its class; ``groups`` for group.

    What is made without ``num_channels`` takes further options too (timm passes ``eps=``), and can be pickled.

    Raises:
        ValueError: for an unknown name; and what the norm itself raises.

    >>> norm_layer("rms", 64)
    RMSNorm((64,), eps=None, elementwise_affine=True)
    >>> make = norm_layer("group", groups=8)  # torchvision.models.resnet18(norm_layer=make)
    >>> make(64).num_groups
    8
    """
    if name not in NORMS:
        near = sorted(difflib.get_close_matches(name, NORMS))
        raise ValueError(
            f"norm_layer({name!r}): there is no norm of this name."
            + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
            + f" Known are {', '.join(NORMS)}."
        )
    if num_channels is None:
        return partial(norm_layer, name, **options)
    return NORMS[name](num_channels, **options)
