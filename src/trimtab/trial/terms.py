"""The terms of trials, which all that run some have in common: what judges, where they run, who is told, and for how long."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypedDict, TypeVar

from trimtab.records import Asked, Trial

if TYPE_CHECKING:
    from trimtab.trial.engines import Engine

F = TypeVar("F", bound=Callable)


class Progress(Protocol):
    """What a session tells while it works; :class:`trimtab.trial.progress.TrialBar` draws it.

    A ``stage`` of ``total`` trials begins, of which ``each`` is expected to take so many seconds (0 where that is not known), and behind
    which others will take ``after`` seconds; a trial is ``running``, at a step of so many (0 where that is not known), with a loss; one
    has ended, and the stage is to ``advance``; there is something to ``say``.
    """

    def stage(self, text: str, total: int, each: float = 0.0, after: float = 0.0) -> None: ...
    def running(self, recipe: str, seed: int, step: int, of: int, loss: float) -> None: ...
    def advance(self, trial: Trial, from_store: bool) -> None: ...
    def say(self, sentence: str) -> None: ...


class Silent:
    """Tells nothing."""

    def stage(self, text: str, total: int, each: float = 0.0, after: float = 0.0) -> None: ...
    def running(self, recipe: str, seed: int, step: int, of: int, loss: float) -> None: ...
    def advance(self, trial: Trial, from_store: bool) -> None: ...
    def say(self, sentence: str) -> None: ...


class Terms(TypedDict, total=False):
    """The keywords that every verb of trials takes and hands on as they are, to :class:`~trimtab.trial.session.Session`."""

    metric: str | Asked | None
    engine: Engine | None
    progress: Progress | None
    budget: float
    steps: int
    fraction: float
    fresh: bool


SAID = """\
metric: what judges: a regular expression that reads a number from the output, the name of a number, or
            :class:`~trimtab.records.Asked` for more; found by itself if ``None``.
        engine: where trials run; worker processes on this machine by default.
        progress: what is told meanwhile; a progress bar by default, where standard error is a terminal.
        budget: seconds for all of it; trials that run then are stopped and do not count. {budget}
        steps: end every run after so many optimizer steps, the untreated ones too; 0 lets all come to their ends. Numbers that the
            script would have said later are not known then, and schedules that the script itself has are cut, not squeezed.
        fraction: the same, as a share of the steps of a whole run, which is watched first if it never was.
        fresh: run everything again, also what is kept from before."""
"""What docstrings say of them."""
DEFAULTS = {
    "metric": None,
    "engine": None,
    "progress": None,
    "budget": float("inf"),
    "steps": 0,
    "fraction": 1.0,
    "fresh": False,
}


def with_terms(budget: str = "") -> Callable[[F], F]:
    """For a verb that takes ``**terms``: its help has them one by one, with what ``budget`` means to it."""

    def spelled_out(verb: F) -> F:
        written = inspect.signature(verb)
        own = [one for one in written.parameters.values() if one.kind is not one.VAR_KEYWORD]
        each = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=kind.__forward_arg__
            )
            for name, kind in Terms.__annotations__.items()
        ]
        verb.__signature__ = written.replace(parameters=[*own, *each])  # type: ignore[attr-defined]
        verb.__doc__ = (verb.__doc__ or "").replace(
            "terms: see Terms.", SAID.format(budget=budget).replace(" \n", "\n")
        )
        return verb

    return spelled_out
