"""Turning the optimizer of a live training into another one, in place.

The script, its schedulers and everybody's hooks hold the optimizer as an object, so that very object changes: it gets another class, its
parameter groups get the new method's numbers beside the old ones, and its state begins anew. Learning rates in the groups stay the
script's; they are multiplied for the duration of each step (``Training.change_rate``). So a schedule keeps its shape, made
before or after, also where it sets rates as absolute numbers, as a one-cycle schedule or a warm-up by hand.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from trimtab.reading.optimizers import base_rate, decay_of
from trimtab.recipe import Change, NothingToDo, Place, Suite, TrainingLike
from trimtab.techniques.engines.plain import number_of, one_optimizer
from trimtab.techniques.engines.surgery import nothing_for

_MARK = "optimizer"  # in a group: the method that its numbers, and the state beside it, belong to
_FUSED = "_step_supports_amp_scaling"  # with it a GradScaler leaves unscaling to the step


class Becomes:
    """What techniques share whose fields are the numbers of an optimizer, ``part``."""

    acts_on: ClassVar[Place] = "update"
    group: ClassVar[str | tuple[str, ...]] = "optimization"
    moment: ClassVar[str] = "optimizer"
    takes: ClassVar[tuple[str, ...]] = ("optimizer", "rate")
    suite: ClassVar[Suite] = Suite(always=True, anew=True)
    part: ClassVar[type[torch.optim.Optimizer]]

    def __post_init__(self) -> None:
        check_lr(self.numbers()["lr"])

    def numbers(self) -> dict[str, Any]:
        """What a group of the new optimizer holds."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return defaults_of(self.part, **{name: value for name, value in given.items() if value is not None})

    def plain(self, training: TrainingLike) -> str:
        kind = getattr(torch.optim, getattr(self, "part", type(None)).__name__, None)
        before, optimizer = number_of(training, "weight_decay"), one_optimizer(training)
        if kind is None or before is None or optimizer is None or len(optimizer.param_groups) > 1:
            return ""
        numbers = self.numbers()
        if self.weight_decay is None:  # type: ignore[attr-defined]
            numbers["weight_decay"] = before
        torchs = defaults_of(kind, lr=numbers["lr"])
        given = [
            f"{key}={numbers[key]!r}" for key in torchs if key == "lr" or numbers.get(key, torchs[key]) != torchs[key]
        ]
        return f"torch.optim.{kind.__name__}(model.parameters(), {', '.join(given)}) in the place of the optimizer. Equal up to rounding."

    def apply(self, training: TrainingLike) -> Change:
        numbers = self.numbers()
        return Turn(self, training, self.part, numbers, self.weight_decay).change()  # type: ignore[attr-defined]


def check_lr(lr: float, name: str = "lr") -> None:
    """Refuse a rate that is no positive number."""
    if not 0 < lr < math.inf:
        raise ValueError(f"{name}={lr} must be a positive number: it is the base learning rate of the new optimizer.")


class _Defaults(Exception):
    pass


class _Catches(torch.optim.Optimizer):
    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        raise _Defaults(defaults)


def defaults_of(kind: type[torch.optim.Optimizer], **given: Any) -> dict[str, Any]:
    """The numbers of an optimizer as its constructor checks and completes them, without making one.

    To make one would tell everybody who listens that a training begins.

    >>> defaults_of(torch.optim.SGD, lr=0.5)["momentum"]
    0
    """
    try:
        types.new_class(kind.__name__, (kind, _Catches))([], **given)
    except _Defaults as found:
        return dict(found.args[0])
    raise TypeError(f"{kind.__name__} does not give its defaults to torch.optim.Optimizer.")


class _Before(NamedTuple):
    """What an optimizer was."""

    kind: type
    defaults: dict[str, Any]
    groups: list[dict[str, Any]]  # without the parameters
    state: dict[Any, Any]
    own: dict[str, Any]  # what stood on the object itself, of the attributes that we change


class Turn:
    """Optimizers of a training on their way to another method, and back.

    Args:
        technique: whose doing it is.
        training: all its optimizers change, also one that joins later (then from its first backward on).
        kind: the class to become. Its constructor is never called.
        numbers: what its groups hold.
        weight_decay: for the group of the script with the largest decay, the others keep their ratio to it (or for all, if there is
            none); ``None`` keeps factors and kinds of the script.
        steady: hold the rate where the script's schedule changes it.
        attributes: of the optimizer itself, which its class needs.
    """

    def __init__(
        self,
        technique: Any,
        training: TrainingLike,
        kind: type[torch.optim.Optimizer],
        numbers: Mapping[str, Any],
        weight_decay: float | None,
        *,
        steady: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.technique, self.training, self.kind, self.steady = technique, training, kind, steady
        self.lr, self.weight_decay = float(numbers["lr"]), weight_decay
        self.numbers = {key: value for key, value in numbers.items() if key != "lr"}
        self.attributes = dict(attributes or {})
        self.before: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Before] = weakref.WeakKeyDictionary()
        self._waiting: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._over = self.acted = False
        self._hooks: list[Any] = []
        self._stops: list[Callable[[], None]] = []

    def change(self) -> Change:
        """Turn them all."""
        found = list(self.training.optimizers)
        for optimizer in found:
            self._check(optimizer)
        named = " and ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in found))
        details = [line for optimizer in found for line in self._words(optimizer)]
        for optimizer in found:
            self._begin(optimizer)
        self._stops = [self.training.on("backward", self._turn_all), self.training.change_rate(self._factor)]
        summary = f"{named} becomes {self.kind.__name__} with a learning rate of {self.lr:g}"
        return Change(summary, self.undo, lambda: self.acted, tuple(dict.fromkeys(details)))

    def _check(self, optimizer: torch.optim.Optimizer) -> None:
        name = type(optimizer).__name__
        if "maximize" not in self.numbers and any(group.get("maximize") for group in optimizer.param_groups):
            raise nothing_for(self.technique, f"{name} maximizes, which {self.kind.__name__} cannot.")
        step = vars(optimizer).get("step")
        if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):
            raise nothing_for(
                self.technique,
                f"{name}.step was replaced on the object, by code that would go on calling the old method. Apply the recipe before "
                "that is done.",
            )
        for where, module in self.training.named_modules():
            if isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and module.sparse:
                raise nothing_for(
                    self.technique,
                    f"{where or 'the model'} gives sparse gradients, which {self.kind.__name__} does not take. Make it without "
                    "sparse=True.",
                )

    def _words(self, optimizer: torch.optim.Optimizer) -> list[str]:
        name, groups = type(optimizer).__name__, optimizer.param_groups
        said = []
        if base := base_rate(groups):
            how = "is held at" if self.steady else "becomes"
            said.append(f"{name}: the base learning rate of {base:g} {how} {self.lr:g}; the groups show the script's")
        decays = dict.fromkeys(decay_of(type(optimizer), group) for group in groups)
        if self.weight_decay is None:
            said += [f"{name}: the weight decay of {factor:g} stays" for factor, _ in decays if factor]
        return said

    # -- there -------------------------------------------------------------------------------------------------------

    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn an optimizer, or, while its constructor runs, see to it that it is turned before anything uses it.

        What is left of a constructor is written for its own class. A bound method, as schedulers need it to wrap it.
        """
        if not _under_construction(optimizer):
            self._turn(optimizer)
            return

        def step(mine: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            self._turn(mine)
            return type(mine).step(mine, *args, **kwargs)

        self._waiting.add(optimizer)
        optimizer.step = types.MethodType(step, optimizer)  # type: ignore[method-assign]

    def _turn_all(self) -> None:
        for optimizer in self.training.optimizers:
            if optimizer not in self.before:
                try:
                    if optimizer not in self._waiting:
                        self._check(optimizer)
                    self._turn(optimizer)
                except NothingToDo:  # one that joined later, and cannot be turned: it stays what it is
                    pass

    def _turn(self, optimizer: torch.optim.Optimizer) -> None:
        if self._over or optimizer in self.before:
            return
        self.acted = True
        own = vars(optimizer)
        if optimizer in self._waiting:
            self._waiting.discard(optimizer)
            if not hasattr(own.get("step"), "_wrapped_by_lr_sched"):
                own.pop("step", None)
        kind, groups = type(optimizer), optimizer.param_groups
        self.before[optimizer] = _Before(
            kind,
            dict(optimizer.defaults),
            [{key: value for key, value in group.items() if key != "params"} for group in groups],
            dict(optimizer.state),
            {key: own[key] for key in ("step", _FUSED, *self.attributes) if key in own},
        )
        if not self._is_ours(groups):  # else a checkpoint of this very method was loaded in the meantime
            optimizer.state.clear()
            self._set_numbers(kind, groups)
        optimizer.defaults.update(self._numbers(*decay_of(kind, optimizer.defaults), optimizer.defaults))
        optimizer.__class__ = self.kind
        optimizer._patch_step_function()
        own.pop(_FUSED, None)
        own.update(self.attributes)
        if "step" in own:
            own["step"] = _tracked(optimizer)
        self._hooks.append(optimizer.register_load_state_dict_pre_hook(self._load))

    def _is_ours(self, groups: Iterable[Mapping[str, Any]]) -> bool:
        return all(group.get(_MARK) == self.kind.__name__ for group in groups)

    def _set_numbers(self, kind: type, groups: list[dict[str, Any]]) -> None:
        """Give the groups of an optimizer of that class the new numbers."""
        decays = [decay_of(kind, group) for group in groups]
        top = max((factor for factor, _ in decays), default=0.0)
        base = base_rate(groups)
        for group, (factor, how) in zip(groups, decays, strict=True):
            if self.weight_decay is not None:
                factor = self.weight_decay * (factor / top if top else 1.0)
            elif how == "independent":  # of the base rate, which is another one now
                factor *= base / self.lr
            group.update(self._numbers(factor, how, group), **{_MARK: self.kind.__name__})
            if group.get("lr") is not None:
                group.setdefault("base_lr", float(group["lr"]))

    def _numbers(self, factor: float, how: str, group: Mapping[str, Any]) -> dict[str, Any]:
        """The new numbers of a group."""
        numbers = {**self.numbers, "weight_decay": factor}
        if "decay" in numbers and self.weight_decay is None:
            numbers["decay"] = how
            if "decoupled_weight_decay" in numbers:  # torch's word for it
                numbers["decoupled_weight_decay"] = how != "coupled"
        if "maximize" in numbers:
            numbers["maximize"] = bool(group.get("maximize"))
        if group.get("lr") is None:
            numbers["lr"] = self.lr
        return numbers

    def _load(self, optimizer: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint of the method goes on; of one that the script saved without us the groups are taken, and no state."""
        groups = [dict(group) for group in checkpoint["param_groups"]]
        if self._is_ours(groups):
            return checkpoint
        if checkpoint["state"]:
            warnings.warn(
                f"{self.technique}: the checkpoint was saved with another optimizer. Its state is left out; the new method begins anew.",
                stacklevel=3,
            )
        before = self.before.get(optimizer)
        self._set_numbers(before.kind if before else type(optimizer), groups)
        return {**checkpoint, "param_groups": groups, "state": {}}

    # -- the rate ----------------------------------------------------------------------------------------------------

    def _factor(self, optimizer: torch.optim.Optimizer) -> float:
        """The new base rate over the script's: the largest of its groups, of the first optimizer of that class."""
        before = self.before.get(optimizer)
        if before is None:
            return 1.0
        first = next(o for o in self.training.optimizers if o in self.before and self.before[o].kind is before.kind)
        base = base_rate(first.param_groups)
        if not self.steady:
            return self.lr / base if base else 1.0
        now = max((float(g["lr"]) for g in optimizer.param_groups if g.get("lr") is not None), default=0.0)
        return self.lr * base_rate(optimizer.param_groups) / base / now if base and now else 1.0

    # -- and back ----------------------------------------------------------------------------------------------------

    def undo(self) -> None:
        """Put back what was there."""
        self._over = True
        for stop in self._stops:
            stop()
        for hook in self._hooks:
            hook.remove()
        for optimizer in list(self._waiting):
            if not hasattr(vars(optimizer).get("step"), "_wrapped_by_lr_sched"):
                vars(optimizer).pop("step", None)
        for optimizer, before in list(self.before.items()):
            optimizer.__class__ = before.kind
            optimizer._patch_step_function()
            added = {_MARK, "base_lr", *self._numbers(0.0, "", {})}
            for group, old in zip(optimizer.param_groups, before.groups, strict=False):
                _put_back(group, old, added)
            _put_back(optimizer.defaults, before.defaults, added)
            optimizer.state.clear()
            optimizer.state.update(before.state)
            own = vars(optimizer)
            for key in (_FUSED, *self.attributes):
                own.pop(key, None)
            wrapped = hasattr(own.pop("step", None), "_wrapped_by_lr_sched")
            own.update(before.own)
            if wrapped and "step" not in own:  # a scheduler came meanwhile
                own["step"] = _tracked(optimizer)
        self.before.clear()


def _put_back(numbers: dict[str, Any], old: Mapping[str, Any], added: Iterable[str]) -> None:
    """Undo what we changed; what others have set since stays: rates, and what schedulers remember."""
    for key in added:
        if key in old and (key != "lr" or old[key] is None):
            numbers[key] = old[key]
        elif key not in old:
            numbers.pop(key, None)


def _under_construction(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a constructor of this object is running: the script runner comes while torch's own does."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is optimizer:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _tracked(optimizer: torch.optim.Optimizer) -> Callable[..., Any]:
    """A step for the object itself that stands in for the one of a scheduler: that calls the class which the optimizer had then.

    Like it, it notes that the optimizer was called, for torch's warning about the order of the two, and keeps nothing alive.
    """
    reference = weakref.ref(optimizer)

    def step(*args: Any, **kwargs: Any) -> Any:
        mine: Any = reference()
        mine._opt_called = True
        return type(mine).step(mine, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    return step
