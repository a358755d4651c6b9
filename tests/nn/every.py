"""Every layer of ``trimtab.nn``, made small: the list that ``test_every_layer.py`` runs over. A new layer adds one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

import trimtab.nn as tn

ROWS, MAPS, STEPS = (6, 9), (4, 6, 5, 5), (5, 3, 6)


class Layer(NamedTuple):
    """How it is made (options are given to its class), what it is called with, and whether it draws noise while training."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...]
    noisy: bool = False


def rate(cls: type, *positional: Any, **fixed: Any) -> Callable[..., nn.Module]:
    return lambda **options: cls(*positional, **{**fixed, **options})


def maps(dims: int) -> tuple[int, ...]:
    return (4, 6, *(5 for _ in range(dims)))


NORMS = {
    name: Layer(rate(getattr(tn, name), **{"num_features": 6, **more}), maps(int(name[-2])))
    for kind, more in {
        "BatchNorm": {}, "BatchRenorm": {}, "GhostBatchNorm": {"ghost_batch_size": 2}, "InstanceNorm": {"affine": True},
    }.items()
    for name in (f"{kind}1d", f"{kind}2d", f"{kind}3d")
}  # fmt: skip
LAYERS: dict[str, Layer] = {
    **NORMS,
    "AdaNorm": Layer(rate(tn.AdaNorm, normalized_shape=9), ROWS),
    "AlphaDropout": Layer(rate(tn.AlphaDropout, p=0.4), MAPS, noisy=True),
    "DetachNorm": Layer(rate(tn.DetachNorm, normalized_shape=9), ROWS),
    "DropBlock": Layer(rate(tn.DropBlock, p=0.4, block_size=2), MAPS, noisy=True),
    "DropConnectConv1d": Layer(rate(tn.DropConnectConv1d, 6, 3, 2, activation="relu", samples=3), (4, 6, 5), noisy=True),
    "DropConnectConv2d": Layer(rate(tn.DropConnectConv2d, 6, 3, 2, activation="relu", samples=3), MAPS, noisy=True),
    "DropConnectConv3d": Layer(rate(tn.DropConnectConv3d, 6, 3, 2), (2, 6, 3, 3, 3), noisy=True),
    "DropConnectGRU": Layer(rate(tn.DropConnectGRU, 6, 4), STEPS, noisy=True),
    "DropConnectLSTM": Layer(rate(tn.DropConnectLSTM, 6, 4), STEPS, noisy=True),
    "DropConnectLinear": Layer(rate(tn.DropConnectLinear, in_features=9, out_features=4, activation="relu", samples=3), ROWS, noisy=True),
    "DropConnectRNN": Layer(rate(tn.DropConnectRNN, 6, 4), STEPS, noisy=True),
    "DropPath": Layer(rate(tn.DropPath, p=0.5), MAPS, noisy=True),
    "Dropout": Layer(rate(tn.Dropout, p=0.4), MAPS, noisy=True),
    "DynamicTanh": Layer(rate(tn.DynamicTanh, normalized_shape=9), ROWS),
    "GaussianDropout": Layer(rate(tn.GaussianDropout, p=0.4), MAPS, noisy=True),
    "GroupNorm": Layer(rate(tn.GroupNorm, num_groups=2, num_channels=6), MAPS),
    "LayerNorm": Layer(rate(tn.LayerNorm, normalized_shape=9), ROWS),
    "LayerNormGRU": Layer(rate(tn.LayerNormGRU, input_size=6, hidden_size=4), STEPS),
    "LayerNormGRUCell": Layer(rate(tn.LayerNormGRUCell, input_size=9, hidden_size=4), ROWS),
    "LayerNormLSTM": Layer(rate(tn.LayerNormLSTM, input_size=6, hidden_size=4), STEPS),
    "LayerNormLSTMCell": Layer(rate(tn.LayerNormLSTMCell, input_size=9, hidden_size=4), ROWS),
    "LayerNormSimple": Layer(rate(tn.LayerNormSimple, normalized_shape=9), ROWS),
    "LocalResponseNorm": Layer(rate(tn.LocalResponseNorm, size=3), MAPS),
    "PowerNorm": Layer(rate(tn.PowerNorm, num_features=9), ROWS),
    "RMSNorm": Layer(rate(tn.RMSNorm, normalized_shape=9), ROWS),
    "Residual": Layer(lambda **o: tn.Residual(**{"block": nn.Linear(9, 9), "drop_path": 0.5} | o), ROWS, noisy=True),
    "SoftCap": Layer(rate(tn.SoftCap), ROWS),
    "Standout": Layer(lambda **o: tn.Standout(**{"linear": nn.Linear(9, 4)} | o), ROWS, noisy=True),
    "SyncBatchNorm": Layer(rate(tn.SyncBatchNorm, num_features=6), MAPS),
    "ZoneoutGRU": Layer(rate(tn.ZoneoutGRU, 6, 4, p=0.4), STEPS, noisy=True),
    "ZoneoutLSTM": Layer(rate(tn.ZoneoutLSTM, 6, 4, p=0.4), STEPS, noisy=True),
    "ZoneoutRNN": Layer(rate(tn.ZoneoutRNN, 6, 4, p=0.4), STEPS, noisy=True),
}  # fmt: skip
# called otherwise, but made like the others
OTHERS: dict[str, Callable[..., nn.Module]] = {
    "AddLayerNorm": rate(tn.AddLayerNorm, normalized_shape=9),
    "AddRMSNorm": rate(tn.AddRMSNorm, normalized_shape=9),
    "CrossEntropyLoss": rate(tn.CrossEntropyLoss),
    "HardConcrete": rate(tn.HardConcrete, shape=9),
    "QKNorm": rate(tn.QKNorm, head_dim=9),
    "SurrogateLoss": rate(tn.SurrogateLoss),
    "ZLoss": rate(tn.ZLoss),
}
# Noise in other forms, and what else is joined to a norm.
FORMS: dict[str, Layer] = {
    "Dropout(exact)": Layer(rate(tn.Dropout, p=0.4, count="exact"), MAPS, noisy=True),
    "Dropout(channel)": Layer(rate(tn.Dropout, p=0.4, shape="channel"), MAPS, noisy=True),
    "Dropout(locked)": Layer(rate(tn.Dropout, p=0.4, shape="locked"), STEPS, noisy=True),
    "Dropout(original)": Layer(rate(tn.Dropout, p=0.4, scaling="original"), MAPS, noisy=True),
    "Dropout(exact channel)": Layer(rate(tn.Dropout, p=0.4, count="exact", shape="channel"), MAPS, noisy=True),
    "DropConnectLinear(per_sample)": Layer(rate(tn.DropConnectLinear, 9, 4, per_sample=True), ROWS, noisy=True),
    "Standout(own gate)": Layer(lambda **o: tn.Standout(nn.Linear(9, 4), shared=False, **o), ROWS, noisy=True),
    "LayerNorm(dropout)": Layer(rate(tn.LayerNorm, 9, activation="relu", dropout=0.4), ROWS, noisy=True),
    "RMSNorm(dropout)": Layer(rate(tn.RMSNorm, 9, dropout=0.4), ROWS, noisy=True),
    "GroupNorm(dropout)": Layer(rate(tn.GroupNorm, 2, 6, activation="silu", dropout=0.4), MAPS, noisy=True),
    "InstanceNorm2d(dropout)": Layer(rate(tn.InstanceNorm2d, 6, dropout=0.4), MAPS, noisy=True),
    "BatchNorm2d(dropout)": Layer(
        rate(tn.BatchNorm2d, 6, track_running_stats=False, activation="gelu", dropout=0.4), MAPS, noisy=True
    ),
    "BatchNorm2d(no statistics)": Layer(rate(tn.BatchNorm2d, 6, track_running_stats=False), MAPS),
    "LayerNorm(channels_first)": Layer(rate(tn.LayerNorm, 6, channels_first=True), MAPS),
    "LayerNorm(gelu)": Layer(rate(tn.LayerNorm, 9, activation="gelu"), ROWS),
    "RMSNorm(silu)": Layer(rate(tn.RMSNorm, 9, activation="silu"), ROWS),
    "GroupNorm(silu)": Layer(rate(tn.GroupNorm, 2, 6, activation="silu"), MAPS),
}  # fmt: skip
MODULES = sorted(
    name for name in tn.__all__ if inspect.isclass(getattr(tn, name)) and issubclass(getattr(tn, name), nn.Module)
)


def output(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Of recurrent layers the first result."""
    y = module(x)
    return y[0] if isinstance(y, tuple) else y
