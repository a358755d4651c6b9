"""The stage: what is one per process. The trainings that live, which of them stepped and which was called last, and the taps
that all of them share.

Everything of it is there while somebody needs it: with the last training gone PyTorch's functions are its own again.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch._guards import CompileContext

from trimtab.recipe import LossCall, Now
from trimtab.structure import weights
from trimtab.training.apart import apart, has_values
from trimtab.training.evaluations import Evaluations, PlaceNames
from trimtab.training.steps import Backward, Member
from trimtab.training.taps import Taps
from trimtab.training.twins import Treated


class Actor(Protocol):
    """What the stage asks of a training."""

    members: list[Member]
    labels: PlaceNames
    thread: int
    evaluating: bool
    loss_changes: list[Callable[[LossCall], torch.Tensor | None]]
    terms: list[Callable[[], torch.Tensor | None]]

    @property
    def models(self) -> tuple[nn.Module, ...]: ...
    @property
    def optimizers(self) -> list[torch.optim.Optimizer]: ...
    @property
    def asking(self) -> int: ...
    @property
    def tells(self) -> bool: ...
    def listens_to(self, event: str) -> bool: ...
    def stand(self, wanted: int) -> None: ...
    def mark(self) -> None: ...
    def emit(self, event: str, *what: Any) -> None: ...
    def evaluated(self, name: str, value: float) -> None: ...


T = TypeVar("T")


class Hearer:
    """Hears of every evaluation with the training that it judges, and of every loss that is trained on."""

    def evaluation(self, training: Actor | None, name: str, value: float) -> None:
        """A number was measured; ``None`` where no training has stepped yet."""

    def loss(self, name: str, output: Any, target: Any, value: torch.Tensor) -> None:
        """A training loss was evaluated."""


class Stage:
    """Trainings enter when they are made and leave when they are closed or collected."""

    def __init__(self) -> None:
        self.trainings: weakref.WeakKeyDictionary[Actor, None] = (
            weakref.WeakKeyDictionary()
        )  # in the order of their beginnings
        self._owned: dict[type, Any] = {}
        self.taps = Taps()
        self.treated = Treated()
        self.now = Now()
        self.evaluations = Evaluations()  # what was evaluated since the last step
        self._stepped: weakref.ref[Actor] | None = None
        self._called: weakref.ref[Actor] | None = None
        self._here_called = threading.local()
        self._labels = PlaceNames()  # of what was evaluated before any training
        self._hearers: list[Hearer] = []
        self._settling = self._unsettled = False
        self._steps: list[Callable[[], None]] = []  # each ends a tap
        self._changes: list[Callable[[], None]] = []
        self._losses: list[Callable[[], None]] = []

    def own(self, make: type[T]) -> T:
        """The one object of a class that a room above needs one of in this process; made when it is asked for first."""
        if make not in self._owned:
            self._owned[make] = make()
        return self._owned[make]

    # -- who is there ------------------------------------------------------------------------------------------------

    def enter(self, training: Actor) -> None:
        """A training begins."""
        self.trainings[training] = None
        weakref.finalize(training, self.settle).atexit = False
        self.settle()

    def leave(self, training: Actor) -> None:
        """A training is over."""
        self.trainings.pop(training, None)
        self.settle()

    def alive(self) -> list[Actor]:
        """The trainings of this process."""
        return list(self.trainings)

    @property
    def stepped(self) -> Actor | None:
        """The training that made the last step: evaluations speak of it. Tensors that belong to no model are trained beside one."""
        return self._stepped() if self._stepped is not None else None

    @stepped.setter
    def stepped(self, training: Actor) -> None:
        if training.models or not any(one.models for one in self.alive()):
            self._stepped = weakref.ref(training)

    @property
    def called(self) -> Actor | None:
        """The training whose model was called last with gradients, in this thread if any was: losses from here on are its own."""
        last = getattr(self._here_called, "last", self._called)
        return last() if last is not None else None

    @called.setter
    def called(self, training: Actor) -> None:
        self._called = self._here_called.last = weakref.ref(training)

    def hear(self, hearer: Hearer) -> Callable[[], None]:
        """Tell of evaluations and losses from here on, until the returned function is called."""
        self.close_evaluations(over=True)
        self._stepped, self._labels = None, PlaceNames()  # what stepped before is not of its run
        self._hearers.append(hearer)
        self.settle()

        def stop() -> None:
            if hearer in self._hearers:
                self._hearers.remove(hearer)
                self.settle()

        return stop

    # -- taps and gates ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let gates stand, and taps know of us, exactly while somebody asks.

        Not in the midst of a compilation, where a training may be collected: the compiler looks twice at hooks and must find
        them unmoved. Then this waits until the next step.
        """
        self._unsettled = True
        while self._unsettled and not self._settling and CompileContext.try_get() is None:
            self._settling, self._unsettled = True, False
            try:
                self._settle()
            finally:
                self._settling = False

    def _settle(self) -> None:
        live = self.alive()
        asked = any(training.asking for training in live)
        told = any(training.tells for training in live)
        for training in live:
            training.stand(2 if asked else int(told))
        _keep(self._steps, bool(live), self._tap_steps)
        _keep(self._changes, asked, self._tap_changes)
        heard = bool(self._hearers) or any(training.listens_to("evaluation") for training in live)
        _keep(self._losses, heard, self._tap_losses)
        if not heard:
            self.evaluations = Evaluations()
        self.evaluations.keeps = any(training.listens_to("predictions") for training in live)

    def _tap_steps(self) -> Iterator[Callable[[], None]]:
        yield self.taps.listen("before_backward", self._before_backward)
        yield self.taps.listen("backward", self._backward)
        yield self.taps.listen("grad", self._grad)
        yield self.taps.listen("zero_grad", self._zero_grad)

    def _tap_changes(self) -> Iterator[Callable[[], None]]:
        yield self.taps.change_losses(lambda: [call for one in self._current() for call in one.loss_changes])
        yield self.taps.add_terms(lambda: [call for one in self._current() for call in one.terms])

    def _tap_losses(self) -> Iterator[Callable[[], None]]:
        yield self.taps.listen("loss", self._loss)

    def _current(self) -> list[Actor]:
        """Whose changes apply now: the training whose model was called last, if that was in training.

        Where no model was called, those whose parameters are in none.
        """
        called = self.called
        if called is not None:
            return [] if called.evaluating else [called]
        return [one for one in self.alive() if not one.models]

    # -- evaluations -------------------------------------------------------------------------------------------------

    def _loss(self, name: str, output: Any, target: Any, value: torch.Tensor, kwargs: dict[str, Any]) -> None:
        with apart():
            if not all([has_values(one) for one in (output, target, value) if isinstance(one, torch.Tensor)]):
                return
            taken = self.evaluations.add(name, output, target, value, kwargs, sys._getframe(1), self._in_training_mode)
            if not taken and value.requires_grad:
                for hearer in tuple(self._hearers):
                    hearer.loss(name, output, target, value)

    def _in_training_mode(self) -> bool:
        training = self.stepped or next((one for one in self.alive() if one.models), None)
        return training is None or not training.models or any(model.training for model in training.models)

    def close_evaluations(self, *, over: bool = False) -> None:
        """Training goes on: evaluations so far are complete. ``over`` when nothing follows."""
        with apart():
            finished = list(self.evaluations.close(over))
        for key, what, value in finished:
            training = self.stepped
            if training is None:
                models = [one for one in self.alive() if one.models]
                training = models[0] if len(models) == 1 else None
            name = f"{(self._labels if training is None else training.labels).of(key)} {what}"
            for hearer in tuple(self._hearers):
                hearer.evaluation(training, name, value)
            if training is not None:
                training.evaluated(name, value)
                if what == "accuracy" and (made := self.evaluations.predictions.pop(key, None)) is not None:
                    training.emit("predictions", name, made)

    def begin_step(self) -> None:
        """An optimizer is about to step."""
        if self._unsettled:
            self.settle()
        self.evaluations.step()
        self.close_evaluations()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _here(self) -> list[Actor]:
        """The trainings of this thread. Another one's gradients must not even be looked at: they may be being written."""
        return [one for one in self.alive() if one.thread == threading.get_ident()]

    def _members(self) -> list[Member]:
        return [member for one in self._here() for member in one.members if member.optimizer() is not None]

    def _before_backward(self) -> None:
        if self._unsettled:
            self.settle()
        self.now.evaluating = False  # also where a call was interrupted
        self.close_evaluations()
        for training in self._here():
            training.emit("backward")
        for member in self._members():
            member.look()
            if member.waiting and all(p.grad is None for p in member.parameters()):
                member.erase()  # thrown away by hand: p.grad = None

    def _backward(self, value: torch.Tensor | None) -> None:
        with apart():
            call = Backward(value)
        for member in self._members():
            if member.touched():
                member.wait(call)

    def _grad(self, value: torch.Tensor | None, inputs: Sequence[Any]) -> None:
        """``torch.autograd.grad``: who asks for the gradients of parameters is going to put them in place, and step."""
        asked = {id(one) for one in inputs}
        members = [member for member in self._members() if any(id(p) in asked for p in member.parameters())]
        with apart():
            call = Backward(value)
        for member in members:
            member.ask(call)

    def _zero_grad(self, what: torch.optim.Optimizer | nn.Module) -> None:
        for one in self.alive():
            if any(what is known for known in (*one.models, *one.optimizers)):
                one.thread = threading.get_ident()  # it is trained here
        inside = {id(p) for _, p in weights(what)} if isinstance(what, nn.Module) else set()
        for member in self._members():
            if member.waiting and (
                member.optimizer() is what or (inside and all(id(p) in inside for p in member.parameters()))
            ):
                member.erase()


def _keep(stops: list[Callable[[], None]], wanted: bool, begin: Callable[[], Iterator[Callable[[], None]]]) -> None:
    if wanted and not stops:
        stops.extend(begin())
    while not wanted and stops:
        stops.pop()()


stage = Stage()
"""The one of this process."""
