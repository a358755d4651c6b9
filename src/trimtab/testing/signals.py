"""What every signal holds: it declares what it reads, reads numbers, forgets them, and leaves the training as it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.quantities import Quantity
from trimtab.records import Measured
from trimtab.signals import Signal, all_signals
from trimtab.testing import trainings
from trimtab.testing.traces import (
    alike,
    blamed,
    check_class,
    described,
    drawn_since,
    hooks_of,
    new_hooks,
    place_of,
    random_states,
    tensors_held,
)
from trimtab.testing.trainings import Data
from trimtab.watching.sampler import MEASURED

MANY = 350  # samples: some signals want as many before they say anything


def check_signal(
    signal: type[Signal], data: Data | None = None, network: Callable[[], nn.Module] = trainings.network
) -> None:
    """Run the suite that all signals pass: two steps of a training, at the moments at which a watch asks.

    Args:
        signal: a class derived from :class:`trimtab.signals.Signal`.
        data: inputs of the network (350 or more) and the classes that it tells apart; clusters of points in 64 dimensions by default.
        network: makes a module whose children are run in order, such as ``nn.Sequential`` of what the signal looks at.

    Raises:
        AssertionError: with what must hold.
    """
    check_class(signal, Signal)
    name, (x, y) = signal.__name__, data or trainings.clusters()
    declared = _declared(signal)
    model = network()
    asked = Asked(signal, model)
    reads: list[dict[str, Any]] = []
    for _ in range(2):
        model.zero_grad()
        reads.append(_step(asked, x[:MANY], y[:MANY]))
    read = reads[-1]
    assert read.keys() == declared.keys(), f"{name}: it reads {sorted(read)}, and declares {sorted(declared)}"
    for key, value in read.items():
        single = not isinstance(value, Mapping)
        assert all(isinstance(v, float) for v in _numbers(value)), (
            f"{name}: {key} must be numbers (floats), and is {value!r}"
        )
        assert single == (declared[key].of in ("run", "training")), (
            f"{name}: {key} is declared to be of a {declared[key].of}, and is {'one number' if single else 'a number for each'}"
        )
        finite = any(math.isfinite(v) for one in reads for v in _numbers(one.get(key, {})))
        assert finite, f"{name}: {key} must be finite somewhere, and is {value!r}"
    if not signal.remembers:
        assert asked("read") == {}, f"{name}: it must forget what it has read, or say that it remembers"


def _declared(signal: type[Signal]) -> dict[str, Measured]:
    """What it says of itself before it is made."""
    name = signal.__name__
    assert signal.__doc__, f"{name}: it has no docstring"
    assert signal.cost, f"{name}: cost must say what it costs on a sampled step"
    assert isinstance(signal.measures, tuple) and all(isinstance(one, Measured) for one in signal.measures), (
        f"{name}: measures must be a tuple of Measured, and is {signal.measures!r}"
    )
    declared = {one.name: one for one in signal.measures}
    assert declared and len(declared) == len(signal.measures), f"{name}: measures must name what it reads, each once"
    taken = {one.name: "trimtab" for one in MEASURED} | {
        one.name.lower(): other.__name__ for other in all_signals() if other is not signal for one in other.measures
    }
    for one in signal.measures:
        quantity = Quantity.read(one.name.lower())
        whose = taken.get(one.name.lower()) or taken.get(quantity.what)
        assert not whose, f"{name}: {one.name} is measured by {whose} already; another name is needed"
        assert quantity.source == "measured", (
            f"{name}: {one.name} reads as a number that a script says; name it otherwise"
        )
        assert one.title and "_" not in one.title, f"{name}: the title of {one.name} must be words"
        assert one.meaning.endswith("."), f"{name}: the meaning of {one.name} must be a sentence"
    try:
        inspect.signature(signal).bind()
    except TypeError as error:
        raise AssertionError(f"{name}: a watch makes it without arguments, and it cannot be made so: {error}") from None
    return declared


class Asked:
    """A signal in the hands of a watch that looks, after every call, at what the call did to the training.

    Args:
        signal: its class.
        model: of the training.
    """

    def __init__(self, signal: type[Signal], model: nn.Module) -> None:
        self.name, self.model = signal.__name__, model
        self.handed: list[torch.Tensor] = []  # kept, so that no other tensor comes to lie where they lay
        self.made: Signal = self._called("__init__", signal)

    def __call__(self, moment: str, *what: Any) -> Any:
        """Call a method of the signal."""
        given = tensors_held([one for one in what if not isinstance(one, nn.Module)])
        given += [p.grad for p in self.model.parameters() if p.grad is not None]
        known = {id(tensor) for tensor in self.handed}
        self.handed += [t for t in given if id(t) not in known and not isinstance(t, nn.Parameter)]
        return self._called(moment, getattr(self.made, moment), *what)

    def _called(self, moment: str, call: Callable[..., Any], *what: Any) -> Any:
        before, random, hooks = self._numbers(), random_states(), self._hooks()
        modes = [module.training for module in self.model.modules()]
        gradients = [p.grad for p in self.model.parameters()]
        with blamed(self.name, f"{moment}, which must only look,"):
            given = call(*what)
        said = f"{self.name}: in {moment} it"
        drawn = drawn_since(random)
        assert not drawn, f"{said} draws random numbers of {drawn} generator; a signal must draw none"
        for kind, old, now in zip(("parameters or buffers", "tensors"), before, self._numbers(), strict=True):
            same = len(old) == len(now) and all(map(alike, old, now))
            assert same, f"{said} changes {kind} that it was given to look at"
        kept = all(a is b.grad for a, b in zip(gradients, self.model.parameters(), strict=True))
        assert kept, f"{said} takes gradients away, or puts others in their place"
        assert modes == [module.training for module in self.model.modules()], (
            f"{said} changes modules between training and evaluation"
        )
        left = new_hooks(hooks, self._hooks())
        assert not left, f"{said} leaves hooks behind, or takes them away: {left}"
        return given

    def _numbers(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        held = (list(self.model.state_dict().values()), self.handed)
        first, second = ([tensor.detach().clone() for tensor in one] for one in held)
        return first, second

    def _hooks(self) -> list[tuple[str, Any]]:
        return hooks_of(self.model.modules(), (*self.model.parameters(), *self.handed))

    def holds_nothing(self) -> None:
        """Nothing of the training is left in it after a reading."""
        of_class = [value for kind in type(self.made).__mro__ if kind is not Signal for value in _attributes(kind)]
        held = tensors_held([vars(self.made), of_class])
        assert not any(t.requires_grad and not t.is_leaf for t in held), f"{self.name}: it keeps a graph alive"
        theirs = {place_of(tensor) for tensor in (*self.handed, *self.model.state_dict().values())} - {0}
        assert not any(place_of(t) in theirs for t in held), (
            f"{self.name}: after read() it keeps tensors of the training; it may keep copies alone"
        )


def _attributes(kind: type) -> Iterator[Any]:
    yield from (value for key, value in vars(kind).items() if not key.startswith("__"))


def _numbers(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _step(asked: Asked, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
    hidden, model = x, asked.model
    for name, module in model.named_children():
        inputs, hidden = (hidden,), module(hidden)
        asked("forward", name, module, inputs, hidden)
    loss = F.cross_entropy(hidden, y)
    asked("loss", "cross_entropy", hidden, y, loss)
    with blamed(asked.name, "with it, the backward pass of the training"):
        loss.backward()
    parameters = list(model.named_parameters())
    for moment in ("gradients", "before_step", "after_step"):
        asked(moment, parameters)
    asked("trained", loss.detach())
    read = asked("read")
    assert isinstance(read, Mapping), (
        f"{asked.name}: read() must give numbers by their names, and gives {described(read)}"
    )
    asked.holds_nothing()
    return dict(read)
