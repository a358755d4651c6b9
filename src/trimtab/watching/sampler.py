"""Looking at one training: every step at its loss and learning rate, on sampled steps at its layers, gradients and updates.

Every tenth step is sampled while the time spent on it stays within 1.5 % of the run (and a tenth of a second to begin with);
beyond that, samples are spread more thinly.

Layers are seen through one global forward hook that is there on sampled steps only. Hooks on the modules themselves would
travel with them: a script that copies, pickles or compiles its model between two steps would copy, pickle or trace them too.
"""

from __future__ import annotations

import math
import re
import statistics
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

import trimtab.signals as signals
from trimtab.members import package_of, said
from trimtab.quantities import Quantity
from trimtab.records import CodePlace, Flow, Layer, Measured, TrainingRecord
from trimtab.signals.signal import norms
from trimtab.structure import children, own, parameters_made, weight
from trimtab.training.apart import has_values, transformed
from trimtab.training.evaluations import accuracy
from trimtab.training.find import is_compiled
from trimtab.training.handle import Training
from trimtab.training.safe import of_script
from trimtab.watching.budget import Budget
from trimtab.watching.flow import FlowReader
from trimtab.watching.guard import Guard, warn
from trimtab.watching.log import Log

FOLLOWED = 250_000  # entries of the gradient: up to here its norm is read on every step
SPIKE = 5.0  # times the median of the last gradient norms
COMPILED = "Code of this run is compiled: layers' outputs are not measured inside it, gradients and updates are."


class Run(Protocol):
    """What the samplers of a run have in common, and whom they tell."""

    every: int
    sampled: bool
    compiled: bool
    guard: Guard

    @property
    def steps(self) -> int: ...
    @property
    def alone(self) -> bool: ...
    def stepped(self, sampler: Sampler) -> None: ...
    def forwarded(self, sampler: Sampler) -> None: ...
    def on_compile(self) -> None: ...


class Sampler:
    """Looks at one training: at every step, and at its signals on sampled steps.

    Args:
        run: what it is a part of.
        training: what is looked at.
        log: where the numbers go.
        budget: the time that looking may take.
        code: where in the code the training begins.
    """

    def __init__(self, run: Run, training: Training, log: Log, budget: Budget, code: CodePlace | None) -> None:
        self.run, self.log, self.code = run, log, code
        self.training = weakref.ref(training)
        self.changes = training.changes
        self.model = " + ".join(type(model).__name__ for model in training.models) or "loose parameters"
        self.optimizers = tuple(type(optimizer).__name__ for optimizer in training.optimizers)
        self.step = 0
        self.epochs: set[int] = set()
        self.log.facts["parameters"] = parameters_made(p for _, p in training.named_parameters())
        self._rates: tuple[float, ...] = ()
        self._weight: tuple[weakref.ref[torch.Tensor], int] | None = (
            None  # one, and how often it had been written after the last step
        )
        self._habit = False  # whether weights are written between steps all along
        self._signals: list[signals.Signal] = []
        for make in signals.all_signals(_is_taken):
            try:
                self._signals.append(make())
            except Exception as error:
                self._leave_out(make, error)
        self._facts = {one.name for signal in self._signals for one in signal.measures if one.of == "training"}
        self._sample: int | None = None  # the step being measured
        self._upcoming: int | None = None  # the step to be measured next: its forward pass has not begun
        self._read_due = False
        self._gradients_of: set[int] = set()  # optimizers whose gradients, and whose steps, this sample has seen
        self._stepped: set[int] = set()
        self._samples = 0
        self._budget, self._next = budget, 0
        self._recent_norms: deque[float] = deque(maxlen=25)
        self._last_norm_at = -1
        self._hook: Any = None
        self._table: dict[int, str] = {}  # names of the modules to measure, by id
        self._seen: set[str] = set()
        self.flow: Flow | None = None
        self._reader: FlowReader | None = None  # until each model's forward pass was seen once
        self.began = self.seen_at = run.steps
        self.has_model = bool(training.models)
        safe = run.guard
        self._stops = [
            training.on("backward", safe(self._on_backward)),
            training.on("gradients", safe(self._look_for_spike)),
            training.on("gradients", safe(self._timed(self._on_gradients))),
            training.on("before_step", safe(self._timed(self._before_step))),
            training.on("after_step", safe(self._timed(self._after_step))),
            training.on("step", safe(self._on_step)),
        ]
        if any(is_compiled(model) for model in training.models):
            run.on_compile()
        if run.sampled:
            safe(self._begin_sample)()

    def _timed(self, call: Callable[..., None]) -> Callable[..., None]:
        def timed(*args: Any) -> None:
            if self._sample is None and self._upcoming is None:
                return
            with self._budget.spending():
                call(*args)

        return timed

    # -- every step --------------------------------------------------------------------------------------------------

    def _on_backward(self) -> None:
        self._habit |= self._rewritten()
        self._timed(self._turn)()

    def _rewritten(self) -> bool:
        """Whether something but the optimizer has written the weights since the last step."""
        weight = self._weight[0]() if self._weight is not None else None
        return weight is not None and self._weight is not None and weight._version != self._weight[1]

    def look_at_weights(self) -> None:
        """Note it when weights are put back after the last step, as the best ones of a run are."""
        if self._rewritten() and not self._habit:
            self.log.facts["restored"] = self.step

    def _on_step(self, loss: torch.Tensor | None) -> None:
        training = self.training()
        if training is None:
            return
        failed = False
        if loss is not None:
            if self._sample is not None:
                self._timed(self._trained)(loss)
            self.log.add("loss", self.step, loss)
            if loss.device.type == "cpu" and not math.isfinite(loss) and "first_nonfinite_loss" not in self.log.facts:
                self.log.facts["first_nonfinite_loss"] = self.step
                failed = True
        weight = next(
            (p for optimizer in training.optimizers for group in optimizer.param_groups for p in group["params"]), None
        )
        self._weight = (weakref.ref(weight), weight._version) if weight is not None else None
        self.log.facts.pop("restored", None)  # training goes on from them
        rates = tuple(training.rates())
        if rates != self._rates:
            self._rates = rates
            for number, rate in enumerate(rates):
                self.log.add("lr" if number == 0 else f"lr {number}", self.step, rate)
        self.unhook()
        self._read_due = self._sample is not None
        self.step += 1
        self.run.stepped(self)
        if self.run.sampled and (failed or (self.step >= self._next and not self._postponed())):
            self._begin_sample()

    def on_training_loss(self, name: str, output: Any, target: Any, value: torch.Tensor) -> None:
        """A loss with gradients was evaluated."""
        self._timed(self._turn)()
        if self._sample is None or not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
            return
        self._timed(self._tell_of_loss)(name, output, target, value)
        hits = accuracy(name, output.detach(), target)
        if hits is not None:
            self.log.add("train accuracy", self.step, hits)

    def _tell_of_loss(self, name: str, output: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        alone = self.run.alone and len(self.optimizers) == 1
        self._ask("loss", name, output, target, value, to=lambda signal: alone or not signal.alone)

    def _trained(self, loss: torch.Tensor) -> None:
        self._ask("trained", loss.detach())

    def _ask(self, moment: str, *what: Any, to: Callable[[signals.Signal], bool] = lambda signal: True) -> None:
        """Give every signal its look; one that fails ends alone."""
        for signal in filter(to, tuple(self._signals)):
            try:
                getattr(signal, moment)(*what)
            except Exception as error:
                self._leave_out(type(signal), error)

    def _leave_out(self, kind: type[signals.Signal], error: Exception) -> None:
        """Go on without a signal that has failed, be it ours or that of another package."""
        if of_script(error):
            raise error
        self._signals = [one for one in self._signals if type(one) is not kind]
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
        part, guard, package = f"the signal {name!r}", self.run.guard, package_of("signals", kind)
        if not package:
            guard.turn_off(error, part)
        elif (part := f"{part} of {package}") not in guard.failed:
            guard.leave_out(part, f"after an error of its own, {said(error)}")
            warn(f"trimtab's watch goes on without {part}, which met an error; so does the training. {said(error)}")

    # -- sampled steps -----------------------------------------------------------------------------------------------

    def _begin_sample(self) -> None:
        """Get ready to measure the step that comes. The last sample stays open until then: see :meth:`_turn`."""
        training = self.training()
        if training is None:
            return
        with self._budget.spending():
            self._upcoming = self.step
            # Optimizers that take turns would meet an even distance always in the same turn.
            self._samples += 1
            shift = self._samples % max(1, len(training.optimizers)) if self.run.every > 1 else 0
            self._next = self.step - self.step % self.run.every + self.run.every + shift
            self._seen = set()
            if not self.run.compiled:
                self._look_at_layers(training)

    def _look_at_layers(self, training: Training) -> None:
        self._table = {
            id(module): name
            for name, module in training.named_modules()
            if not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            and (not children(module) or own(module))
        }
        if self._samples == 1:
            self._reader = FlowReader(training.models, self._table, training.heads)
        self._hook = nn.modules.module.register_module_forward_hook(
            self.run.guard(self._forward, "the outputs of layers")
        )

    def _turn(self) -> None:
        """The next step has begun: close the last sample (another optimizer may have stepped for it until now)."""
        if self._read_due:
            self._read()
        if self._upcoming is not None:
            self._sample, self._upcoming = self._upcoming, None
            self._gradients_of, self._stepped = set(), set()

    def _forward(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        name = self._table.get(id(module))
        if (name is None and self._reader is None) or not torch.is_grad_enabled():
            return
        if torch.compiler.is_compiling():
            self.run.compiled = True
            return
        if transformed():
            return
        if self._reader is not None:
            self._read_flow(module, inputs, output)
        if name is None or name in self._seen:
            return
        tensor = _first_tensor(output)
        if tensor is None or not tensor.requires_grad or not has_values(tensor):
            return
        with self._budget.spending():
            self._turn()
            if self._sample is not None:
                self._seen.add(name)
                self.run.forwarded(self)
                if name not in self.log.layers:
                    self.log.layers[name] = _described(name, module)
                self._ask("forward", name, module, inputs, tensor)

    def _read_flow(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        reader = self._reader
        assert reader is not None
        with self._budget.spending():
            reader.forward(module, inputs, output)
            if reader.done:
                self.flow, self._reader = reader.flow(), None

    def _of(self, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
        training = self.training()
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parameters = training.named_parameters() if training else ()
        own: list[tuple[str, torch.Tensor]] = [(name, p) for name, p in parameters if id(p) in mine]
        measured = [(n, p) for n, p in own if has_values(p) and (p.grad is None or has_values(p.grad))]
        if len(measured) < len(own):
            self.log.note(
                "Some weights are not measured: they are sharded, have no values, or do their operations themselves."
            )
        return measured

    def _look_for_spike(self, optimizer: torch.optim.Optimizer) -> None:
        """Between samples, follow the gradient norm of networks of up to 250 000 parameters; a step on which it is five times
        the median of the last ones becomes a sampled step (from here on: its layers have run already). No budget applies,
        so what is found does not depend on the clock; for larger networks the pass over all gradients would cost too much."""
        self._turn_for(optimizer)
        training = self.training()
        if self._sample is not None or not self.run.sampled or training is None or len(training.optimizers) > 1:
            return
        if self._last_norm_at == self.step or getattr(optimizer, "grad_scale", None) is not None:
            return  # a closure is called again, or a fused optimizer has not unscaled yet
        self._last_norm_at = self.step
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if (
            not grads
            or sum(grad.numel() for grad in grads) > FOLLOWED
            or not all(grad.device.type == "cpu" and not grad.is_sparse and has_values(grad) for grad in grads)
        ):
            return  # on an accelerator the norm would have to be waited for
        norm = math.hypot(*norms(grads))
        if len(self._recent_norms) > 9 and norm > SPIKE * statistics.median(self._recent_norms):
            self._sample, self._gradients_of, self._stepped = self.step, set(), set()
        else:
            self.log.add("grad_norm", self.step, norm)
        self._recent_norms.append(norm)

    def _on_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        self._turn_for(optimizer)
        if self._sample is None or id(optimizer) in self._gradients_of:
            return
        self._gradients_of.add(id(optimizer))
        if getattr(optimizer, "grad_scale", None) is not None:  # a fused optimizer unscales inside its step
            self.log.note("Gradients are not measured: they are still scaled when the fused optimizer takes them.")
            return
        self._ask("gradients", self._of(optimizer))

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._turn_for(optimizer)
        if self._sample is not None:
            self._ask("before_step", self._of(optimizer))

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._stepped.add(id(optimizer))
        if self._sample is not None:
            self._ask("after_step", self._of(optimizer))

    def _turn_for(self, optimizer: torch.optim.Optimizer) -> None:
        # With a closure the step begins before its forward pass. An optimizer that this sample has not seen yet may belong to it.
        if self._sample is None or id(optimizer) in self._stepped:
            self._turn()

    def _read(self) -> None:
        assert self._sample is not None
        for signal in tuple(self._signals):
            try:
                self._keep(signal, self._sample)
            except Exception as error:
                self._leave_out(type(signal), error)
        self._sample, self._read_due = None, False
        if self._postponed():
            self._upcoming = None
            self.unhook()

    def _keep(self, signal: signals.Signal, step: int) -> None:
        declared = {one.name for one in signal.measures}
        for name, value in signal.read().items():
            if name not in declared:
                raise LookupError(f"it reads {name!r}, which its measures do not declare")
            if isinstance(value, Mapping):
                self.log.add_profile(name, step, {key: float(number) for key, number in value.items()})
            elif name in self._facts:
                self.log.know(name, float(value))
            else:
                self.log.add(name, step, value if isinstance(value, torch.Tensor) else float(value))

    def _postponed(self) -> bool:
        """Whether measuring has taken more than its share: then the next sample waits, at the pace of the steps so far."""
        late = self._budget.late(self.step)
        self._next = max(self._next, self.step + late)
        return late > 0

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Read what is still open."""
        if self._read_due:
            self._read()
        self.look_at_weights()
        self.log.settle()

    def release(self) -> None:
        """Take all hooks and listeners off the training."""
        self.unhook()
        for stop in self._stops:
            stop()

    def unhook(self) -> None:
        """Look at no layers for now."""
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._table = None, {}
        if self._reader is not None:
            self._reader.forget()

    def record(self, heads: bool = False) -> TrainingRecord:
        """What is known of this training; with ``heads``, without the measured numbers."""
        training = self.training()
        if (
            training is not None and training.optimizers
        ):  # at the end the script's may be gone, and the handle still there
            self.optimizers = tuple(type(optimizer).__name__ for optimizer in training.optimizers)
        return TrainingRecord(
            name="training" if self.run.alone else f"training {self.log.index + 1}",
            model=self.model,
            optimizers=self.optimizers,
            steps=self.step,
            epochs=len(self.epochs - {0}) or None,
            layers=tuple(self.log.layers.values()),
            series={} if heads else self.log.whole_series(),
            profiles=self.log.whole_profiles(heads),
            facts=dict(self.log.facts),
            code=self.code,
            notes=tuple(self.log.notes + ([COMPILED] if self.run.compiled else [])),
            began=self.began,
            ended=self.seen_at,
            flow=self.flow or (self._reader.flow() if self._reader else None),
        )


MEASURED = (
    Measured("loss", "loss", "The number whose gradient each update applies; lower is better."),
    Measured("accuracy", "accuracy", "Share of right predictions."),
    Measured("lr", "learning rate", "Of the first parameter group, as each step took it."),
    Measured("parameters", "parameters", "Numbers that training can change.", of="training"),
    Measured("first_nonfinite_loss", "first loss that is not finite", "The step that had it.", of="training"),
    Measured(
        "restored",
        "weights put back",
        "The step after which something but the optimizer wrote them, at the end.",
        of="training",
    ),
    Measured("last_saved", "last saved", "The step after which a state was saved last.", of="training"),
)
"""What the sampler measures itself."""


def all_measured() -> tuple[Measured, ...]:
    """What all series and profiles are that are measured here."""
    return (*MEASURED, *(measured for signal in signals.all_signals(_is_taken) for measured in signal.measures))


def _is_taken(name: str) -> bool:
    """Whether a series of that name is the watch's own, or that of a number that the script says."""
    quantity = Quantity.read(name.lower())
    return quantity.source != "measured" or quantity.what in {one.name for one in MEASURED}


def _described(name: str, module: nn.Module) -> Layer:
    parameters = tuple(f"{name}.{key}" if name else key for key, _ in own(module))
    held = weight(module)
    units = int(held.shape[0]) if held is not None and held.ndim else 0
    return Layer(name=name, kind=type(module).__name__, parameters=parameters, units=units)


def _first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()), None)
