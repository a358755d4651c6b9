"""What the optimizers here have in common: decay, maximization, look-ahead points, gradients that are not finite, kernels."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here and now: a second

from trimtab._kernels import FORCED, Kernel, Op, compiled, kernels
from trimtab.optim.weight_decay import check_decay, scheduled_base_lr
from trimtab.values import as_number

GROUP = "optimization"
NONFINITE = ("mask", "skip", "raise")
USER = 6  # the stack level of a warning that shall name the line of optimizer.step(): torch wraps four functions around step
_CANNOT = {
    "capturable": "a step asks how often each parameter has moved, which a CUDA graph cannot be asked.",
    "differentiable": "steps are not recorded for gradients.",
}
_ONE = torch.tensor(1.0, device="cpu")  # a number would be made a tensor for each step counter anew
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # others may not be memory at all
Tensors = list[torch.Tensor]
Numbers = dict[str, float]


class Optimizer(torch.optim.Optimizer, ABC):
    r"""Base of the optimizers here. A member gives its state, its numbers, and its formula over lists of tensors.

    What every member does:

    * ``weight_decay`` of one of three kinds, as :func:`weight_decay_` has them: ``decay="coupled"`` (into the gradient),
      ``"decoupled"`` (times the learning rate) or ``"independent"`` (of the base rate: ``initial_lr`` of a scheduler, else the rate
      that the group was made with).
    * ``maximize=True`` climbs.
    * ``nonfinite`` says what becomes of a gradient that is not finite, with a warning or an error, never in silence: ``"mask"``
      leaves those entries as they are, weight and state; ``"skip"`` leaves out the whole step; ``"raise"`` raises
      ``FloatingPointError``. Each reads all gradients once more, except for "mask" in the kernel, which costs nothing.
    * closures, parameter groups, and state_dicts whose tensors and settings have the names of torch's, so that either loads the
      other's, those of old versions too.
    * torch's flags: ``foreach`` and ``fused`` are taken and change nothing, for there is one way to compute here (a
      ``GradScaler`` unscales before the step); ``capturable=True`` and ``differentiable=True`` are refused. A checkpoint of
      torch's that was saved with them goes on without.

    float32 on the processor is computed by a kernel in one pass over parameters, gradients and state; everything else
    by torch's multi-tensor operations, in the type of the parameters.
    """

    kernel: ClassVar[str] = ""
    counts: ClassVar[bool] = (
        True  # whether the formula needs the number of the step; else it knows the first from later ones
    )

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.check(defaults)
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse settings, of all groups or of one, that cannot be."""
        name = type(self).__name__
        for key in ("lr", "weight_decay", "eps", "lr_decay", "initial_accumulator_value"):
            if key in group and not 0 <= checked_number(name, key, group[key]) < math.inf:
                raise ValueError(f"{name}: {key}={group[key]} must be {'finite' if group[key] > 0 else '0 or more'}.")
        check_decay(name, group["decay"], "decay")
        if group["nonfinite"] not in NONFINITE:
            raise ValueError(
                f"{name}: nonfinite={group['nonfinite']!r} must be one of {', '.join(map(repr, NONFINITE))}."
            )
        for flag, why in _CANNOT.items():
            if group.get(flag):
                raise ValueError(f"{name}: {flag}=True is not possible: {why} Leave it out, or take torch.optim's.")

    # -- what a member gives -----------------------------------------------------------------------------------------

    @abstractmethod
    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the state tensors of each parameter in this group, in the order in which the kernel takes them."""

    @abstractmethod
    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        """What the formula needs at the ``step``-th step of a parameter (from 1), by the names of the kernel's arguments."""

    @abstractmethod
    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        """The formula: move the parameters and their state in place. Gradients are not to be written to."""

    def begin(self, group: Mapping[str, Any], slot: str, parameter: torch.Tensor) -> torch.Tensor:
        """A state tensor before the first step."""
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)

    # -- the step ----------------------------------------------------------------------------------------------------

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # read from a checkpoint of torch's own, or of an earlier version
            if group.get("decoupled_weight_decay"):
                group.setdefault("decay", "decoupled")
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            group.setdefault("base_lr", float(group["lr"]))
        for known in self.state.values():
            step = known.get("step") if isinstance(known, dict) else None
            if step is not None and not (isinstance(step, torch.Tensor) and step.is_cpu and step.dtype is _ONE.dtype):
                # a number in torch before 1.12; on the parameter's device where torch's was fused or captured
                known["step"] = torch.tensor(float(step), dtype=_ONE.dtype, device="cpu")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; the group remembers its rate as the base of independent weight decay."""
        if isinstance(param_group, dict):
            if "decoupled_weight_decay" in param_group and "decay" not in param_group:
                param_group["decay"] = "decoupled" if param_group["decoupled_weight_decay"] else "coupled"
            self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if "decoupled_weight_decay" in group:
            group["decoupled_weight_decay"] = group["decay"] != "coupled"
        group.setdefault("base_lr", float(group["lr"]))

    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: zeroes the gradients, computes the loss, calls backward and returns the loss. Needed only for gradients
                at a look-ahead point.

        Raises:
            FloatingPointError: for gradients that are not finite, with ``nonfinite="raise"``; nothing has moved then.
            ValueError: for sparse gradients, and without a closure where one is needed.
        """
        loss = None
        if closure is not None:
            moved = self._go_ahead()
            try:
                with torch.enable_grad():
                    loss = closure()
                for parameter, value, coupled in moved:  # the penalty's gradient belongs to the same point
                    if coupled and parameter.grad is not None:
                        parameter.grad.add_(parameter - value, alpha=coupled)
            finally:
                for parameter, value, _ in moved:
                    parameter.copy_(value)
        elif any(group["lookahead"] for group in self.param_groups if "lookahead" in group):
            raise ValueError(
                f"{type(self).__name__}(lookahead=True) takes the gradient at the point ahead, so it computes the loss itself: "
                "call optimizer.step(closure), where closure() zeroes the gradients, computes the loss, calls backward and returns it."
            )
        name = type(self).__name__
        chosen: list[Tensors] = []
        for group in self.param_groups:
            chosen.append([])
            for p in group["params"]:
                if (g := p.grad) is None:
                    continue
                if g.is_sparse:  # before anything has moved
                    raise ValueError(
                        f"{name} got a sparse gradient for a parameter of shape {tuple(p.shape)}. Make its layer without "
                        "sparse=True, or give it to torch.optim.SparseAdam."
                    )
                chosen[-1].append(p)
        if not self._allowed(chosen):
            warnings.warn(
                f"{name}: the gradient is not finite; the step was left out.", RuntimeWarning, stacklevel=USER
            )
            return loss
        masked = 0
        for group, params in zip(self.param_groups, chosen, strict=True):
            for step, lists in self._by_age(group, params).items():
                masked += self._move(group, lists, step)
        if masked:
            entries = sum(p.numel() for params in chosen for p in params)
            warnings.warn(
                f"{name}: {masked} of {entries} entries of the gradient were not finite. Their weights and state were left as they "
                "are; find the cause (trimtab watch), or give nonfinite='skip' or 'raise'.",
                RuntimeWarning,
                stacklevel=USER,
            )
        return loss

    def _allowed(self, chosen: list[Tensors]) -> bool:
        """Whether a step is to be made, for those groups that ask for all or nothing."""
        for group, params in zip(self.param_groups, chosen, strict=True):
            if group["nonfinite"] != "mask" and not _all_finite([p.grad for p in params if p.grad is not None]):
                if group["nonfinite"] == "raise":
                    raise FloatingPointError(
                        f"{type(self).__name__}: the gradient is not finite; no weight has moved. Find the cause with trimtab watch."
                    )
                return False
        return True

    def _by_age(self, group: Mapping[str, Any], params: Tensors) -> dict[int, list[Tensors]]:
        """Parameters, their gradients and their state tensors, by the number of the step that this is for them.

        State is made where there is none. One pass: with many small tensors this is what a step takes.
        """
        slots, counts, states = self.slots(group), self.counts, self.state
        rows: list[Tensors] = []
        steps: Tensors = []
        ages: list[float] = []
        for p in params:
            row: Tensors = [p, p.grad]  # type: ignore[list-item]
            age = 2
            if slots or counts:
                state = states[p]
                for slot in slots:
                    tensor = state.get(slot)
                    if tensor is None:
                        tensor = state[slot] = self.begin(group, slot, p)
                        age = 1
                    row.append(tensor)
                if counts:
                    if "step" not in state:
                        state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                    steps.append(state["step"])
            rows.append(row)
            ages.append(age)
        if steps:
            torch._foreach_add_(steps, _ONE, alpha=1.0)
            ages = [step.item() for step in steps]
        found: dict[int, list[Tensors]] = defaultdict(list)
        for row, number in zip(rows, ages, strict=True):
            found[int(number)].append(row)
        return {age: [list(tensors) for tensors in zip(*same, strict=True)] for age, same in found.items()}

    def _move(self, group: Mapping[str, Any], lists: list[Tensors], step: int) -> int:
        """Move parameters of one age; gives the number of entries that were left out."""
        n = {"sign": -1.0 if group["maximize"] else 1.0, **_decay(group), **self.numbers(group, step)}
        if self.kernel and (by := STEP.serving(lists)) is not None:
            weights, gradients, *states = ([t.data_ptr() for t in tensors] for tensors in lists)
            return by.forward(
                rule=self.kernel,
                weights=weights,
                gradients=gradients,
                states=states,
                counts=[p.numel() for p in lists[0]],
                numbers=n,
                threads=torch.get_num_threads(),
            )
        masked = 0
        for same in _alike(lists[0]):
            params, grads, *slots = ([_real(tensors[i]) for i in same] for tensors in lists)
            masked += self._move_alike(params, grads, dict(zip(self.slots(group), slots, strict=True)), n)
        return masked

    def _move_alike(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> int:
        """Move parameters of one device and type by torch's operations."""
        kept = [] if _all_finite(grads) else _masks(params, grads, state)
        if n["sign"] < 0:
            grads = list(torch._foreach_neg(grads))
        if n["coupled"]:
            grads = list(torch._foreach_add(grads, params, alpha=n["coupled"]))
        if n["shrink"] != 1:
            torch._foreach_mul_(params, n["shrink"])
        self.move(params, grads, state, n)
        for tensor, before, finite in kept:
            tensor.copy_(torch.where(finite, tensor, before))
        masks = {id(finite): finite for *_, finite in kept}
        return sum(int((~finite).sum()) for finite in masks.values())

    def _go_ahead(self) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Go to the points where gradients are wanted; gives the parameters, the values to come back to, and the coupled decay."""
        moved = []
        for group in self.param_groups:
            if not group.get("lookahead"):
                continue
            share = float(group["momentum"]) * (1.0 if group["lr_in_momentum"] else float(group["lr"]))
            coupled = _decay(group)["coupled"] * (-1.0 if group["maximize"] else 1.0)
            for p in group["params"]:
                buffer = self.state[p].get("momentum_buffer") if p in self.state else None
                if buffer is not None:
                    moved.append((p, p.clone(), coupled))
                    p.sub_(buffer, alpha=share)
        return moved


def checked_number(name: str, key: str, value: Any) -> float:
    """A setting that must be one number, as a number or as a tensor."""
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ValueError(f"{name}: {key} must be one number; got a tensor of shape {tuple(value.shape)}.")
    found = as_number(value)
    if math.isnan(found) and not isinstance(value, (float, torch.Tensor)):
        raise ValueError(f"{name}: {key}={value!r} must be a number.")
    return found


def check_shares(name: str, key: str, shares: Any, many: int = 1) -> None:
    """Refuse what is not a share of something old that stays, from 0 to below 1, or not so many of them."""
    given = shares if many > 1 and isinstance(shares, (tuple, list)) else [shares]
    if len(given) != many:
        raise ValueError(f"{name}: {key}={shares} must be {many} numbers, each at least 0 and below 1.")
    if not all(0 <= checked_number(name, key, one) < 1 for one in given):
        raise ValueError(f"{name}: {key}={shares} must {'each ' * (many > 1)}be at least 0 and below 1.")


def _decay(group: Mapping[str, Any]) -> Numbers:
    factor, rate = float(group["weight_decay"]), float(group["lr"])
    if group["decay"] == "coupled":
        return {"coupled": factor, "shrink": 1.0}
    if group["decay"] == "independent" and factor:
        base = scheduled_base_lr(dict(group)) or group["base_lr"]
        rate = rate / base if base else 0.0
    return {"coupled": 0.0, "shrink": 1 - rate * factor}


def _all_finite(grads: Tensors) -> bool:
    grads = [g for g in grads if g.numel()]  # an empty tensor has no largest entry
    norms = [torch._foreach_norm([grads[i] for i in same], float("inf")) for same in _alike(grads)]
    return all(bool(torch.isfinite(torch.stack(some)).all()) for some in norms)


def _masks(
    params: Tensors, grads: Tensors, state: dict[str, Tensors]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For every tensor that a gradient with bad entries would move: the tensor, a copy, and which entries may move."""
    kept = []
    for number, (p, g) in enumerate(zip(params, grads, strict=True)):
        finite = torch.isfinite(g)
        if not bool(finite.all()):
            for tensor in (p, *(tensors[number] for tensors in state.values())):
                kept.append((tensor, tensor.clone(), finite))
    return kept


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of numbers, which is what the formulas are about."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _alike(tensors: Tensors) -> list[list[int]]:
    """The numbers of the tensors by device and type."""
    found: dict[tuple, list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        found[tensor.device, tensor.dtype].append(number)
    return list(found.values())


def _why_no_kernel(lists: list[Tensors]) -> str:
    """Why the compiled kernel cannot walk over all of them in one order: they must be float32 on the CPU, dense, of one layout.

    Of parameters, gradients and states; a state is of the kind of its parameter.
    """
    if kernels is None:
        return "it was not built"
    if FORCED == "torch":
        return "TRIMTAB_BACKEND=torch turns it off"
    wanted, plain = torch.float32, True
    for number, tensors in enumerate(lists):
        for t in tensors:
            if t.dtype is not wanted:
                return "it computes in float32"
            if not t.is_cpu:
                return "a tensor is not on the CPU"
            if number < 2 and type(t) not in _PLAIN:
                return "a parameter or a gradient is of a class of its own"
            plain = plain and t.is_contiguous()
    alike = plain or all(
        t.stride() == p.stride() and p.is_contiguous(memory_format=torch.channels_last)
        for p, *others in zip(*lists, strict=True)
        for t in others
        if not (t.is_contiguous() and p.is_contiguous())
    )
    return "" if alike else "tensors are laid out differently in memory"


STEP = Op(
    "optimizer_step",
    {"cpu": Kernel(_why_no_kernel, compiled("optimizer_step"))},
    probe=lambda x: ([[x], [x]],),
)
