"""The recorder of a run: its trainings, its evaluations, what it prints, and where all of that is kept.

Nothing that is recorded changes the run: no random number is drawn, no graph is kept, and an error in here ends the part of the
recording that it belongs to, or all of it, never the training. Recorded is the process in which the recording began: one that the
script forks goes its own way.
"""

from __future__ import annotations

import ctypes
import os
import re
import sqlite3
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from trimtab.members import load_members
from trimtab.quantities import Quantity, choose
from trimtab.quantities import value as reached
from trimtab.records import Asked, CodePlace, RunRecord, drawing
from trimtab.store import Keeping, outcome_kinds, what_to_do
from trimtab.training.edits import code_place
from trimtab.training.handle import Training
from trimtab.training.safe import suppressed
from trimtab.training.stage import Actor, Hearer, stage
from trimtab.watching import loggers
from trimtab.watching.budget import Budget
from trimtab.watching.guard import Guard, warn
from trimtab.watching.log import Log
from trimtab.watching.printed import Lines
from trimtab.watching.sampler import Sampler, all_measured
from trimtab.watching.saying import understood

EVERY = 10
FLUSH = 0.25  # seconds between writes to the store
IDLE = 100  # steps of other trainings after which one counts as over


class _Ear(Hearer):
    """Hears for a recorder, as long as there is one: who forgets to close it does not keep it, and its model, for ever."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)

    def evaluation(self, training: Actor | None, name: str, value: float) -> None:
        if (recorder := self._recorder()) is not None:
            recorder.evaluation(training, name, value)

    def loss(self, name: str, output: Any, target: Any, value: torch.Tensor) -> None:
        if (recorder := self._recorder()) is not None:
            recorder.loss(name, output, target, value)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A method, as long as its object is there."""
    held = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        if (found := held()) is not None:
            found(*args)

    return call


def _end_all(stops: Sequence[Callable[[], None]]) -> None:
    for stop in stops:
        with suppressed():  # one that fails must not keep the others from ending
            stop()


class Recorder:
    """Records one run: any number of trainings, their evaluations and what the script prints.

    Args:
        subject: what runs, for people.
        store: where rows go while the run is going on; without one they stay in memory.
        metric: what the run is judged by: a regular expression with one group that reads a number from a line of output, the name
            of a number, or :class:`~trimtab.records.Asked` for more.
        sampled: measure layers and gradients on sampled steps; without, only losses and evaluations.
        every: sample every so many steps (fewer when that takes more than the budget).
        budget: makes the budget of each training: 1.5 % of the run's time by default.
    """

    def __init__(
        self,
        subject: str = "",
        store: Keeping | None = None,
        metric: str | Asked | None = None,
        sampled: bool = True,
        every: int = EVERY,
        budget: Callable[[], Budget] = Budget,
    ) -> None:
        load_members()  # and say what is left out, before the script has its way with warnings
        all_measured()
        outcome_kinds()
        self.id = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
        self.subject, self.store = subject, store
        self.asked = metric if isinstance(metric, Asked) else Asked(metric=metric)
        self.sampled, self.every, self.budget = sampled, every, budget
        self.guard = Guard(_weakly(self._end))
        self.samplers: list[Sampler] = []
        self.kept: Training | None = None  # what lives at least as long: the handle that has begun this
        self.printed: list[str] = []
        self.started = time.time()
        self.cut = 0  # steps after which the run was ended, as was asked for
        self.error, self.exit_code = "", 0
        self._clock = time.perf_counter()
        self._ended = 0.0
        self._flushed = 0.0
        self._shape: list = []
        self._current: Sampler | None = None
        self._early: list[tuple[str, float]] = []
        self._lines: dict[str, Lines] = {}
        self._latest: dict[str, int] = {}  # the training in which a number was said last
        self.compiled = False  # layers inside compiled code are left alone
        self._forwarded: dict[int, Sampler] = {}  # by thread: whose model ran last, as far as was measured
        self._stops = [
            stage.hear(_Ear(self)),
            stage.taps.listen("loader", self.guard(_weakly(self._on_loader))),
            stage.taps.listen("compile", self.guard(_weakly(self.on_compile))),
            stage.taps.listen("saved", self.guard(_weakly(self._on_saved))),
            loggers.listen(self.guard(_weakly(self.logged), "logged numbers")),
        ]
        self._unforgive = stage.taps.forgive(self.guard.forgive)  # also when it is off, for what is still there
        weakref.finalize(self, _end_all, (self._unforgive, *self._stops)).atexit = False
        stage.own(_Recording).add(self)
        self._loader_starts = 0
        self.steps = 0

    @classmethod
    def of(cls, training: Training, **options: Any) -> Recorder:
        """Begin to record one training, which lives as long as its recorder."""
        place = code_place(training.model)
        recorder = cls(**{"subject": place.file if place else "attached code", **options})
        recorder.guard(recorder.watch)(training, place)
        recorder.kept = training
        return recorder

    @property
    def alone(self) -> bool:
        """Whether the run has one training only, as far as is known."""
        return len(self.samplers) == 1

    # -- what happens in the run -------------------------------------------------------------------------------------

    def watch(self, training: Training, code: CodePlace | None = None) -> Sampler:
        """Begin to watch another training of this run."""
        log = Log(len(self.samplers), keeps=self.store is not None)
        sampler = Sampler(self, training, log, self.budget(), code)
        self.samplers.append(sampler)
        return sampler

    def loss(self, name: str, output: Any, target: Any, value: torch.Tensor) -> None:
        """A training loss was evaluated."""
        here = threading.get_ident()
        sampler = self.samplers[0] if len(self.samplers) == 1 else self._forwarded.get(here)
        training = sampler.training() if sampler is not None else None
        if sampler is not None and training is not None and training.thread == here:
            self.guard(sampler.on_training_loss)(name, output, target, value)

    def forwarded(self, sampler: Sampler) -> None:
        """The model of a training has run in this thread."""
        self._forwarded[threading.get_ident()] = sampler

    def evaluation(self, training: Actor | None, name: str, value: float) -> None:
        """A number was measured that judges the training as it stands now."""
        sampler = next((one for one in self.samplers if training is not None and one.training() is training), None)
        self.guard(self._add)(sampler or self._current, name, value)

    def _on_loader(self, loader: Any) -> None:
        self._loader_starts += 1

    def _on_saved(self) -> None:
        if self._current is not None:
            self._current.log.facts["last_saved"] = self._current.step

    def on_compile(self, _: object = None) -> None:
        """A module or a function is going to be compiled: its layers cannot be seen, and hooks would make it compile again."""
        self.compiled = True
        for sampler in self.samplers:
            sampler.unhook()

    def line(self, text: str, output: str = "stdout") -> None:
        """A line that the script printed."""
        text = text if text.isascii() else text.encode("utf-8", "replace").decode()  # bytes of no text are in no record
        self.printed.append(text[:10_000])
        del self.printed[:-200]
        if (pattern := self.asked.pattern) is not None:
            match = re.search(pattern, text)
            value = _number(match[1]) if match else None
            if value is not None:
                self.evaluated("metric " + (pattern.split("=")[0].split("(")[0].strip(" :\\^") or "value"), value)
        for name, value in understood(self._lines.setdefault(output, Lines()).read(text)).items():
            self.evaluated(f"printed {name}", value)

    def logged(self, name: str, value: float) -> None:
        """A number that the script gave to a logger."""
        self._scored(f"logged {name}", value)

    def written(self, name: str, value: float) -> None:
        """A number in a file that the script wrote."""
        self._scored(f"written {name}", value)

    def _scored(self, name: str, value: float) -> None:
        if len(name) < 100 and Quantity.read(name).goal is not None:  # else a time, a rate, a count
            self.evaluated(name, value)

    def evaluated(self, name: str, value: float) -> None:
        """The script says a number that judges the training as it stands now."""
        self._add(self._current, name, value)
        training = self._current.training() if self._current is not None else None
        if training is not None:
            training.evaluated(name, value)

    def _add(self, sampler: Sampler | None, name: str, value: float) -> None:
        if sampler is None:
            self._early.append((name, value))
        else:
            sampler.look_at_weights()
            sampler.log.add(name, sampler.step, value)
            self._latest[name] = sampler.log.index

    def stepped(self, sampler: Sampler) -> None:
        """A training has made a step: it is the one that numbers from here on speak of, unless it trains tensors of no model."""
        training = self._current.training() if self._current is not None else None
        if self._current is None or sampler.has_model or training is None or not self._current.has_model:
            self._current = sampler
        for name, value in self._early:
            sampler.log.add(name, 0, value)
            self._latest[name] = sampler.log.index
        self._early.clear()
        if sampler.step <= 1:
            sampler.began = self.steps
        self.steps += 1
        sampler.seen_at = self.steps
        for other in self.samplers:
            if self.steps - other.seen_at > IDLE:
                other.unhook()  # its training is over, as it seems; another step would begin a new sample
        sampler.epochs.add(self._loader_starts)
        now = time.perf_counter()
        if self.store and now - self._flushed > FLUSH:
            self.flush()
            self._flushed = now

    # -- writing it down ---------------------------------------------------------------------------------------------

    def flush(self, finished: bool = False) -> None:
        """Write what is new to the store. If the store fails, the record goes on in memory."""
        if self.store is None:
            return
        new = [sampler.log.new() for sampler in self.samplers]
        points, profiles = [one for some, _ in new for one in some], [one for _, some in new for one in some]
        shape = [sampler.log.shape for sampler in self.samplers]
        try:
            self.store.add_rows(self.id, points, profiles)
            if finished or shape != self._shape:
                self.store.put_run(self.record(heads=not finished), finished=finished)
                self._shape = shape
        except (sqlite3.Error, OSError) as error:
            warn(
                f"trimtab cannot write to {self.store.path} any more ({error}). The run goes on and is kept in memory. "
                f"{what_to_do(error)}"
            )
            self.store = None
            for sampler in self.samplers:
                sampler.log.keeps = False

    def _end(self) -> None:
        """Look and listen no more; what was recorded stays."""
        _end_all((*(sampler.release for sampler in self.samplers), *self._stops[::-1]))

    def forked(self) -> None:
        """This process is a child of the one that is recorded: it goes its own way, and leaves the record and the store alone."""
        self.guard.off = "this is another process"
        if (
            self.store is not None
        ):  # both use the same file: it must not be closed here, not even by the garbage collector
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.store))
            self.store = None
        self._end()

    def close(self) -> RunRecord:
        """End the watch and give the whole record."""
        self._ended = self._ended or time.perf_counter()
        self.guard(stage.close_evaluations)(over=True)
        for sampler in self.samplers:
            self.guard(sampler.finish)()
        self._end()
        self._unforgive()
        stage.own(_Recording).discard(self)
        self.flush(finished=True)
        return self.record()

    def record(self, heads: bool = False) -> RunRecord:
        """What is known so far; with ``heads``, without the measured numbers."""
        trainings = []
        for sampler in tuple(self.samplers):
            try:
                trainings.append(sampler.record(heads))
            except Exception as error:
                self.guard.turn_off(error, f"the record of {sampler.model}")
        record = RunRecord(
            id=self.id,
            subject=self.subject,
            started=self.started,
            seconds=(self._ended or time.perf_counter()) - self._clock,
            exit_code=self.exit_code,
            error=self.error,
            output_tail="\n".join(self.printed[-20:]),
            trainings=tuple(trainings),
            versions={"python": sys.version.split()[0], "torch": str(torch.__version__)},
            applied=tuple(c.sentence for sampler in self.samplers for c in (sampler.changes or ())),
            latest=dict(self._latest),
            hints=tuple(hint for lines in self._lines.values() for hint in lines.unknown()),
            unwatched=self.guard.told,
            measured=all_measured(),
            cut=self.cut,
        )
        metric = None if heads else choose(record, self.asked)
        return msgspec.structs.replace(record, metric=metric, reached=reached(record, metric)) if metric else record

    def __repr__(self) -> str:
        return f"<Recorder of {', '.join(sampler.model for sampler in self.samplers) or 'nothing yet'}, {self.steps} steps>"

    def report(self, path: str | os.PathLike | None = None) -> Any:
        """What was recorded until now with its diagnosis, as :func:`trimtab.report` gives it; written to ``path`` if that is given."""
        return drawing().report(self, path)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Recording(weakref.WeakSet):
    """The recorders of this process. A child of it, which a script forks, is not recorded."""

    def __init__(self) -> None:
        super().__init__()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        for recorder in tuple(self):
            recorder.forked()


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", "").rstrip("."))
    except ValueError:
        return None
