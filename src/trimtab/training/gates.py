"""What techniques put into the flow of a training: other inputs, outputs and losses, and terms beside the loss.

Gates stand at the root models while a training asks for them: at all trainings or at none, since each has to tell that its
model ran. They take no part in evaluation, however the script evaluates: without gradients, in evaluation mode, or in training mode and
with gradients that nobody uses (see :class:`~trimtab.training.evaluations.Uses`). Losses are changed where
they are evaluated (see :mod:`trimtab.training.taps`), terms join where ``backward`` starts.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once

from trimtab.reading.answers import tensors_in, with_tensor
from trimtab.recipe import LossCall
from trimtab.training.calls import Calls
from trimtab.training.evaluations import Uses
from trimtab.training.find import called_modules
from trimtab.training.places import CallPlace, Places
from trimtab.training.stage import stage
from trimtab.training.variables import variable

_CALL = nn.Module._call_impl.__code__


class Gates:
    """The part of a training through which its numbers pass."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        self._models = [weakref.ref(model) for model in models]
        self._inputs: list[Callable[[torch.Tensor], torch.Tensor | None]] = []
        self._outputs: list[Callable[[torch.Tensor], torch.Tensor | None]] = []
        self.loss_changes: list[Callable[[LossCall], torch.Tensor | None]] = []
        self.terms: list[Callable[[], torch.Tensor | None]] = []
        self.calls = Calls(self)
        self.asking = 0  # how many changes need gates
        self._gates: list[Any] = []
        self._standing = 0
        self._repeats = False
        self.evaluating = False  # the models were called last in an evaluation
        self._places, self._uses = Places(), Uses()
        self._at: CallPlace | None = None  # where the models are being called from in training
        self._last: CallPlace | None = None  # where they were called from in training last
        self._in_evaluation_mode = False  # they were called with gradients
        self._entered = self._outside = False
        self._depth = 0  # of calls of heads inside of heads

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The models, as long as they live. A script may be done with one: the handle keeps none alive."""
        return tuple(model for model in (reference() for reference in self._models) if model is not None)

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
        return self._change(self.loss_changes, call)

    def add_loss(self, call: Callable[[], torch.Tensor | None]) -> Callable[[], None]:
        """Add the number ``call()`` to the loss whenever ``backward`` starts from one; it is not part of the recorded loss.

        Losses scaled by a ``GradScaler`` get it scaled alike. With gradient accumulation it is added in each of the parts.
        """
        return self._change(self.terms, call)

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The modules that the script calls: the models, or parts of those that are not called themselves."""
        return tuple(head for model in self.models for head in called_modules(model))

    @property
    def why_untouched(self) -> str:
        """Why nothing that passes in training has passed a gate, if so."""
        if self._last is not None or not self._standing:
            return ""
        if self._in_evaluation_mode:
            return "the model is in evaluation mode while it trains, and there techniques take no part"
        return "" if self._entered else "the model itself is never called, but methods or parts of it are"

    @contextlib.contextmanager
    def repeating(self) -> Iterator[None]:
        """Inside, models are called once more on inputs that were changed already: these stay, and nobody is told of a call.

        Outputs and losses are changed as ever.
        """
        before = self._repeats, self._depth, self._at, self.evaluating, stage.called
        self._repeats, self._depth = True, 0
        try:
            yield
        finally:
            self._repeats, self._depth, self._at, self.evaluating, called = before
            if called is not None:
                stage.called = called

    def end_changes(self) -> None:
        """Take every change out of the flow."""
        for listed in (self._inputs, self._outputs, self.loss_changes, self.terms):
            listed.clear()
        self.asking = 0
        stage.settle()

    def _change(self, listed: list, call: Callable) -> Callable[[], None]:
        listed.append(call)
        return self.gated(lambda: listed.remove(call) if call in listed else None)

    def gated(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Let gates stand until ``stop`` is called, by what is returned: once."""
        self.asking += 1
        stage.settle()
        over, mine = False, weakref.ref(self)

        def ended() -> None:
            nonlocal over
            if not over:
                over = True
                stop()
                if (gates := mine()) is not None:
                    gates.asking = max(0, gates.asking - 1)
                    stage.settle()

        return ended

    def stand(self, wanted: int) -> None:
        """Let gates stand or not: 0 for none, 1 for some that only tell evaluations apart, 2 for those that change what passes. Code is compiled
        as if the former were not there; the latter break it."""
        if wanted == self._standing:
            return
        self._standing, self._depth = wanted, 0
        while self._gates:
            self._gates.pop().remove()
        for model in self.heads if wanted else ():
            if isinstance(model, torch.jit.ScriptModule):  # which takes no hooks with another's arguments
                continue
            entry, leave = _Entry(self, wanted > 1), _Exit(self, wanted > 1)
            self._gates.append(model.register_forward_pre_hook(entry, prepend=True, with_kwargs=True))
            self._gates.append(model.register_forward_hook(leave, always_call=True))

    def emit(self, event: str, *what: Any) -> None:
        raise NotImplementedError

    def _enter(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        self._entered = True
        if self._depth and not self._is_inside(sys._getframe(1)):
            self._depth = 0  # the call before was interrupted, of which torch tells no hook
        self._depth += 1
        if self._depth > 1:
            return None
        self._outside = stage.now.evaluating  # of a model that calls this one
        self._at = self._training_place(model)
        stage.now.evaluating = self.evaluating and model.training  # else the modes of its parts say what they do
        if self._repeats:
            return None
        self.emit("forward", model)
        if self._at is None:
            self.calls.begin(None)
            return None
        changed = self._changed_input(model, args, kwargs)
        self.calls.begin(model, *(changed or (args, kwargs)))
        return changed

    def _changed_input(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        if not self._inputs:
            return None
        listed, keys = list(args), list(kwargs)
        found = _first(enumerate((*listed, *kwargs.values())))
        if found is None or (found[1].requires_grad and not any(model is one for one in self.models)):
            return None  # a part behind another one
        place, x = found[0], _through(self._inputs, found[1])
        if place < len(listed):
            listed[place] = x
            return tuple(listed), kwargs
        return args, {**kwargs, keys[place - len(listed)]: x}

    def _is_inside(self, frame: FrameType | None) -> bool:
        """Whether the call from which this frame was reached is made by another one of a head."""
        heads, open_calls = {id(head) for head in self.heads}, 0
        while frame is not None:
            if frame.f_code is _CALL and id(variable(frame, "self")) in heads:
                open_calls += 1
            frame = frame.f_back
        return open_calls > 1

    def _training_place(self, model: nn.Module) -> CallPlace | None:
        """Where the model is called from, if that trains; ``None`` in an evaluation."""
        if not torch.is_grad_enabled():
            return None  # also a part of training, such as a target: losses go on as they were
        again = self._last if self._repeats else None
        place = again or self._places.at(sys._getframe(1))
        self.evaluating = again is None and self._uses.evaluates(place, model.training)
        self._in_evaluation_mode |= not model.training and not self._repeats
        stage.called = self  # type: ignore[assignment]
        if self.evaluating or not model.training:
            return None
        self._last = place
        return place

    def _leave(self, model: nn.Module, output: Any) -> Any:
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return None
        place, self._at, stage.now.evaluating = self._at, None, self._outside
        if torch.is_grad_enabled() and model.training and not self._repeats:
            self._follow(place or self._places.at(sys._getframe(1)), output)
        if place is None:
            return None
        changed = self._changed_output(output)
        given = None if self._repeats else self.calls.end(output if changed is None else changed)
        return changed if given is None else given

    def _changed_output(self, output: Any) -> Any:
        if not self._outputs:
            return None
        tensors = list(tensors_in(output))
        named = [one for one in tensors if one[0] == "logits"]
        found = _first(named or tensors)
        if found is None:
            return None
        place, y = found
        return with_tensor(output, place, _through(self._outputs, y))

    def _follow(self, place: CallPlace, output: Any) -> None:
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        for value in (output, *values):
            if isinstance(value, torch.Tensor):
                self._uses.follow(place, value)


def _first(values: Iterable[tuple[Any, Any]]) -> tuple[Any, torch.Tensor] | None:
    """The first floating-point tensor, or else the first tensor, with its place."""
    tensors = [one for one in values if isinstance(one[1], torch.Tensor)]
    return next((one for one in tensors if one[1].is_floating_point()), tensors[0] if tensors else None)


def _through(calls: Sequence[Callable[[torch.Tensor], torch.Tensor | None]], x: torch.Tensor) -> torch.Tensor:
    for call in tuple(calls):
        changed = call(x)
        x = x if changed is None else changed
    return x


class Gate:
    """A hook of a root model that tells its training, there while any training of the process asks for gates. A copy of the model, or one read from a file, has lost the training."""

    def __init__(self, gates: Gates | None = None, breaks: bool = False) -> None:
        self.training = (lambda: None) if gates is None else weakref.ref(gates)
        self.breaks = breaks

    def __reduce__(self) -> tuple:
        return type(self), ()


class _Entry(Gate):
    def __call__(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if not stage.taps.compiles:  # most scripts
            return self._pass(model, args, kwargs)
        return self._apart(model, args, kwargs) if self.breaks or not torch.compiler.is_compiling() else None

    @_disable_dynamo
    def _apart(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        return self._pass(model, args, kwargs)

    def _pass(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        gates = self.training()
        return None if gates is None else gates._enter(model, args, kwargs)


class _Exit(Gate):
    def __call__(self, model: nn.Module, args: tuple, output: Any) -> Any:
        if not stage.taps.compiles:
            return self._pass(model, output)
        return self._apart(model, output) if self.breaks or not torch.compiler.is_compiling() else None

    @_disable_dynamo
    def _apart(self, model: nn.Module, output: Any) -> Any:
        return self._pass(model, output)

    def _pass(self, model: nn.Module, output: Any) -> Any:
        gates = self.training()
        return None if gates is None else gates._leave(model, output)
