"""Knowing a normalization when one sees it.

Classes of torch and ours are known by type. Every other module that has a gain is tried: its forward, on random numbers and with
random gains, must give what the formula of a norm gives. A class that is merely called ``...Norm`` proves nothing, and
a norm under another name is one all the same.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from trimtab import nn as tnn
from trimtab.nn.layouts import BatchNormLast, BatchNormNd, GroupNormLast, InstanceNormLast, InstanceNormNd, RMSNormFirst
from trimtab.nn.sync_batch_norm import SyncBatchNorm

NORM_KINDS = (
    "batch_norm",
    "frozen_batch_norm",
    "sync_batch_norm",
    "instance_norm",
    "group_norm",
    "layer_norm",
    "rms_norm",
)
OF_BATCH = NORM_KINDS[:3]

BATCH = {1: tnn.BatchNorm1d, 2: tnn.BatchNorm2d, 3: tnn.BatchNorm3d, None: BatchNormNd}
INSTANCE = {1: tnn.InstanceNorm1d, 2: tnn.InstanceNorm2d, 3: tnn.InstanceNorm3d, None: InstanceNormNd}
_OURS: dict[type, tuple[str, str, int | None]] = {
    **{cls: ("batch_norm", "first", positions) for positions, cls in BATCH.items()},
    **{cls: ("instance_norm", "first", positions) for positions, cls in INSTANCE.items()},
    SyncBatchNorm: ("sync_batch_norm", "first", None),
    BatchNormLast: ("batch_norm", "last", None),
    InstanceNormLast: ("instance_norm", "last", None),
    GroupNormLast: ("group_norm", "last", None),
    RMSNormFirst: ("rms_norm", "first", None),
    tnn.GroupNorm: ("group_norm", "first", None),
    tnn.LayerNorm: ("layer_norm", "last", None),
    tnn.RMSNorm: ("rms_norm", "last", None),
}
_TORCH: dict[type, tuple[str, str, int | None]] = {
    nn.BatchNorm1d: ("batch_norm", "first", 1),
    nn.BatchNorm2d: ("batch_norm", "first", 2),
    nn.BatchNorm3d: ("batch_norm", "first", 3),
    nn.SyncBatchNorm: ("sync_batch_norm", "first", None),
    nn.InstanceNorm1d: ("instance_norm", "first", 1),
    nn.InstanceNorm2d: ("instance_norm", "first", 2),
    nn.InstanceNorm3d: ("instance_norm", "first", 3),
    nn.GroupNorm: ("group_norm", "first", None),
    nn.LayerNorm: ("layer_norm", "last", None),
    nn.RMSNorm: ("rms_norm", "last", None),
}


@dataclass(frozen=True)
class Norm:
    """What a module was found to be.

    ``layout`` says where the features stand: ``"first"`` for (N, C, ...), ``"last"`` for (N, ..., C). ``positions`` is the number of
    dimensions behind the channels, where the class fixes it. ``gain`` and ``shift`` are the names of its parameters; ``offset``
    is 1 where the gain is stored less 1 (Gemma). ``why_not`` is the reason why it cannot become another kind of norm.
    """

    module: nn.Module
    kind: str
    features: int
    eps: float | None
    layout: str = "first"
    positions: int | None = None
    gain: str | None = None
    shift: str | None = None
    offset: int = 0
    groups: int = 0
    ours: bool = False
    why_not: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{type(self.module).__name__}({self.features})"


def recognise(module: nn.Module) -> Norm | str | None:
    """The norm that a module is; why it is not taken for one though it looks like it; ``None`` for anything else."""
    looks = isinstance(module, _LOOKS) or ("norm" in type(module).__name__.lower() and not any(module.children()))
    if isinstance(module, nn.LocalResponseNorm):
        return "it divides by the activity of neighbouring channels and has no gain: there is nothing to carry over"
    if not looks and not (1 <= len(module._parameters) <= 2 and hasattr(module, "forward")):
        return None
    if parametrize.is_parametrized(module):
        return "its parameters are parametrized (torch.nn.utils.parametrize)" if looks else None
    if any(isinstance(p, (nn.UninitializedParameter, nn.UninitializedBuffer)) for p in tensors(module)):
        return "it is lazy, and its size is not known before the first forward" if looks else None
    if any(p.is_meta for p in tensors(module)):
        return "it is on the meta device: it has no numbers yet" if looks else None
    known = _OURS.get(type(module)) or _TORCH.get(type(module))
    if known:
        return _by_type(module, *known)
    if type(module).__module__.startswith("trimtab.nn."):
        return f"{type(module).__name__} has a meaning of its own, which no other kind keeps" if looks else None
    if any(module.children()):
        return "it has modules of its own inside" if looks and isinstance(module, _LOOKS) else None
    found = _by_behaviour(module)
    if found is None and looks:
        return f"its class, {type(module).__name__}, computes neither a batch, group, layer nor RMS norm of one tensor"
    return found


_LOOKS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters and buffers of a module itself."""
    yield from (p for p in [*module._parameters.values(), *module._buffers.values()] if p is not None)


def _by_type(module: Any, kind: str, layout: str, positions: int | None) -> Norm:
    ours = type(module) in _OURS
    why_not = ""
    if kind in ("layer_norm", "rms_norm"):
        shape = tuple(module.normalized_shape)
        features = shape[-1]
        if len(shape) > 1:
            why_not = f"it normalizes over {shape} with a gain for every position; other norms have one per feature"
        if getattr(module, "channels_first", False):
            layout = "first"
    else:
        features = module.num_channels if kind == "group_norm" else module.num_features
    if getattr(module, "units", None) is not None:
        why_not = "it normalizes only some of its units"
    if getattr(module, "frozen", False):
        kind = "frozen_batch_norm"
    return Norm(
        module,
        kind,
        int(features),
        module.eps,
        layout,
        positions,
        gain="weight" if module._parameters.get("weight") is not None else None,
        shift="bias" if module._parameters.get("bias") is not None else None,
        groups=getattr(module, "num_groups", 0),
        ours=ours,
        why_not=why_not,
        options={"activation": module.activation, "dropout": module.dropout} if ours else {},
    )


# -- norms known by what they compute ------------------------------------------------------------------------------------

_GAINS, _SHIFTS = ("weight", "gamma", "scale", "g", "gain"), ("bias", "beta", "shift", "b")
_EPS = ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps")
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
Formula = Callable[[torch.Tensor], torch.Tensor]


def _by_behaviour(module: nn.Module) -> Norm | None:
    everything = {**module._parameters, **module._buffers}
    tensors = {name: tensor for name, tensor in everything.items() if tensor is not None}
    gain = next((name for name in _GAINS if name in tensors), None)
    shift = next((name for name in _SHIFTS if name in tensors), None)
    if set(tensors) - {gain, shift} - STATISTICS or gain is None:
        return None
    weight = tensors[gain]
    if weight.ndim != 1 or not weight.is_floating_point() or (shift and tensors[shift].shape != weight.shape):
        return None
    features = len(weight)
    eps = next((float(getattr(module, n)) for n in _EPS if isinstance(getattr(module, n, None), (int, float))), 0.0)
    groups = getattr(module, "num_groups", 0)
    draw = torch.Generator().manual_seed(0)
    trial = _bare_copy(module, draw)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for layout, kind, train in _candidates(features, groups, "running_mean" in tensors):
            for offset in (0, 1):
                if _agrees(trial, kind, layout, train, offset, gain, shift, eps, groups, draw):
                    return Norm(module, kind, features, eps, layout, None, gain, shift, offset, groups)
    return None


def _candidates(features: int, groups: Any, running: bool) -> Iterator[tuple[str, str, bool]]:
    if running:  # evaluation is the same for both: the way it trains decides
        yield "first", "frozen_batch_norm", True
        yield "first", "batch_norm", True
        return
    if isinstance(groups, int) and groups > 0 and features % groups == 0:
        yield "first", "group_norm", False
    for layout in ("last", "first"):
        yield layout, "layer_norm", False
        yield layout, "rms_norm", False


def _bare_copy(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """A copy without hooks, with tensors of its own that hold random numbers: trying it changes nothing."""
    trial = copy.copy(module)
    trial.__dict__ = {
        name: OrderedDict() if name.endswith("_hooks") else value for name, value in module.__dict__.items()
    }
    trial._modules = {}
    for kind in ("_parameters", "_buffers"):
        mine: dict[str, Any] = {}
        for name, tensor in getattr(module, kind).items():
            fresh = tensor
            if tensor is not None:
                if tensor.is_floating_point():
                    noise = 1 + 0.5 * torch.rand(tensor.shape, generator=draw)
                    fresh = noise.to(device=tensor.device, dtype=tensor.dtype)
                else:
                    fresh = tensor.clone()
                fresh = nn.Parameter(fresh, requires_grad=False) if kind == "_parameters" else fresh
            mine[name] = fresh
        setattr(trial, kind, mine)
    return trial


def _agrees(
    trial: Any,
    kind: str,
    layout: str,
    train: bool,
    offset: int,
    gain: str,
    shift: str | None,
    eps: float,
    groups: int,
    draw: torch.Generator,
) -> bool:
    trial.training = train
    weight = getattr(trial, gain)
    loose = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 5e-2
    shapes = (
        [(3, len(weight), 5, 4), (3, len(weight), 7)]
        if layout == "first"
        else [(3, 7, len(weight)), (3, 5, 4, len(weight))]
    )
    verdicts = []
    for shape in shapes:
        for size in (1.0, 0.03):  # a small input shows where eps stands
            x = size * (torch.randn(shape, generator=draw) + 0.5)
            x = x.to(device=weight.device, dtype=weight.dtype)
            expected = _formula(trial, kind, layout, offset, gain, shift, eps, groups, x.double())
            try:
                given = trial(x.clone())
            except Exception:  # a shape that it does not take
                break
            if not isinstance(given, torch.Tensor) or given.shape != x.shape:
                return False
            verdicts.append(torch.allclose(given.double(), expected, rtol=loose, atol=loose))
    return bool(verdicts) and all(verdicts)


def _formula(
    trial: Any,
    kind: str,
    layout: str,
    offset: int,
    gain: str,
    shift: str | None,
    eps: float,
    groups: int,
    x: torch.Tensor,
) -> torch.Tensor:
    axis = 1 if layout == "first" else x.dim() - 1
    wide = [-1 if d == axis else 1 for d in range(x.dim())]
    if kind == "frozen_batch_norm":
        mean, var = (getattr(trial, n).double().view(wide) for n in ("running_mean", "running_var"))
        z = (x - mean) / torch.sqrt(var + eps)
    elif kind == "group_norm":
        z = torch.nn.functional.group_norm(x, groups, eps=eps)
    elif kind == "rms_norm":
        z = x / torch.sqrt(x.square().mean(axis, keepdim=True) + eps)
    else:
        axes = [d for d in range(x.dim()) if d != axis] if kind == "batch_norm" else [axis]
        var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        z = (x - mean) / torch.sqrt(var + eps)
    z = z * (getattr(trial, gain).double().view(wide) + offset)
    return z if shift is None else z + getattr(trial, shift).double().view(wide)
