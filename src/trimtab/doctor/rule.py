"""What a rule is: a problem that it finds, what it needs for that, and what follows from the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from trimtab.records import Finding, TrainingRecord


class CannotJudge(Exception):
    """A rule lacks what it would need to judge a training; the text says what. It is no finding, and no word of health either."""


@dataclass(frozen=True)
class Rule:
    """A function from the record of a training to findings of one problem, with what must be known of it. Made by :func:`rule`.

    Attributes:
        problem: its name, which is that of the function.
        judge: the function.
        needs: what must have been measured, by the name of its series or profile (``"layers"`` for the table of layers), with what is
            said where it was not: the rule cannot tell then.
        early: whether it may judge a run that is not at its end: only of what no later step mends.
        explains: the problems that this one brings about. Where both are found it is one finding: the cause, and how else it shows.
        otherwise: whether it is asked only where no other rule has found more than a note.
    """

    problem: str
    judge: Callable[[TrainingRecord], Iterable[Finding]]
    needs: Mapping[str, str] = field(default_factory=dict)
    early: bool = False
    explains: tuple[str, ...] = ()
    otherwise: bool = False

    def __call__(self, training: TrainingRecord) -> list[Finding]:
        """What is found in a training.

        Raises:
            CannotJudge: where something is missing that the rule needs.
        """
        for name, missing in self.needs.items():
            if not _measured(training, name):
                raise CannotJudge(missing)
        return list(self.judge(training))


def rule(
    needs: Mapping[str, str], *, early: bool = False, explains: tuple[str, ...] = (), otherwise: bool = False
) -> Callable[[Callable[[TrainingRecord], Iterable[Finding]]], Rule]:
    """Makes a rule out of the function below; see :class:`Rule`.

    >>> @rule(needs={"lr": "no learning rate was seen"})
    ... def lr_is_zero(training):
    ...     '''Fires when the learning rate is zero on every step.'''
    ...     if not any(training.get("lr").values):
    ...         yield Finding(problem="lr_is_zero", severity="error", where="optimizer", title="Nothing is learned",
    ...                       evidence=(), cause="The learning rate is zero.", source="")
    >>> lr_is_zero(TrainingRecord(name="a", model="Net"))
    Traceback (most recent call last):
    ...
    trimtab.doctor.rule.CannotJudge: no learning rate was seen
    """

    def made(judge: Callable[[TrainingRecord], Iterable[Finding]]) -> Rule:
        whole = Rule(judge.__name__, judge, needs, early, explains, otherwise)
        object.__setattr__(whole, "__doc__", judge.__doc__)
        object.__setattr__(whole, "__module__", judge.__module__)
        return whole

    return made


def in_causal_order(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Causes before what they bring about, and otherwise as they are; those that are asked last come last."""
    left = sorted(rules, key=lambda one: one.otherwise)
    done: list[Rule] = []
    while left:
        explained = {problem for one in left for problem in one.explains if problem != one.problem}
        free = next((one for one in left if one.problem not in explained), left[0])  # in a circle the first
        left.remove(free)
        done.append(free)
    return tuple(done)


def _measured(training: TrainingRecord, name: str) -> bool:
    if name == "layers":
        return bool(training.layers)
    profile = training.profiles.get(name)
    return bool(profile.steps) if profile is not None else len(training.get(name)) > 0
