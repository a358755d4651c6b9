"""One trial: a subject under a recipe and a seed, in this process."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from trimtab.quantities import beside, judged, may_judge, value
from trimtab.recipe import NothingToDo, Recipe
from trimtab.records import Applied, Asked, CodePlace, Flow, Metric, Predicted, RunRecord, Series, TrainingRecord, Trial
from trimtab.store import Keeping
from trimtab.training import Training, shifted
from trimtab.training.evaluations import Predictions
from trimtab.training.stage import stage
from trimtab.trial.journal import Deeds
from trimtab.trial.live import Follower, Live, Pace, Pulse, Report
from trimtab.trial.subjects import Heard, Subject
from trimtab.watching import Ending, Recorder

BASELINE = ""
IN_VAIN = 3  # times that a script may take its end for an error
WAIT = 5.0  # seconds, besides as long as it ran, that it may go on when the thread that trains has ended
NAMED = 5  # numbers that are named where the one that judges is missing
SHOWN = 0.51e-3  # by which a share that is said with three digits may be off
CURVE = 200  # points that a trial keeps of a series at most


@dataclass(frozen=True)
class Job:
    """A trial to run. With ``watch``, layers and gradients are measured too and the run is kept in the store; with ``live``, it tells
    of itself while it runs, and may be stopped; with ``until`` it is to make so many reports only, and with ``steps`` so many steps. A ``probe`` is there for its losses alone. ``found`` stands for the files that the subject reads, as they are;
    ``flows`` are what was seen of the models of each training before. An ``arm`` that is no recipe has a name. ``varies`` is the part of
    what is random that the seed moves: "init", "order", or nothing for all of it."""

    subject: Subject
    recipe: str
    seed: int
    metric: Metric | None = None
    asked: Asked = field(default_factory=Asked)
    watch: bool = False
    live: Live | None = None
    until: int = 0
    steps: int = 0
    probe: bool = False
    found: str = ""
    flows: tuple[Flow | None, ...] = ()
    arm: str = ""
    varies: str = ""

    @property
    def name(self) -> str:
        """What its trial goes by: its recipe, or the name of an arm that is no recipe."""
        return self.arm or self.recipe

    @property
    def key(self) -> str:
        """What makes this trial the same as one already finished."""
        asked = "|".join([self.asked.metric or "", self.asked.goal or "", "best" if self.asked.best else ""])
        metric = f"{self.metric.name} {self.metric.folds}" if self.metric else ""
        until = f"|{self.until} of {self.live}" if self.until else ""
        steps = f"|{self.steps} steps{' of a probe' if self.probe else ''}" if self.steps else ""
        varies = f"|{self.varies} varies" if self.varies else ""
        return f"{self.subject.fingerprint()}|{self.found}|{self.recipe}|{self.seed}|{metric}|{asked}{until}{steps}{varies}"


class Enough(SystemExit):
    """A run has made the steps that it was to make."""


@dataclass(frozen=True)
class Result:
    """What a job gives back; ``log`` is the end of what it printed, unless it went well, and ``deeds`` is what it did to files."""

    trial: Trial
    run: RunRecord
    log: str = ""
    deeds: Deeds = field(default_factory=Deeds)


def run_job(
    job: Job,
    tell: Callable[[Report], None] = lambda report: None,
    store: Keeping | None = None,
    at_end: Callable[[], None] = lambda: None,
    file: Path | None = None,
    leave: Callable[[Result], None] | None = None,
) -> Result:
    """Run a trial in this process. Never raises for what the subject does: that is part of the result.

    Args:
        tell: hears what a trial says of itself: every second that it is running, and of one that is ``live`` how it goes.
        store: where a watched run is kept.
        at_end: is called when the subject has come to its end, before what it has said is complete.
        file: where the script of the subject lies, if that is another place in this process.
        leave: takes the result and ends this process, where the subject does not end although it has made the steps that it was to make.
    """
    recipe = Recipe.parse(job.recipe)
    recorder = Recorder(
        job.subject.label, store if job.watch else None, job.asked, sampled=job.watch or job.live is not None
    )
    follower = (
        Follower(job.live, job.metric, recorder, tell) if job.live is not None and job.metric is not None else None
    )
    tried: dict[int, Training] = {}  # by the place of the training in the run
    plain: dict[int, tuple[str, ...]] = {}  # how torch says the same
    refused: list[str] = []
    predicted: dict[str, Predictions] = {}  # of the last evaluation, by the name of its accuracy
    pace, pulse = Pace(), Pulse(tell)
    end = _End(job.steps, recorder, lambda: leave(concluded(Ending())) if leave is not None else None)

    def on_training(training: Training, code: CodePlace | None) -> None:
        place = len(recorder.samplers)
        training.seen = job.flows[place] if place < len(job.flows) else None
        try:
            tried[place] = training
            said = [(technique.name, technique.plain(training)) for technique in recipe]
            plain[place] = tuple(f"{name} in plain torch: {text}" for name, text in said if text)
            training.apply(recipe)
            training.kept = list(training.models) if recipe else []  # what they have become is read at the end
        except NothingToDo as error:
            refused.append(str(error))
        recorder.guard(recorder.watch)(training, code)
        training.on("step", lambda loss: pace.step())
        training.on("predictions", recorder.guard(lambda name, made: predicted.update({name: made}), "predictions"))
        training.on("step", recorder.guard(pulse.step))
        if job.steps:
            end.follow(training)
        if follower is not None and not recorder.guard.off:
            follower.follow(training, recorder.samplers[-1])

    heard = Heard(
        training=on_training,
        line=recorder.guard(recorder.line, "printed numbers"),
        evaluated=recorder.guard(recorder.evaluated),
        written=recorder.guard(recorder.written, "written numbers"),
        at_end=at_end,
        file=file,
    )

    def concluded(outcome: Ending) -> Result:
        recorder.exit_code, recorder.error = outcome.exit_code, outcome.error
        run = recorder.close()
        idle, acted = _idle(job, run, tried, refused)
        trial = _judge(job, run, idle, acted, recorder.guard.unheard, outcome.error if outcome.refused else "")
        trial = replace(
            trial, step_seconds=pace.seconds, predicted=_predicted(trial, predicted, job.metric or run.metric)
        )
        if trial.status != "ok":
            return Result(trial, run)
        stepped = [index for index, training in tried.items() if training.changes and run.trainings[index].steps]
        applied = (_applied(tried[index], plain[index]) for index in stepped)
        return Result(replace(trial, applied=tuple(dict.fromkeys(applied))), run)

    with shifted(job.seed, job.varies), stage.treated.alone():
        try:
            outcome = job.subject.run(heard)
        except Enough:
            outcome = Ending()
    with end.once():
        return concluded(outcome)


class _End:
    """Ends a run where a training would step on behind so many steps: what the script measures after the last of them is still heard.

    A script that goes on all the same, because it takes the end for a bad batch, or waits for the thread that it came to, is left.
    """

    def __init__(self, steps: int, recorder: Recorder, leave: Callable[[], None]) -> None:
        self.steps, self.recorder, self.leave = steps, recorder, leave
        self.began, self.times = time.monotonic(), 0
        self.timer: threading.Timer | None = None
        self.lock = threading.Lock()

    def follow(self, training: Training) -> None:
        made = 0

        def count(loss: object) -> None:
            nonlocal made
            made += 1

        def look(*_: object) -> None:
            if made >= self.steps:
                self.end()

        training.on("step", count)
        training.on("before_step", look)

    def end(self) -> None:
        self.recorder.cut = self.steps
        self.times += 1
        if self.times > IN_VAIN:
            self._leave()
        if self.times == 1 and threading.current_thread() is not threading.main_thread():
            self.timer = threading.Timer(
                WAIT + time.monotonic() - self.began, self._leave
            )  # it may have to measure yet
            self.timer.daemon = True
            self.timer.start()
        raise Enough

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """The run has come to its end by itself."""
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
            yield

    def _leave(self) -> None:
        with self.lock:
            self.leave()


def _applied(training: Training, plain: tuple[str, ...]) -> Applied:
    return Applied(code=training.code, plain=plain, weights=training.new_weights, rates=training.changes_rates)


def _idle(job: Job, run: RunRecord, tried: dict[int, Training], refused: list[str]) -> tuple[list[str], bool]:
    """Why the recipe or a part of it had no effect on what is judged: it was refused everywhere, or never acted where it counts. And
    whether another part of it acted."""
    if job.recipe == BASELINE:
        return [], False
    beside = _beside(run, job.metric or run.metric)
    counts = {index: tried[index] for index in beside if index in tried and tried[index].changes}
    if not counts:
        return list(dict.fromkeys(refused)) or ["it was applied to no training that made a step"], False
    idle, acted = [], False
    for number in range(len(next(iter(counts.values())).changes)):
        if not any(training.changes[number].acted() for training in counts.values()):
            said = dict.fromkeys(training.changes[number].sentence for training in counts.values())
            idle.append(f"never took effect: {'; '.join(said)}")
        else:
            acted = True
    if idle and all(why := [training.why_untouched for training in counts.values()]):
        idle += dict.fromkeys(why)
    return idle, acted


def _predicted(trial: Trial, made: Mapping[str, Predictions], metric: Metric | None) -> Predicted | None:
    """The predictions of which the value of a trial is the share of those that are right, as it is or in percent; none where those of
    several evaluations may be meant."""

    def shows(one: Predictions) -> bool:
        share = float(one.right.float().mean()) if len(one.right) else math.nan
        return any(math.isclose(trial.value, times * share, abs_tol=SHOWN * times) for times in (1, 100))

    meant = {one.targets: one for one in made.values() if shows(one)}
    if len(meant) != 1 or metric is None or metric.goal != "max":
        return None
    (one,) = meant.values()
    return Predicted(samples=len(one.right), right=np.packbits(one.right.numpy()).tobytes(), targets=one.targets)


def _beside(run: RunRecord, metric: Metric | None) -> list[int]:
    """The trainings that what judges the run speaks of: those in which it was seen, and those that went on at the same time."""
    stepped = [(index, one) for index, one in enumerate(run.trainings) if one.steps]
    judges = [one for _, one in stepped if metric is not None and len(one.get(metric.name))]
    if not judges:
        return [index for index, _ in stepped]
    return [index for index, one in stepped if any(_overlap(one, other) for other in judges)]


def _overlap(one: TrainingRecord, other: TrainingRecord) -> bool:
    return one.began < other.ended and other.began < one.ended


def untreated_trial(job: Job, run: RunRecord) -> Trial:
    """The untreated trial that a run, which was watched by itself, stands for."""
    return _judge(job, run, [], False, "", "")


def _judge(job: Job, run: RunRecord, idle: list[str], acted: bool, off: str, refused: str) -> Trial:
    main = run.main
    metric = job.metric or run.metric
    losses = [one.get("loss") for one in run.trainings if len(one.get("loss"))]
    broken = next((loss.last for loss in losses if not math.isfinite(loss.last)), None)
    series = judged(run, metric) if metric is not None else Series()
    result, status, error = math.nan, "ok", ""
    if refused:  # in the middle
        status, error = "no_effect", refused
    elif run.exit_code and broken is not None:  # many scripts stop themselves at a NaN
        status, error = "diverged", f"the loss was {broken} when the script ended: {run.error}"
    elif run.exit_code:
        status, error = "failed", run.error
    elif off:  # its last number is not the run's last number
        status, error = "failed", f"trimtab's watch met an error of its own: {off}"
    elif main is None or main.steps == 0:
        status, error = "failed", "the script ended without a single optimizer step"
    elif idle and not acted:
        status, error = "no_effect", "; ".join(idle)
    elif metric is None or not len(series):
        status, error = "failed", f"the run has no {metric.name}{_instead(run)}" if metric else "the run has no metric"
    else:
        result, error = value(run, metric), "; ".join(idle)
        if not math.isfinite(result) or broken is not None:
            status, result, error = "diverged", math.nan, "the loss or the metric is not finite at the end"
    curves = {}
    if main is not None and len(main.get("loss")):
        curves["loss"] = thinned(main.get("loss"))
    if metric is not None and len(series):
        curves[metric.name] = thinned(series)
    return Trial(
        subject=job.subject.label,
        recipe=job.name,
        seed=job.seed,
        status=status,  # type: ignore[arg-type]
        value=result,
        seconds=run.seconds,
        error=error,
        curves=curves,
        changed=run.applied,
        numbers=_numbers(run),
        others=beside(run, metric) if metric is not None and status == "ok" else {},
    )


def _instead(run: RunRecord) -> str:
    """What a run has that could judge it, where what is to judge it is missing."""
    names = dict.fromkeys(name for training in run.trainings for name in training.series if may_judge(name))
    return f"; it has {', '.join(list(names)[:NAMED])}" if names else ""


def _numbers(run: RunRecord) -> str:
    digest = hashlib.sha256()
    for training in run.trainings:
        for name, series in sorted(training.series.items()):
            if name == "loss" or may_judge(name):
                digest.update(f"{name} {series.steps} {series.values}".encode())
    return digest.hexdigest()[:16]


def thinned(series: Series, most: int = CURVE) -> Series:
    """At most ``most`` points of a series, each the mean of a stretch of it, at the last step of the stretch."""
    if len(series) <= most:
        return series
    edges = np.linspace(0, len(series), most + 1).round().astype(int)
    return Series(
        steps=tuple(series.steps[b - 1] for b in edges[1:]),
        values=tuple(float(series.array[a:b].mean()) for a, b in zip(edges[:-1], edges[1:], strict=True)),
    )
