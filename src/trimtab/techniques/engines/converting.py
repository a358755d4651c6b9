"""Converting normalizations into others: a module of another kind around the parameters of one that is there, in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trimtab import nn as tnn
from trimtab.nn.layouts import BatchNormLast, GroupNormLast, InstanceNormLast, RMSNormFirst
from trimtab.nn.sync_batch_norm import SyncBatchNorm
from trimtab.reading.norms import BATCH, INSTANCE, OF_BATCH, STATISTICS, Norm, recognise, tensors
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.surgery import listed_names, nothing_for


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


def convert_norms(
    technique: Technique, training: TrainingLike, to: str, groups: int, from_: str = "any", only: str = "*"
) -> Change:
    """Put norms of kind ``to`` (or, for ``"same"``, ours of the same kind) in the places of those of kind ``from_`` whose names match."""
    swaps, told, left = [], [], []
    for name, module in training.named_modules():
        norm = recognise(module) if fnmatchcase(name, only) else None
        if norm is None or (isinstance(norm, Norm) and from_ not in ("any", norm.kind)):
            continue
        reason = norm if isinstance(norm, str) else refusal(norm, to)
        places = list(_places(training, module))
        if isinstance(norm, str) or reason or not places:
            left.append(f"{name or '(model)'}: left alone: {reason or 'it is the model itself, inside nothing'}")
            continue
        swap = Swap(training, norm, to, _groups_for(norm, groups), places)
        swaps.append((name, swap))
        told.append(f"{name}: {swap.told}")
    if not swaps:
        kind = "normalization" if from_ == "any" else from_
        none = f"the model has no {kind}" + (f" under the name {only!r}." if only != "*" else ".")
        raise nothing_for(technique, f"no norm could be converted. {' '.join(left[:3])}".strip() if left else none)
    restore = _plain_path(training, {id(swap.new) for _, swap in swaps})

    def undo() -> None:
        restore()
        for _, swap in reversed(swaps):
            swap.undo()

    kind = "trimtab's drop-in of its kind" if to == "same" else to
    summary = f"{len(swaps)} norm{'s' if len(swaps) > 1 else ''} made {kind}: {listed_names(swaps)}"
    summary += f"; {len(left)} left alone" if left else ""
    return Change(summary, undo, details=(*told, *left))


def _groups_for(norm: Norm, groups: int) -> int:
    spatial = norm.positions in (2, 3) or (norm.positions is None and norm.layout == "first")
    return fitting_groups(norm.features, groups, 2 if spatial else 8)


class Swap:
    """One norm that gave way to another, and the way back."""

    def __init__(
        self,
        training: TrainingLike,
        norm: Norm,
        to: str,
        groups: int,
        places: list[tuple[nn.Module, str]],
    ) -> None:
        self.norm, self.places, self.old = norm, places, norm.module
        self.new = build(norm, to, groups)
        hooks = hand_over_hooks(self.old, self.new)
        own = self.new._buffers
        self.shared = [n for n, buffer in self.old._buffers.items() if buffer is not None and own.get(n) is buffer]
        dropped = [
            p for p in self.old.parameters(recurse=False) if not any(p is q for q in self.new.parameters(recurse=False))
        ]
        self.put_back = training.remove_parameters(dropped)
        self.shifted = _Shifted(self.new._parameters["weight"]) if norm.offset else None
        for parent, slot in places:
            parent._modules[slot] = self.new
        self.told = self._tell(hooks, bool(dropped))

    def _tell(self, hooks: int, bias_dropped: bool) -> str:
        new = self.new
        notes = [f"{self.norm.title} became {type(new).__name__}"]
        if isinstance(new, nn.GroupNorm):
            notes[0] += f" with {new.num_groups} group{'s' if new.num_groups > 1 else ''}"
        if bias_dropped:
            notes.append("its bias left the model and the optimizer")
        if not self.shared and getattr(new, "running_var", None) is not None:
            notes.append("running statistics start at 0 and 1")
        elif not self.shared and getattr(self.old, "running_var", None) is not None:
            notes.append("running statistics dropped")
        if self.norm.gain not in (None, "weight"):
            notes.append(f"its gain is now called weight, not {self.norm.gain}")
        if self.norm.offset:
            notes.append("1 was added to its gain, which was stored less 1: weight decay now pulls it to 0, not to 1")
        if isinstance(new, SyncBatchNorm) and not (dist.is_available() and dist.is_initialized()):
            notes.append("a plain batch norm until torch.distributed is initialized")
        if hooks:
            notes.append(f"{hooks} hook{'s' if hooks > 1 else ''} kept")
        return "; ".join(notes)

    def undo(self) -> None:
        old, new, norm = self.old, self.new, self.norm
        if self.shifted:
            self.shifted.undo(new._parameters["weight"])
        # ``load_state_dict(assign=True)`` and wrappers replace parameters: what is there now counts
        for mine, its in ((norm.gain, "weight"), (norm.shift, "bias")):
            if mine in old._parameters and new._parameters.get(its) is not None:
                old._parameters[mine] = new._parameters[its]
        for name in self.shared:
            old._buffers[name] = new._buffers[name]
        like = next((p for p in new.parameters(recurse=False)), None)
        if like is not None and any(b is not None and b.device != like.device for b in old._buffers.values()):
            old.to(like.device)
        old.train(new.training)
        for parent, slot in self.places:
            parent._modules[slot] = old
        self.put_back()


class _Shifted:
    """Adds 1 to a gain; takes it off again, exactly where it was not trained since."""

    @torch.no_grad()
    def __init__(self, weight: Any) -> None:
        self.before = weight.detach().clone()
        self.after = weight.add_(1).detach().clone()

    @torch.no_grad()
    def undo(self, weight: Any) -> None:
        before, after = self.before.to(weight), self.after.to(weight)
        weight.copy_(torch.where(weight == after, before, weight - 1))


def _places(training: TrainingLike, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every place where a module hangs in the model; a shared one has several."""
    seen: set[int] = set()
    for model in training.models:
        for parent in model.modules():
            if id(parent) not in seen:
                seen.add(id(parent))
                yield from ((parent, slot) for slot, child in parent._modules.items() if child is module)


def _plain_path(training: TrainingLike, changed: set[int]) -> Callable[[], None]:
    """Keep torch's transformer layers from their fused evaluation path, which reads gains and biases without calling the norms."""
    before: list[tuple[nn.Module, str, Any]] = []
    for _, module in training.named_modules():
        switch = {nn.TransformerEncoderLayer: "activation_relu_or_gelu", nn.TransformerEncoder: "use_nested_tensor"}
        for cls, attribute in switch.items():
            if isinstance(module, cls) and any(id(part) in changed for part in module.modules()):
                before.append((module, attribute, getattr(module, attribute)))
                setattr(module, attribute, 0 if cls is nn.TransformerEncoderLayer else False)

    def restore() -> None:
        for module, attribute, value in before:
            setattr(module, attribute, value)

    return restore
