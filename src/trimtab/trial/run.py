"""One trial: a subject under a recipe and a seed, in this process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.recipe import NothingToDo, Recipe
from trimtab.records import CodePlace, Metric, RunRecord, Series, Trial
from trimtab.store import Store, StoreError
from trimtab.training import Recorder, Training, shifted
from trimtab.trial.live import Follower, Live, Report
from trimtab.trial.subjects import Subject

BASELINE = ""
CURVE = 200  # points that a trial keeps of a series at most


@dataclass(frozen=True)
class Job:
    """A trial to run. With ``watch``, layers and gradients are measured too and the run is kept in the store; with ``live``, it tells
    of itself while it runs, and may be stopped."""

    subject: Subject
    recipe: str
    seed: int
    metric: Metric | None = None
    pattern: str | None = None
    watch: bool = False
    live: Live | None = None

    @property
    def key(self) -> str:
        """What makes this trial the same as one already finished."""
        metric = self.metric.name if self.metric else ""
        return f"{self.subject.fingerprint()}|{self.recipe}|{self.seed}|{metric}|{self.pattern or ''}"


@dataclass(frozen=True)
class Result:
    """What a job gives back; ``log`` is the end of what it printed, unless it went well."""

    trial: Trial
    run: RunRecord
    log: str = ""


def run_job(job: Job, tell: Callable[[Report], None] = lambda report: None) -> Result:
    """Run a trial in this process. Never raises for what the subject does: that is part of the result.

    Args:
        tell: hears what a trial that is ``live`` says of itself.
    """
    recipe = Recipe.parse(job.recipe)
    recorder = Recorder(job.subject.label, _store(job), job.pattern, sampled=job.watch or job.live is not None)
    follower = (
        Follower(job.live, job.metric, recorder, tell) if job.live is not None and job.metric is not None else None
    )
    applied: list[Training] = []
    refused: list[str] = []

    def on_training(training: Training, code: CodePlace | None) -> None:
        try:
            training.apply(recipe)
            applied.append(training)
        except NothingToDo as error:
            refused.append(str(error))
        recorder.guarded(recorder.watch)(training, code)
        if follower is not None and not recorder.off:
            follower.follow(training, recorder.watches[-1])

    with shifted(job.seed):
        outcome = job.subject.run(on_training, recorder.guarded(recorder.line), recorder.guarded(recorder.evaluated))
    recorder.exit_code, recorder.error = outcome.exit_code, outcome.error
    run = recorder.close()
    changes = [change for training in applied for change in training.changes]
    idle = [change.summary for change in changes if not change.acted()]
    ineffective = refused if not applied else [f"never took effect: {summary}" for summary in idle]
    return Result(_judge(job, run, ineffective, recorder.off), run)


def _store(job: Job) -> Store | None:
    if not job.watch:
        return None
    try:
        return Store(Path(job.subject.folder))
    except StoreError:  # the session has said so
        return None


def _judge(job: Job, run: RunRecord, ineffective: list[str], off: str) -> Trial:
    main = run.main
    metric = job.metric or run.metric
    loss = main.get("loss") if main is not None else Series()
    value, status, error = math.nan, "ok", ""
    if run.exit_code and len(loss) and not math.isfinite(loss.last):  # many scripts stop themselves at a NaN
        status, error = "diverged", f"the loss was {loss.last} when the script ended: {run.error}"
    elif run.exit_code:
        status, error = "failed", run.error
    elif off:  # its last number is not the run's last number
        status, error = "failed", f"trimtab's watch met an error of its own: {off}"
    elif main is None or main.steps == 0:
        status, error = "failed", "the script ended without a single optimizer step"
    elif ineffective and job.recipe != BASELINE:
        status, error = "no_effect", "; ".join(ineffective)
    elif metric is None or not len(main.get(metric.name)):
        status, error = "failed", f"the run has no {metric.name if metric else 'metric'}"
    else:
        value = final_value(main.get(metric.name), metric)
        if not math.isfinite(value) or (len(loss) and not math.isfinite(loss.last)):
            status, value, error = "diverged", math.nan, "the loss or the metric is not finite at the end"
    curves = {}
    if main is not None:
        names = {"loss", *([metric.name] if metric else [])}
        curves = {name: thinned(main.get(name)) for name in sorted(names) if len(main.get(name))}
    return Trial(
        subject=job.subject.label,
        recipe=job.recipe,
        seed=job.seed,
        status=status,  # type: ignore[arg-type]
        value=value,
        seconds=run.seconds,
        error=error,
        curves=curves,
        changed=run.applied,
    )


def final_value(series: Series, metric: Metric) -> float:
    """The metric at the end: the last evaluation; for the training loss, the mean of the last tenth of the run."""
    if metric.name == "loss":
        values = series.array
        return float(values[-max(1, len(values) // 10) :].mean())
    return series.last


def thinned(series: Series, most: int = CURVE) -> Series:
    """At most ``most`` points of a series, each the mean of a stretch of it, at the last step of the stretch."""
    if len(series) <= most:
        return series
    edges = np.linspace(0, len(series), most + 1).round().astype(int)
    return Series(
        steps=tuple(series.steps[b - 1] for b in edges[1:]),
        values=tuple(float(series.array[a:b].mean()) for a, b in zip(edges[:-1], edges[1:], strict=True)),
    )
