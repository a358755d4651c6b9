"""Members that other packages bring: techniques, rules, signals, plots, parts and outcomes, found by their entry points.

A package names its own in its ``pyproject.toml``, in the group of their kind; trimtab finds them where it is installed::

    [project.entry-points."trimtab.techniques"]
    my_decay = "my_package.decay:MyDecay"

======================= ===============================================================================================
``trimtab.techniques``  a class derived from :class:`trimtab.Technique`
``trimtab.rules``       what :func:`trimtab.doctor.rule.rule` makes
``trimtab.signals``     a class derived from :class:`trimtab.signals.Signal`
``trimtab.plots``       a function that gives pictures of a training: see :mod:`trimtab.report.figures`
``trimtab.parts``       a module, optimizer or function for the catalogue
``trimtab.outcomes``    a class derived from :class:`trimtab.report.telling.Telling`
======================= ===============================================================================================

What cannot be loaded, is not what its kind must be, or has a name that is taken is left out with a warning, once in a process;
``trimtab info`` lists it. :mod:`trimtab.testing` has the suite that each kind must pass.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_args

Kind = Literal["techniques", "rules", "signals", "plots", "parts", "outcomes"]
T = TypeVar("T")


class MemberWarning(UserWarning):
    """Something that another package brings is left out."""


@dataclass(frozen=True)
class Brought:
    """What another package brings.

    Attributes:
        kind: what it is.
        name: of its entry point.
        place: where it is, as ``module:name``.
        package: the package that brings it.
        thing: itself; ``None`` where it cannot be loaded.
        why: why it is left out; empty for one that takes part.
    """

    kind: Kind
    name: str
    place: str
    package: str
    thing: Any = None
    why: str = ""


def members_of(kind: Kind) -> tuple[Brought, ...]:
    """The members of a kind that other packages bring, in the order of their names."""
    return tuple(one for one in _brought(kind) if not one.why)


def left_out(kind: Kind) -> tuple[Brought, ...]:
    """What other packages bring of a kind and what does not take part, each with the reason."""
    return tuple(one for one in _brought(kind) if one.why)


def of_others(kind: Kind) -> tuple[Any, ...]:
    """The things themselves of :func:`members_of`."""
    return tuple(one.thing for one in members_of(kind))


def package_of(kind: Kind, thing: Any) -> str:
    """The package that brings a thing; empty for what is trimtab's own. An outcome can be given by its record."""
    number = _number(kind, thing)
    return "" if number is None else _brought(kind)[number].package


def leave_out(kind: Kind, thing: Any, why: str) -> None:
    """Let a thing take part no more, with a warning the first time. An outcome can be given by its record."""
    known, number = _brought(kind), _number(kind, thing)
    if number is None:  # it came by no entry point
        place = f"{thing.__module__}:{thing.__qualname__}"
        known.append(
            _told(Brought(kind, thing.__qualname__, place, place.partition(":")[0].partition(".")[0], thing, why))
        )
    elif not known[number].why:
        known[number] = _told(replace(known[number], why=why))


def load_members() -> None:
    """Load all that other packages bring."""
    for kind in get_args(Kind):
        _brought(kind)


def load_techniques(others: bool = True) -> None:
    """Import the techniques of this package, and with ``others`` theirs. Each makes itself known by its name."""
    importlib.import_module(_TECHNIQUES)
    if others:
        of_others("techniques")


_TECHNIQUES = "trimtab.techniques"  # the room above that this one opens, once a recipe asks for a name


def derived(base: type[T]) -> list[type[T]]:
    """All classes that are derived from one, at every depth: trimtab's own first, else those that came first."""
    found = list(base.__subclasses__())
    for one in found:  # which grows
        found += (other for other in one.__subclasses__() if other not in found)
    return sorted(found, key=lambda one: one.__module__.partition(".")[0] != __name__.partition(".")[0])


def said(error: BaseException) -> str:
    """An error of foreign code in words."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # its text may raise, too
        return type(error).__name__


@functools.cache
def _brought(kind: Kind) -> list[Brought]:
    """All members of a kind, those that are left out among them."""
    found: list[tuple[str, str, Any]] = []
    for point in entry_points(group=f"trimtab.{kind}"):
        package = point.dist.name if point.dist is not None else point.value.partition(":")[0].partition(".")[0]
        found.append((point.name, package, point))
    return [_loaded(kind, package, point) for _, package, point in sorted(found, key=lambda one: one[:2])]


def _loaded(kind: Kind, package: str, point: Any) -> Brought:
    member = Brought(kind, point.name, point.value, package)
    try:
        member = replace(member, thing=point.load())
        why = _misfit(kind, member.thing)
    except (Exception, SystemExit) as error:  # of foreign code: one bad package takes nothing else with it
        why = f"it cannot be loaded ({said(error)})"
    return _told(replace(member, why=why)) if why else member


def _told(member: Brought) -> Brought:
    """Warn of one that is left out; where warnings are errors, on the error output."""
    text = f"{member.place} of {member.package} is left out of trimtab's {member.kind}: {member.why}."
    try:
        warnings.warn_explicit(
            text, MemberWarning, member.package, 0
        )  # no line of code is shown: none is at fault here
    except MemberWarning:
        print(text, file=sys.stderr)
    return member


def _number(kind: Kind, thing: Any) -> int | None:
    for number, one in enumerate(_brought(kind)):
        if one.thing is thing or (kind == "outcomes" and getattr(one.thing, "record", None) is thing):
            return number
    return None


_MUST: dict[Kind, str] = {
    "techniques": "a class derived from trimtab.Technique",
    "rules": "a function under the decorator trimtab.doctor.rule.rule",
    "signals": "a class derived from trimtab.signals.Signal",
    "plots": "a function of the record of a training and a key",
    "parts": "a class or a function",
    "outcomes": "a class derived from trimtab.report.telling.Telling",
}


def _misfit(kind: Kind, thing: Any) -> str:
    """What a thing must be to be of a kind, and is not; empty where it fits."""
    fits = {
        "techniques": lambda: _derives(thing, "trimtab.recipe.Technique"),
        "rules": lambda: _called(type(thing)) == "trimtab.doctor.rule.Rule",
        "signals": lambda: _derives(thing, "trimtab.signals.signal.Signal"),
        "plots": lambda: callable(thing) and not isinstance(thing, type),
        "parts": lambda: callable(thing) and hasattr(thing, "__qualname__"),
        "outcomes": lambda: _derives(thing, "trimtab.report.telling.Telling"),
    }
    if not fits[kind]():
        given = f"the class {thing.__qualname__}" if isinstance(thing, type) else f"of type {type(thing).__name__}"
        return f"it must be {_MUST[kind]}, and is {given}"
    if kind == "techniques" and "__dataclass_fields__" not in vars(thing):
        return "it must be a dataclass; put @dataclass(frozen=True) above the class"
    if kind == "outcomes" and not _derives(getattr(thing, "record", None), "trimtab.records.outcomes.Outcome"):
        return "its record must be a class derived from trimtab.records.Outcome"
    if kind == "signals":
        measures = thing.measures
        if not isinstance(measures, tuple) or any(
            _called(type(one)) != "trimtab.records.runs.Measured" for one in measures
        ):
            return f"its measures must be a tuple of trimtab.records.Measured, and are {measures!r}"
        try:
            inspect.signature(thing).bind()
        except TypeError as error:
            return f"it must be made without arguments ({error})"
    return ""


def _called(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _derives(thing: Any, base: str) -> bool:
    """Whether a thing is a class that is derived from the one of that name, which need not be imported for it."""
    return isinstance(thing, type) and any(_called(one) == base for one in thing.__mro__[1:])
