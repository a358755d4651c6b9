"""Following a trial while it runs: its evaluations, and the signs that it has gone wrong."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trimtab.doctor.rules import all_rules
from trimtab.quantities import judged
from trimtab.records import Finding, Metric, RunRecord, Series, TrainingRecord
from trimtab.training import Training
from trimtab.watching import Recorder
from trimtab.watching.budget import Budget
from trimtab.watching.sampler import Sampler

SHARE = 0.02  # of the run's time that the doctor may take
REPORTS = 50  # of a trial at most: more tell a pruner nothing
LOOKS = 20  # of the doctor, and reports where the training loss itself is the metric
RESTS = 0.2  # of the untreated run's steps before the doctor's first look: losses are high at the start of every run
LEAST = 50  # steps before it


@dataclass(frozen=True)
class Live:
    """How closely a trial is followed. All numbers come from the untreated run, so that trials are followed alike.

    Args:
        every: steps between two looks of the doctor, and between two reports where the training loss is the metric.
        rests: steps before the doctor's first look.
        stride: every so many evaluations of the metric make one report.
        known: problems that the untreated run has as well; they are no reason to stop.
    """

    every: int = 10
    rests: int = LEAST
    stride: int = 1
    known: tuple[str, ...] = ()

    @classmethod
    def like(cls, run: RunRecord) -> Live:
        """For trials of a subject whose untreated run is this."""
        assert run.main is not None and run.metric is not None
        steps, evaluations = run.main.steps, len(judged(run, run.metric))
        known = {finding.problem for training in run.trainings for finding in _grave(training)}
        every = max(1, steps // LOOKS)
        rests = max(LEAST, round(RESTS * steps))
        return cls(every, rests, max(1, math.ceil(evaluations / REPORTS)), tuple(sorted(known)))

    def size(self, metric: Metric) -> int:
        """How many values of the metric make one report."""
        return self.every if metric.name == "loss" else self.stride

    def reports(self, series: Series, metric: Metric) -> Series:
        """What a trial with this series of the metric has reported by its end: the training loss as means, others as they are."""
        size = self.size(metric)
        ends = range(size, len(series) + 1, size)
        return Series(
            steps=tuple(series.steps[end - 1] for end in ends),
            values=tuple(_reported(series.values[end - size : end], metric) for end in ends),
        )


@dataclass(frozen=True)
class Report:
    """What a running trial says of itself: its ``number``-th value of the metric, or what went wrong; ``step_seconds`` is the time from
    one of its steps to the next until here. Or, every second, only that it is running: then it has a ``loss``."""

    number: int
    step: int
    value: float = math.nan
    diverged: str = ""
    finding: str = ""
    step_seconds: float = 0.0
    loss: float | None = None


class Pulse:
    """Tells every second that a trial is running."""

    def __init__(self, tell: Callable[[Report], None], every: float = 1.0) -> None:
        self._tell, self._every = tell, every
        self._next = time.monotonic() + every
        self._step = 0

    def step(self, loss: torch.Tensor | None) -> None:
        """A step is over, with this loss."""
        self._step += 1
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._tell(Report(-1, self._step, loss=math.nan if loss is None else float(loss.detach())))


class Pace:
    """The time from one step to the next, on average: that of the processor, which others that run beside it do not lengthen; where an
    accelerator computes, that of the clock."""

    def __init__(self) -> None:
        self._first = self._last = math.nan
        self._steps = 0

    def step(self) -> None:
        """A step is over."""
        self._last = time.perf_counter() if torch.cuda.is_initialized() else time.process_time()
        if not self._steps:
            self._first = self._last
        self._steps += 1

    @property
    def seconds(self) -> float:
        """0 until there were two steps."""
        return (self._last - self._first) / (self._steps - 1) if self._steps > 1 else 0.0


class Follower:
    """Reads the recorder of a running trial after every step, and tells what is new.

    A subject with several trainings is told of by its first one only until a second begins: from there on it is not known which
    of them its metric will be that of.
    """

    def __init__(self, live: Live, metric: Metric, recorder: Recorder, tell: Callable[[Report], None]) -> None:
        self._live, self._metric, self._recorder, self._tell = live, metric, recorder, tell
        self._size = live.size(metric)
        self._reported = 0
        self._next = live.rests
        self._budget = Budget(SHARE, allowance=0.0)
        self._pace = Pace()

    def follow(self, training: Training, sampler: Sampler) -> None:
        """Hear of every step of a training, after the recorder has."""
        training.on("step", self._recorder.guard(lambda loss: self._stepped(sampler)))

    def _stepped(self, sampler: Sampler) -> None:
        self._pace.step()
        if len(self._recorder.samplers) > 1:
            return
        if "first_nonfinite_loss" in sampler.log.facts:
            self._look_at_losses(sampler)
        values, size = (
            sampler.log.series[name][1] if (name := self._metric.name) in sampler.log.series else [],
            self._size,
        )
        while len(values) >= (end := size * (self._reported + 1)):
            value = _reported(values[end - size : end], self._metric)
            self._tell(Report(self._reported, sampler.step, value, step_seconds=self._pace.seconds))
            self._reported += 1
        if sampler.step >= self._next:
            with self._budget.spending():
                self._look(sampler)
            self._next = sampler.step + max(self._live.every, self._budget.late(sampler.step))

    def _look_at_losses(self, sampler: Sampler) -> None:
        """One loss that is not finite may be a batch whose gradients a technique refuses; two in a row are the weights."""
        losses = sampler.log.series["loss"][1][-2:] if "loss" in sampler.log.series else []
        if len(losses) == 2 and not any(map(math.isfinite, losses)):
            self._tell(
                Report(self._reported, sampler.step, diverged=f"the loss is {losses[-1]} at step {sampler.step - 1}")
            )

    def _look(self, sampler: Sampler) -> None:
        sampler.log.settle()  # losses on an accelerator are fetched here only
        self._look_at_losses(sampler)
        for finding in _grave(sampler.record()):
            if finding.problem not in self._live.known:
                said = f"{finding.problem} at step {sampler.step}: {finding.title[0].lower()}{finding.title[1:]}"
                self._tell(Report(self._reported, sampler.step, finding=said))
                return


def _grave(training: TrainingRecord) -> list[Finding]:
    found: list[Finding] = []
    for rule in all_rules():
        if not rule.early:
            continue
        with contextlib.suppress(Exception):  # a rule that cannot judge half a run is no reason to end it
            found += [finding for finding in rule(training) if finding.severity == "error"]
    return found


def _reported(values: Sequence[float], metric: Metric) -> float:
    return sum(values) / len(values) if metric.name == "loss" else values[-1]
