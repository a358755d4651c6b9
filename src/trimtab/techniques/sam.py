"""Sharpness-aware minimization of the losses that a training sees."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.optim.sam import check_rho, climb_
from trimtab.reading.answers import tensors_in, with_tensor
from trimtab.recipe import AnswerLike, CallLike, Change, LossCall, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for
from trimtab.untouched import precision_now


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
    >>> from torch import nn
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
        stops = [training.change_loss(second.loss), training.calls.remember(second.said)]

        def undo() -> None:
            for stop in stops:
                stop()

        adaptive = "adaptive " if self.adaptive else ""
        return Change(
            f"{adaptive}sharpness-aware minimization with rho={self.rho:g}",
            undo,
            lambda: second.acted,
            outcome=second.outcome,
        )


Again = Callable[
    [dict[int, Any]], torch.Tensor
]  # a tensor out of the outputs of calls made again, by the id of the call

_INSIDE = "its input has a gradient too: it is computed by something that is trained"


class _SecondPass:
    """Takes the gradient of the losses of a training's calls at the worst point nearby."""

    def __init__(self, technique: SAM, training: TrainingLike) -> None:
        self.how = (technique.rho, technique.adaptive)
        self.training = weakref.ref(training)  # losses are changed where all trainings evaluate them
        self.acted = self.failed = False
        self._passed = ""  # why the last loss was left alone
        self._busy = False  # the second pass is going on

    def said(self, call: CallLike, output: Any) -> Any:
        """What the model said: where it computes its losses itself, these are changed."""
        changed = None
        for place, value in tensors_in(output):
            if value.ndim or not value.requires_grad:
                continue
            if call.differentiated:
                self._passed = _INSIDE
                return None

            def again(outputs: dict[int, Any], place: Any = place) -> torch.Tensor:
                return outputs[id(call)] if place is None else outputs[id(call)][place]

            changed = output = with_tensor(output, place, self._worst(value, [call], again))
        return changed

    def loss(self, loss: LossCall) -> torch.Tensor | None:
        training = self.training()
        if self._busy or self.failed or training is None or training.calls.going_on:
            return None
        found: dict[str, AnswerLike] = {}
        for name, value in loss.arguments.items():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                answer = training.calls.answer_of(value)
                if answer is None:
                    self._passed = self._passed or "the loss is not computed from the model's output itself"
                    return None
                if answer.call.differentiated:
                    self._passed = _INSIDE
                    return None
                found[name] = answer
        value = loss() if found else None
        if value is None or not value.requires_grad:
            return None
        calls = [answer.call for answer in found.values()]
        precision, rest = precision_now(calls[0].device), loss.without(*found)

        def again(outputs: dict[int, Any]) -> torch.Tensor:
            with precision():
                return rest(**{name: answer.of(outputs[id(answer.call)]) for name, answer in found.items()})

        return self._worst(value, calls, again)

    def outcome(self) -> str:
        return "" if self.acted or not self._passed else f"the model is not called a second time, since {self._passed}"

    # -- the second pass ---------------------------------------------------------------------------------------------

    def _worst(self, value: torch.Tensor, calls: Sequence[CallLike], again: Again) -> torch.Tensor:
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
        if self.failed or self._busy or training is None or not moved:
            return first
        if not all(call.intact for call in piece.calls):
            self._passed = "its input was changed in place, or it was called with weights that are not its own"
            return first
        self._busy = True
        try:
            with training.calls.apart(*piece.params):
                # through .data: graphs that still wait for their backward are not declared invalid; the values come back
                climb_([p.data for p, _ in moved], [g for _, g in moved], [self.how] * len(moved))
                with torch.enable_grad():
                    value = piece.again({id(call): call.again() for call in piece.calls})
                found = _gradient(value, piece.params, outer)
        except Exception as error:  # of a model that cannot be called twice; the gradient here is the script's own
            self.failed = True
            warnings.warn(
                f"sam: the model could not be called a second time, and the training goes on without. It said: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return first
        finally:
            self._busy = False
        self.acted = True
        return found


def _gradient(
    value: torch.Tensor, params: Sequence[torch.Tensor], outer: torch.Tensor, **how: bool
) -> list[torch.Tensor | None]:
    """The gradient by each of the parameters; ``None`` for those that are not in the value, or were frozen after it was computed."""
    taken = [p for p in params if p.requires_grad]
    found = iter(torch.autograd.grad(value, taken, outer, allow_unused=True, **how) if taken else ())
    return [next(found) if p.requires_grad else None for p in params]


class _Piece:
    """A loss, or a part of one, that can be taken again."""

    def __init__(
        self, owner: _SecondPass, value: torch.Tensor, calls: list[CallLike], again: Again, params: list[torch.Tensor]
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
        first = _gradient(piece.value, piece.params, outer, retain_graph=True, create_graph=differentiable)
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            piece.value = None  # then the graph may go before the second one is made
        return None, *(first if differentiable else piece.owner.second(piece, first, outer))
