"""The places where PyTorch tells us that training happens: taps on a handful of its functions.

While at least one listener is registered, these functions of PyTorch are replaced by wrappers that call the original and
then tell the listeners what passed; with the last listener gone the originals are back. Wrappers change no value, consume
no random number and step aside while ``torch.compile`` traces. Only who asks to change losses (:func:`change_losses`) or to add
terms to them (:func:`add_terms`) changes a value.

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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.jit._builtins import _get_builtin_table
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import DataLoader

from trimtab.recipe import LossCall
from trimtab.training.safe import of_script

Kind = Literal["optimizer", "before_backward", "backward", "grad", "zero_grad", "loss", "compile", "loader", "saved"]

LOSSES = (
    "cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss "
    "huber_loss kl_div poisson_nll_loss gaussian_nll_loss hinge_embedding_loss margin_ranking_loss soft_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss multi_margin_loss cosine_embedding_loss triplet_margin_loss ctc_loss"
).split()

_listeners: dict[Kind, list[Callable[..., None]]] = {
    "optimizer": [], "before_backward": [], "backward": [], "grad": [], "zero_grad": [], "loss": [], "compile": [],
    "loader": [], "saved": [],
}  # fmt: skip
_changers: list[Callable[[], Sequence[Callable[[LossCall], torch.Tensor | None]]]] = []
_terms: list[Callable[[], Sequence[Callable[[], torch.Tensor | None]]]] = []
_forgiving: list[Callable[[Exception], bool]] = []
_originals: list[tuple[Any, str, Any, Any]] = []


_TRACING = tuple(
    getattr(torch._C._TorchDispatchModeKey, name)
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if hasattr(torch._C._TorchDispatchModeKey, name)
)


class _Now(threading.local):
    """How things stand in a thread."""

    inside = False  # a loss inside of a loss is not one of the script's
    true = False  # losses are given with the value that they are trained on


_now = _Now()


# -- keeping the training safe from us -------------------------------------------------------------------------------


def forgive(call: Callable[[Exception], bool]) -> Callable[[], None]:
    """Let ``call(error)`` say of an error of ours whether the training goes on all the same; the returned function ends it."""
    _forgiving.append(call)
    return lambda: _forgiving.remove(call) if call in _forgiving else None


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Around what is our own in the midst of the script: an error there is forgiven, if a watch is there to tell of it.

    Not so one of those who listen to a training, and may mean to end it: see :func:`theirs`.
    """
    try:
        yield
    except Exception as error:
        if of_script(error) or getattr(error, "_of_a_listener", False):
            raise
        if not any([call(error) for call in tuple(_forgiving)]):
            raise


@contextlib.contextmanager
def theirs() -> Iterator[None]:
    """Around calls of those who listen to a training."""
    try:
        yield
    except Exception as error:
        error._of_a_listener = True  # type: ignore[attr-defined]
        raise


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, what is computed is ours alone: modes of the script (another default device, counters of operations) do not see it."""
    with torch._C.DisableTorchFunction():
        if torch._C._len_torch_dispatch_stack():
            with _disable_current_modes():
                yield
        else:
            yield


# -- who listens -----------------------------------------------------------------------------------------------------


def listen(kind: Kind, call: Callable[..., None]) -> Callable[[], None]:
    """Register a listener; the returned function takes it off again."""
    return _register(_listeners[kind], call)


def change_losses(calls: Callable[[], Sequence[Callable[[LossCall], torch.Tensor | None]]]) -> Callable[[], None]:
    """Let those that ``calls()`` lists give every loss that is evaluated with gradients (None: as it is).

    The last one is asked first; what it computes with ``loss()`` has passed through the others. The script trains on what they give and
    sees the value that its loss has without them: what it prints, keeps and compares stays its own.
    """
    return _register(_changers, calls)


def add_terms(calls: Callable[[], Sequence[Callable[[], torch.Tensor | None]]]) -> Callable[[], None]:
    """Let the numbers of those that ``calls()`` lists join the loss whenever ``backward`` starts from one number."""
    return _register(_terms, calls)


def _register(listed: list, call: Callable) -> Callable[[], None]:
    if not _originals:
        _install()
    listed.append(call)

    def stop() -> None:
        if call in listed:
            listed.remove(call)
        if not (any(_listeners.values()) or _changers or _terms):
            _remove()

    return stop


def uncompiled(function: Callable) -> Callable:
    """``function``, which runs as it is also where the code around it is compiled: neither it nor what it calls is compiled for that."""
    disabled: Callable | None = None

    def plainly(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if not _passed_by.compiles:  # most scripts; the compiler need not be imported
            return function(*args, **kwargs)
        disabled = disabled or torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    _passed_by.add(plainly)
    return functools.wraps(function)(plainly)


class _PassedBy:
    """Functions of ours that the compiler does not look into, once there is something to compile."""

    def __init__(self) -> None:
        self.compiles = False
        self._code: dict[CodeType, None] = {}

    def add(self, function: Callable) -> None:
        self._code[function.__code__] = None
        if self.compiles:
            self.begin()

    def begin(self) -> None:
        """The script compiles something."""
        import torch._dynamo.eval_frame

        self.compiles = True
        for code in self._code:
            torch._dynamo.eval_frame.skip_code(code)
        self._code.clear()


_passed_by = _PassedBy()


@uncompiled
def _tell(kind: Kind, *what: Any) -> None:
    for call in tuple(_listeners[kind]):
        with ours():
            call(*what)


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    wrapper: Any = functools.wraps(original)(make(original))
    # Compilers that meet the wrapper must find the original in its place. By these marks they do, as with
    # torch.jit.script_if_tracing; of a method, for which nobody looks at them, the frame itself is passed by.
    marks = {"__script_if_tracing_wrapper": True, "__original_fn": original, "__prepare_scriptable__": lambda: original}
    if not inspect.isclass(owner):
        wrapper.__dict__.update(marks)
        builtins = _get_builtin_table()  # what TorchScript has operations for, by identity
        if id(original) in builtins:
            builtins[id(wrapper)] = builtins[id(original)]
    wrapper.__code__ = _uncounted(wrapper.__code__)
    _passed_by.add(wrapper)
    _originals.append((owner, name, original, wrapper))
    setattr(owner, name, wrapper)


@functools.cache
def _uncounted(code: CodeType) -> CodeType:
    """Warnings that name the place of a call count the frames above, and leave those of importlib out: so they do with this code."""
    return code.replace(co_filename=f"{__file__}:importlib._bootstrap")


def _remove() -> None:
    while _originals:
        owner, name, original, wrapper = _originals.pop()
        _get_builtin_table().pop(id(wrapper), None)
        if getattr(owner, name) is wrapper:  # somebody else may have wrapped ours meanwhile: then leave theirs alone
            setattr(owner, name, original)


def _install() -> None:
    _replace(torch.optim.Optimizer, "__init__", _optimizer_tap)
    _replace(torch.optim.Optimizer, "zero_grad", _zero_grad_tap)
    _replace(nn.Module, "zero_grad", _zero_grad_tap)
    _replace(nn.Module, "compile", _compile_tap)
    _replace(torch, "compile", _compile_tap)
    _replace(torch.autograd, "backward", _backward_tap)
    _replace(torch.autograd, "grad", _grad_tap)
    for name in LOSSES:
        _replace(F, name, functools.partial(_loss_tap, name))
    _replace(torch.amp.GradScaler, "scale", _scale_tap)
    _replace(DataLoader, "__iter__", _loader_tap)
    _replace(torch, "save", _save_tap)


def _optimizer_tap(original: Callable) -> Callable:
    def init(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        _tell("optimizer", self)

    return init


def _zero_grad_tap(original: Callable) -> Callable:
    def zero_grad(self: torch.optim.Optimizer | nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not torch.compiler.is_compiling():
            _tell("zero_grad", self)

    return zero_grad


def _backward_tap(original: Callable) -> Callable:
    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            original(tensors, grad_tensors, *args, **kwargs)
            return
        # The value is read before the call: users may change the loss in place afterwards.
        value = _scalar(tensors) if grad_tensors is None else None
        _tell("before_backward")
        terms = [] if value is None else _own_terms(tensors)
        if terms:
            factor = getattr(tensors, "_trimtab_factor", None)  # of a GradScaler
            original([tensors, *terms], [None, *[factor] * len(terms)], *args, **kwargs)
        else:
            original(tensors, grad_tensors, *args, **kwargs)
        _tell("backward", value)

    return backward


def _grad_tap(original: Callable) -> Callable:
    def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or (args[1] if len(args) > 1 else kwargs.get("create_graph")):
            return original(outputs, inputs, grad_outputs, *args, **kwargs)  # a part of a loss, not its gradient
        value = _scalar(outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 else outputs)
        if value is None or grad_outputs is not None:
            return original(outputs, inputs, grad_outputs, *args, **kwargs)
        inputs = inputs if isinstance(inputs, (torch.Tensor, GradientEdge)) else tuple(inputs)  # it may be a generator
        listed = (inputs,) if isinstance(inputs, (torch.Tensor, GradientEdge)) else inputs
        terms = _own_terms(value) if any(isinstance(one, nn.Parameter) for one in listed) else []
        if terms:
            outputs = [*([outputs] if isinstance(outputs, torch.Tensor) else outputs), *terms]
        result = original(outputs, inputs, grad_outputs, *args, **kwargs)
        _tell("grad", value, listed)
        return result

    return grad


@contextlib.contextmanager
def true_values() -> Iterator[None]:
    """Inside, losses have the value that they are trained on: an optimizer that compares them along a line must see it."""
    before, _now.true = _now.true, True
    try:
        yield
    finally:
        _now.true = before


@uncompiled
def _own_terms(loss: torch.Tensor) -> list[torch.Tensor]:
    with _guard():
        found = [call() for calls in tuple(_terms) for call in calls()]
    return [term.to(loss.dtype) for term in found if term is not None and term.requires_grad]


def _compile_tap(original: Callable) -> Callable:
    def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        if model is not None:  # else a decorator is made, which comes by here too
            _passed_by.begin()
            _tell("compile", model)
        return original(model, *args, **kwargs)

    return compile


@uncompiled
def _scalar(tensors: Any) -> torch.Tensor | None:
    with ours(), apart():
        if isinstance(tensors, torch.Tensor) and has_values(tensors) and tensors.numel() == 1:
            return getattr(tensors, "_trimtab_plain", tensors).detach()
    return None


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    before, _now.inside = _now.inside, True
    try:
        yield
    finally:
        _now.inside = before


def transformed() -> bool:
    """Whether a function transform or a trace is going on: what passes has no values, or is code."""
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and any(
        torch._C._get_dispatch_mode(mode) is not None for mode in _TRACING
    )


def has_values(tensor: Any) -> bool:
    """Whether a tensor is an ordinary one, whose numbers may be read and reckoned with.

    Not so on the meta device; nor one that does its operations itself (sharded, fake, noisy, counting), or is nested.
    """
    ordinary = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return bool(ordinary and not tensor.is_meta and not tensor.is_nested)


def _loss_tap(name: str, original: Callable) -> Callable:
    names = list(inspect.signature(original).parameters)

    def loss(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _now.inside or transformed():
            return original(*args, **kwargs)
        with _guard():
            arguments = {**dict(zip(names, args, strict=False)), **kwargs} if _changers else {}
            changers: tuple = ()
            if torch.is_grad_enabled() and any(
                isinstance(x, torch.Tensor) and x.requires_grad for x in arguments.values()
            ):
                changers = tuple(c for calls in tuple(_changers) for c in calls())
            if changers:
                value = _changed(changers, name, original, arguments)
            else:
                value = original(*args, **kwargs)
        if isinstance(value, torch.Tensor):
            given = {**dict(zip(names[:2], args, strict=False)), **kwargs}
            _tell("loss", name, given.get(names[0]), given.get("target", given.get(names[1])), value, kwargs)
        return value

    return loss


def _changed(changers: tuple, name: str, original: Callable, arguments: dict[str, Any]) -> torch.Tensor:
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
    if value.shape != plain.shape or _now.true:
        if value.numel() == 1:
            value._trimtab_plain = plain  # type: ignore[attr-defined]
        return value
    return plain + (value - value.detach()).to(plain.dtype)


def _scale_tap(original: Callable) -> Callable:
    def scale(self: Any, outputs: Any) -> Any:
        scaled = original(self, outputs)
        if isinstance(outputs, torch.Tensor) and scaled is not outputs:
            scaled._trimtab_plain = getattr(outputs, "_trimtab_plain", outputs).detach()
            scaled._trimtab_factor = self._scale
        return scaled

    return scale


def _loader_tap(original: Callable) -> Callable:
    def iterate(self: DataLoader) -> Any:
        _tell("loader", self)
        return original(self)

    return iterate


def _save_tap(original: Callable) -> Callable:
    def save(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        _tell("saved")

    return save
