"""The recorder of a run: its trainings, its evaluations, what it prints, and where all of that is kept.

Nothing that is recorded changes the run: no random number is drawn, no graph is kept, and an error in here ends the part of the
recording that it belongs to, or all of it, never the training. Recorded is the process in which the recording began: one that the
script forks goes its own way.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sqlite3
import sys
import threading
import time
import traceback
import uuid
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import torch

from trimtab.quantities import Quantity, choose
from trimtab.quantities import value as reached
from trimtab.records import Asked, CodePlace, RunRecord, drawing
from trimtab.store import Keeping, what_to_do
from trimtab.training import loggers, taps
from trimtab.training.handle import Training
from trimtab.training.printed import Lines
from trimtab.training.safe import of_script
from trimtab.training.saying import understood
from trimtab.training.stage import Hearer, stage
from trimtab.training.watch import Watch

EVERY = 10
FLUSH = 0.25  # seconds between writes to the store
IDLE = 100  # steps of other trainings after which one counts as over


class WatchWarning(UserWarning):
    """The watch had to turn itself off, or a part of it; the training goes on."""


def _warn(text: str) -> None:
    try:
        warnings.warn(text, WatchWarning, stacklevel=3)
    except WatchWarning:  # warnings are errors in this run; ours must not end it
        print(text, file=sys.stderr)


class Recorder(Hearer):
    """Records one run: any number of trainings, their evaluations and what the script prints.

    Args:
        subject: what runs, for people.
        store: where rows go while the run is going on; without one they stay in memory.
        metric: what the run is judged by: a regular expression with one group that reads a number from a line of output, the name
            of a number, or :class:`~trimtab.records.Asked` for more.
        sampled: measure layers and gradients on sampled steps; without, only losses and evaluations.
        every: sample every so many steps (fewer when measuring takes more than 1.5 % of the run).
    """

    def __init__(
        self,
        subject: str = "",
        store: Keeping | None = None,
        metric: str | Asked | None = None,
        sampled: bool = True,
        every: int = EVERY,
    ) -> None:
        self.id = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:6]
        self.subject, self.store = subject, store
        self.asked = metric if isinstance(metric, Asked) else Asked(metric=metric)
        self.sampled, self.every = sampled, every
        self._lock = threading.RLock()  # trainings may run in threads
        self.off = ""  # the error that has turned the watch off
        self.failed: dict[str, str] = {}  # the parts of it that an error has turned off alone
        self.watches: list[Watch] = []
        self.kept: Training | None = None  # what lives at least as long: the handle that has begun this
        self.printed: list[str] = []
        self.started = time.time()
        self.error, self.exit_code = "", 0
        self._clock = time.perf_counter()
        self._ended = 0.0
        self._flushed = 0.0
        self._shape: list = []
        self._current: Watch | None = None
        self._early: list[tuple[str, float]] = []
        self._lines: dict[str, Lines] = {}
        self._latest: dict[str, int] = {}  # the training in which a number was said last
        self.compiled = False  # layers inside compiled code are left alone
        self._forwarded: dict[int, Watch] = {}  # by thread: whose model ran last, as far as was measured
        self._stops = [
            stage.hear(self),
            taps.listen("loader", self.guarded(self._on_loader)),
            taps.listen("compile", self.guarded(self.on_compile)),
            taps.listen("saved", self.guarded(self._on_saved)),
            loggers.listen(self.guarded(self.logged, "logged numbers")),
        ]
        self._unforgive = taps.forgive(self._forgive)  # also when it is off, for what is still there
        _recording.add(self)
        self._loader_starts = 0
        self.steps = 0

    # -- keeping the training safe from us ---------------------------------------------------------------------------

    def guarded(self, call: Callable[..., Any], part: str = "") -> Callable[..., None]:
        """``call``, except that an error in it turns the watch off with a warning, or only a part of it."""

        @functools.wraps(call)
        def safe(*args: Any, **kwargs: Any) -> None:
            if self.off or part in self.failed:
                return
            try:
                with self._lock, taps.apart():
                    call(*args, **kwargs)
            except Exception as error:
                if of_script(error):
                    raise
                self.turn_off(error, part)

        return safe

    def left_out(self, part: str, why: str) -> None:
        """A part of the run is not watched."""
        self.failed.setdefault(part, why)

    def turn_off(self, error: Exception, part: str = "") -> None:
        """End all measuring, or that of one part; what was recorded stays."""
        where = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        place = f" ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})" if where else ""
        said = f"{_said(error)}{place}"
        if part:
            self.failed[part] = f"after an error of trimtab's own, {said}"
            _warn(f"trimtab's watch met an error of its own and goes on without {part}; so does the training. {said}")
            return
        self.off = _said(error)
        for watch in self.watches:
            watch.release()
        self._leave()
        _warn(f"trimtab's watch met an error of its own and turned itself off; the training goes on. {said}")

    @property
    def unheard(self) -> str:
        """The error that has kept numbers from being heard, if one has: what judges the run may be another one then."""
        return self.off or next((said for part, said in self.failed.items() if part.endswith(" numbers")), "")

    def _forgive(self, error: Exception) -> bool:
        if not self.off:
            self.turn_off(error)
        return True

    def _leave(self) -> None:
        for stop in self._stops[::-1]:
            stop()

    def forked(self) -> None:
        """This process is a child of the one that is recorded: it goes its own way, and leaves the record and the store alone."""
        self.off = "this is another process"
        if (
            self.store is not None
        ):  # both use the same file: it must not be closed here, not even by the garbage collector
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.store))
            self.store = None
        for watch in self.watches:
            watch.release()
        self._leave()

    # -- what happens in the run -------------------------------------------------------------------------------------

    def watch(self, training: Training, code: CodePlace | None = None) -> Watch:
        """Begin to watch another training of this run."""
        watch = Watch(self, training, len(self.watches), code)
        self.watches.append(watch)
        return watch

    def loss(self, name: str, output: Any, target: Any, value: torch.Tensor) -> None:
        """A training loss was evaluated."""
        here = threading.get_ident()
        watch = self.watches[0] if len(self.watches) == 1 else self._forwarded.get(here)
        training = watch.training() if watch is not None else None
        if watch is not None and training is not None and training.thread == here:
            self.guarded(watch.on_training_loss)(name, output, target, value)

    def forwarded(self, watch: Watch) -> None:
        """The model of a training has run in this thread."""
        self._forwarded[threading.get_ident()] = watch

    def evaluation(self, training: Training | None, name: str, value: float) -> None:
        """A number was measured that judges the training as it stands now."""
        watch = next((one for one in self.watches if training is not None and one.training() is training), None)
        self.guarded(self._add)(watch or self._current, name, value)

    def _on_loader(self, loader: Any) -> None:
        self._loader_starts += 1

    def _on_saved(self) -> None:
        if self._current is not None:
            self._current.facts["last_saved"] = self._current.step

    def on_compile(self, _: object = None) -> None:
        """A module or a function is going to be compiled: its layers cannot be seen, and hooks would make it compile again."""
        self.compiled = True
        for watch in self.watches:
            watch.unhook()

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

    def _add(self, watch: Watch | None, name: str, value: float) -> None:
        if watch is None:
            self._early.append((name, value))
        else:
            watch.look_at_weights()
            watch.add(name, watch.step, value)
            self._latest[name] = watch.index

    def stepped(self, watch: Watch) -> None:
        """A training has made a step: it is the one that numbers from here on speak of, unless it trains tensors of no model."""
        training = self._current.training() if self._current is not None else None
        if self._current is None or watch.has_model or training is None or not self._current.has_model:
            self._current = watch
        for name, value in self._early:
            watch.add(name, 0, value)
            self._latest[name] = watch.index
        self._early.clear()
        if watch.step <= 1:
            watch.began = self.steps
        self.steps += 1
        watch.seen_at = self.steps
        for other in self.watches:
            if self.steps - other.seen_at > IDLE:
                other.unhook()  # its training is over, as it seems; another step would begin a new sample
        watch.epochs.add(self._loader_starts)
        now = time.perf_counter()
        if self.store and now - self._flushed > FLUSH:
            self.flush()
            self._flushed = now

    # -- writing it down ---------------------------------------------------------------------------------------------

    def flush(self, finished: bool = False) -> None:
        """Write what is new to the store. If the store fails, the record goes on in memory."""
        if self.store is None:
            return
        points: list = []
        profiles: list = []
        for watch in self.watches:
            watch.settle()
            points += watch.new_points
            profiles += watch.new_profiles
            watch.new_points, watch.new_profiles = [], []
        shape = [(len(w.layers), len(w.facts), [len(names) for names, *_ in w.profiles.values()]) for w in self.watches]
        try:
            self.store.add_rows(self.id, points, profiles)
            if finished or shape != self._shape:
                self.store.put_run(self.record(heads=not finished), finished=finished)
                self._shape = shape
        except (sqlite3.Error, OSError) as error:
            _warn(
                f"trimtab cannot write to {self.store.path} any more ({error}). The run goes on and is kept in memory. "
                f"{what_to_do(error)}"
            )
            self.store = None

    def close(self) -> RunRecord:
        """End the watch and give the whole record."""
        self._ended = self._ended or time.perf_counter()
        if not self.off:
            self.guarded(stage.close_evaluations)(over=True)
            for watch in self.watches:
                self.guarded(watch.finish)()
        for watch in self.watches:
            watch.release()
        self._leave()
        self._unforgive()
        _recording.discard(self)
        self.flush(finished=True)
        return self.record()

    def record(self, heads: bool = False) -> RunRecord:
        """What is known so far; with ``heads``, without the measured numbers."""
        trainings = tuple(watch.record(heads) for watch in self.watches)
        whole = {"all that came after an error of trimtab's own": self.off} if self.off else {}
        record = RunRecord(
            id=self.id,
            subject=self.subject,
            started=self.started,
            seconds=(self._ended or time.perf_counter()) - self._clock,
            exit_code=self.exit_code,
            error=self.error,
            output_tail="\n".join(self.printed[-20:]),
            trainings=trainings,
            versions={"python": sys.version.split()[0], "torch": str(torch.__version__)},
            applied=tuple(c.sentence for w in self.watches for c in (w.changes or ())),
            latest=dict(self._latest),
            hints=tuple(hint for lines in self._lines.values() for hint in lines.unknown()),
            unwatched=tuple(f"{part} ({said})" for part, said in {**self.failed, **whole}.items()),
        )
        metric = None if heads else choose(record, self.asked)
        return msgspec.structs.replace(record, metric=metric, reached=reached(record, metric)) if metric else record

    def __repr__(self) -> str:
        return f"<Recorder of {', '.join(watch.model for watch in self.watches) or 'nothing yet'}, {self.steps} steps>"

    def report(self, path: str | os.PathLike | None = None) -> Any:
        """What was recorded until now with its diagnosis, as :func:`trimtab.report` gives it; written to ``path`` if that is given."""
        return drawing().report(self, path)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # of what a script raises, the text may raise too
        return type(error).__name__


_recording: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _forked() -> None:
    for recorder in tuple(_recording):
        recorder.forked()


os.register_at_fork(after_in_child=_forked)


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", "").rstrip("."))
    except ValueError:
        return None
