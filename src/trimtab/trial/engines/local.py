"""The engine of one machine: a process of its own for every trial, forked from a server that has the imports done.

A fresh process per trial means that no hook, random state or thread setting leaks from one to the next, and that a trial that
kills itself takes no other with it. The server only imports: one parallel operation in it, and children that use threads
would hang.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import math
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from trimtab.records import RunRecord, Series, Trial
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result
from trimtab.trial.subjects import Script

PRELOAD = "TRIMTAB_PRELOAD"
TAIL = 20  # lines of a trial's output that are kept when it fails
GRACE = 5.0  # seconds that a stopped trial has to end by itself

Verdict = Callable[[Job, Report], str]


class LocalEngine:
    """Runs jobs in worker processes.

    Args:
        workers: trials at a time; by default half the cores, at most 8, at least 1 (2 on a machine of two cores).

    Every trial computes with as many ``threads`` as this process would: sums over several threads round differently, and with
    another number the trial of seed 0 would not be the script's own run. Together they are more than the cores, which costs
    little as long as waiting threads sleep instead of spinning (``OMP_WAIT_POLICY=PASSIVE``; set unless you set it).
    """

    def __init__(self, workers: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or max(1, min(8, cores // 2 if cores > 3 else cores))
        self.threads = torch.get_num_threads()

    def run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        stop_at: float = float("inf"),
        report: Verdict = lambda job, report: "",
    ) -> None:
        """Run the jobs, calling ``done(job, result)`` for each as it ends; none is started after ``stop_at`` (monotonic).

        A job is taken from ``jobs`` when a worker is free for it, not before. What a live job says of itself goes to
        ``report(job, report)``; when that answers with a reason, the job is stopped and done, with the reason as its error.
        """
        waiting, more = iter(jobs), True
        running: dict[int, _Worker] = {}
        try:
            while True:
                while more and len(running) < self.workers:
                    job = next(waiting, None) if time.monotonic() < stop_at else None
                    if job is None:
                        more = False
                        break
                    worker = self._start(job)
                    running[worker.process.sentinel] = worker
                if not running:
                    return
                # Both are waited for: a process that the script left behind can hold the sending end open for ever.
                receivers = {worker.receiver: sentinel for sentinel, worker in running.items()}
                ready = wait([*receivers, *running], timeout=0.5)
                for sentinel in dict.fromkeys(receivers.get(one, one) for one in ready):  # type: ignore[call-overload]
                    result = running[sentinel].heard(report)
                    if result is not None:
                        done(running.pop(sentinel).job, result)
        finally:
            for worker in running.values():
                worker.process.terminate()

    def _start(self, job: Job) -> _Worker:
        os.environ[PRELOAD] = ",".join(_imports(job))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["trimtab.trial.engines.preload"])
        receiver, sender = context.Pipe(duplex=False)
        log = _log_path(job)
        process = context.Process(target=_work, args=(job, sender, log, self.threads), daemon=False)
        with _without_main(job), _uninterrupted():
            process.start()
        sender.close()
        return _Worker(job, receiver, process, log)


@dataclasses.dataclass
class _Worker:
    """A trial that is running, and what it has said of itself."""

    job: Job
    receiver: Connection
    process: Any
    log: Path
    reports: list[Report] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)

    def heard(self, verdict: Verdict) -> Result | None:
        """The result, if what the worker has sent is one, or if it has ended, or is stopped now; else it goes on."""
        over = not self.process.is_alive()  # asked first: what it has sent before its end is there by then
        try:
            while self.receiver.poll():
                answer = self.receiver.recv()
                if not isinstance(answer, Report):
                    return _result(self.job, self.receiver, self.process, self.log, answer)
                self.reports.append(answer)
                if reason := verdict(self.job, answer):
                    return self._stopped(reason)
        except (EOFError, OSError):  # killed before or while it answered
            over = True
        return _result(self.job, self.receiver, self.process, self.log, None) if over else None

    def _stopped(self, reason: str) -> Result:
        self.process.terminate()
        self.process.join(GRACE)
        if self.process.is_alive():  # the script catches the signal
            self.process.kill()
            self.process.join()
        self.receiver.close()
        self.log.unlink(missing_ok=True)
        job, told = self.job, [one for one in self.reports if math.isfinite(one.value)]
        assert job.metric is not None
        trial = Trial(
            subject=job.subject.label,
            recipe=job.recipe,
            seed=job.seed,
            status="diverged" if self.reports[-1].diverged else "pruned",
            seconds=time.monotonic() - self.began,
            error=reason,
            curves={job.metric.name: Series(steps=tuple(r.step for r in told), values=tuple(r.value for r in told))},
        )
        return Result(trial=trial, run=RunRecord(id="", subject=job.subject.label, exit_code=1, error=reason))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is done, and what the block starts never gets it.

    Interrupted halfway, a start would leave the fork server, or the worker, with half a message and a traceback on the terminal.
    The handler is for interrupts that reach another thread, the mask is what a new process inherits.
    """
    if threading.current_thread() is not threading.main_thread():  # never interrupted
        yield
        return
    pressed: list[int] = []
    resource_tracker.ensure_running()  # started inside the block, it would lift the mask
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _without_main(job: Job) -> Iterator[None]:
    """A script needs nothing of the program that started its trial, so that program is not imported again in the worker.

    Users may then call ``treat("train.py")`` from a file without an ``if __name__ == "__main__"`` guard.
    """
    main = sys.modules["__main__"]
    if isinstance(job.subject, Script):
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _result(job: Job, receiver: Connection, process: Any, log: Path, answer: Any) -> Result:
    """The end of a worker that has given this answer, or none."""
    receiver.close()
    process.join()
    tail = _tail(log)
    if isinstance(answer, Result):
        if answer.trial.status == "ok":
            log.unlink(missing_ok=True)
            return answer
        return dataclasses.replace(answer, log=tail)
    code = process.exitcode
    how = f"was killed by signal {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
    error = answer if isinstance(answer, str) else f"the process of the trial {how}"
    trial = Trial(subject=job.subject.label, recipe=job.recipe, seed=job.seed, status="failed", error=error)
    run = RunRecord(id="", subject=job.subject.label, exit_code=code or 1, error=error, output_tail=tail)
    return Result(trial=trial, run=run, log=tail)


def _log_path(job: Job) -> Path:
    name = f"{hashlib.sha256(job.key.encode()).hexdigest()[:12]}.log"
    folder = job.subject.folder / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the session has said that nothing can be kept here
        return Path(tempfile.gettempdir()) / f"trimtab-{os.getpid()}-{name}"
    return folder / name


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
    except OSError:
        return ""


def _imports(job: Job) -> list[str]:
    """Installed packages that the script imports: imported once in the server instead of in every trial."""
    if not isinstance(job.subject, Script):
        return []
    try:
        tree = ast.parse(job.subject.path.read_text())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return [name for name in dict.fromkeys(names) if _installed(name.split(".")[0])]


def _installed(package: str) -> bool:
    # only what was installed by a package manager: importing a user's own module may run anything
    if package in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return bool(spec and spec.origin and "site-packages" in spec.origin)


# -- in the worker ---------------------------------------------------------------------------------------------------


class _Log(io.FileIO):
    """Output that is dropped when it cannot be written: a full disk must not end a trial that only prints."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _to_log(log: Path) -> None:
    """Send everything that this process prints to a file."""
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    except OSError:
        target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(_Log(number, "w", closefd=False)), "utf-8", errors, line_buffering=True)
        for number, errors in ((1, "surrogateescape"), (2, "backslashreplace"))
    )


def _work(job: Job, sender: Connection, log: Path, threads: int) -> None:
    # Ctrl-C reaches every process of the terminal; what happens to the trials is the driver's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see _uninterrupted
    _die_with_parent()
    _to_log(log)
    import torch

    from trimtab.trial.run import run_job

    torch.set_num_threads(threads)
    own = os.getpid()

    def tell(report: Report) -> None:
        if os.getpid() == own:  # a process that the script forks has the pipe, too
            sender.send(report)

    try:
        answer: Any = run_job(job, tell)
    except BaseException as error:
        traceback.print_exc()
        answer = f"trimtab failed in this trial: {type(error).__name__}: {error}"
    sys.stdout.flush()
    sender.send(answer)
    sender.close()
    # Threads and exit handlers of the script are no business of the trial.
    os._exit(0)


def _die_with_parent() -> None:
    """A worker must not outlive a driver that was killed."""
    parent = mp.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
