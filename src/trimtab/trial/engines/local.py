"""The engine of one machine: a process of its own for every trial, forked from a server that has the imports done.

A fresh process per trial means that no hook, random state or thread setting leaks from one to the next, and that a trial that
kills itself takes no other with it. The server only imports: one parallel operation in it, and children that use threads
would hang.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import io
import multiprocessing as mp
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from trimtab.records import Remark
from trimtab.trial.engines.engine import Engine, EngineError, OnReport, Written, ended, stopped, work
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result
from trimtab.trial.subjects import Subject
from trimtab.trial.surroundings import as_python_would, end_as_python_would, environment
from trimtab.trial.views import View, Views, changed_since, folder_name

PRELOAD = "TRIMTAB_PRELOAD"
TAIL = 20  # lines of a trial's output that are kept when it fails
GRACE, BRIEF = 5.0, 0.5  # seconds that a stopped trial has to end by itself; where the time is over


class LocalEngine(Engine):
    """Runs jobs in worker processes, each in a view of files of its own (see :mod:`trimtab.trial.views`).

    Args:
        workers: trials at a time; by default half the cores, at most 8, at least 1 (2 on a machine of two cores).
        keep_files: leave what each trial wrote in ``.trimtab/trials/``.

    Every trial, the watched one too, computes with the same number of ``threads``, so that all together have one for each core (or fewer,
    if this process has): sums over several threads round differently, and pairs need equal arms.

    Trials run one at a time where they cannot be kept apart: ``remarks`` says so and why.
    """

    def __init__(self, workers: int | None = None, keep_files: bool = False) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or max(1, min(8, cores // 2 if cores > 3 else cores))
        self.keep_files = keep_files
        self.threads = max(1, min(torch.get_num_threads(), cores // self.workers))
        self._views: dict[Path, Views] = {}

    def run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        stop_at: float = float("inf"),
        report: OnReport = lambda job, report: "",
        keep: Callable[[Written], None] = lambda written: None,
    ) -> None:
        """As :meth:`Engine.run`."""
        waiting, more = iter(jobs), True
        again: deque[_Task] = deque()  # trials that say nothing of their jobs yet
        running: dict[int, _Worker] = {}
        try:
            while True:
                while (more or again) and len(running) < self.workers:
                    task = again.popleft() if again else None
                    if task is None:
                        job = next(waiting, None) if time.monotonic() < stop_at else None
                        if job is None:
                            more = False
                            break
                        task = _Task(job, self._views_of(job.subject))
                    if running and (task.alone or any(worker.task.alone for worker in running.values())):
                        again.appendleft(task)
                        break
                    worker = self._start(task)
                    running[worker.process.sentinel] = worker
                    if len(running) > 1:
                        for worker in running.values():
                            worker.beside = True
                if not running or time.monotonic() >= stop_at:
                    return
                # Both are waited for: a process that the script left behind can hold the sending end open for ever.
                receivers = {worker.receiver: sentinel for sentinel, worker in running.items()}
                ready = wait([*receivers, *running], timeout=min(0.5, max(0.01, stop_at - time.monotonic())))
                for sentinel in dict.fromkeys(receivers.get(one, one) for one in ready):  # type: ignore[call-overload]
                    worker = running[sentinel]
                    result = worker.heard(report, keep)
                    if result is None:
                        continue
                    del running[sentinel]
                    worker.clear()
                    result = dataclasses.replace(result, deeds=worker.task.views.close(worker.view))
                    if worker.task.once_more(result, worker.process.exitcode, worker.beside):
                        again.append(worker.task)
                    else:
                        done(worker.task.job, result)
        finally:
            _stop([*running.values()], BRIEF if time.monotonic() >= stop_at else GRACE)
            for worker in running.values():
                worker.log.unlink(missing_ok=True)
                worker.task.views.close(worker.view)

    @property
    def remarks(self) -> list[Remark]:
        """What is to be said of how trials were kept apart."""
        return [remark for views in self._views.values() for remark in views.remarks()]

    def disturbed(self) -> list[str]:
        """Files that trials have read and that somebody has changed since."""
        return [path for views in self._views.values() for path in changed_since(views.seen, anew=False)]

    def refuses(self, subject: Subject) -> str:
        """As :meth:`Engine.refuses`: what writes other files into its folder needs one of its own."""
        if not subject.rewrites or (views := self._views_of(subject)).how != "shared":
            return ""
        return f"it has other files, and a trial has no view of the folder of its own to write them into ({views.why})"

    def one_at_a_time(self, subject: Subject, outside: Sequence[str]) -> None:
        """It is known from before that trials of this subject write there, which cannot be kept apart."""
        views = self._views_of(subject)
        views.alone, views.outside = True, [*outside]

    def close(self) -> None:
        """Clear up."""
        self._views.clear()

    def _views_of(self, subject: Subject) -> Views:
        folder = subject.folder
        if folder not in self._views:
            self._views[folder] = Views(subject.roots, folder, self.keep_files)
        return self._views[folder]

    def _start(self, task: _Task) -> _Worker:
        job = task.job
        # The first trial of a subject runs alone, and shows what it writes where.
        view = task.views.open(folder_name(job.name, job.seed, job.key), alone=task.views.alone or job.watch)
        log = _log_path(job)
        place = _Place(os.getcwd(), environment(os.environ), _streams(), view, log, self.threads)
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["trimtab.trial.engines.preload"])
        for attempt in range(2):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, sender, place), daemon=False)
            try:
                with _without_main(job), _uninterrupted(), _settings(job):
                    process.start()
                break
            except (EOFError, OSError) as error:  # the server was killed: it is started anew
                receiver.close()
                if attempt:
                    raise EngineError(
                        f"a process for a trial could not be started ({error or type(error).__name__})."
                    ) from error
            finally:
                sender.close()
        return _Worker(task, view, receiver, process, log)


@dataclasses.dataclass
class _Task:
    """A job on its way, and how often it was begun in vain."""

    job: Job
    views: Views
    failed: str = ""  # how it failed the first time; the second time it runs alone
    beside: bool = False  # whether others ran beside it then
    told: set[int] = dataclasses.field(default_factory=set)  # the numbers of its reports: a second run tells them again

    @property
    def alone(self) -> bool:
        """Whether no other trial may run beside it."""
        return self.views.alone or bool(self.failed)

    def once_more(self, result: Result, exit_code: int | None, beside: bool) -> bool:
        """Whether the trial says nothing of its job: it would have disturbed others; or it failed, the first time, and that may be due to
        others (a port, a name of shared memory, too little memory), or something has killed it."""
        if result.deeds.disturbs:
            return True
        views, error = self.views, result.trial.error
        if result.trial.status != "failed":
            if self.beside:
                views.alone, views.collided = True, self.failed
            return False
        killed = exit_code is not None and exit_code < 0
        if not self.failed and (killed or (beside and error not in views.failures)):
            self.failed, self.beside = error, beside
            return True
        if not beside:
            views.failures.add(error)
        return False


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where and how a worker runs: the current folder, the environment, the encoding of the output, its view, its log, its threads."""

    directory: str
    variables: dict[str, str]
    streams: tuple[str, str]
    view: View
    log: Path
    threads: int


@dataclasses.dataclass
class _Worker:
    """A trial that is running, and what it has said of itself."""

    task: _Task
    view: View
    receiver: Connection
    process: Any
    log: Path
    beside: bool = False  # whether others ran at the same time
    reports: list[Report] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def job(self) -> Job:
        return self.task.job

    def heard(self, verdict: OnReport, keep: Callable[[Written], None]) -> Result | None:
        """The result, if what the worker has sent is one, or if it has ended, or is stopped now; else it goes on."""
        over = not self.process.is_alive()  # asked first: what it has sent before its end is there by then
        try:
            while self.receiver.poll():
                answer = self.receiver.recv()
                if isinstance(answer, Written):
                    keep(answer)
                    continue
                if not isinstance(answer, Report):
                    return _result(self.job, self.receiver, self.process, self.log, answer)
                if answer.loss is not None:
                    verdict(self.job, answer)
                    continue
                self.reports.append(answer)
                if not (answer.diverged or answer.finding):
                    if answer.number in self.task.told:
                        continue
                    self.task.told.add(answer.number)
                if reason := verdict(self.job, answer):
                    return self._stopped(reason)
        except (EOFError, OSError):  # killed before or while it answered
            over = True
        return _result(self.job, self.receiver, self.process, self.log, None) if over else None

    def send(self, number: int) -> None:
        """Send a signal to it and to the processes that it has started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)
        with contextlib.suppress(OSError):  # before it has a group of its own
            os.kill(self.process.pid, number)

    def clear(self) -> None:
        """It has ended: so do the processes that the script has left behind."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def _stopped(self, reason: str) -> Result:
        _stop([self], GRACE)
        self.receiver.close()
        self.log.unlink(missing_ok=True)
        return stopped(self.job, self.reports, reason, time.monotonic() - self.began)


def _stop(workers: Sequence[_Worker], grace: float) -> None:
    """End them, all at once; a script may catch the first signal, and has so many seconds then."""
    left, until = [*workers], time.monotonic() + grace
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in left:
            worker.send(number)
        for worker in left:
            worker.process.join(max(0.0, until - time.monotonic()) if number == signal.SIGTERM else None)
        left = [worker for worker in left if worker.process.is_alive()]


@contextlib.contextmanager
def _settings(job: Job) -> Iterator[None]:
    """What the server of the trials has to find in its environment when it starts."""
    before = dict(os.environ)
    os.environ[PRELOAD] = ",".join(job.subject.preloads())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        yield
    finally:
        for name in (PRELOAD, "OMP_WAIT_POLICY"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _streams() -> tuple[str, str]:
    """The encoding that Python chooses for an output here, and what it does with what cannot be encoded."""
    real = sys.__stdout__
    return (real.encoding, real.errors or "strict") if real is not None else ("utf-8", "strict")


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
    if not job.subject.needs_main:
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
    return ended(job, process.exitcode, tail, answer if isinstance(answer, str) else "")


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


# -- in the worker ---------------------------------------------------------------------------------------------------


class _Log(io.FileIO):
    """Output that is dropped when it cannot be written: a full disk must not end a trial that only prints."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Lines(io.BufferedWriter):
    """Asks who reads along to hand on whole lines at once; the script sees an ordinary output."""

    prompt = True


def _to_log(log: Path, streams: tuple[str, str]) -> None:
    """Send everything that this process prints to a file."""
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    except OSError:
        target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    encoding, errors = streams
    for number, name, how in ((1, "stdout", errors), (2, "stderr", "backslashreplace")):
        raw = _Log(number, "w", closefd=False)
        raw.name = f"<{name}>"
        stream = io.TextIOWrapper(_Lines(raw), encoding, how, line_buffering=number == 2, write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _work(job: Job, sender: Connection, place: _Place) -> None:
    # Ctrl-C reaches every process of the terminal's group; what happens to the trials is the driver's to decide.
    with contextlib.suppress(OSError):
        os.setsid()
    _to_log(place.log, place.streams)
    own = os.getpid()

    def send(what: Any) -> None:
        if os.getpid() == own:  # a process that the script forks has the pipe, too
            sender.send(what)

    def finish(answer: Any) -> None:
        if isinstance(answer, Result):
            answer = dataclasses.replace(answer, trial=structs.replace(answer.trial, memory=_most_memory()))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        send(answer)
        sender.close()
        os._exit(0)

    try:
        here = job.subject.file  # as it is called where the driver is
        as_python_would(place.directory, place.variables, job.subject.command, place.streams)
        place.view.enter()
        _die_with_server()
        import torch

        torch.set_num_threads(place.threads)
        file = None if here is None else place.view.place(here)
        answer: Any = work(job, send, at_end=end_as_python_would, file=file, leave=finish)
    except BaseException as error:
        traceback.print_exc()
        answer = f"trimtab failed in this trial: {type(error).__name__}: {error}"
    finish(answer)


def _most_memory() -> float:
    """The most bytes that this process has had at once."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def _die_with_server() -> None:
    """A worker must not outlive a driver that was killed: the server ends with the driver, and the worker with the server."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(1, signal.SIGKILL, 0, 0, 0) == 0:  # PR_SET_PDEATHSIG
            return
    except (OSError, AttributeError):
        pass
    server = os.getppid()

    def watch() -> None:
        while os.getppid() == server:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
