"""Building another kind of normalization around the parameters of one that is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trimtab import nn as tnn
from trimtab.nn.layouts import BatchNormLast, GroupNormLast, InstanceNormLast, RMSNormFirst
from trimtab.nn.sync_batch_norm import SyncBatchNorm
from trimtab.reading.norms import BATCH, INSTANCE, OF_BATCH, STATISTICS, Norm, tensors


def fitting_groups(features: int, wanted: int, least: int = 2) -> int:
    """The most groups, up to ``wanted``, that divide the features evenly and leave at least ``least`` in each."""
    return max(g for g in range(1, max(1, min(wanted, features // least)) + 1) if features % g == 0)


def refusal(norm: Norm, to: str) -> str:
    """Why this norm stays what it is; empty when it can become ``to``."""
    if to == "same":
        return "it is the drop-in class already" if norm.ours else ""
    if norm.kind == to:
        return f"it is a {to} already"
    if norm.why_not:
        return norm.why_not
    if to == "frozen_batch_norm" and getattr(norm.module, "running_var", None) is None:
        return "it has no running statistics to freeze"
    if to == "sync_batch_norm" and norm.layout == "last":
        return "its features stand last, and a synchronized batch norm takes them second"
    return ""


def build(norm: Norm, to: str, groups: int) -> nn.Module:
    """A norm of kind ``to`` (or, for ``"same"``, ours of the same kind) around the parameters of ``norm``."""
    kind = norm.kind if to == "same" else to
    module, last = norm.module, norm.layout == "last"
    like = next(iter(tensors(module)), torch.empty(0))
    eps = norm.eps if norm.eps is not None or kind == "rms_norm" else torch.finfo(like.dtype).eps
    options: dict[str, Any] = {
        "eps": eps,
        "device": like.device,
        "dtype": like.dtype if like.is_floating_point() else None,
    }
    options |= norm.options
    affine = norm.gain is not None
    new: Any
    if kind in OF_BATCH:
        same_way = norm.kind in OF_BATCH
        tracks = getattr(module, "track_running_stats", True) if same_way else True
        options |= {"affine": affine, "track_running_stats": tracks}
        options["momentum"] = getattr(module, "momentum", 0.1) if same_way else 0.1
        if kind == "sync_batch_norm":
            new = SyncBatchNorm(norm.features, process_group=getattr(module, "process_group", None), **options)
        else:
            cls = BatchNormLast if last else BATCH[norm.positions]
            new = cls(norm.features, frozen=kind == "frozen_batch_norm", **options)
        new.unbiased = getattr(module, "unbiased", True)
        if same_way:  # the very tensors, so that undo has what was gathered since
            for name in STATISTICS & set(module._buffers):
                new._buffers[name] = module._buffers[name]
    elif kind == "instance_norm":
        cls_instance = InstanceNormLast if last else INSTANCE[norm.positions]
        tracks = norm.kind == "instance_norm" and getattr(module, "track_running_stats", False)
        new = cls_instance(norm.features, affine=affine, track_running_stats=tracks, **options)
        if tracks:
            new.momentum = module.momentum
            new._buffers.update(module._buffers)
    elif kind == "group_norm":
        number = norm.groups or groups
        new = (GroupNormLast if last else tnn.GroupNorm)(number, norm.features, affine=affine, **options)
    elif kind == "layer_norm":
        shape = tuple(getattr(module, "normalized_shape", ())) if to == "same" else ()
        new = tnn.LayerNorm(shape or norm.features, elementwise_affine=affine, channels_first=not last, **options)
    else:
        shape = tuple(getattr(module, "normalized_shape", ())) if to == "same" else ()
        new = (tnn.RMSNorm if last else RMSNormFirst)(shape or norm.features, elementwise_affine=affine, **options)
    if affine:
        new._parameters["weight"] = _parameter(module, norm.gain)
    if kind != "rms_norm":
        new.register_parameter("bias", _parameter(module, norm.shift) if norm.shift else None)
    return new.train(module.training)


def _parameter(module: nn.Module, name: str | None) -> nn.Parameter:
    tensor = getattr(module, str(name))
    # a frozen norm of torchvision or DETR keeps them as buffers
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def hand_over_hooks(old: nn.Module, new: nn.Module) -> int:
    """Give the new module the hooks of the old one with the modules that they call, and say how many.

    The very dictionaries, so that a handle that somebody holds still removes its hook.
    """
    count = 0
    for name, value in old.__dict__.items():
        if name.endswith("_hooks") or "_hooks_" in name or name == "_is_full_backward_hook":
            new.__dict__[name] = value
            if name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                count += len(value)
    if not new._modules:
        new.__dict__["_modules"] = old._modules  # what is hung on a module is called by its hooks
    return count
