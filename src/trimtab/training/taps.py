"""The places where PyTorch tells us that training happens: taps on a handful of its functions.

While at least one listener is registered, these functions of PyTorch are replaced by wrappers that call the original and
then tell the listeners what passed; with the last listener gone the originals are back. Wrappers change no value, consume
no random number and step aside while ``torch.compile`` traces. Only who asks to change losses (:meth:`Taps.change_losses`) or to
add terms to them (:meth:`Taps.add_terms`) changes a value.

===================================== ================================================================================
``torch.optim.Optimizer.__init__``    an optimizer was made (the right moment for surgery: nothing has run yet)
``torch.optim.Optimizer.zero_grad``   gradients computed so far are not going to be used
``torch.nn.Module.zero_grad``         the same
``torch.autograd.backward``           gradients were computed, from which value (``Tensor.backward`` comes through here)
``torch.autograd.grad``               the same, for gradients that the script takes into its own hands
``torch.nn.functional`` losses        a loss was evaluated, of what and against what (the loss modules come through here)
``torch.amp.GradScaler.scale``        which unscaled loss a scaled one stands for
``torch.compile``, ``Module.compile`` a module or a function is going to be compiled
``DataLoader.__iter__``               a pass over a data loader began
``torch.save``                        something was saved, a checkpoint as a rule
===================================== ================================================================================
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.jit._builtins import _get_builtin_table
from torch.utils.data import DataLoader

from trimtab.reading.losses import LOSSES
from trimtab.recipe import LossCall
from trimtab.training.apart import apart, has_values, transformed
from trimtab.training.safe import of_listener, of_script

Kind = Literal["optimizer", "before_backward", "backward", "grad", "zero_grad", "loss", "compile", "loader", "saved"]
Changers = Callable[[], Sequence[Callable[[LossCall], torch.Tensor | None]]]
Terms = Callable[[], Sequence[Callable[[], torch.Tensor | None]]]


def uncompiled(function: Callable) -> Callable:
    """A method that runs as it is also where the code around it is compiled: neither it nor what it calls is compiled for that.

    Its object knows its ``taps``, by an attribute: a property would be compiled. Of the method's frame the compiler learns by
    :meth:`Taps.pass_by`.
    """

    disabled: Callable | None = None

    def plainly(owner: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if not owner.taps.compiles:  # most scripts; the compiler need not be imported
            return function(owner, *args, **kwargs)
        disabled = disabled or torch.compiler.disable(function)
        return disabled(owner, *args, **kwargs)

    plainly = functools.wraps(function)(plainly)
    plainly.of_taps = True  # type: ignore[attr-defined]
    return plainly


class _Now(threading.local):
    """How things stand in a thread."""

    inside = False  # a loss inside of a loss is not one of the script's
    true = False  # losses are given with the value that they are trained on


class Taps:
    """Who listens at which place, and the wrappers that stand there while anybody does.

    Attributes:
        compiles: whether something was compiled since they were there.
    """

    def __init__(self) -> None:
        self._listeners: dict[Kind, list[Callable[..., None]]] = {kind: [] for kind in get_args(Kind)}
        self._changers: list[Changers] = []
        self._terms: list[Terms] = []
        self._forgiving: list[Callable[[Exception], bool]] = []
        self._originals: list[tuple[Any, str, Any, Any]] = []
        self._now = _Now()
        self.taps, self.compiles = self, False
        self._passed_by: dict[CodeType, None] = {}  # what the compiler is to leave alone, once it is there
        for function in vars(Taps).values():
            if getattr(function, "of_taps", False):
                self.pass_by(function)

    # -- keeping the training safe from us ---------------------------------------------------------------------------

    def forgive(self, call: Callable[[Exception], bool]) -> Callable[[], None]:
        """Let ``call(error)`` say of an error of ours whether the training goes on all the same; the returned function ends it."""
        self._forgiving.append(call)
        return lambda: self._forgiving.remove(call) if call in self._forgiving else None

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Around what is our own in the midst of the script: an error there is forgiven, if a watch is there to tell of it.

        Not so one of those who listen to a training, and may mean to end it: see :func:`~trimtab.training.safe.theirs`.
        """
        try:
            yield
        except Exception as error:
            if not self._forgiven(error):
                raise

    def _forgiven(self, error: Exception) -> bool:
        if of_script(error) or of_listener(error):
            return False
        return any([call(error) for call in tuple(self._forgiving)])

    def pass_by(self, function: Callable) -> None:
        """Let the compiler not look into a function of ours, once there is something to compile."""
        self._passed_by[function.__code__] = None
        if self.compiles:
            self._begin_compiling()

    def _begin_compiling(self) -> None:
        import torch._dynamo.eval_frame

        self.compiles = True
        for code in self._passed_by:
            torch._dynamo.eval_frame.skip_code(code)
        self._passed_by.clear()

    # -- who listens -------------------------------------------------------------------------------------------------

    def listen(self, kind: Kind, call: Callable[..., None]) -> Callable[[], None]:
        """Register a listener; the returned function takes it off again."""
        return self._register(self._listeners[kind], call)

    def change_losses(self, calls: Changers) -> Callable[[], None]:
        """Let those that ``calls()`` lists give every loss that is evaluated with gradients (None: as it is).

        The last one is asked first; what it computes with ``loss()`` has passed through the others. The script trains on what they give and
        sees the value that its loss has without them: what it prints, keeps and compares stays its own.
        """
        return self._register(self._changers, calls)

    def add_terms(self, calls: Terms) -> Callable[[], None]:
        """Let the numbers of those that ``calls()`` lists join the loss whenever ``backward`` starts from one number."""
        return self._register(self._terms, calls)

    @contextlib.contextmanager
    def true_values(self) -> Iterator[None]:
        """Inside, losses have the value that they are trained on: an optimizer that compares them along a line must see it."""
        before, self._now.true = self._now.true, True
        try:
            yield
        finally:
            self._now.true = before

    def _register(self, listed: list, call: Callable) -> Callable[[], None]:
        listed.append(call)  # before the look: a collection of garbage may end the last other listener at any moment
        if not self._originals:
            self._install()

        def stop() -> None:
            if call in listed:
                listed.remove(call)
            if not (any(self._listeners.values()) or self._changers or self._terms):
                self._remove()

        return stop

    @uncompiled
    def _tell(self, kind: Kind, *what: Any) -> None:
        for call in tuple(self._listeners[kind]):
            try:
                call(*what)
            except Exception as error:
                if not self._forgiven(error):
                    raise

    # -- standing in the way -----------------------------------------------------------------------------------------

    def _install(self) -> None:
        self._replace(torch.optim.Optimizer, "__init__", self._optimizer_tap)
        self._replace(torch.optim.Optimizer, "zero_grad", self._zero_grad_tap)
        self._replace(nn.Module, "zero_grad", self._zero_grad_tap)
        self._replace(nn.Module, "compile", self._compile_tap)
        self._replace(torch, "compile", self._compile_tap)
        self._replace(torch.autograd, "backward", self._backward_tap)
        self._replace(torch.autograd, "grad", self._grad_tap)
        for name in LOSSES:
            self._replace(F, name, functools.partial(self._loss_tap, name))
        self._replace(torch.amp.GradScaler, "scale", self._scale_tap)
        self._replace(DataLoader, "__iter__", self._loader_tap)
        self._replace(torch, "save", self._save_tap)

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        wrapper: Any = functools.wraps(original)(make(original))
        # Compilers that meet the wrapper must find the original in its place. By these marks they do, as with
        # torch.jit.script_if_tracing; of a method, for which nobody looks at them, the frame itself is passed by.
        marks = {
            "__script_if_tracing_wrapper": True,
            "__original_fn": original,
            "__prepare_scriptable__": lambda: original,
        }
        if not inspect.isclass(owner):
            wrapper.__dict__.update(marks)
            builtins = _get_builtin_table()  # what TorchScript has operations for, by identity
            if id(original) in builtins:
                builtins[id(wrapper)] = builtins[id(original)]
        wrapper.__code__ = _uncounted(wrapper.__code__)
        self.pass_by(wrapper)
        self._originals.append((owner, name, original, wrapper))
        setattr(owner, name, wrapper)

    def _remove(self) -> None:
        while self._originals:
            owner, name, original, wrapper = self._originals.pop()
            _get_builtin_table().pop(id(wrapper), None)
            if (
                getattr(owner, name) is wrapper
            ):  # somebody else may have wrapped ours meanwhile: then leave theirs alone
                setattr(owner, name, original)

    def _optimizer_tap(self, original: Callable) -> Callable:
        tell = self._tell

        def init(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            tell("optimizer", self)

        return init

    def _zero_grad_tap(self, original: Callable) -> Callable:
        tell = self._tell

        def zero_grad(self: torch.optim.Optimizer | nn.Module, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not torch.compiler.is_compiling():
                tell("zero_grad", self)

        return zero_grad

    def _backward_tap(self, original: Callable) -> Callable:
        def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
            if torch.compiler.is_compiling():
                original(tensors, grad_tensors, *args, **kwargs)
                return
            # The value is read before the call: users may change the loss in place afterwards.
            value = self._scalar(tensors) if grad_tensors is None else None
            self._tell("before_backward")
            terms = [] if value is None else self._own_terms(tensors)
            if terms:
                factor = getattr(tensors, "_trimtab_factor", None)  # of a GradScaler
                original([tensors, *terms], [None, *[factor] * len(terms)], *args, **kwargs)
            else:
                original(tensors, grad_tensors, *args, **kwargs)
            self._tell("backward", value)

        return backward

    def _grad_tap(self, original: Callable) -> Callable:
        def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or (args[1] if len(args) > 1 else kwargs.get("create_graph")):
                return original(outputs, inputs, grad_outputs, *args, **kwargs)  # a part of a loss, not its gradient
            value = self._scalar(outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 else outputs)
            if value is None or grad_outputs is not None:
                return original(outputs, inputs, grad_outputs, *args, **kwargs)
            inputs = (
                inputs if isinstance(inputs, (torch.Tensor, GradientEdge)) else tuple(inputs)
            )  # it may be a generator
            listed = (inputs,) if isinstance(inputs, (torch.Tensor, GradientEdge)) else inputs
            terms = self._own_terms(value) if any(isinstance(one, nn.Parameter) for one in listed) else []
            if terms:
                outputs = [*([outputs] if isinstance(outputs, torch.Tensor) else outputs), *terms]
            result = original(outputs, inputs, grad_outputs, *args, **kwargs)
            self._tell("grad", value, listed)
            return result

        return grad

    @uncompiled
    def _own_terms(self, loss: torch.Tensor) -> list[torch.Tensor]:
        before, self._now.inside = self._now.inside, True
        try:
            found = [call() for calls in tuple(self._terms) for call in calls()]
        finally:
            self._now.inside = before
        return [term.to(loss.dtype) for term in found if term is not None and term.requires_grad]

    def _compile_tap(self, original: Callable) -> Callable:
        def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            if model is not None:  # else a decorator is made, which comes by here too
                self._begin_compiling()
                self._tell("compile", model)
            return original(model, *args, **kwargs)

        return compile

    @uncompiled
    def _scalar(self, tensors: Any) -> torch.Tensor | None:
        with self.ours(), apart():
            if isinstance(tensors, torch.Tensor) and has_values(tensors) and tensors.numel() == 1:
                return getattr(tensors, "_trimtab_plain", tensors).detach()
        return None

    def _loss_tap(self, name: str, original: Callable) -> Callable:
        names = list(inspect.signature(original).parameters)
        now, changing, listeners, tell = self._now, self._changers, self._listeners["loss"], self._tell

        def loss(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or now.inside or transformed():
                return original(*args, **kwargs)
            now.inside = True
            try:
                if changing and torch.is_grad_enabled():
                    value = self._asked(name, names, original, args, kwargs)
                else:
                    value = original(*args, **kwargs)
            finally:
                now.inside = False
            if listeners and isinstance(value, torch.Tensor):
                if len(args) > 2:
                    kwargs = {**dict(zip(names[2:], args[2:], strict=False)), **kwargs}
                if len(args) > 1 and "target" not in kwargs:
                    output, target = args[:2]
                else:
                    given = {**dict(zip(names[:2], args, strict=False)), **kwargs}
                    output, target = given.get(names[0]), given.get("target", given.get(names[1]))
                tell("loss", name, output, target, value, kwargs)
            return value

        return loss

    def _asked(self, name: str, names: list[str], original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A loss that those who change losses have been asked for."""
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        if any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments.values()):
            changers = tuple(c for calls in tuple(self._changers) for c in calls())
            if changers:
                return self._changed(changers, name, original, arguments)
        return original(*args, **kwargs)

    def _changed(self, changers: tuple, name: str, original: Callable, arguments: dict[str, Any]) -> torch.Tensor:
        """The loss after all changes: it has the gradient of what they make of it, and the value it would have without them."""

        def through(left: tuple, given: dict[str, Any]) -> torch.Tensor:
            if not left:
                return original(**given)
            call = LossCall(name, given, lambda changed: through(left[:-1], changed))
            value = left[-1](call)
            return call() if value is None else value

        value = through(changers, arguments)
        with torch.no_grad():
            plain = original(**arguments)
        if value.shape != plain.shape or self._now.true:
            if value.numel() == 1:
                value._trimtab_plain = plain  # type: ignore[attr-defined]
            return value
        return plain + (value - value.detach()).to(plain.dtype)

    def _scale_tap(self, original: Callable) -> Callable:
        def scale(self: Any, outputs: Any) -> Any:
            scaled = original(self, outputs)
            if isinstance(outputs, torch.Tensor) and scaled is not outputs:
                scaled._trimtab_plain = getattr(outputs, "_trimtab_plain", outputs).detach()
                scaled._trimtab_factor = self._scale
            return scaled

        return scale

    def _loader_tap(self, original: Callable) -> Callable:
        tell = self._tell

        def iterate(self: DataLoader) -> Any:
            tell("loader", self)
            return original(self)

        return iterate

    def _save_tap(self, original: Callable) -> Callable:
        def save(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            self._tell("saved")

        return save


@functools.cache
def _uncounted(code: CodeType) -> CodeType:
    """Warnings that name the place of a call count the frames above, and leave those of importlib out: so they do with this code."""
    return code.replace(co_filename=f"{__file__}:importlib._bootstrap")
