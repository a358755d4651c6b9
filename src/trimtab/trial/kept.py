"""What a session keeps: finished trials, in memory and in the store of their subject, as long as that can be read and written."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trimtab.records import Trial
from trimtab.store import Store, StoreError, what_to_do

UNREADABLE = (StoreError, sqlite3.Error, OSError)
T = TypeVar("T")


class StoreWarning(UserWarning):
    """Results cannot be kept on disk; they stay in memory."""


class Kept:
    """Trials by their keys, and the store behind them.

    Args:
        folder: of the store.
        fresh: take nothing from it.

    Attributes:
        store: ``None`` where it cannot be used, or no more.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.store: Store | None = None
        self._fresh = fresh
        self._trials: dict[str, Trial] = {}
        self._said: set[str] = set()
        try:
            self.store = Store(folder)
        except StoreError as error:
            self._warn(f"{error} This session goes on and keeps its results in memory.")

    def get(self, key: str) -> tuple[Trial | None, bool]:
        """The trial of that key, and whether an earlier session ran it (``True`` once: from then on it is this session's)."""
        if key in self._trials:
            return self._trials[key], False
        trial = self.read(lambda store: store.trial(key))
        if trial is not None:
            self._trials[key] = trial
        return trial, trial is not None

    def put(self, key: str, trial: Trial) -> None:
        """Keep a trial; one that failed for this session alone."""
        self._trials[key] = trial
        if trial.status != "failed":
            self.write(lambda store: store.put_trial(key, trial))

    def read(self, read: Callable[[Store], T | None]) -> T | None:
        """What the store has, unless it cannot be read: that is run again, and the first time said."""
        if self.store is None or self._fresh:
            return None
        try:
            return read(self.store)
        except UNREADABLE as error:  # of another version of trimtab, or damaged
            self._say("unreadable", f"{error} It is run again, and so is what else cannot be read.")
            return None
        finally:
            for sentence in self.store.skipped:
                self._say(sentence, sentence)

    def write(self, write: Callable[[Store], Any]) -> None:
        """Write to the store; when it fails, say so once and go on in memory."""
        if self.store is None:
            return
        try:
            write(self.store)
        except UNREADABLE as error:
            self._warn(
                f"trimtab cannot write to {self.store.path} any more ({error}). What is not written yet stays in memory until the end. "
                f"{what_to_do(error)}"
            )
            self.store = None

    def close(self) -> None:
        """Nothing more is kept."""
        self.write(Store.settle)
        if self.store is not None:
            self.store.close()

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        warnings.warn(sentence, StoreWarning, stacklevel=5)
