"""What trials are of: the subject of a session, edits of it that are arms beside recipes, and the files that each of them reads.

A trial is kept under all of it: one of another text, or of other data, is another trial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trimtab.records import RunRecord, Watched
from trimtab.trial.journal import state_of
from trimtab.trial.kept import Kept
from trimtab.trial.run import BASELINE, Job, Result
from trimtab.trial.subjects import Script, Subject
from trimtab.trial.views import changed_since

SECOND = 1_000_000_000  # nanoseconds, in which file systems count


class Sources:
    """The subject, its edits, and what is known of the files that they read, in the store, too.

    Args:
        subject: of the session.
        kept: where it is kept what was read.
    """

    def __init__(self, subject: Subject, kept: Kept) -> None:
        self.subject = subject
        self.edits: dict[str, Script] = {}  # by the names of the arms
        self._kept = kept
        self._prints = {BASELINE: subject.fingerprint()}
        self._texts: dict[Script, str] = {}  # fingerprints of edits without their arguments, which change no text
        self._read: dict[str, str] = {}  # stands for the files, by arm
        self._unread: tuple[str, RunRecord] | None = (
            None  # a run that was taken, of which nobody knows what it has read
        )

    def add(self, edits: Mapping[str, Script]) -> None:
        """These are arms, too, besides those that are. What each of them has read before is known, if it is still as it was."""
        self.edits |= edits
        self._prints |= {name: edit.fingerprint() for name, edit in edits.items()}
        for name, edit in edits.items():
            if (alone := replace(edit, arguments=())) not in self._texts:
                self._texts[alone] = alone.fingerprint()
            watched = self.watched(self._key(name))
            if watched is not None and not changed_since(watched.seen):
                self._read[name] = _digest(watched.seen)

    def read(self, arm: str) -> str:
        """Stands for the files that a recipe, or an edit, reads: part of what makes its trials the same."""
        if arm not in self.edits:
            return self._read.get(BASELINE, "")
        return self._there(arm) + self._read.get(arm, "")

    def watched(self, key: str) -> Watched | None:
        """What was read when something was run that is kept under this key."""
        return self._kept.read(lambda store: store.watched(key))

    def settle(self, seen: dict[str, dict[str, Any]] | None) -> None:
        """This is what the untreated subject has read; ``None``: that is open again."""
        self._read.pop(BASELINE, None)
        if seen is not None:
            self._read[BASELINE] = _digest(seen)

    def take(self, run: RunRecord, own: str) -> tuple[list[str], Watched | None]:
        """Begin with a run that was watched before, by a session under the key ``own``, or else by whom nobody knows what it has read until
        a trial has read it. Gives the files that have changed since, and what is known of it."""
        before = f"{own}|from {run.id}"
        for watched in map(self.watched, (own, before)):
            if watched is not None and watched.run == run.id:
                self.settle(watched.seen)
                return changed_since(watched.seen), watched
        self._read[BASELINE], self._unread = f"from {run.id}", (before, run)
        return [str(file) for file in self.subject.sources() if _time(state_of(file)) > run.started * SECOND], None

    def met(self, job: Job, result: Result) -> list[str]:
        """A trial has ended, which tells what is read. Gives the files that have changed since the run that was taken."""
        seen = result.deeds.seen
        if not seen:
            return []
        if job.arm and job.arm not in self._read:
            self._read[job.arm] = _digest(seen)
            self._kept.write(lambda store: store.put_watched(self._key(job.arm), Watched(run="", seen=seen)))
        if self._unread is None or job.arm:
            return []
        (key, run), self._unread = self._unread, None
        ended = (run.started + run.seconds + 1) * SECOND  # what it wrote itself is of that time
        changed = [path for path, met in seen.items() if not met["anew"] and _time(met["state"]) > ended]
        if not changed:
            watched = Watched(run=run.id, seen=seen, outside=result.deeds.paths)
            self._kept.write(lambda store: store.put_watched(key, watched))
        return changed

    def changed(self) -> bool:
        """Whether a text is another one than when the session began."""
        others = any(edit.fingerprint() != known for edit, known in self._texts.items())
        return others or self.subject.fingerprint() != self._prints[BASELINE]

    def question(self, arm: str, how: str) -> str:
        """Stands for the question whether an arm is better than the subject: for what both of them are, and how it is asked."""
        asked = f"{self._prints[BASELINE]}|{self._prints.get(arm, arm)}|{how}"
        return hashlib.sha256(asked.encode(errors="surrogateescape")).hexdigest()[:16]

    def _key(self, name: str) -> str:
        return f"{self._prints[name]}|{self._there(name)}read"

    def _there(self, name: str) -> str:
        """Where an edit lies that is not beside the subject: what it reads by the same name may be another file there."""
        folder = self.edits[name].folder
        return "" if folder == self.subject.folder else f"{folder} "


def _time(state: dict[str, Any]) -> int:
    return state.get("time", 0)


def _digest(seen: dict[str, dict[str, Any]]) -> str:
    states = sorted((path, sorted(met["state"].items())) for path, met in seen.items())
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]
