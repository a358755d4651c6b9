"""What the recorded series and profiles are called, and what they tell: as the record of the run says, or else as their names do."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.records import Measured


def of_series(name: str, measured: Sequence[Measured] = ()) -> Measured:
    """What is known of a series by the name of its quantity; of others what the name says.

    >>> of_series("printed f1").title, of_series("printed f1").meaning
    ('printed f1', 'Read from what the script printed.')
    """
    known = {one.name: one for one in measured if one.of == "run"}
    return known.get(name.lower()) or Measured(name, name.replace("_", " "), _origin(name))


def of_profiles(recorded: Sequence[str], measured: Sequence[Measured] = ()) -> list[Measured]:
    """The profiles that a run can have, in the order of their pictures, then those that it has besides."""
    known = sorted((one for one in measured if one.of != "run"), key=lambda one: one.rank)
    names = {one.name for one in known}
    others = (Measured(name, name.replace("_", " "), "", "layer", owed=True) for name in recorded if name not in names)
    return [*known, *others]


def _origin(name: str) -> str:
    return _ORIGINS.get(name.partition(" ")[0], "Measured where the script evaluates it.")


_ORIGINS = {
    "metric": "Read by --metric from what the script printed.",
    "printed": "Read from what the script printed.",
    "logged": "Read from what the script logged.",
    "written": "Read from a file that the script wrote.",
}
