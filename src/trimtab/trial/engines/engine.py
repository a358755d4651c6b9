"""What an engine is: where trials run, and what it owes to those who ask for them."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trimtab.records import Remark, RunRecord, Series, Trial
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result, run_job
from trimtab.trial.subjects import Subject

OnReport = Callable[[Job, Report], str]


class EngineError(RuntimeError):
    """Trials cannot be run at all."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What a watched job has recorded, on its way to the store: the name of a method of :class:`~trimtab.store.Store` and its arguments."""

    method: str
    arguments: tuple
    options: dict[str, Any]


class Engine:
    """Where trials run. Derive, implement :meth:`run`, and let :func:`trimtab.testing.check_engine` run its suite.

    Jobs, results, reports and what is written pickle; nothing else passes between the driver and a trial: the store is the driver's.
    Where a trial has the files of this machine, its subject can be run as it is, by :func:`work`; elsewhere
    ``job.subject.packed()`` carries the files with it, if the subject can.

    Attributes:
        workers: how many trials run at a time.
    """

    workers: int = 1

    def run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        stop_at: float = math.inf,
        report: OnReport = lambda job, report: "",
        keep: Callable[[Written], None] = lambda written: None,
    ) -> None:
        """Run the jobs, calling ``done(job, result)`` for each as it ends, until ``stop_at`` (monotonic): none is started after it, and
        those that run then are stopped and forgotten.

        A job is taken from ``jobs`` when a worker is free for it, not before. What a job says of itself goes to
        ``report(job, report)``; when that answers with a reason, the job is stopped and done, with the reason as its error
        (:func:`stopped`). What a watched job records while it runs goes to ``keep(written)``. A trial that ends badly is a result, and
        takes no other with it.

        Raises:
            EngineError: where trials cannot be run at all.
        """
        raise NotImplementedError

    @property
    def remarks(self) -> list[Remark]:
        """What is to be said of how trials were kept apart."""
        return []

    def disturbed(self) -> list[str]:
        """Files that trials have read and that somebody has changed since."""
        return []

    def refuses(self, subject: Subject) -> str:
        """Why trials of a subject cannot be run here, where that is known before; else nothing."""
        return ""

    def one_at_a_time(self, subject: Subject, outside: Sequence[str]) -> None:
        """It is known from before that trials of this subject write there, which cannot be kept apart."""

    def close(self) -> None:
        """No more jobs will come."""


class Sent:
    """The store of a watched job: what is to be kept goes to the driver."""

    def __init__(self, send: Callable[[Written], None], path: Any) -> None:
        self._send, self.path = send, path

    def add_rows(self, *arguments: Any) -> None:
        """Measured numbers."""
        self._send(Written("add_rows", arguments, {}))

    def put_run(self, *arguments: Any, **options: Any) -> None:
        """The record of the run as it stands."""
        self._send(Written("put_run", arguments, options))


def work(job: Job, send: Callable[[Report | Written], None], **how: Any) -> Result:
    """Run a job in this process; what it says meanwhile goes to ``send``. ``how`` is that of :func:`~trimtab.trial.run.run_job`."""
    return run_job(job, send, Sent(send, job.subject.folder), **how)


def stopped(job: Job, reports: Sequence[Report], reason: str, seconds: float) -> Result:
    """The result of a job that was stopped for a reason, from what it had reported."""
    told = [one for one in reports if math.isfinite(one.value)]
    assert job.metric is not None
    trial = Trial(
        subject=job.subject.label,
        recipe=job.name,
        seed=job.seed,
        status="diverged" if reports and reports[-1].diverged else "pruned",
        seconds=seconds,
        error=reason,
        curves={job.metric.name: Series(steps=tuple(r.step for r in told), values=tuple(r.value for r in told))},
    )
    return Result(trial=trial, run=RunRecord(id="", subject=job.subject.label, exit_code=1, error=reason))


def ended(job: Job, code: int | None, log: str, error: str = "") -> Result:
    """The result of a job whose process ended with this code without an answer, or with an error of ours."""
    how = f"was killed by signal {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    error = error or f"the process of the trial {how}"
    trial = Trial(subject=job.subject.label, recipe=job.name, seed=job.seed, status="failed", error=error)
    run = RunRecord(id="", subject=job.subject.label, exit_code=code or 1, error=error, output_tail=log)
    return Result(trial=trial, run=run, log=log)
