"""Where runs and trials are kept: one SQLite file in ``.trimtab/`` beside the script.

The file is in write-ahead mode and is committed four times a second while a run is recorded, so a killed run keeps
what it had, and other processes can read while it is written. A run is three tables' worth of rows: one in ``run`` (the
head of the record), one a step and series in ``point``, one a sampled step and profile in ``profile``. Trials are whole
records, written once when they end: that is what makes a comparison resumable. Treatments, comparisons and searches are kept in
``outcome`` beside the run that they started from.

What cannot be read, of another version of trimtab or damaged, hides nothing else: it is left out, and a sentence in
``Store.skipped`` says so. A file of which a part is damaged is mended when it may be written: what can be read of it takes its place,
and it lies beside it as ``runs.db.damaged``. While another process holds the file, what is to be written waits in memory, and whoever
writes goes on: in all, a store makes its process wait for others no longer than ``PATIENCE``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sqlite3
import struct
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from trimtab.members import derived, leave_out, of_others, said
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
    to_bytes,
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

_OLDER = "create table if not exists {} (run text primary key, record blob);"  # treatment and tuning of older versions
_TABLES = ("run", "point", "profile", "trial", "watched", "outcome", "finding")

FOLDER = ".trimtab"
PATIENCE = 0.5  # seconds to wait for other processes in all: their commits take milliseconds
LATEST = 10**12  # steps beyond are no steps, but damage
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
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                if not (_damaged(error) and _filled_up(self.path)):
                    raise
                self._open()
        except (sqlite3.Error, OSError) as error:
            raise self._closed(error) from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=self._patience, check_same_thread=False)
        self._db.text_factory = _text
        self._db.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + _SCHEMA)
        self._descriptors: dict[int, os.stat_result] = dict(_open_as(self.path))  # those that SQLite holds

    def _set(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "runs.db"
        self.skipped: list[str] = []
        self._patience = PATIENCE
        self._waiting: list[tuple[str, list[tuple]]] = []  # statements with their rows, while another process writes
        self._copy: tempfile.TemporaryDirectory | None = None
        self._legible: sqlite3.Connection | None = None  # what can be read of a damaged file
        self._writes = True
        self._descriptors = {}

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
        store._writes = False
        if not store.path.exists():
            raise StoreError(f"{store.path} holds no run yet. Make one: trimtab watch SCRIPT.")
        try:
            try:
                store._connect(store.path, "mode=rw")
            except sqlite3.DatabaseError as error:
                if _held(error):
                    raise
                if _damaged(error):
                    (copied,) = store._copied(store.path)
                    if not _filled_up(copied):
                        raise
                    store._connect(copied, "mode=rw")
                    return store
                # SQLite wants to write beside a file that it reads, since others may write; on a read-only disk nobody does
                log = store.path.with_name("runs.db-wal")
                if (
                    log.exists() and log.stat().st_size
                ):  # not yet part of the file: both, where they can be put together
                    copied, _ = store._copied(store.path, log)
                    store._connect(copied, "mode=rw")
                else:
                    store._connect(store.path, "mode=ro&immutable=1")
        except (sqlite3.Error, OSError) as error:
            if store._copy is not None:
                store._copy.cleanup()
            raise store._closed(error) from error
        return store

    def _copied(self, *files: Path) -> list[Path]:
        """Copies for as long as this store is open."""
        self._copy = tempfile.TemporaryDirectory()
        return [Path(shutil.copyfile(file, Path(self._copy.name, file.name))) for file in files]

    def _connect(self, path: Path, mode: str) -> None:
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=self._patience)
        self._db.text_factory = _text
        self._db.execute("pragma query_only=1")
        self._db.execute("select count(*) from sqlite_master").fetchone()  # opens the file

    def _closed(self, error: Exception) -> StoreError:
        return StoreError(f"trimtab keeps its records in {self.path} and cannot open it ({error}). {what_to_do(error)}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._taken():  # closing would close somebody else's file: the connection stays as it is, for good
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))
            return
        with contextlib.suppress(sqlite3.Error):
            self.settle()
        self._db.close()
        if self._legible is not None:
            self._legible.close()
        if self._copy is not None:
            self._copy.cleanup()

    # -- reading and writing -------------------------------------------------------------------------------------------

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        try:
            return (self._legible or self._db).execute(query, values).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):  # of an older version, opened for reading
                return []
            if self._mended(error):
                return self._rows(query, *values)
            self._waited(PATIENCE if _held(error) else 0)
            why = "Another process holds it." if _held(error) else "The file is damaged, or in use."
            raise StoreError(f"{self.path} cannot be read ({error}). {why}") from error

    def _write(self, *statements: tuple[str, list[tuple]]) -> None:
        """Carry out statements, each with its rows, and commit, or let them wait while another process holds the file."""
        self._waiting += [(statement, [tuple(map(_whole, row)) for row in rows]) for statement, rows in statements]
        try:
            self.settle()
        except sqlite3.Error as error:
            if not _held(error):
                raise

    def settle(self) -> None:
        """Write what waits for another process.

        Raises:
            sqlite3.Error: if that is not possible, or not yet.
        """
        if not self._waiting:
            return
        if self._taken():
            self._waiting = []
            raise OSError("this process has closed it")
        began = time.monotonic()
        try:
            with self._db:
                for statement, rows in self._waiting:
                    self._db.executemany(statement, rows)
            self._waiting = []
        except sqlite3.Error as error:
            if self._mended(error) and self._legible is None:
                return self.settle()
            if not _held(error):
                self._waiting = []
            raise
        finally:
            self._waited(time.monotonic() - began)

    def _taken(self) -> bool:
        """Whether somebody in this process has closed the file, by closing all that is open: its number may be that of another."""
        for number, file in self._descriptors.items():
            try:
                if not os.path.samestat(file, os.fstat(number)):
                    return True
            except OSError:
                return True
        return False

    def _waited(self, seconds: float) -> None:
        """Some of the patience is used up, unless that is how long a disk takes."""
        if seconds > 0.03:
            self._patience = max(0.0, self._patience - seconds)
            with contextlib.suppress(sqlite3.Error):
                self._db.execute(f"pragma busy_timeout={round(1000 * self._patience)}")

    def _mended(self, error: sqlite3.Error) -> bool:
        """Whether a damaged file has been replaced by what can be read of it: where it may be written on the disk, else for this store."""
        if self._legible is not None or not _damaged(error):
            return False
        self._legible = sqlite3.connect("", check_same_thread=False)  # a file of its own, without a name
        self._legible.text_factory = _text
        _copy_legible(self._db, self._legible)
        said = f"{self.path} is damaged ({error}). What can be read of it is shown, the rest is lost."
        if self._writes:
            try:
                shutil.copyfile(self.path, self.path.with_name("runs.db.damaged"))
                self._legible.backup(self._db)
            except (sqlite3.Error, OSError):
                pass
            else:
                self._legible.close()
                self._legible = None
                said = (
                    f"{self.path} was damaged ({error}). What could be read of it is kept, the rest is lost; the damaged file lies beside "
                    "it as runs.db.damaged."
                )
        self._skip(said)
        return True

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
        # SQLite has no NaN: it would read back as NULL, which is how it is meant here.
        packed = [(run, t, name, step, struct.pack(f"<{len(v)}d", *v)) for t, name, step, v in profiles]
        self._write(
            ("insert into point values (?,?,?,?,?)", [(run, *row) for row in points]),
            ("insert into profile values (?,?,?,?,?)", packed),
        )

    def put_run(self, record: RunRecord, *, finished: bool) -> None:
        """Write (or overwrite) the head of a run: everything but its points and profile rows. Of a run that has finished, nothing waits.

        Raises:
            sqlite3.Error: if it cannot be written.
        """
        trainings = tuple(
            msgspec.structs.replace(
                training,
                series={},
                profiles={name: Profile(names=profile.names) for name, profile in training.profiles.items()},
            )
            for training in record.trainings
        )
        head = to_bytes(msgspec.structs.replace(record, trainings=trainings))
        row = (record.id, record.started, finished, head)
        self._write(("insert or replace into run values (?,?,?,?)", [row]))
        if finished:
            self.settle()

    def runs(self) -> list[str]:
        """The ids of all runs, oldest first."""
        ids = [run for (run,) in self._rows("select id from run order by started, rowid")]
        if not all(isinstance(run, str) for run in ids):
            self._skip(f"Left out: a run in {self.path} that has lost its name.")
        return [run for run in ids if isinstance(run, str)]

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
            self._skip(f"Left out: {error}")

    def _skip(self, sentence: str) -> None:
        if sentence not in self.skipped:
            self.skipped.append(sentence)

    def _head(self, run: str) -> RunRecord:
        what = f"The run {run}"
        (head, finished), *_ = self._rows("select head, finished from run where id=?", run) or [(None, False)]
        return msgspec.structs.replace(self._decoded(head, RunRecord, what), id=run, finished=bool(finished))

    def _listed(self, head: RunRecord) -> Listed:
        longest = max(range(len(head.trainings)), key=lambda i: head.trainings[i].steps, default=0)
        steps = head.trainings[longest].steps if head.trainings else 0
        newest = "select {} from point where run=? and training=? and name=? order by rowid desc limit 1"
        if not head.finished:  # its head is older than its numbers
            last = self._rows(newest.format("step"), head.id, longest, "loss")
            steps = max([steps, *(step + 1 for (step,) in last if _is_step(step))])
        value = float("nan") if head.reached is None else head.reached
        if head.metric is not None and head.reached is None:
            for (said,) in self._rows(newest.format("value"), head.id, longest, head.metric.name):
                value = said if isinstance(said, float) else value
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
            if isinstance(name, str) and _is_step(step) and isinstance(value, (float, int, types.NoneType)):
                steps, values = series.setdefault(name, ([], []))
                steps.append(step)
                values.append(float("nan") if value is None else float(value))
            else:
                damaged[str(name)] = damaged.get(str(name), 0) + 1
        for name, step, vals in self._rows(_PROFILES, run, index):
            if isinstance(name, str) and _is_step(step) and isinstance(vals, bytes) and len(vals) % 8 == 0:
                steps, values_list = rows.setdefault(name, ([], []))
                steps.append(step)
                values_list.append(struct.unpack(f"<{len(vals) // 8}d", vals))
            else:
                damaged[str(name)] = damaged.get(str(name), 0) + 1
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
        row = (key, time.time(), to_bytes(trial))
        self._write(("insert or replace into trial values (?,?,?)", [row]))

    def put_watched(self, key: str, watched: Watched) -> None:
        """Keep that a subject was watched, under what makes it the same subject."""
        self._write(("insert or replace into watched values (?,?)", [(key, to_bytes(watched))]))

    def watched(self, key: str) -> Watched | None:
        """What was kept under that key, if anything was."""
        rows = self._rows("select record from watched where key=?", key)
        return self._decoded(rows[0][0], Watched, f"What was watched as {key}") if rows else None

    # -- what was found in a run, and what was tried on it -------------------------------------------------------------

    def put_findings(self, run: str, findings: Sequence[Finding]) -> None:
        """Keep what was found in a run, for lists; whoever shows the run diagnoses it anew."""
        row = (run, to_bytes(list(findings)))
        self._write(("insert or replace into finding values (?,?)", [row]))

    def findings(self, run: str) -> tuple[Finding, ...] | None:
        """What was found in a run; ``None`` if it was not diagnosed yet."""
        rows = self._rows("select record from finding where run=?", run)
        return self._decoded(rows[0][0], tuple[Finding, ...], f"What was found in run {run}") if rows else None

    def put_outcome(self, run: str, outcome: Outcome) -> None:
        """Keep what was tried beside the watched run that it started from. A later treatment or search takes the place of the one
        before; of comparisons each set of recipes has its own.

        Raises:
            StoreError: if another kind of outcome has the name of this one's kind.
        """
        known = outcome_kinds().get(outcome.kind())
        if known is not None and not _same(known, type(outcome)):
            raise StoreError(
                f"{self.path} keeps no {type(outcome).__module__}.{type(outcome).__qualname__}: its kind {outcome.kind()!r} "
                f"is that of {known.__module__}.{known.__qualname__}. Let its kind() give another name."
            )
        row = (run, outcome.kind(), outcome.variant, time.time(), to_bytes(outcome))
        self._write(("insert or replace into outcome values (?,?,?,?,?)", [row]))

    put_treatment = put_comparison = put_tuning = put_outcome

    def outcomes(self, run: str) -> list[Outcome]:
        """All treatments, comparisons and searches of that run that can be read, newest first."""
        found: list[Outcome] = []
        kinds = outcome_kinds()
        for blob, kind, name in self._kept(run):
            with self._skipping():
                what = f"The {kind}{f' of {name!r}' if name else ''} of run {run}"
                found.append(self._decoded(blob, kinds[kind], what))
        return found

    def _kept(self, run: str) -> list[tuple[Any, str, str]]:
        """Record, kind and name of all outcomes whose kind is known, newest first."""
        query = "select record, kind, name from outcome where run=? order by made desc, rowid desc"
        rows, kinds = [], outcome_kinds()
        for blob, kind, name in self._rows(query, run):
            if kind in kinds:
                rows.append((blob, kind, name))
            else:
                what = f"Left out: an outcome of run {run} of the kind {str(kind)[:100]!r}, which nothing installed here knows."
                self._skip(f"{what} Install the package that made it.")
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


def what_to_do(error: Exception) -> str:
    """What a user can do about an error of SQLite or of the disk."""
    if _held(error):
        return "Another process holds it: wait until that one has ended, or end it."
    if _damaged(error):
        return "It is damaged: move it away, and the next run begins a new one."
    return "Make room or permission there, or choose another folder."


def _text(raw: bytes) -> str:
    """A text of the file; of one that is damaged, what can be read."""
    return raw.decode("utf-8", errors="replace")


def _whole(value: Any) -> Any:
    """A name that may be no text at all, as one."""
    return value.encode(errors="replace").decode() if isinstance(value, str) and not value.isascii() else value


def _is_step(step: Any) -> bool:
    return isinstance(step, int) and 0 <= step < LATEST


def _held(error: Exception) -> bool:
    """Whether another process holds the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _damaged(error: Exception) -> bool:
    """Whether a part of the file, or all of it, is not what SQLite has written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _open_as(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """The numbers under which this process has a file open, and those that SQLite keeps beside it, where the system tells."""
    names = {os.path.realpath(path) + end for end in ("", "-wal", "-shm")}
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") in names:
                    yield int(number), os.fstat(int(number))


MOST_MISSING = 16 << 20  # bytes that a file may lack, beside as many as it has: else its head is what is damaged


def _filled_up(path: Path) -> bool:
    """Of a file that was cut off, zeros take the place of what is missing, so that SQLite reads the rest."""
    with open(path, "rb") as file:
        head = file.read(100)
    pages, size = int.from_bytes(head[28:32], "big"), int.from_bytes(head[16:18], "big")
    if (
        head[:15] != b"SQLite format 3"
        or not os.path.getsize(path) < pages * size <= 2 * os.path.getsize(path) + MOST_MISSING
    ):
        return False
    os.truncate(path, pages * size)
    return True


def _copy_legible(source: sqlite3.Connection, to: sqlite3.Connection) -> None:
    """Copy all rows that can be read, found by halving what cannot; no more than some thousand attempts fail in a table."""
    to.executescript(_SCHEMA + _OLDER.format("treatment") + _OLDER.format("tuning"))
    for table in (*_TABLES, "treatment", "tuning"):
        columns = ", ".join(row[1] for row in to.execute(f"pragma table_info({table})"))
        try:
            ((last,),) = source.execute(f"select max(rowid) from {table}")
        except sqlite3.Error:
            last = 1 << 40
        ranges, most = [(0, last or 0)], 5000
        while ranges and most > 0:
            low, high = ranges.pop()
            one = low == high  # by its number: behind a range SQLite looks at the next row, which may be damaged
            query = f"select rowid, {columns} from {table} not indexed where rowid {'=' if one else 'between ? and'} ?"
            try:
                rows = source.execute(query, (low,) if one else (low, high)).fetchall()
            except sqlite3.Error as error:
                most -= 1
                if low < high and "no such table" not in str(error):
                    middle = (low + high) // 2
                    ranges += [(middle + 1, high), (low, middle)]
            else:
                marks = ", ".join("?" * (columns.count(",") + 2))
                to.executemany(f"insert or ignore into {table} (rowid, {columns}) values ({marks})", rows)
    to.commit()


def outcome_kinds() -> dict[str, type[Outcome]]:
    """All kinds of outcomes by their names. Of two with one name trimtab's own counts, else the first; the other is left out with a
    warning."""
    of_others("outcomes")
    found: dict[str, type[Outcome]] = {}
    for one in derived(Outcome):
        try:
            kind = one.kind()
        except Exception as error:  # of foreign code
            leave_out("outcomes", one, f"the kind() of its record fails ({said(error)})")
            continue
        known = found.get(kind)
        if known is None or _same(known, one):
            found[kind] = one
        else:
            has = f"that of {known.__module__}.{known.__qualname__}"
            leave_out("outcomes", one, f"the kind {kind!r} of its record is {has}; let its kind() give another name")
    return found


def _same(one: type, other: type) -> bool:
    """Whether two classes are one, which a notebook may have defined anew."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def report_command(run: str, folder: Path) -> str:
    """The command that shows a recorded run again, as it is typed in the current folder.

    >>> report_command("20260101-120000-abcdef", Path(".trimtab"))
    'trimtab report 20260101-120000-abcdef'
    """
    here = folder.resolve() == (Path.cwd() / FOLDER).resolve()
    return f"trimtab report {'' if here else f'--store {os.path.relpath(folder)} '}{run}"
