"""The engine of many seeds: trials of one task that differ in their seeds alone are trained together, in one pass.

Their parameters lie on each other along a new first axis, ``torch.func.vmap`` computes all losses at once, and one optimizer steps for
all of them. A small network keeps a processor busy with calls, not with numbers, and a stack makes the calls of one. Each seed has the
data, the first weights and the order of batches that it has in a trial by itself, and its numbers are those of that trial but for
rounding: what another number of threads would change, too, which can be more where a unit is on the edge of its activation.

Whether a task can be stacked is not believed but tried: the first steps of every seed are made both ways, and compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from trimtab.quantities import Quantity, choose, value
from trimtab.recipe import Recipe, RecipeError
from trimtab.records import Metric, Remark, RunRecord, Series, TrainingRecord, remark
from trimtab.training import Training
from trimtab.training.stage import stage
from trimtab.trial.engines.engine import OnReport, Written
from trimtab.trial.engines.local import LocalEngine
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result, untreated_trial
from trimtab.trial.stack import (
    RANDOM,
    CannotStackError,
    Ear,
    Seed,
    Stacked,
    begun,
    drawn,
    epoch,
    kept_by,
    loss_of,
    try_both_ways,
)
from trimtab.trial.subjects import Heard, Here, Task
from trimtab.watching import Ending

MOST = 32  # seeds of a stack
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
        report: OnReport = lambda job, report: "",
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
    if job.live is not None or job.until or job.probe:
        return "trials that are followed while they run, or end after a few steps, have a process of their own"
    if job.varies:
        return "where seeds move only a part of what is random, each trial has a process of its own"
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
        seeds, (host, trial) = begun(self.task, [job.seed for job in self.jobs], hosts=2)
        stacked, tried = (Stacked(self.task, seeds, one) for one in (host, trial))
        training = Training([stacked.model], [stacked.optimizer])
        heard.training(training, None)
        stacked.stack()
        before = kept_by(self.task, host.model)
        try_both_ways(tried, self.task, self.jobs[0], seeds)
        if kept_by(self.task, host.model) != before:
            raise CannotStackError("its functions keep something from one call to the next")
        numbers = drawn()
        heard.evaluated(TRAINED, len(seeds))
        try:
            self._train(stacked, seeds, heard.evaluated)
        finally:  # also where it was to make some steps only
            if drawn() != numbers:
                raise CannotStackError(RANDOM)

    def _train(self, stacked: Stacked, seeds: Sequence[Seed], evaluated: Callable[[str, float], None]) -> None:
        """As :func:`trimtab.training.loop.fit` trains each."""
        task, ear = self.task, Ear()
        losses = [f"{seed.number} loss" for seed in seeds]
        with contextlib.ExitStack() as ends:
            ends.callback(stage.hear(ear))
            for _ in range(task.epochs):
                for places in epoch(task, seeds):
                    for name, loss in zip(losses, stacked.backward(places).tolist(), strict=True):
                        evaluated(name, loss)
                    stacked.optimizer.step()
                for seed, output in zip(seeds, stacked.held_out_outputs(), strict=True):
                    told = [("val loss", loss_of(task, seed, output))]
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
    made = sum(step < training.steps for step in loss.steps)  # where the run was ended, the last one was of no step
    loss = Series(steps=loss.steps[:made], values=loss.values[:made])
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
