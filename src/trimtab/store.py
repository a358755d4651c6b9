"""Where runs and trials are kept: one SQLite file in ``.trimtab/`` beside the script.

The file is in write-ahead mode and is committed four times a second while a run is recorded, so a killed run keeps
what it had, and other processes can read while it is written. A run is three tables' worth of rows: one in ``run`` (the
head of the record), one a step and series in ``point``, one a sampled step and profile in ``profile``. Trials are whole
records, written once when they end: that is what makes a comparison resumable. Treatments, comparisons and searches are kept in
``outcome`` beside the run that they started from.

What cannot be read, of another version of trimtab or damaged, hides nothing else: it is left out, and a sentence in
``Store.skipped`` says so.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from trimtab.records import (
    Comparison,
    Finding,
    Outcome,
    Profile,
    RunRecord,
    Series,
    TrainingRecord,
    Treatment,
    Trial,
    Tuning,
    Watched,
)

_SCHEMA = """
create table if not exists run (id text primary key, started real, finished integer, head blob);
create table if not exists point (run text, training integer, name text, step integer, value real);
create table if not exists profile (run text, training integer, name text, step integer, vals blob);
create table if not exists trial (key text primary key, ended real, record blob);
create table if not exists watched (key text primary key, record blob);
create table if not exists outcome (run text, kind text, name text, made real, record blob, primary key (run, kind, name));
create table if not exists finding (run text primary key, record blob);
create index if not exists point_run on point (run);
create index if not exists profile_run on profile (run);
"""

FOLDER = ".trimtab"
PATIENCE = 2.0  # seconds to wait for another process that writes: its commits take milliseconds
_KINDS: dict[str, type[Outcome]] = {"treatment": Treatment, "comparison": Comparison, "tuning": Tuning}
T = TypeVar("T")


class StoreError(RuntimeError):
    """The store cannot be read or written; the message says why and what to do."""


class Keeping(Protocol):
    """Where the rows of a run go while it is going on: a :class:`Store`, or something on the way to one."""

    path: Path

    def add_rows(self, run: str, points: Sequence[Any], profiles: Sequence[Any]) -> None: ...
    def put_run(self, record: RunRecord, *, finished: bool) -> None: ...


@dataclass(frozen=True)
class Listed:
    """What a list of runs says of one: the head of its record, without measured numbers, and what is kept beside it.

    ``steps`` are those of the longest training, ``value`` is the metric at the end, ``findings`` is ``None`` where nobody
    has diagnosed the run yet, ``outcomes`` are the kinds of what was tried on it, newest first.
    """

    run: RunRecord
    steps: int
    value: float
    findings: tuple[Finding, ...] | None
    outcomes: tuple[str, ...]


class Store:
    """Runs and trials of the scripts in one folder, made if it is not there; it ignores itself in git.

    >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
    ...     store.runs()
    []

    Attributes:
        skipped: what could not be read so far, a sentence each.
    """

    def __init__(self, folder: str | Path) -> None:
        self._set(folder)
        try:
            made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            if made:
                with contextlib.suppress(OSError):  # a full disk is told by what matters more
                    (self.folder / ".gitignore").write_text("*\n")
            self._db = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            self._db.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + _SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._closed(error) from error

    def _set(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "runs.db"
        self.skipped: list[str] = []
        self._copy: tempfile.TemporaryDirectory | None = None

    @classmethod
    def beside(cls, script: str | Path) -> Store:
        """The store of the folder that holds the script."""
        return cls(Path(script).resolve().parent / FOLDER)

    @classmethod
    def reading(cls, folder: str | Path) -> Store:
        """The store of a folder for reading alone: nothing is made, and the disk may be read-only.

        Raises:
            StoreError: if there is none, or it cannot be opened.
        """
        store = cls.__new__(cls)
        store._set(folder)
        if not store.path.exists():
            raise StoreError(f"{store.path} holds no run yet. Make one: trimtab watch SCRIPT.")
        try:
            try:
                store._connect(store.path, "mode=rw")
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise
                # SQLite wants to write beside a file that it reads, since others may write; on a read-only disk nobody does
                log = store.path.with_name("runs.db-wal")
                if (
                    log.exists() and log.stat().st_size
                ):  # not yet part of the file: both, where they can be put together
                    store._copy = tempfile.TemporaryDirectory()
                    copied = [Path(shutil.copy(file, store._copy.name)) for file in (store.path, log)]
                    store._connect(copied[0], "mode=rw")
                else:
                    store._connect(store.path, "mode=ro&immutable=1")
        except (sqlite3.Error, OSError) as error:
            raise store._closed(error) from error
        return store

    def _connect(self, path: Path, mode: str) -> None:
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=PATIENCE)
        self._db.execute("pragma query_only=1")
        self._db.execute("select count(*) from sqlite_master").fetchone()  # opens the file

    def _closed(self, error: Exception) -> StoreError:
        todo = "Make room or permission there, or choose another folder with --store FOLDER."
        if "locked" in str(error):
            todo = "Another process holds it: wait until that one has ended, or end it."
        return StoreError(f"trimtab keeps its records in {self.path} and cannot open it ({error}). {todo}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()

    # -- reading -----------------------------------------------------------------------------------------------------

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):  # of an older version, opened for reading
                return []
            raise StoreError(f"{self.path} cannot be read ({error}). The file is damaged, or in use.") from error

    def _decoded(self, blob: Any, kind: type[T], what: str) -> T:
        try:
            return msgspec.msgpack.decode(blob, type=kind)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            reason = f"it is damaged, or of another version of trimtab: {error}"
            raise StoreError(f"{what} in {self.path} cannot be read ({reason}).") from error

    # -- runs --------------------------------------------------------------------------------------------------------

    def add_rows(
        self,
        run: str,
        points: Sequence[tuple[int, str, int, float]],
        profiles: Sequence[tuple[int, str, int, Sequence[float]]],
    ) -> None:
        """Append measurements ``(training, name, step, value(s))`` and commit."""
        with self._db:
            # SQLite has no NaN: it would read back as NULL, which is how it is meant here.
            self._db.executemany("insert into point values (?,?,?,?,?)", [(run, *row) for row in points])
            self._db.executemany(
                "insert into profile values (?,?,?,?,?)",
                [(run, t, name, step, struct.pack(f"<{len(v)}d", *v)) for t, name, step, v in profiles],
            )

    def put_run(self, record: RunRecord, *, finished: bool) -> None:
        """Write (or overwrite) the head of a run: everything but its points and profile rows."""
        trainings = tuple(
            msgspec.structs.replace(
                training,
                series={},
                profiles={name: Profile(names=profile.names) for name, profile in training.profiles.items()},
            )
            for training in record.trainings
        )
        head = msgspec.msgpack.encode(msgspec.structs.replace(record, trainings=trainings))
        with self._db:
            self._db.execute("insert or replace into run values (?,?,?,?)", (record.id, record.started, finished, head))

    def runs(self) -> list[str]:
        """The ids of all runs, oldest first."""
        return [row[0] for row in self._rows("select id from run order by started, rowid")]

    def run(self, run: str | None = None) -> RunRecord:
        """A whole run by its id; the newest that can be read when none is given.

        Raises:
            StoreError: if there is no such run, or it cannot be read.
        """
        ids = self.runs()
        if not ids:
            raise StoreError(f"{self.path} holds no run yet. Make one: trimtab watch SCRIPT.")
        if run is not None and run not in ids:
            raise StoreError(f"{self.path} has no run {run[:100]!r}. It has: {', '.join(ids)}.")
        if run is not None:
            return self._filled(self._head(run))
        for one in reversed(ids):
            with self._skipping():
                return self._filled(self._head(one))
        raise StoreError(" ".join([f"None of the runs in {self.path} can be read.", *self.skipped]))

    def listed(self) -> Iterator[Listed]:
        """All runs for a list, oldest first; measured numbers are not read."""
        for head in self.heads():
            with self._skipping():
                yield self._listed(head)

    def heads(self) -> Iterator[RunRecord]:
        """The records of all runs without measured numbers, oldest first."""
        for run in self.runs():
            with self._skipping():
                yield self._head(run)

    @contextlib.contextmanager
    def _skipping(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            self.skipped.append(f"Left out: {error}")

    def _head(self, run: str) -> RunRecord:
        ((head, finished),) = self._rows("select head, finished from run where id=?", run)
        return msgspec.structs.replace(self._decoded(head, RunRecord, f"The run {run}"), finished=bool(finished))

    def _listed(self, head: RunRecord) -> Listed:
        longest = max(range(len(head.trainings)), key=lambda i: head.trainings[i].steps, default=0)
        steps = head.trainings[longest].steps if head.trainings else 0
        newest = "select {} from point where run=? and training=? and name=? order by rowid desc limit 1"
        if not head.finished:  # its head is older than its numbers
            steps = max([steps, *(row[0] + 1 for row in self._rows(newest.format("step"), head.id, longest, "loss"))])
        value = float("nan") if head.reached is None else head.reached
        if head.metric is not None and head.reached is None:
            for (last,) in self._rows(newest.format("value"), head.id, longest, head.metric.name):
                value = last if isinstance(last, float) else value
        findings = None
        with self._skipping():
            findings = self.findings(head.id)
        return Listed(head, steps, value, findings, tuple(dict.fromkeys(kind for _, kind, _ in self._kept(head.id))))

    def _filled(self, record: RunRecord) -> RunRecord:
        trainings = tuple(self._measured(record.id, i, training) for i, training in enumerate(record.trainings))
        return msgspec.structs.replace(record, trainings=trainings)

    def _measured(self, run: str, index: int, training: TrainingRecord) -> TrainingRecord:
        series: dict[str, tuple[list[int], list[float]]] = {}
        rows: dict[str, tuple[list[int], list[tuple[float, ...]]]] = {}
        damaged: dict[str, int] = {}
        for name, step, value in self._rows(_POINTS, run, index):
            try:
                steps, values = series.setdefault(name, ([], []))
                values.append(float("nan") if value is None else float(value))
                steps.append(int(step))
            except (TypeError, ValueError):
                del values[len(steps) :]
                damaged[name] = damaged.get(name, 0) + 1
        for name, step, vals in self._rows(_PROFILES, run, index):
            try:
                steps, values_list = rows.setdefault(name, ([], []))
                values_list.append(struct.unpack(f"<{len(vals) // 8}d", vals))
                steps.append(int(step))
            except (TypeError, ValueError, struct.error):
                del values_list[len(steps) :]
                damaged[name] = damaged.get(name, 0) + 1
        profiles = {}
        for name, profile in training.profiles.items():
            steps, values_list = rows.get(name, ([], []))
            width = len(profile.names)
            nan = float("nan")
            whole = tuple(row[:width] + (nan,) * (width - len(row)) for row in values_list)
            profiles[name] = Profile(names=profile.names, steps=tuple(steps), rows=whole)
        lost = tuple(f"Damaged rows of {name} left out: {count}." for name, count in damaged.items())
        return msgspec.structs.replace(
            training,
            steps=max([training.steps, *(s[-1] + 1 for name, (s, _) in series.items() if name == "loss" and s)]),
            series={name: Series(steps=tuple(s), values=tuple(v)) for name, (s, v) in series.items()},
            profiles=profiles,
            notes=training.notes + lost,
        )

    # -- trials ------------------------------------------------------------------------------------------------------

    def trial(self, key: str) -> Trial | None:
        """The finished trial of that key, if there is one."""
        rows = self._rows("select record from trial where key=?", key)
        return self._decoded(rows[0][0], Trial, f"The trial {key}") if rows else None

    def put_trial(self, key: str, trial: Trial) -> None:
        """Keep a finished trial."""
        with self._db:
            row = (key, time.time(), msgspec.msgpack.encode(trial))
            self._db.execute("insert or replace into trial values (?,?,?)", row)

    def put_watched(self, key: str, watched: Watched) -> None:
        """Keep that a subject was watched, under what makes it the same subject."""
        with self._db:
            self._db.execute("insert or replace into watched values (?,?)", (key, msgspec.msgpack.encode(watched)))

    def watched(self, key: str) -> Watched | None:
        """What was kept under that key, if anything was."""
        row = self._db.execute("select record from watched where key=?", (key,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Watched) if row else None

    # -- what was found in a run, and what was tried on it -------------------------------------------------------------

    def put_findings(self, run: str, findings: Sequence[Finding]) -> None:
        """Keep what was found in a run, for lists; whoever shows the run diagnoses it anew."""
        with self._db:
            self._db.execute(
                "insert or replace into finding values (?,?)", (run, msgspec.msgpack.encode(list(findings)))
            )

    def findings(self, run: str) -> tuple[Finding, ...] | None:
        """What was found in a run; ``None`` if it was not diagnosed yet."""
        rows = self._rows("select record from finding where run=?", run)
        return self._decoded(rows[0][0], tuple[Finding, ...], f"What was found in run {run}") if rows else None

    def put_outcome(self, run: str, outcome: Outcome) -> None:
        """Keep what was tried beside the watched run that it started from. A later treatment or search takes the place of the one
        before; of comparisons each set of recipes has its own."""
        row = (run, *name_of(outcome), time.time(), msgspec.msgpack.encode(outcome))
        with self._db:
            self._db.execute("insert or replace into outcome values (?,?,?,?,?)", row)

    put_treatment = put_comparison = put_tuning = put_outcome

    def outcomes(self, run: str) -> list[Outcome]:
        """All treatments, comparisons and searches of that run that can be read, newest first."""
        found: list[Outcome] = []
        for blob, kind, name in self._kept(run):
            with self._skipping():
                what = f"The {kind}{f' of {name!r}' if name else ''} of run {run}"
                found.append(self._decoded(blob, _KINDS[kind], what))
        return found

    def _kept(self, run: str) -> list[tuple[Any, str, str]]:
        """Record, kind and name of all outcomes, newest first."""
        query = "select record, kind, name from outcome where run=? order by made desc, rowid desc"
        rows = [row for row in self._rows(query, run) if row[1] in _KINDS]
        for kind in ("tuning", "treatment"):  # where older versions kept them
            if not any(row[1] == kind for row in rows):
                rows += [(blob, kind, "") for (blob,) in self._rows(f"select record from {kind} where run=?", run)]
        return rows

    def treatment(self, run: str) -> Treatment | None:
        """The treatment that started from that run, if there was one."""
        return next((one for one in self.outcomes(run) if isinstance(one, Treatment)), None)

    def comparison(self, run: str) -> Comparison | None:
        """The newest comparison with that run as its untreated one, if there was one."""
        return next((one for one in self.outcomes(run) if isinstance(one, Comparison)), None)

    def tuning(self, run: str) -> Tuning | None:
        """The newest search that started from that run, if there was one."""
        return next((one for one in self.outcomes(run) if isinstance(one, Tuning)), None)


_POINTS = "select name, step, value from point where run=? and training=? order by rowid"
_PROFILES = "select name, step, vals from profile where run=? and training=? order by rowid"


def name_of(outcome: Outcome) -> tuple[str, str]:
    """The kind of an outcome, and what tells it from others of its kind on the same run."""
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(outcome, cls))
    return kind, "; ".join(arm.recipe for arm in outcome.arms) if isinstance(outcome, Comparison) else ""
