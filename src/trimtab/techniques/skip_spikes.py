"""Leaving out updates that are spikes, and going back to good weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trimtab.optim.gradients import grad_norm
from trimtab.optim.snapshot import Snapshot, buffers_of
from trimtab.optim.spikes import SpikeGuard
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.clips import scale_of, skipped_by_scaler

_WHAT = {"both": "loss or gradient", "loss": "loss", "gradient": "gradient"}


@dataclass(frozen=True)
class SkipSpikes(Technique):
    """Leaves out updates whose loss or gradient is a spike, and goes back to good weights where that does not help.

    A finite loss or gradient norm is a spike if it is larger than all of the last ``window`` accepted ones and further above their median
    than ``threshold`` deviations (medians of logarithms; :class:`trimtab.optim.SpikeGuard` says precisely when). What is not
    finite always is. After ``most_skips`` in a row the next finite one is taken for a new level, with a warning.

    In a step that is left out the optimizer finds no gradients: it changes neither weights nor momentum nor step counts, and decays
    nothing. Afterwards the gradients are there again. Buffers (BatchNorm's statistics) are put back to what they were after the last
    accepted step. A schedule goes on. With ``rollback=k``, at the k-th spike in a row all parameters, buffers and states of
    optimizers go back to the last snapshot, taken before an accepted update every ``every`` of them: that takes the memory of
    one copy of all of these.

    It judges the gradients with the penalties of the recipe and before any clipping, which finds none in a step that is left out. With a closure (LBFGS) the first evaluation of a step is judged, and decay that stands before the step is
    done already. Each optimizer has its own statistics, and those that step after the same backward are left out together. Where
    several processes train together the gradients alone are judged: they are the same in all of them, the losses are not.

    Helps: rare bad batches (broken labels, outliers, overflow), long runs that nobody watches. Hurts: rare hard batches that look like
    spikes are never learned from. Good first settings: the default; ``rollback=3`` for long runs.

    Args:
        threshold: how many deviations above the median are usual, positive.
        by: which finite numbers are judged: "loss", "gradient" or "both".
        rollback: go back at so many spikes in a row; 0 for never.
        every: accepted updates from one snapshot to the next.
        window: how many accepted updates are looked back on.
        warmup: accepted updates before finite numbers are judged.
        most_skips: how many spikes in a row are left out before one is taken for a new level.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24, 2023; ``SkipStepOptimizer`` of OLMo-core;
    :class:`trimtab.optim.SpikeGuard`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> training = tt.attach(model, optimizer).apply("skip_spikes(warmup=5)")
    >>> for x in (1.0, 1.1, 0.9, 1.0, 1.1, 1e4, float("nan"), 1.0):
    ...     optimizer.zero_grad()
    ...     (model(torch.tensor([[x]])) - 3).square().mean().backward(); optimizer.step()
    >>> print(training.changes[0])
    updates left out whose loss or gradient is beyond 8 deviations: skipped 2 of 8 updates (5, 6)
    """

    acts_on = "update"
    moment = "spikes"
    group = "optimization"
    unbounded = ("threshold",)
    suite = Suite(text="skip_spikes(threshold=0.01, window=2, warmup=2)", always=True)

    threshold: float = 8.0
    by: str = "both"
    rollback: int = 0
    every: int = 25
    window: int = 100
    warmup: int = 20
    most_skips: int = 10

    def __post_init__(self) -> None:
        self.guard()

    def guard(self) -> SpikeGuard:
        """The judge of one optimizer."""
        return SpikeGuard(
            threshold=self.threshold,
            by=self.by,
            window=self.window,
            warmup=self.warmup,
            most_skips=self.most_skips,
            rollback=self.rollback,
            every=self.every,
        )

    def apply(self, training: TrainingLike) -> Change:
        guarding = _Guarding(training, self)
        back = f", and back to earlier weights at {self.rollback} in a row" if self.rollback else ""
        summary = f"updates left out whose {_WHAT[self.by]} is beyond {self.threshold:g} deviations{back}"
        return Change(summary, guarding.end, lambda: guarding.steps > 0, outcome=guarding.outcome)


class _Guarding:
    """Judges every update of a training, and hides the gradients from the optimizer where it is to be left out."""

    def __init__(self, training: TrainingLike, technique: SkipSpikes) -> None:
        self.training, self.technique = training, technique
        self.steps = 0
        self._guards: weakref.WeakKeyDictionary[torch.optim.Optimizer, SpikeGuard] = weakref.WeakKeyDictionary()
        self._told: list[tuple[str, SpikeGuard]] = []  # they outlive their optimizers, for the report
        self._open: dict[int, bool] = {}  # optimizers in the middle of a step; whether it was begun after its gradients
        self._together: set[int] = set()  # optimizers that make the latest update
        self._left_out = False  # that update
        self._snapshot, self._buffers = Snapshot(), Snapshot()
        self._buffers.take(buffers_of(*training.models))
        self._hidden: dict[int, Callable[[], None]] = {}
        self._stops = [
            training.on("gradients", self._on_gradients),
            training.on("before_step", self._before_step),
            training.on("backward", self._before_backward),
            training.on("after_step", self._after_step),
        ]

    def _on_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._open or skipped_by_scaler(optimizer):
            return  # a closure that is called again, or a step inside of a step
        self._open[id(optimizer)] = False
        loss = self.training.loss
        joins = loss is None and bool(self._together) and id(optimizer) not in self._together
        if not joins:
            self._together, self._left_out = set(), False
        self._together.add(id(optimizer))
        self._left_out = self._left_out or not self._accepts(optimizer, loss, joins)
        if self._left_out:
            self._hide(optimizer)

    def _accepts(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor | None, joins: bool) -> bool:
        parameters = _parameters(optimizer)
        if all(p.grad is None for p in parameters):
            return True
        if optimizer not in self._guards:
            self._guards[optimizer] = self.technique.guard()
            self._told.append((type(optimizer).__name__, self._guards[optimizer]))
        value = None if loss is None or _several_processes() else float(loss)
        if value is not None and any(group.get("maximize") for group in optimizer.param_groups):
            value = -value
        self.steps += 1
        norm = grad_norm(parameters) / scale_of(optimizer)
        verdict = self._guards[optimizer].judge(value, norm, self._snapshot.taken)
        if verdict == "accept":
            self._take_snapshot(joins)
        else:
            self._buffers.restore()
            if verdict == "roll back":
                self._snapshot.restore()
        return verdict == "accept"

    def _take_snapshot(self, joins: bool) -> None:
        """If it is time for one. The weights as they are now have given a good loss, unless another optimizer has just moved them."""
        if not self.technique.rollback or joins or any(guard.streak for guard in self._guards.values()):
            return
        if self._snapshot.is_due(self.technique.every):
            optimizers = self.training.optimizers
            parameters = {id(p): p for optimizer in optimizers for p in _parameters(optimizer)}
            self._snapshot.take([*parameters.values(), *buffers_of(*self.training.models)], optimizers)

    def _hide(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer find no gradients in this step: it then leaves parameters and state alone, whatever optimizer it is."""
        hidden = [(p, p.grad) for p in _parameters(optimizer) if p.grad is not None]
        for parameter, _ in hidden:
            parameter.grad = None

        def show(stepped: torch.optim.Optimizer) -> None:
            if stepped is optimizer:
                del self._hidden[id(optimizer)]
                stop()
                for parameter, grad in hidden:
                    if parameter.grad is None:
                        parameter.grad = grad

        # Only now, so that it is called after all others: to them too there is no gradient in this step.
        stop = self.training.on("after_step", show)
        self._hidden[id(optimizer)] = lambda: show(optimizer)

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._open:
            self._open[id(optimizer)] = True

    def _before_backward(self) -> None:
        # In no step a backward comes after gradients and, after these, a beginning: such a step ended in an exception.
        self._open = {key: begun for key, begun in self._open.items() if not begun}

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._open.pop(id(optimizer), None)
        if not self._left_out:
            self._buffers.take(buffers_of(*self.training.models))

    def outcome(self) -> str:
        if len(self._told) == 1:
            return str(self._told[0][1])
        return "; ".join(f"{name}: {guard}" for name, guard in self._told)

    def end(self) -> None:
        for stop in self._stops:
            stop()
        for show in list(self._hidden.values()):
            show()


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
