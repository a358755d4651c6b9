"""Converting the normalizations of a live model into another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trimtab.nn.sync_batch_norm import SyncBatchNorm
from trimtab.reading.norms import KINDS, Norm, recognise
from trimtab.recipe import Change, Technique, TrainingLike, nearest
from trimtab.techniques.norms import build, fitting_groups, hand_over_hooks, refusal
from trimtab.techniques.surgery import names, nothing


@dataclass(frozen=True)
class ConvertNorm(Technique):
    """Replaces the normalizations of a model by another kind, in place, around the same gains and biases.

    Each norm module gives way to one of the kind ``to`` under the same name. Gain and bias are the same ``Parameter``
    objects, so the optimizer keeps its state of them; hooks, train or eval mode, device, dtype and eps go over too. What
    a kind does not have is dropped (the bias by ``rms_norm``; undo brings it and its state back) and never invented: a norm
    without bias stays without one. Between the three batch norms the running statistics are kept; otherwise they start
    afresh. Group, layer and RMS norms treat each position of a sequence by itself, so causal models stay causal; behind
    convolutions layer and RMS norm go over the channels of each position.

    Norms are known by type or, like Llama's and Gemma's, by what they compute on random numbers. Those left alone are listed with
    the reason in the change's details. ``undo`` after further training keeps what was learnt; running statistics are
    then those from before the conversion (:func:`trimtab.nn.recalibrate.recalibrate`).

    Helps: batches that are small (to ``group_norm``), that differ between training and use (``frozen_batch_norm``), that are
    spread over processes (``sync_batch_norm``); speed (``same``, our drop-in of the same kind; ``rms_norm``).
    Hurts: a trained model is another function after a change of kind and must be trained on; batch and instance norm look at other
    positions, also at later ones. Batch norm needs ``model.eval()`` for evaluation. Good first setting: ``group_norm``.

    Args:
        to: ``"group_norm"``, ``"layer_norm"``, ``"rms_norm"``, ``"batch_norm"``, ``"frozen_batch_norm"``, ``"sync_batch_norm"``,
            ``"instance_norm"``, or ``"same"`` for trimtab's drop-in of the kind that is there.
        groups: of a group norm; where they do not divide the channels, or leave one channel in each, the next smaller number
            that does (for norms that may stand behind linear layers: at least 8 channels).
        from_: convert this kind only; ``"any"`` for all.
        only: convert norms whose name matches this pattern (``"encoder.*"``).

    Source: Wu & He, "Group Normalization", ECCV 2018; Zhang & Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(to='group_norm', groups=4)")
    >>> print(training.changes[0])
    1 norm made group_norm: 1
      1: BatchNorm2d(8) became GroupNorm with 4 groups; running statistics dropped
    """

    acts_on = "model"
    group = "normalization"
    evaluates = True

    to: str = "group_norm"
    groups: int = 32
    from_: str = "any"
    only: str = "*"

    def __post_init__(self) -> None:
        if self.to not in (*KINDS, "same"):
            raise ValueError(f"convert_norm(to={self.to!r}): {nearest(self.to, (*KINDS, 'same'))}")
        if self.from_ not in (*KINDS, "any"):
            raise ValueError(f"convert_norm(from_={self.from_!r}): {nearest(self.from_, (*KINDS, 'any'))}")
        if self.groups < 1:
            raise ValueError(f"groups={self.groups} must be at least 1.")

    def apply(self, training: TrainingLike) -> Change:
        swaps, told, left = [], [], []
        for name, module in training.named_modules():
            norm = recognise(module) if fnmatchcase(name, self.only) else None
            if norm is None or (isinstance(norm, Norm) and self.from_ not in ("any", norm.kind)):
                continue
            reason = norm if isinstance(norm, str) else refusal(norm, self.to)
            places = list(slots(training, module))
            if isinstance(norm, str) or reason or not places:
                left.append(f"{name or '(model)'}: left alone: {reason or 'it is the model itself, inside nothing'}")
                continue
            swap = Swap(training, name, norm, self.to, self._groups_for(norm), places)
            swaps.append((name, swap))
            told.append(f"{name}: {swap.told}")
        if not swaps:
            raise nothing(self, f"no norm could be converted. {' '.join(left[:3])}".strip() if left else _none(self))
        restore = plain_path(training, {id(swap.new) for _, swap in swaps})

        def undo() -> None:
            restore()
            for _, swap in reversed(swaps):
                swap.undo()

        kind = "trimtab's drop-in of its kind" if self.to == "same" else self.to
        summary = f"{len(swaps)} norm{'s' if len(swaps) > 1 else ''} made {kind}: {names(swaps)}"
        summary += f"; {len(left)} left alone" if left else ""
        return Change(summary, undo, details=(*told, *left))

    def _groups_for(self, norm: Norm) -> int:
        spatial = norm.positions in (2, 3) or (norm.positions is None and norm.layout == "first")
        return fitting_groups(norm.features, self.groups, 2 if spatial else 8)


def _none(technique: ConvertNorm) -> str:
    kind = "normalization" if technique.from_ == "any" else technique.from_
    return f"the model has no {kind}" + (f" under the name {technique.only!r}." if technique.only != "*" else ".")


class Swap:
    """One norm that gave way to another, and the way back."""

    def __init__(
        self,
        training: TrainingLike,
        name: str,
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


def slots(training: TrainingLike, module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every place where a module hangs in the model; a shared one has several."""
    seen: set[int] = set()
    for model in training.models:
        for parent in model.modules():
            if id(parent) not in seen:
                seen.add(id(parent))
                yield from ((parent, slot) for slot, child in parent._modules.items() if child is module)


def plain_path(training: TrainingLike, changed: set[int]) -> Callable[[], None]:
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
