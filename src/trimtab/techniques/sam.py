"""Sharpness-aware minimization of the losses that a training sees."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once

from trimtab.optim.sam import check_rho, climb_
from trimtab.recipe import Change, LossCall, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for


@dataclass(frozen=True)
class SAM(Technique):
    r"""Trains with the gradient at the worst point nearby: where the loss of the same batch is highest within a distance of rho.

    ``e = rho g / ||g||`` with g the gradient of the loss at w (adaptive: ``e = rho w^2 g / ||w g||``), and the optimizer steps at w with
    the gradient at ``w + e``. Works with any optimizer, schedulers, clipping and gradient scaling, since all of them are only
    given another gradient. With gradient accumulation each part of the batch seeks its own worst point, and so does each process of
    ``DistributedDataParallel``: the authors found that better than one for all.

    When gradients are computed, the model is called a second time on the same input, and the same loss is taken of what it then says:
    with the same dropout masks, and without a second update of BatchNorm's running statistics, as in the authors' code. So it acts on
    losses of ``torch.nn.functional`` that are evaluated on the model's output, a view of it, its softmax, log-softmax, sigmoid, or its
    conversion to another type, and on losses that the model itself returns. Terms that the script adds to the loss, and penalties of
    other techniques, keep their gradient at w. A loss that is a function of something else is left as it is. Evaluations
    and the recorded loss stay those of w.

    Helps: networks that fit their training set and generalize worse, noisy labels, vision transformers. Hurts: time, twice
    that of the plain training, and memory where the script holds on to what the model said; networks that do not fit; scripts that differentiate through the gradient of the loss.
    Good first settings: rho of 0.05 to 0.2; adaptive with 0.5 to 2. Clashes with jacobian_penalty and ensembles.

    Args:
        rho: how far away the worst point is sought, positive.
        adaptive: scale the neighborhood with the weights.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021; Kwon et al., "ASAM", ICML
    2021; :class:`trimtab.optim.SAM`.

    >>> import trimtab as tt
    >>> model = nn.Linear(1, 1, bias=False)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("sam(rho=0.5)")
    >>> weight = model.weight.item()
    >>> nn.functional.mse_loss(model(torch.ones(1, 1)), torch.full((1, 1), weight - 1)).backward()
    >>> round(model.weight.grad.item(), 4)  # 2 (w - target) at w is 2; half a unit uphill it is 3
    3.0
    """

    acts_on = "update"
    moment = "optimizer"
    group = "optimization"
    clashes = {
        "jacobian_penalty": "it differentiates by the inputs too, which a second pass has no use for",
        "bagging": "the losses of its members would each seek a worst point of all weights",
        "deep_ensemble": "the losses of its members would each seek a worst point of all weights",
    }
    suite = Suite(always=True)

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        check_rho("sam", self.rho)

    def apply(self, training: TrainingLike) -> Change:
        held = [p for optimizer in training.optimizers for group in optimizer.param_groups for p in group["params"]]
        if not training.models:
            raise nothing_for(
                self, "the optimizer trains tensors of no module, so there is no model to call a second time."
            )
        if any(type(p).__name__ == "DTensor" for p in held):
            raise nothing_for(
                self, "the parameters are sharded over several processes, which each hold a part of the gradient."
            )
        if any(group.get("line_search_fn") for optimizer in training.optimizers for group in optimizer.param_groups):
            raise nothing_for(
                self, "the optimizer searches along a line for a lower loss, whose gradient this one is not."
            )
        second = _SecondPass(self, training)
        # Changes of losses bring in the gates that change inputs and outputs; the hooks then see what these have made of them.
        stop = training.change_loss(second.loss)
        handles = []
        for model in training.heads:
            handles.append(model.register_forward_pre_hook(_Hook(second.before), with_kwargs=True))
            handles.append(model.register_forward_hook(_Hook(second.after), with_kwargs=True, always_call=True))

        def undo() -> None:
            stop()
            for handle in handles:
                handle.remove()

        adaptive = "adaptive " if self.adaptive else ""
        return Change(
            f"{adaptive}sharpness-aware minimization with rho={self.rho:g}",
            undo,
            lambda: second.acted,
            outcome=second.outcome,
        )


class _Hook:
    """A hook of a root model. A copy of the model, or one read from a file, has lost the training."""

    def __init__(self, call: Any = None) -> None:
        self.call = call

    @_disable_dynamo
    def __call__(self, *args: Any) -> Any:
        return None if self.call is None else self.call(*args)

    def __reduce__(self) -> tuple:
        return type(self), ()


class _Call:
    """One call of a root model in training, so that it can be made again."""

    def __init__(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self.tensors = [(x, _version(x)) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.numbers = _random_state(self.device)
        self.autocast = _autocast_now(self.device)

    def intact(self) -> bool:
        """Whether its input is still what it was."""
        return all(_version(x) == version for x, version in self.tensors)

    def again(self) -> Any:
        """Make it again, with the random numbers of the first time."""
        now = _random_state(self.device)
        try:
            _set_random_state(self.device, self.numbers)
            with self.autocast():
                return self.model(*self.args, **self.kwargs)
        finally:
            _set_random_state(self.device, now)


def _version(x: torch.Tensor) -> int:
    """How often somebody has written into a tensor; of one made in inference mode that is not counted."""
    return -1 if x.is_inference() else x._version


def _random_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def _autocast_now(device: torch.device) -> Callable[[], Any]:
    """Makes the context of mixed precision that holds now. Without its cache: that has the weights as they were at first."""
    on, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return lambda: torch.autocast(device.type, dtype=dtype, enabled=on, cache_enabled=False) if on else _plain(device)


def _plain(device: torch.device) -> Any:
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


Again = Callable[
    [dict[int, Any]], torch.Tensor
]  # a tensor out of the outputs of calls that were made again, by their id


class _SecondPass:
    """Remembers the calls of the models, and takes the gradient of their losses at the worst point nearby."""

    def __init__(self, technique: SAM, training: TrainingLike) -> None:
        self.how = (technique.rho, technique.adaptive)
        self.models = tuple(training.heads)
        self.training = weakref.ref(training)  # losses are changed where all trainings evaluate them
        self.acted = self.failed = False
        self._passed = ""  # why the last loss was left alone
        self._busy = False  # the second pass is going on
        self._again: _Call | None = None  # the call that is being made again
        self._now: _Call | None = None  # the script's call that is going on

    # -- the first pass ----------------------------------------------------------------------------------------------

    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._again is not None:  # what came before this hook may have changed the input once more
            return (self._again.args, self._again.kwargs) if model is self._again.model else None
        if self._now is None and model in self.models and model.training and torch.is_grad_enabled():
            self._now = _Call(model, args, kwargs)  # and not one inside of another
        return None

    def after(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if self._busy:
            return None
        call = self._now
        if call is None or call.model is not model:
            return None
        self._now = None
        if any(x.requires_grad for x, _ in call.tensors):  # a second pass would have none
            self._passed = "its input has a gradient too: it is computed by something that is trained"
            return None
        changed = False
        for place, said in _tensors(output):
            if not said.requires_grad or said.grad_fn is None:
                continue
            if said.ndim == 0:  # a loss that the model computes itself
                again = _picks(call, place)
                output, changed = _with(output, place, self._worst(said, [call], again)), True
                continue
            self._mark(said, call, _picks(call, place))
            if said._is_view() and said._base is not None:
                self._mark(said._base, call, _picks(call, place, base=True))
        return output if changed else None

    def _mark(self, said: torch.Tensor, call: _Call, again: Again) -> None:
        node: Any = (
            said.grad_fn
        )  # it lives as long as what was computed from it, and knows whether that was this very tensor
        if node is not None:
            node.metadata[_SAID] = (self, call, again)

    def loss(self, loss: LossCall) -> torch.Tensor | None:
        if self._busy or self._now is not None or self.failed or self.training() is None:
            return None
        calls: list[_Call] = []
        found: dict[str, Again] = {}
        for name, value in loss.arguments.items():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                followed = self._follow(value)
                if followed is None:
                    self._passed = self._passed or "the loss is not computed from the model's output itself"
                    return None
                calls.append(followed[0])
                found[name] = followed[1]
        value = loss() if found else None
        if value is None or not value.requires_grad:
            return None
        autocast, rest = _autocast_now(calls[0].device), loss.without(*found)

        def again(outputs: dict[int, Any]) -> torch.Tensor:
            with autocast():
                return rest(**{name: said(outputs) for name, said in found.items()})

        return self._worst(value, calls, again)

    def _follow(self, said: torch.Tensor) -> tuple[_Call, Again] | None:
        """Which call of a model a tensor comes from, and how it comes out of what the call gives."""
        found = self._given(said)
        if found is not None or not said._is_view() or said._base is None:
            return found
        found = self._given(said._base)
        if found is None:
            return None
        call, whole = found
        size, stride, offset = said.size(), said.stride(), said.storage_offset()
        return call, lambda outputs: whole(outputs).as_strided(size, stride, offset)

    def _given(self, said: torch.Tensor) -> tuple[_Call, Again] | None:
        """The same of what the model gave, or one of a few functions of that."""
        node = said.grad_fn
        if found := self._of(node):
            return found
        function = _FUNCTIONS.get(type(node).__name__)
        found = None if node is None or function is None else self._of(node.next_functions[0][0])
        if node is None or function is None or found is None:
            return None
        dim = getattr(node, "_saved_dim", 0)  # of an unsigned kind: -1 is 2^64 - 1
        argument = {"to": said.dtype, "sigmoid": None}.get(function, dim - 2**64 if dim >= 2**63 else dim)
        given = () if argument is None else (argument,)
        call, whole = found
        return call, lambda outputs: getattr(whole(outputs), function)(*given)

    def _of(self, node: Any) -> tuple[_Call, Again] | None:
        owner, *found = node.metadata.get(_SAID, (None,)) if node is not None else (None,)
        return tuple(found) if owner is self else None

    def outcome(self) -> str:
        return "" if self.acted or not self._passed else f"the model is not called a second time, since {self._passed}"

    # -- the second pass ---------------------------------------------------------------------------------------------

    def _worst(self, value: torch.Tensor, calls: Sequence[_Call], again: Again) -> torch.Tensor:
        """The same value, whose gradient is the one at the worst point nearby."""
        once = list({id(call): call for call in calls}.values())
        found = {id(p): p for call in once for p in call.model.parameters() if p.requires_grad}
        params = list({**found, **{id(p): p for p in self._held()}}.values())
        changed: Any = _Worst.apply(_Piece(self, value, once, again, params), *params)
        if hasattr(value, "_trimtab_plain"):  # for the record
            changed._trimtab_plain = value._trimtab_plain
        return changed

    def _held(self) -> list[torch.Tensor]:
        """What the optimizers train."""
        training = self.training()
        optimizers = training.optimizers if training is not None else ()
        return [p for o in optimizers for group in o.param_groups for p in group["params"] if p.requires_grad]

    def second(self, piece: _Piece, first: Sequence[torch.Tensor | None], outer: torch.Tensor) -> Any:
        """The gradient at the worst point nearby; ``first`` is the one here."""
        training = self.training()
        held = {id(p) for p in self._held()}
        moved = [(p, g) for p, g in zip(piece.params, first, strict=True) if g is not None and id(p) in held]
        if self.failed or self._busy or training is None or not moved or not all(call.intact() for call in piece.calls):
            return first
        self._busy = True
        try:
            with training.repeating(), _put_back(piece.params, [call.model for call in piece.calls]):
                # through .data: graphs that still wait for their backward are not declared invalid; the values come back
                climb_([p.data for p, _ in moved], [g for _, g in moved], [self.how] * len(moved))
                with torch.enable_grad():
                    outputs = {}
                    for call in piece.calls:
                        self._again = call
                        outputs[id(call)] = call.again()
                    self._again = None
                    value = piece.again(outputs)
                found = torch.autograd.grad(value, piece.params, outer, allow_unused=True)
        except Exception as error:  # of a model that cannot be called twice; the gradient here is the script's own
            self.failed = True
            warnings.warn(
                f"sam: the model could not be called a second time, and the training goes on without. It said: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return first
        finally:
            self._busy, self._again = False, None
        self.acted = True
        return found


class _Piece:
    """A loss, or a part of one, that can be taken again."""

    def __init__(
        self, owner: _SecondPass, value: torch.Tensor, calls: list[_Call], again: Again, params: list[torch.Tensor]
    ) -> None:
        self.owner, self.calls, self.again, self.params = owner, calls, again, params
        self.value: torch.Tensor | None = value


class _Worst(torch.autograd.Function):
    """The identity in the value; in the gradient, the one of the same loss at the worst point nearby."""

    @staticmethod
    def forward(ctx: Any, piece: _Piece, *params: torch.Tensor) -> torch.Tensor:
        ctx.piece = piece
        return piece.value.detach().clone()  # type: ignore[union-attr]

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        piece: _Piece = ctx.piece
        if piece.value is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time: give retain_graph=True the first time."
            )
        differentiable = torch.is_grad_enabled()  # a gradient that is going to be differentiated is the plain one
        # Other terms of the loss may need the same graph.
        first = torch.autograd.grad(
            piece.value, piece.params, outer, retain_graph=True, create_graph=differentiable, allow_unused=True
        )
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            piece.value = None  # then the graph may go before the second one is made
        return None, *(first if differentiable else piece.owner.second(piece, first, outer))


@contextlib.contextmanager
def _put_back(params: Sequence[torch.Tensor], models: Sequence[nn.Module]) -> Iterator[None]:
    """Afterwards all parameters and buffers are what they were, bit for bit."""
    weights = [p.data.clone() for p in params]
    slots = [module._buffers for model in models for module in model.modules()]
    buffers = [(slot, key, b, b.clone()) for slot in slots for key, b in slot.items() if b is not None]
    try:
        yield
    finally:
        for p, weight in zip(params, weights, strict=True):
            p.data.copy_(weight)
        for slot, key, buffer, value in buffers:
            buffer.data.copy_(value)
            slot[key] = buffer


_SAID = "trimtab_sam"
_FUNCTIONS = {
    "LogSoftmaxBackward0": "log_softmax",
    "SoftmaxBackward0": "softmax",
    "SigmoidBackward0": "sigmoid",
    "ToCopyBackward0": "to",
}


def _tensors(output: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """The tensors in what a model gives, with their places."""
    if isinstance(output, torch.Tensor):
        yield None, output
    elif isinstance(output, (Mapping, tuple, list)):
        items = output.items() if isinstance(output, Mapping) else enumerate(output)
        yield from [(place, value) for place, value in items if isinstance(value, torch.Tensor)]


def _picks(call: _Call, place: Any, base: bool = False) -> Again:
    """Takes the tensor at a place out of the output of a call, or what it is a view of."""
    key = id(call)

    def again(outputs: dict[int, Any]) -> torch.Tensor:
        tensor = outputs[key] if place is None else outputs[key][place]
        return tensor._base if base else tensor

    return again


def _with(output: Any, place: Any, value: torch.Tensor) -> Any:
    """An output with another tensor at a place."""
    if place is None:
        return value
    if isinstance(output, Mapping):
        output[place] = value  # type: ignore[index]
        return output
    changed = list(output)
    changed[place] = value
    return type(output)(changed) if type(output) in (tuple, list) else type(output)(*changed)
