"""What techniques put into the flow of a training: other inputs, outputs and losses, and terms beside the loss.

Gates stand at the root models while a training asks for them: at all trainings or at none, since each has to tell that its
model ran. They take no part in evaluation. Losses are changed where
they are evaluated (see :mod:`trimtab.training.taps`), terms join where ``backward`` starts.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once

from trimtab.recipe import LossCall
from trimtab.training import taps

_flows: weakref.WeakSet[Flow] = weakref.WeakSet()
_latest: weakref.ref[Flow] | None = None  # the training whose model was called last with gradients
_stops: list[Callable[[], None]] = []  # of what we give to the taps, while somebody asks


class Flow:
    """The part of a training through which its numbers pass."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        self.models = models
        self._inputs: list[Callable[[torch.Tensor], torch.Tensor | None]] = []
        self._outputs: list[Callable[[torch.Tensor], torch.Tensor | None]] = []
        self._loss_changes: list[Callable[[LossCall], torch.Tensor | None]] = []
        self._terms: list[Callable[[], torch.Tensor | None]] = []
        self._asking = 0  # how many changes need gates
        self._gates: list[Any] = []
        self._repeats = False
        _flows.add(self)
        _settle()

    def change_input(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]:
        """Let ``call(x)`` give another input to the model, in training only; the returned function ends it.

        x is the first floating-point tensor among the arguments of the root model, or its first tensor if none is. ``None``
        leaves the input as it is.
        """
        return self._change(self._inputs, call)

    def change_output(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]:
        """Let ``call(y)`` give another output of the model, in training only.

        y is the output, or the first floating-point tensor in it (``logits`` if there is one of that name).
        """
        return self._change(self._outputs, call)

    def change_loss(self, call: Callable[[LossCall], torch.Tensor | None]) -> Callable[[], None]:
        """Let ``call(loss)`` give another value for a loss that is evaluated in training; see :class:`~trimtab.recipe.LossCall`.

        The last one to come is asked first; what it computes with ``loss()`` has passed through the others. The recorded
        training loss stays that of the script: runs with and without the change can be compared.
        """
        return self._change(self._loss_changes, call)

    def add_loss(self, call: Callable[[], torch.Tensor | None]) -> Callable[[], None]:
        """Add the number ``call()`` to the loss whenever ``backward`` starts from one; it is not part of the recorded loss.

        Losses scaled by a ``GradScaler`` get it scaled alike. With gradient accumulation it is added in each of the parts.
        """
        return self._change(self._terms, call)

    @contextlib.contextmanager
    def repeating(self) -> Iterator[None]:
        """Inside, models are called once more on inputs that were changed already: these stay, and nobody is told of a call.

        Outputs and losses are changed as ever.
        """
        before, self._repeats = self._repeats, True
        try:
            yield
        finally:
            self._repeats = before

    def end_changes(self) -> None:
        """Take every change out of the flow."""
        for listed in (self._inputs, self._outputs, self._loss_changes, self._terms):
            listed.clear()
        self._asking = 0
        _settle()

    def _change(self, listed: list, call: Callable) -> Callable[[], None]:
        listed.append(call)
        return self._with_gates(lambda: listed.remove(call) if call in listed else None)

    def _with_gates(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Let gates stand until ``stop`` is called, by what is returned: once."""
        self._asking += 1
        _settle()
        over = False

        def ended() -> None:
            nonlocal over
            if not over:
                over = True
                stop()
                self._asking = max(0, self._asking - 1)
                _settle()

        return ended

    def _stand(self, wanted: bool) -> None:
        if wanted and not self._gates:
            for model in self.models:
                self._gates.append(model.register_forward_pre_hook(_Entry(self), prepend=True, with_kwargs=True))
                self._gates.append(model.register_forward_hook(_Exit(self)))
        elif not wanted:
            while self._gates:
                self._gates.pop().remove()

    def _emit(self, event: str, *what: Any) -> None:
        raise NotImplementedError

    def _enter(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        global _latest
        if not self._repeats:
            self._emit("forward", model)
        if not (model.training and torch.is_grad_enabled()):
            return None
        _latest = weakref.ref(self)
        if self._repeats or not self._inputs:
            return None
        listed, keys = list(args), list(kwargs)
        values = [*listed, *kwargs.values()]
        place = _place(values)
        if place is None:
            return None
        x = _through(self._inputs, values[place])
        if place < len(listed):
            listed[place] = x
            return tuple(listed), kwargs
        return args, {**kwargs, keys[place - len(listed)]: x}

    def _leave(self, model: nn.Module, output: Any) -> Any:
        if not self._outputs or not (model.training and torch.is_grad_enabled()):
            return None
        if isinstance(output, torch.Tensor):
            return _through(self._outputs, output)
        if isinstance(output, Mapping):
            named = {key: value for key, value in output.items() if isinstance(value, torch.Tensor)}
            key = "logits" if "logits" in named else next((k for k, v in named.items() if v.is_floating_point()), None)
            if key is not None:
                output[key] = _through(self._outputs, named[key])  # type: ignore[index]
            return output
        if isinstance(output, (tuple, list)) and (place := _place(output)) is not None:
            changed = list(output)
            changed[place] = _through(self._outputs, changed[place])
            return type(output)(changed) if type(output) in (tuple, list) else type(output)(*changed)
        return None


def _settle() -> None:
    """Let gates stand, and the taps know of us, exactly while somebody asks."""
    flows = tuple(_flows)
    wanted = any(flow._asking for flow in flows)
    for flow in flows:
        flow._stand(wanted)
    if wanted and not _stops:
        _stops.append(taps.change_losses(lambda: [call for flow in _current() for call in flow._loss_changes]))
        _stops.append(taps.add_terms(lambda: [call for flow in _current() for call in flow._terms]))
    while not wanted and _stops:
        _stops.pop()()


def _current() -> list[Flow]:
    """The training whose model ran last: losses from here on are its own. Also those whose parameters are in no model."""
    latest = None if _latest is None else _latest()
    return [flow for flow in tuple(_flows) if flow is latest or not flow.models]


def _place(values: Sequence[Any]) -> int | None:
    """Where the first floating-point tensor is, or else the first tensor."""
    tensors = [place for place, value in enumerate(values) if isinstance(value, torch.Tensor)]
    return next((place for place in tensors if values[place].is_floating_point()), tensors[0] if tensors else None)


def _through(calls: Sequence[Callable[[torch.Tensor], torch.Tensor | None]], x: torch.Tensor) -> torch.Tensor:
    for call in tuple(calls):
        changed = call(x)
        x = x if changed is None else changed
    return x


class _Gate:
    """A hook of a root model that tells its training. A copy of the model, or one read from a file, has lost the training."""

    def __init__(self, flow: Flow | None = None) -> None:
        self.flow = (lambda: None) if flow is None else weakref.ref(flow)

    def __reduce__(self) -> tuple:
        return type(self), ()


class _Entry(_Gate):
    @_disable_dynamo
    def __call__(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        flow = self.flow()
        return None if flow is None else flow._enter(model, args, kwargs)


class _Exit(_Gate):
    @_disable_dynamo
    def __call__(self, model: nn.Module, args: tuple, output: Any) -> Any:
        flow = self.flow()
        return None if flow is None else flow._leave(model, output)
