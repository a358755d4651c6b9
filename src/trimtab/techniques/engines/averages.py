"""Averages of weights in a live training: kept along the way, and in the model for as long as it is evaluated."""

from __future__ import annotations

import inspect
from collections import deque
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab.nn import SyncBatchNorm, recalibrate
from trimtab.optim.averaging import WeightAverage
from trimtab.optim.tensors import copied, fitting, write
from trimtab.recipe import Change, TrainingLike
from trimtab.untouched import Draws


def averaged_tensors(training: TrainingLike) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a training by name, with optimized tensors that belong to no module."""
    found: dict[str, torch.Tensor] = dict(training.named_parameters())
    for name, module in training.named_modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                found[".".join(filter(None, (name, key)))] = buffer
    return found


def evaluate_with(training: TrainingLike, average: WeightAverage, batches: int, summary: str) -> Change:
    """Let the average take part in a training; it keeps the last ``batches`` inputs if there are norms to recalibrate."""
    taking_part = _Averaging(training, average, batches)
    return Change(summary, taking_part.end, lambda: taking_part.used, taking_part.details)


class _Averaging:
    """Averages after every step; the average goes in when an evaluation begins, and out when training goes on."""

    def __init__(self, training: TrainingLike, average: WeightAverage, batches: int) -> None:
        self.training, self.average = training, average
        self.used = False
        self.inputs: dict[nn.Module, deque[torch.Tensor]] = {}
        self.details: tuple[str, ...] = ()
        self._own: dict[str, torch.Tensor] = {}  # the model's own numbers while the average is in
        self._versions: list[int] = []
        self._called: nn.Module | None = None
        self._busy = False
        self._differentiable = False  # a graph was begun in evaluation mode
        self._trains_in_eval_mode = False
        self._stops = [
            training.on("forward", self._forward),
            training.on("backward", self._backward),
            training.on("before_step", lambda optimizer: self._take_out()),
            training.on("step", lambda loss: average.update(averaged_tensors(training))),
        ]
        if batches:
            self._keep_inputs(batches)

    def _keep_inputs(self, batches: int) -> None:
        for model in filter(_has_statistics, self.training.models):
            if why := _not_to_be_called(model):
                self.details += (f"{type(model).__name__}: BatchNorm's statistics are averaged, since {why}",)
                continue
            self.inputs[model] = deque(maxlen=batches)
            self.details += (
                f"{type(model).__name__}: BatchNorm's statistics are gathered anew from the last {batches} training inputs",
            )
        if self.inputs:
            self._stops.append(self.training.change_input(self._keep))

    def _keep(self, x: torch.Tensor) -> None:
        if self._called in self.inputs:
            self.inputs[self._called].append(x.detach())

    def _forward(self, model: nn.Module) -> None:
        if self._busy:  # recalibrating
            return
        self._called = model
        graph = torch.is_grad_enabled()
        training = self.training.phase == "train" and not self.training.evaluating
        if training or (graph and self._trains_in_eval_mode):
            self._take_out()
        else:
            self._put_in()
            self._differentiable |= graph

    def _backward(self) -> None:
        # Some scripts train in evaluation mode (fine-tuning with frozen norms), some forget no_grad() (or eval()) when they evaluate. A backward tells
        # them apart. Should the average be in by then, it stays until the gradients, which are its own, are there.
        if self._differentiable:
            self._trains_in_eval_mode = True
        else:
            self._take_out()

    def _put_in(self) -> None:
        if self._own or not self.average.averaged:
            return
        own = averaged_tensors(self.training)
        self._own = copied(own)
        self._versions = self._now()
        self._busy = self.used = True
        try:
            with torch.inference_mode(False), Draws():
                self.average.copy_to(own)
                for model, inputs in self.inputs.items():
                    if inputs and _has_statistics(model):
                        recalibrate(model, inputs)
        finally:
            self._busy = False

    def _take_out(self) -> None:
        # Where the script has meanwhile loaded other weights, these are to stay.
        if self._own and self._versions == self._now():
            own = averaged_tensors(self.training)
            write(own, fitting(own, self._own))
        self._own, self._differentiable = {}, False

    def _now(self) -> list[int]:
        """The versions of all parameters: each counts how often somebody wrote into it (we do so uncounted)."""
        return [parameter._version for _, parameter in self.training.named_parameters()]

    def end(self) -> None:
        for stop in self._stops:
            stop()
        self._take_out()


def _has_statistics(model: nn.Module) -> bool:
    """Whether there is a norm that :func:`trimtab.nn.recalibrate` gathers statistics for."""
    norms: list[Any] = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return any(n.track_running_stats and n.running_mean is not None and not getattr(n, "frozen", False) for n in norms)


def _not_to_be_called(model: nn.Module) -> str:
    """Why the model cannot be called again on its inputs, if so."""
    if any(isinstance(module, (nn.SyncBatchNorm, SyncBatchNorm)) for module in model.modules()):
        return "a SyncBatchNorm waits for all processes, which may not all evaluate"
    needed = [p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    one = len([p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]) == 1
    return "" if one else "it does not take exactly one input"
