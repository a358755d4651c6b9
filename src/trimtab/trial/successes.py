"""What helped before: how remedies did in races, by the problems that they were to help against.

The package ships what the races of ``benchmarks/treat_faulty.py`` have shown; each race on this machine adds its own to a file of the user's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trimtab.recipe import Recipe
from trimtab.trial.race import Race
from trimtab.trial.subjects import Subject
from trimtab.user_folders import keep, state_folder

SHIPPED = Path(__file__).with_name("successes.json")
MOST = 200  # subjects that are remembered, the newest
FIRST = 0.6  # part of the best gain that the first remedy of a rule is thought to bring
NEXT = 0.8  # part of that which each is thought to bring behind the one before
BELIEF = 3.0  # trials that these two count for


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A remedy in a race: which part of the best gain it brought, and how many times as long as untreated a step took, 0 if unknown."""

    part: float
    cost: float = 0.0


class Success(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A race: against which problems, and how each remedy did."""

    problems: tuple[str, ...]
    remedies: dict[str, Tried]


Successes = dict[str, Success]
"""Races by their subjects."""


def by_promise(named: Sequence[tuple[str, Sequence[str]]], table: Successes) -> list[str]:
    """Remedies that are named against problems, in the order of the gain that is expected of them for the cost of their steps.

    Before anything was tried the order in which they are named counts, and of several problems the first of each comes first.

    >>> named = [("vanishing_gradient", ("batch_norm", "muon", "he_init"))]
    >>> by_promise(named, {})
    ['batch_norm', 'muon', 'he_init']
    >>> tried = {"batch_norm": Tried(part=0.1), "muon": Tried(part=1.0, cost=4.0), "he_init": Tried(part=1.0)}
    >>> by_promise(named, {"train.py": Success(problems=("vanishing_gradient",), remedies=tried)})
    ['he_init', 'batch_norm', 'muon']
    """
    worth: dict[str, float] = {}
    for rank in range(max((len(remedies) for _, remedies in named), default=0)):
        for problem, remedies in named:
            for one in remedies[rank : rank + 1]:
                recipe = str(Recipe.parse(one))
                known = [success.remedies.get(recipe) for success in table.values() if problem in success.problems]
                tried = [one for one in known if one is not None]
                parts = [min(1.0, max(0.0, one.part)) for one in tried]
                part = (BELIEF * FIRST * NEXT**rank + sum(parts)) / (BELIEF + len(parts))
                costs = [one.cost for one in tried if one.cost > 0]
                cost = max(1.0, math.fsum(costs) / len(costs)) if costs else 1.0
                worth[recipe] = max(worth.get(recipe, 0.0), part / cost)
    return sorted(worth, key=lambda recipe: -worth[recipe])


def known(subject: Subject) -> Successes:
    """What others have shown: that of the subject itself is left out, so that what it is tried with does not change while it is."""
    shipped = msgspec.json.decode(SHIPPED.read_bytes(), type=Successes)
    table = {name: success for name, success in shipped.items() if name != subject.label} | _own()
    table.pop(_name(subject), None)
    return table


def remember(subject: Subject, problems: Sequence[str], race: Race) -> None:
    """Add a race to the user's own."""
    if not (remedies := tried_in(race)):
        return
    own = _own()
    own.pop(_name(subject), None)
    own[_name(subject)] = Success(problems=tuple(dict.fromkeys(problems)), remedies=remedies)
    newest = dict(list(own.items())[-MOST:])
    keep(_file(), msgspec.json.format(msgspec.json.encode(newest), indent=1).decode())


def tried_in(race: Race) -> dict[str, Tried]:
    """How each recipe did where its race ended for it, beside the best that was there; what could not be applied says nothing."""
    reached = {recipe: race.until(recipe) for recipe in race.trials if recipe}
    remedies = {}
    for recipe, until in reached.items():
        if race.trials[recipe].status == "no_effect":
            continue
        gains = [race.gain(other, until) for other in reached if reached[other] >= until]
        best = max((gain for gain in gains if math.isfinite(gain)), default=0.0)
        gain = race.gain(recipe, until)
        part = min(1.0, max(0.0, gain / best)) if math.isfinite(gain) and best > race.margin(until) else 0.0
        remedies[recipe] = Tried(part=float(f"{part:.3g}"), cost=float(f"{race.cost(recipe):.3g}"))
    return remedies


def _own() -> Successes:
    try:
        return msgspec.json.decode(_file().read_bytes(), type=Successes)
    except (OSError, ValueError, RecursionError):  # none yet, or not ours
        return {}


def _file() -> Path:
    return state_folder() / "successes.json"


def _name(subject: Subject) -> str:
    return str(Path(subject.folder).resolve() / subject.label)
