"""Following a trial while it runs: its evaluations, and the signs that it has gone wrong."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.doctor.rules.exploding_gradient import exploding_gradient
from trimtab.doctor.rules.lr_too_high import lr_too_high
from trimtab.quantities import judged
from trimtab.records import Finding, Metric, RunRecord, Series, TrainingRecord
from trimtab.training import Recorder, Training
from trimtab.training.watch import Watch

SHARE = 0.02  # of the run's time that the doctor may take
REPORTS = 50  # of a trial at most: more tell a pruner nothing
LOOKS = 20  # of the doctor, and reports where the training loss itself is the metric
RESTS = 0.2  # of the untreated run's steps before the doctor's first look: losses are high at the start of every run
LEAST = 50  # steps before it

# Only what no later step mends: these weights are torn, or wander about. Both rules need a loss that shows it.
_RULES = (exploding_gradient, lr_too_high)


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
    """What a running trial says of itself: its ``number``-th value of the metric, or what went wrong."""

    number: int
    step: int
    value: float = math.nan
    diverged: str = ""
    finding: str = ""


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
        self._spent, self._began = 0.0, time.perf_counter()

    def follow(self, training: Training, watch: Watch) -> None:
        """Hear of every step of a training, after the recorder has."""
        training.on("step", self._recorder.guarded(lambda loss: self._stepped(watch)))

    def _stepped(self, watch: Watch) -> None:
        if len(self._recorder.watches) > 1:
            return
        if "first_nonfinite_loss" in watch.facts:
            self._look_at_losses(watch)
        values, size = watch.series[name][1] if (name := self._metric.name) in watch.series else [], self._size
        while len(values) >= (end := size * (self._reported + 1)):
            self._tell(Report(self._reported, watch.step, _reported(values[end - size : end], self._metric)))
            self._reported += 1
        if watch.step >= self._next:
            began = time.perf_counter()
            self._look(watch)
            self._spent += time.perf_counter() - began
            elapsed = time.perf_counter() - self._began
            late = math.ceil(watch.step * max(0.0, self._spent / SHARE - elapsed) / elapsed)
            self._next = watch.step + max(self._live.every, late)

    def _look_at_losses(self, watch: Watch) -> None:
        """One loss that is not finite may be a batch whose gradients a technique refuses; two in a row are the weights."""
        losses = watch.series["loss"][1][-2:] if "loss" in watch.series else []
        if len(losses) == 2 and not any(map(math.isfinite, losses)):
            self._tell(
                Report(self._reported, watch.step, diverged=f"the loss is {losses[-1]} at step {watch.step - 1}")
            )

    def _look(self, watch: Watch) -> None:
        watch.settle()  # losses on an accelerator are fetched here only
        self._look_at_losses(watch)
        for finding in _grave(watch.record()):
            if finding.problem not in self._live.known:
                said = f"{finding.problem} at step {watch.step}: {finding.title[0].lower()}{finding.title[1:]}"
                self._tell(Report(self._reported, watch.step, finding=said))
                return


def _grave(training: TrainingRecord) -> list[Finding]:
    found: list[Finding] = []
    for rule in _RULES:
        with contextlib.suppress(Exception):  # a rule that cannot judge half a run is no reason to end it
            found += [finding for finding in rule(training) if finding.severity == "error"]
    return found


def _reported(values: Sequence[float], metric: Metric) -> float:
    return sum(values) / len(values) if metric.name == "loss" else values[-1]
