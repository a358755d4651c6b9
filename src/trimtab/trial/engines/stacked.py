"""The engine of many seeds: trials of one task that differ in their seeds alone are trained together, in one pass.

Their parameters lie on each other along a new first axis, ``torch.func.vmap`` computes all losses at once, and one optimizer steps for
all of them. A small network keeps a processor busy with calls, not with numbers, and a stack makes the calls of one. Each seed has the
data, the first weights and the order of batches that it has in a trial by itself, and its numbers are those of that trial but for
rounding: what another number of threads would change, too, which can be more where a unit is on the edge of its activation.

Whether a task can be stacked is not believed but tried: the first steps of every seed are made both ways, and compared.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import math
import pickle
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import nn
from torch.func import functional_call, vmap

from trimtab.quantities import Quantity, choose, value
from trimtab.recipe import Recipe, RecipeError
from trimtab.records import Metric, Remark, RunRecord, Series, TrainingRecord, remark
from trimtab.training import Training, shifted
from trimtab.training.loop import Pair, batches, held_out_loss
from trimtab.training.stage import Hearer, stage
from trimtab.trial.engines.engine import Verdict, Written
from trimtab.trial.engines.local import LocalEngine
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result, untreated_trial
from trimtab.trial.subjects import Heard, Here, Task
from trimtab.watching import Ending

MOST = 32  # seeds of a stack
TRIED = 3  # steps that are made both ways
BESIDE = 0.3  # seconds that a trial takes beside its steps
CLOSE = 1e-4  # of the largest entry: what a sum in another order may change
SAME = 1e-6  # of the largest entry: what one step may, from equal weights and gradients
OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "WindowAdadelta", "RMSprop")
"""Those of torch and of ours that move each entry of a weight by itself."""
RANDOM = "random numbers are drawn while it trains"
TRAINED = "seeds"  # what judges a stack: how many it has trained


class StackedEngine(LocalEngine):
    """A :class:`LocalEngine` that trains several seeds of a :class:`~trimtab.trial.subjects.Task` in one process, in one pass.

    Taken together are jobs of one task under the same recipe: untreated, or one that changes only rates and the decay of weights. They are
    taken from ``jobs`` at once, up to ``most`` for each worker. All others run as ever, each in a process of its own, and so do those
    of a task that cannot be stacked: where the forward pass draws random numbers or turns off by what it computes, where an optimizer
    mixes the entries of weights, where the first steps are not those of a trial by itself, or where they take no less time together.
    ``remarks`` says so and why.

    Args:
        workers: processes at a time, as of :class:`LocalEngine`.
        keep_files: leave what each process wrote in ``.trimtab/trials/``.
        most: seeds of a stack at most; their weights and batches have to be in memory together.

    >>> StackedEngine(workers=2).workers
    2
    """

    def __init__(self, workers: int | None = None, keep_files: bool = False, most: int = MOST) -> None:
        super().__init__(workers, keep_files)
        self.most = most
        self._refused: set[str] = set()  # fingerprints of tasks that could not be stacked
        self._why: dict[tuple[str, str], None] = {}  # an ordered set of subjects and reasons

    def run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        stop_at: float = math.inf,
        report: Verdict = lambda job, report: "",
        keep: Callable[[Written], None] = lambda written: None,
    ) -> None:
        """As :meth:`Engine.run`."""
        alone: list[Job] = []

        def ended(job: Job, result: Result) -> None:
            if not isinstance(job.subject, Stack):
                done(job, result)
                return
            try:
                results = job.subject.results(result)
            except CannotStackError as error:
                self._refused.add(job.subject.task.fingerprint())
                self._say(job, str(error))
                alone.extend(job.subject.jobs)
                return
            for one, its in zip(job.subject.jobs, results, strict=True):
                done(one, its)

        def reported(job: Job, said: Report) -> str:
            return "" if isinstance(job.subject, Stack) else report(job, said)  # of no single job

        super().run(self._in_stacks(jobs), ended, stop_at, reported, keep)
        super().run(alone, done, stop_at, report, keep)

    @property
    def remarks(self) -> list[Remark]:
        """What is to be said of how trials were kept apart, and what could not be stacked."""
        return [*super().remarks, *(remark("not_stacked", subject=subject, why=why) for subject, why in self._why)]

    def _in_stacks(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """Stacks of those that can be stacked; the others come as they are."""
        waiting: dict[str, list[Job]] = {}
        for job in jobs:
            if job.watch or self._left_alone(job):
                yield job
                continue
            kind = replace(job, seed=0).key
            alike = waiting.setdefault(kind, [])
            if any(job.seed == one.seed for one in alike):
                yield job
                continue
            alike.append(job)
            if len(alike) == self.most * self.workers:
                yield from self._stacks(waiting.pop(kind), self.workers)
        for alike in waiting.values():
            yield from self._stacks(alike, -(-self.workers // len(waiting)))

    def _stacks(self, jobs: list[Job], parts: int) -> Iterator[Job]:
        parts = max(min(parts, len(jobs) // 2), math.ceil(len(jobs) / self.most))
        for part in (jobs[place::parts] for place in range(parts)):
            yield Stack(tuple(part)).job if len(part) > 1 else part[0]

    def _left_alone(self, job: Job) -> bool:
        if why := _why_not(job):
            self._say(job, why)
        return bool(why) or job.subject.fingerprint() in self._refused

    def _say(self, job: Job, why: str) -> None:
        self._why[job.subject.label, why] = None


class CannotStackError(Exception):
    """Trials that have to run by themselves, with the reason."""


def _reason(error: Exception) -> str:
    """Why a stack could not be trained."""
    said = str(error)
    if isinstance(error, CannotStackError):
        return said
    if "called random operation" in said:
        return RANDOM
    if "data-dependent control flow" in said or ".item() on a Tensor" in said:
        return "what it does depends on what it computes"
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0].split(". ")[0].rstrip(".")


def _why_not(job: Job) -> str:
    """Why a job cannot be part of a stack, as far as can be told before it runs."""
    if type(job.subject) is not Task:
        return "of a Task alone it is known what its model, its data and its loss are"
    if job.live is not None or job.until or job.rising:
        return "trials that are followed while they run, or change their rate all along, have a process of their own"
    try:
        recipe = Recipe.parse(job.recipe)
    except RecipeError as error:
        return str(error)
    for technique in recipe:
        kind = type(technique)
        if not kind.__module__.startswith("trimtab.techniques.") or kind.moment not in ("rate", "decay"):
            return f"{kind.name} may do more than change rates and let weights decay"
    return ""


@dataclass(frozen=True)
class Stack(Here):
    """Trials of one task that differ in their seeds alone, as one subject, and what each came to.

    Of every number it says whose it is: ``"3 val loss"`` is that of seed 3.
    """

    jobs: tuple[Job, ...]

    @property
    def task(self) -> Task:
        """What all of them train."""
        task = self.jobs[0].subject
        assert isinstance(task, Task)
        return task

    @property
    def job(self) -> Job:
        """The job that runs all of them."""
        return replace(self.jobs[0], subject=self, seed=0, metric=Metric(name=TRAINED, goal="max"))

    @property
    def label(self) -> str:
        return self.task.label

    @property
    def folder(self) -> Path:
        return self.task.folder

    @property
    def roots(self) -> tuple[Path, ...]:
        return self.task.roots

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(job.key for job in self.jobs).encode()).hexdigest()[:16]

    def run(self, heard: Heard) -> Ending:
        """Train all seeds; what goes wrong on the way is no result of theirs, which shows when each runs by itself."""
        try:
            self._fit(heard)
        except Exception as error:
            traceback.print_exc()
            return Ending(1, _reason(error), refused=True)
        return Ending()

    def _fit(self, heard: Heard) -> None:
        seeds, (host, trial) = _begun(self.task, [job.seed for job in self.jobs], hosts=2)
        stacked, tried = (Stacked(self.task, seeds, one) for one in (host, trial))
        training = Training([stacked.model], [stacked.optimizer])
        heard.training(training, None)
        stacked.stack()
        kept = _kept(self.task, host.model)
        _try(tried, self.task, self.jobs[0], seeds)
        if _kept(self.task, host.model) != kept:
            raise CannotStackError("its functions keep something from one call to the next")
        before = _drawn()
        heard.evaluated(TRAINED, len(seeds))
        try:
            self._train(stacked, seeds, heard.evaluated)
        finally:  # also where it was to make some steps only
            if _drawn() != before:
                raise CannotStackError(RANDOM)

    def _train(self, stacked: Stacked, seeds: Sequence[Seed], evaluated: Callable[[str, float], None]) -> None:
        """As :func:`trimtab.training.loop.fit` trains each."""
        task, ear = self.task, _Ear()
        losses = [f"{seed.number} loss" for seed in seeds]
        with contextlib.ExitStack() as ends:
            ends.callback(stage.hear(ear))
            for _ in range(task.epochs):
                for places in _epoch(task, seeds):
                    for name, loss in zip(losses, stacked.backward(places).tolist(), strict=True):
                        evaluated(name, loss)
                    stacked.optimizer.step()
                for seed, output in zip(seeds, stacked.held_out_outputs(), strict=True):
                    told = [("val loss", _loss_of(task, seed, output))]
                    stage.close_evaluations()
                    for name, number in ([] if task.measured else told) + ear.taken():
                        evaluated(f"{seed.number} {name}", number)

    def results(self, result: Result) -> list[Result]:
        """What each of the jobs came to.

        Raises:
            CannotStackError: where they have to run by themselves.
        """
        if result.trial.status != "ok":
            raise CannotStackError(result.trial.error)
        (training,) = result.run.trainings
        if said := [name for name in training.series if Quantity.read(name).said]:
            raise CannotStackError(f"it says numbers of its own ({said[0]})")
        results = []
        for job in self.jobs:
            run = _run_of(job, result.run, training, len(self.jobs))
            trial = untreated_trial(job, run)
            if trial.status not in ("ok", "diverged"):
                raise CannotStackError(trial.error)
            if trial.status == "ok":  # what is said of the recipe holds for each of the seeds
                trial = structs.replace(trial, applied=result.trial.applied, error=result.trial.error)
            results.append(replace(result, trial=trial, run=run))
        return results


def _run_of(job: Job, run: RunRecord, training: TrainingRecord, seeds: int) -> RunRecord:
    """The record of one seed, as that of a run by itself."""
    own = f"{job.seed} "
    said = {name.removeprefix(own): series for name, series in training.series.items() if name.startswith(own)}
    rates = {name: series for name, series in training.series.items() if name.split()[0] == "lr"}
    loss = said.pop("loss", Series())
    facts = {**training.facts}
    for step, number in zip(loss.steps, loss.values, strict=True):
        if not math.isfinite(number):
            facts["first_nonfinite_loss"] = step
            break
    training = structs.replace(training, series={"loss": loss, **rates, **said}, facts=facts)
    run = structs.replace(
        run, trainings=(training,), latest=dict.fromkeys(said, 0), seconds=run.seconds / seeds, metric=None, reached=math.nan,
    )  # fmt: skip
    metric = choose(run, job.asked)
    return run if metric is None else structs.replace(run, metric=metric, reached=value(run, metric))


# -- in the worker ---------------------------------------------------------------------------------------------------


@dataclass
class Seed:
    """What the trial of one seed begins with; ``order`` draws its batches."""

    number: int
    train: Pair
    held_out: Pair
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it begins with, in numbers."""
        return [*self.train, *self.held_out, *self.model.parameters(), *self.model.buffers(), self.order.get_state()]


def _begun(task: Task, numbers: Sequence[int], hosts: int) -> tuple[list[Seed], list[Seed]]:
    """Each seed as its trial begins, and the first made some more times, to host stacks: what it has then must not come of those in between."""
    seeds: list[Seed] = []
    ear, optimizers = _Ear(), list[torch.optim.Optimizer]()
    for number in (*numbers, *[numbers[0]] * hosts):
        optimizers.clear()
        with contextlib.ExitStack() as ends:
            ends.callback(stage.hear(ear))
            ends.callback(stage.taps.listen("optimizer", optimizers.append))
            with shifted(number):
                (train, held_out), model, optimizer = task.made()
                order = torch.Generator().set_state(torch.get_rng_state())
            stage.close_evaluations(over=True)
        if ear.taken() or len(optimizers) != 1 or optimizers[0] is not optimizer:
            raise CannotStackError("something else is trained or evaluated before")
        if not all(isinstance(one, torch.Tensor) for one in (*train, *held_out)):
            raise CannotStackError("its data are not tensors")
        first = (seeds[0].train, seeds[0].held_out) if seeds else (None, None)
        train, held_out = map(_own, (train, held_out), first)
        seeds.append(Seed(number, train, held_out, model, optimizer, order))
    seeds, made_again = seeds[: len(numbers)], seeds[len(numbers) :]
    for one in made_again:
        if len(one.tensors) != len(seeds[0].tensors) or not all(map(_equal, seeds[0].tensors, one.tensors)):
            raise CannotStackError("its functions give something else when they are called once more in a process")
    return seeds, made_again


def _own(pair: Pair, first: Pair | None) -> Pair:
    """Tensors that nobody else writes to; those of the first seed, where they are the same."""
    if first is None:
        return pair[0].clone(), pair[1].clone()
    inputs, targets = (of if _equal(one, of) else one.clone() for one, of in zip(pair, first, strict=True))
    return inputs, targets


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


class Stacked:
    """The models of all seeds in one: ``host``, one more of them. Its parameters are stacked by :meth:`stack`, in place: who has looked at
    them before, an optimizer or a technique, has found what each model has, and goes on with all.

    Attributes:
        model: has the parameters, and is never called: its copy is.
        optimizer: the host's own.
    """

    def __init__(self, task: Task, seeds: Sequence[Seed], host: Seed) -> None:
        for seed in seeds:
            _check(seed, seeds[0])
        self.model, self.optimizer = host.model, host.optimizer
        self._seeds = seeds
        self._called = called = copy.deepcopy(host.model)
        self._parameters, self._buffers = dict(host.model.named_parameters()), dict(host.model.named_buffers())
        self._inputs, inputs = _joined([seed.train[0] for seed in seeds])
        self._targets, targets = _joined([seed.train[1] for seed in seeds])
        self._held_out, held_out = _joined([seed.held_out[0] for seed in seeds])
        self._own, self._rows = (inputs is not None, targets is not None), torch.arange(len(seeds)).unsqueeze(1)

        def output(parameters: Any, buffers: Any, x: torch.Tensor) -> torch.Tensor:
            return functional_call(called, (parameters, buffers), (x,))

        self._losses = vmap(lambda parameters, buffers, x, y: task.loss(output(parameters, buffers, x), y))
        self._outputs = vmap(output, in_dims=(0, 0, held_out))

    def stack(self) -> None:
        """Put the parameters and buffers of all seeds, and what their optimizers keep of them, in the place of the host's."""
        models = [seed.model for seed in self._seeds]
        parameters = [dict(model.named_parameters()) for model in models]
        buffers = [dict(model.named_buffers()) for model in models]
        for name, host in self._parameters.items():
            kept = [seed.optimizer.state.get(of[name], {}) for seed, of in zip(self._seeds, parameters, strict=True)]
            for key in (key for key in kept[0] if key != "step"):
                self.optimizer.state[host][key] = torch.stack([state[key] for state in kept])
            host.data = torch.stack([of[name].detach() for of in parameters])
        self._buffers = {name: torch.stack([of[name] for of in buffers]) for name in self._buffers}

    def backward(self, places: torch.Tensor) -> torch.Tensor:
        """Put the gradients of one batch in place; the loss of each seed. ``places`` are those of the samples, (seeds, batch)."""
        self._called.train()
        self.optimizer.zero_grad()
        x, y = (
            data[self._rows, places] if own else data[places]
            for data, own in zip((self._inputs, self._targets), self._own, strict=True)
        )
        losses = self._losses(self._parameters, self._buffers, x, y)
        losses.backward(torch.ones_like(losses))  # their sum would be taken for the loss of the training
        return losses.detach()

    def held_out_outputs(self) -> torch.Tensor:
        """What each seed gives for the data that it is not trained on."""
        self._called.eval()
        with torch.no_grad():
            return self._outputs(self._parameters, self._buffers, self._held_out)

    def of(self, place: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """The parameters of one seed and their gradients, and its buffers."""
        for name, one in self._parameters.items():
            yield name, one.detach()[place], None if one.grad is None else one.grad[place]
        for name, buffer in self._buffers.items():
            yield name, buffer[place], None


def _joined(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int | None]:
    """The one tensor that all seeds have, or theirs along a new first axis; and that axis."""
    if all(one is tensors[0] for one in tensors):
        return tensors[0], None
    return torch.stack(list(tensors)), 0


def _check(seed: Seed, first: Seed) -> None:
    """Refuse what a stack would not do as the seed does by itself."""
    model, optimizer, kind = seed.model, seed.optimizer, type(seed.optimizer)
    if _shape(seed) != _shape(first):
        raise CannotStackError("its models or its optimizers differ from seed to seed")
    hooks: list[Any] = [one._backward_hooks or one._backward_pre_hooks for one in model.modules()]
    hooks += [one._backward_hooks or one._post_accumulate_grad_hooks for one in model.parameters()]
    hooks += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, "step" in vars(optimizer)]
    if any(hooks):
        raise CannotStackError("something is hooked into its gradients or its steps")
    if kind.__name__ not in OPTIMIZERS or not kind.__module__.startswith(("torch.optim.", "trimtab.optim.")):
        raise CannotStackError(f"{kind.__name__} is not known to move each entry of a weight by itself")
    if any(group.get("nonfinite", "mask") != "mask" for group in optimizer.param_groups):
        raise CannotStackError(f"its {kind.__name__} leaves out whole steps")
    known = {id(one) for one in model.parameters()}
    if not all(id(one) in known for group in optimizer.param_groups for one in group["params"]):
        raise CannotStackError(f"its {kind.__name__} trains tensors that are no parameters of the model")


def _shape(seed: Seed) -> tuple:
    """What has to be the same for all seeds of a stack."""
    parameters = {id(one): name for name, one in seed.model.named_parameters()}
    groups = [
        {**group, "params": [parameters.get(id(one)) for one in group["params"]]}
        for group in seed.optimizer.param_groups
    ]
    tensors = [
        (name, one.shape, one.dtype, one.device, one.requires_grad)
        for name, one in (*seed.model.named_parameters(), *seed.model.named_buffers())
    ]
    return type(seed.optimizer), groups, tensors


def _epoch(task: Task, seeds: Sequence[Seed]) -> Iterator[torch.Tensor]:
    """The places of the samples of each batch, (seeds, batch), each seed's in its own order."""
    drawn = [batches(len(seed.train[0]), task.batch_size, seed.order) for seed in seeds]
    return map(torch.stack, zip(*drawn, strict=True))


def _try(stacked: Stacked, task: Task, job: Job, seeds: Sequence[Seed]) -> None:
    """Make the first steps of every seed both ways, and evaluate it. The models of the seeds, which are not used any more, go along.

    Losses and gradients come of equal weights, and steps of equal gradients, so that each may differ by its own rounding only.
    """
    before, orders = _drawn(), [seed.order.get_state() for seed in seeds]
    pairs = [(one.model, one.optimizer) for one in seeds] + [(stacked.model, stacked.optimizer)]
    trainings = [Training([model], [optimizer]).apply(job.recipe) for model, optimizer in pairs if job.recipe]
    stacked.stack()
    ours, theirs = _Clock(), _Clock()
    for places in itertools.islice(_epoch(task, seeds), TRIED):
        with ours:
            losses = stacked.backward(places)
        for place, seed in enumerate(seeds):
            with theirs:
                seed.model.train()
                seed.optimizer.zero_grad()
                inputs, targets = (one[places[place]] for one in seed.train)
                loss = task.loss(seed.model(inputs), targets)
                loss.backward()
            _compare("loss", losses[place], loss.detach(), CLOSE)
            its = dict(seed.model.named_parameters())
            scale = max((_largest(one.grad) for one in its.values() if one.grad is not None), default=0.0)
            for name, _, gradient in stacked.of(place):
                if name in its:
                    _compare(f"gradient of {name}", gradient, its[name].grad, CLOSE, scale)
                    its[name].grad = None if gradient is None else gradient.clone()
            seed.optimizer.step()
        stacked.optimizer.step()
        for place, seed in enumerate(seeds):
            weights, others = dict(seed.model.named_parameters()), dict(seed.model.named_buffers())
            for name, tensor, _ in stacked.of(place):
                _compare(name, tensor, weights.get(name, others.get(name)), SAME if name in weights else CLOSE)
    for seed, output in zip(seeds, stacked.held_out_outputs(), strict=True):
        seed.model.eval()
        by_itself = held_out_loss(seed.model, seed.held_out, task.loss)
        _compare("held-out loss", torch.tensor(_loss_of(task, seed, output)), torch.tensor(by_itself), CLOSE)
    for training in trainings:
        training.close()
    if _drawn() != before:
        raise CannotStackError(RANDOM)
    whole = task.epochs * math.ceil(len(seeds[0].train[0]) / task.batch_size)
    steps = min(whole, job.steps or whole)
    if steps * ours.shortest > len(seeds) * (BESIDE + steps * theirs.shortest):
        raise CannotStackError("its steps take no less time together than one after the other")
    for seed, order in zip(seeds, orders, strict=True):
        seed.order.set_state(order)


def _compare(
    what: str, ours: torch.Tensor | None, theirs: torch.Tensor | None, share: float, scale: float = 0.0
) -> None:
    """Refuse numbers that differ by more than a share of their largest entry, or of ``scale``."""
    if ours is None and theirs is None:
        return
    if ours is not None and theirs is not None and ours.shape == theirs.shape:
        bound = share * max(scale, _largest(theirs))
        if torch.allclose(ours.detach().double(), theirs.detach().double(), rtol=0.0, atol=bound, equal_nan=True):
            return
    raise CannotStackError(f"stacked, its {what} is another one in the first steps")


class _Clock:
    """The shortest of several times, of the processor: the first one of something has more to do."""

    shortest = math.inf

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.shortest = min(self.shortest, time.process_time() - self._began)


def _largest(tensor: torch.Tensor) -> float:
    """The largest finite entry, by its size."""
    return tensor.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if tensor.numel() else 0.0


def _loss_of(task: Task, seed: Seed, output: torch.Tensor) -> float:
    """The held-out loss of one seed, from what its model gives."""
    return held_out_loss(lambda inputs: output, seed.held_out, task.loss)


class _Ear(Hearer):
    """Hears what is measured at an evaluation."""

    def __init__(self) -> None:
        self._heard: list[tuple[str, float]] = []

    def evaluation(self, training: Any, name: str, value: float) -> None:
        self._heard.append((name, value))

    def taken(self) -> list[tuple[str, float]]:
        """What was heard since this was asked last."""
        heard, self._heard = self._heard, []
        return heard


def _kept(task: Task, model: nn.Module) -> tuple:
    """What the functions of a task may count on: the state of what can be called, and the numbers of the modules that they are from."""
    called = [getattr(one, "func", one) for one in (task.model, task.data, task.loss, task.optimizer)]
    names = {getattr(one, "__module__", "") for one in (*called, *(type(part) for part in model.modules()))}
    modules = [vars(sys.modules[name]) for name in sorted(names & sys.modules.keys())]
    return pickle.dumps(task), [{key: of for key, of in one.items() if isinstance(of, (int, float))} for one in modules]


def _drawn() -> tuple:
    """Where the random generators stand that all code of this process shares."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2], torch.get_rng_state().numpy().tobytes()
