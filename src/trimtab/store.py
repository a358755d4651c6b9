"""Where runs and trials are kept: one SQLite file in ``.trimtab/`` beside the script.

The file is in write-ahead mode and is committed four times a second while a run is recorded, so a killed run keeps
what it had, and other processes can read while it is written. A run is three tables' worth of rows: one in ``run`` (the
head of the record), one a step and series in ``point``, one a sampled step and profile in ``profile``. Trials are whole
records, written once when they end: that is what makes a comparison resumable.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from trimtab.records import Profile, RunRecord, Series, TrainingRecord, Treatment, Trial, Tuning, Watched

_SCHEMA = """
create table if not exists run (id text primary key, started real, finished integer, head blob);
create table if not exists point (run text, training integer, name text, step integer, value real);
create table if not exists profile (run text, training integer, name text, step integer, vals blob);
create table if not exists trial (key text primary key, ended real, record blob);
create table if not exists watched (key text primary key, record blob);
create table if not exists treatment (run text primary key, record blob);
create table if not exists tuning (run text primary key, record blob);
create index if not exists point_run on point (run);
create index if not exists profile_run on profile (run);
"""

FOLDER = ".trimtab"


class StoreError(RuntimeError):
    """The store cannot be read or written; the message says why and what to do."""


class Keeping(Protocol):
    """Where the rows of a run go while it is going on: a :class:`Store`, or something on the way to one."""

    path: Path

    def add_rows(self, run: str, points: Sequence[Any], profiles: Sequence[Any]) -> None: ...
    def put_run(self, record: RunRecord, *, finished: bool) -> None: ...


class Store:
    """Runs and trials of the scripts in one folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
    ...     store.runs()
    []
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "runs.db"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
            self._db.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + _SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"trimtab keeps its records in {self.path} and cannot open it ({error}). "
                "Make room or permission there, or choose another folder with --store FOLDER."
            ) from error

    @classmethod
    def beside(cls, script: str | Path) -> Store:
        """The store of the folder that holds the script."""
        return cls(Path(script).resolve().parent / FOLDER)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

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
        return [row[0] for row in self._db.execute("select id from run order by started, rowid")]

    def run(self, run: str | None = None) -> RunRecord:
        """A whole run by its id; the newest when none is given."""
        ids = self.runs()
        if not ids:
            raise StoreError(f"{self.path} holds no run yet. Make one: trimtab watch SCRIPT.")
        if run is not None and run not in ids:
            raise StoreError(f"{self.path} has no run {run!r}. It has: {', '.join(ids)}.")
        (head,) = self._db.execute("select head from run where id=?", (run or ids[-1],)).fetchone()
        record = msgspec.msgpack.decode(head, type=RunRecord)
        trainings = tuple(self._filled(record.id, i, training) for i, training in enumerate(record.trainings))
        return msgspec.structs.replace(record, trainings=trainings)

    def _filled(self, run: str, index: int, training: TrainingRecord) -> TrainingRecord:
        series: dict[str, tuple[list[int], list[float]]] = {}
        query = "select name, step, value from point where run=? and training=? order by rowid"
        for name, step, value in self._db.execute(query, (run, index)):
            steps, values = series.setdefault(name, ([], []))
            steps.append(step)
            values.append(float("nan") if value is None else value)
        rows: dict[str, tuple[list[int], list[tuple[float, ...]]]] = {}
        query = "select name, step, vals from profile where run=? and training=? order by rowid"
        for name, step, vals in self._db.execute(query, (run, index)):
            steps, values_list = rows.setdefault(name, ([], []))
            steps.append(step)
            values_list.append(struct.unpack(f"<{len(vals) // 8}d", vals))
        profiles = {}
        for name, profile in training.profiles.items():
            steps, values_list = rows.get(name, ([], []))
            width = len(profile.names)
            nan = float("nan")
            whole = tuple(row[:width] + (nan,) * (width - len(row)) for row in values_list)
            profiles[name] = Profile(names=profile.names, steps=tuple(steps), rows=whole)
        return msgspec.structs.replace(
            training,
            steps=max([training.steps, *(s[-1] + 1 for name, (s, _) in series.items() if name == "loss")]),
            series={name: Series(steps=tuple(s), values=tuple(v)) for name, (s, v) in series.items()},
            profiles=profiles,
        )

    # -- trials, treatments and searches -----------------------------------------------------------------------------

    def trial(self, key: str) -> Trial | None:
        """The finished trial of that key, if there is one."""
        row = self._db.execute("select record from trial where key=?", (key,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Trial) if row else None

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

    def put_treatment(self, run: str, treatment: Treatment) -> None:
        """Keep the outcome of a treatment beside the watched run that it started from."""
        with self._db:
            row = (run, msgspec.msgpack.encode(treatment))
            self._db.execute("insert or replace into treatment values (?,?)", row)

    def treatment(self, run: str) -> Treatment | None:
        """The treatment that started from that run, if there was one."""
        row = self._db.execute("select record from treatment where run=?", (run,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Treatment) if row else None

    def put_tuning(self, run: str, tuning: Tuning) -> None:
        """Keep the outcome of a search beside the watched run that it started from; a later search takes its place."""
        with self._db:
            self._db.execute("insert or replace into tuning values (?,?)", (run, msgspec.msgpack.encode(tuning)))

    def tuning(self, run: str) -> Tuning | None:
        """The newest search that started from that run, if there was one."""
        row = self._db.execute("select record from tuning where run=?", (run,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Tuning) if row else None
