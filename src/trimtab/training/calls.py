"""The calls of a training's models, which can be made once more without a trace, and what was computed from their outputs.

A service for techniques and for measurements, reached as ``training.calls``: whoever needs it asks for it by
:meth:`Calls.remember`. Remembered are the calls of the models that train, as they were made: after all changes of
inputs, each with what a second one needs to be the same.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from trimtab.reading.answers import Form, find_answer, mark_answer, tensors_in
from trimtab.untouched import Draws, generators_in, precision_now, unchanged

_KEY = "trimtab call"


class Flowing(Protocol):
    """What calls ask of their training."""

    @property
    def heads(self) -> tuple[nn.Module, ...]: ...
    def repeating(self) -> contextlib.AbstractContextManager[None]: ...
    def gated(self, stop: Callable[[], None]) -> Callable[[], None]: ...


class Call:
    """One call of a model in training.

    Attributes:
        model: what was called.
        differentiated: whether something is trained that its input was computed from; a call made again would not reach it.
        device: of its parameters.
    """

    def __init__(self, model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        self.model, self._args, self._kwargs = model, args, kwargs
        self._tensors = [(x, _version(x)) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        self.differentiated = any(x.requires_grad for x, _ in self._tensors)
        self._modes = [(module, module.training) for module in model.modules()]
        self._weights = [p for module, _ in self._modes for p in module._parameters.values() if p is not None]
        self.device = self._weights[0].device if self._weights else torch.device("cpu")
        self._draws = Draws(*generators_in(model))
        self._precision = precision_now(self.device)

    @property
    def intact(self) -> bool:
        """Whether its input is still what it was, and the model has the weights that it was called with: ``functional_call`` lends others."""
        own = (p for module, _ in self._modes for p in module._parameters.values() if p is not None)
        return all(_version(x) == version for x, version in self._tensors) and all(
            map(operator.is_, own, self._weights)
        )

    def again(self, training: bool | None = None) -> Any:
        """Make it again, with the random numbers, the modes and the precision of the first time. Only inside of :meth:`Calls.apart`.

        Args:
            training: the mode of all modules in the place of those that they were in.
        """
        self._draws.put_back()
        for module, mode in self._modes:
            module.training = mode if training is None else training
        with self._precision():
            return self.model(*self._args, **self._kwargs)


class Answer:
    """A tensor that a call of a model has given, or that was computed from such a one alone.

    Attributes:
        call: which one.
        form: how it comes out of the tensor that the model gave.
    """

    def __init__(self, call: Call, place: Any, form: Form) -> None:
        self.call, self._place, self.form = call, place, form

    def of(self, output: Any) -> torch.Tensor:
        """The same of another output of the model."""
        return self.form.of(output if self._place is None else output[self._place])


class Calls:
    """The calls that a training's models are trained on."""

    def __init__(self, training: Flowing) -> None:
        self._training = weakref.ref(training)
        self._asking: list[Callable[[Call, Any], Any]] = []
        self._now: Call | None = None

    # -- for techniques and measurements -----------------------------------------------------------------------------

    @property
    def going_on(self) -> bool:
        """Whether a model is being called right now."""
        return self._now is not None

    def remember(self, said: Callable[[Call, Any], Any] = lambda call, output: None) -> Callable[[], None]:
        """Remember every call from here on, until the returned function is called.

        ``said(call, output)`` hears of each with what the model gave, and may give another output; ``None`` leaves it.
        """
        self._asking.append(said)
        training = self._training()
        assert training is not None
        return training.gated(lambda: self._asking.remove(said) if said in self._asking else None)

    def answer_of(self, x: Any) -> Answer | None:
        """Whether a tensor is a model's answer: what it gave, or a view, the softmax, the sigmoid, another type of that."""
        found = find_answer(x, _KEY) if isinstance(x, torch.Tensor) else None
        if found is None or found[0][0] is not self:
            return None
        (_, call, place), form = found
        return Answer(call, place, form)

    @contextlib.contextmanager
    def apart(self, *more: Any) -> Iterator[None]:
        """Inside, weights may be moved, modes changed, and calls made again by :meth:`Call.again`; nothing of it is left behind.

        Models, ``more`` (see :func:`~trimtab.untouched.unchanged`) and all random generators are put back as they were; inputs are
        not changed a second time, and nobody is told of a call. Outputs and losses are changed as ever.
        """
        training = self._training()
        if training is None:
            raise RuntimeError("Calls can be made again only as long as their training lives.")
        with training.repeating(), unchanged(*training.heads, *more):
            yield

    # -- for the gates -----------------------------------------------------------------------------------------------

    def begin(self, model: nn.Module | None, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> None:
        """A model is called in training; ``None``: one is called, but not in training."""
        self._now = Call(model, args, kwargs or {}) if self._asking and model is not None else None

    def end(self, output: Any) -> Any:
        """It has given its output; what is returned takes its place, if it is not ``None``."""
        call, self._now = self._now, None
        if call is None or output is None:
            return None
        changed = None
        for said in tuple(self._asking):
            other = said(call, output if changed is None else changed)
            changed = changed if other is None else other
        for place, tensor in tensors_in(output if changed is None else changed):
            mark_answer(tensor, _KEY, (self, call, place))
        return changed


def _version(x: torch.Tensor) -> int:
    """How often somebody has written into a tensor; of one made in inference mode that is not counted."""
    return -1 if x.is_inference() else x._version
