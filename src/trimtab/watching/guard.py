"""Keeping a training safe from those who look at it: an error of ours ends the looking, or a part of it."""

from __future__ import annotations

import functools
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from trimtab.training.apart import apart
from trimtab.training.safe import of_script, suppressed


class WatchWarning(UserWarning):
    """The watch had to turn itself off, or a part of it; the training goes on."""


def warn(text: str) -> None:
    """Say it as a :class:`WatchWarning`; where warnings are errors, on the error output."""
    try:
        warnings.warn(text, WatchWarning, stacklevel=3)
    except WatchWarning:  # ours must not end the run
        print(text, file=sys.stderr)


class Guard:
    """Stands between the training and those who look at it.

    Attributes:
        off: the error that has turned everything off, or another reason.
        failed: the parts that an error has turned off alone, each with what is said of it.

    Args:
        end: is called when everything is turned off.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self.off = ""
        self.failed: dict[str, str] = {}
        self._end = end
        self._lock = threading.RLock()  # trainings may run in threads

    def __call__(self, call: Callable[..., Any], part: str = "") -> Callable[..., None]:
        """``call``, except that an error in it turns the watch off with a warning, or only a part of it."""

        @functools.wraps(call)
        def safe(*args: Any, **kwargs: Any) -> None:
            if self.off or part in self.failed:
                return
            try:
                with self._lock, apart():
                    call(*args, **kwargs)
            except Exception as error:
                if of_script(error):
                    raise
                self.turn_off(error, part)

        return safe

    def leave_out(self, part: str, why: str) -> None:
        """A part of the run is not watched."""
        self.failed.setdefault(part, why)

    def turn_off(self, error: Exception, part: str = "") -> None:
        """End all looking, or that of one part."""
        where = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        place = f" ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})" if where else ""
        said = f"{_said(error)}{place}"
        if part:
            self.failed[part] = f"after an error of trimtab's own, {said}"
            warn(f"trimtab's watch met an error of its own and goes on without {part}; so does the training. {said}")
            return
        self.off = _said(error)
        with suppressed():  # the end may meet the same error
            self._end()
        warn(f"trimtab's watch met an error of its own and turned itself off; the training goes on. {said}")

    def forgive(self, error: Exception) -> bool:
        """An error of ours outside of what is guarded: it turns everything off, and the training goes on."""
        if not self.off:
            self.turn_off(error)
        return True

    @property
    def unheard(self) -> str:
        """The error that has kept numbers from being heard, if one has: what judges the run may be another one then."""
        return self.off or next((said for part, said in self.failed.items() if part.endswith(" numbers")), "")

    @property
    def told(self) -> tuple[str, ...]:
        """What was not watched, and why."""
        whole = {"all that came after an error of trimtab's own": self.off} if self.off else {}
        return tuple(f"{part} ({said})" for part, said in {**self.failed, **whole}.items())


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # of what a script raises, the text may raise too
        return type(error).__name__
