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

What cannot be loaded is left out with a warning. :mod:`trimtab.testing` has the suite that each kind must pass.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from importlib.metadata import entry_points
from typing import Any, Literal

Kind = Literal["techniques", "rules", "signals", "plots", "parts", "outcomes"]


class MemberWarning(UserWarning):
    """Something that another package brings could not be loaded."""


@functools.cache
def of_others(kind: Kind) -> tuple[Any, ...]:
    """The members of a kind that other packages bring, in the order of their names."""
    found = []
    for point in sorted(entry_points(group=f"trimtab.{kind}"), key=lambda point: point.name):
        try:
            found.append(point.load())
        except Exception as error:  # of foreign code: one bad package takes nothing else with it
            whose = f" of {point.dist.name}" if point.dist is not None else ""
            warnings.warn(
                f"{point.value}{whose}, which is to be one of trimtab's {kind}, could not be loaded and is left out "
                f"({type(error).__name__}: {error}).",
                MemberWarning,
                stacklevel=2,
            )
    return tuple(found)


def load_techniques(others: bool = True) -> None:
    """Import the techniques of this package, and with ``others`` theirs. Each makes itself known by its name."""
    importlib.import_module(_TECHNIQUES)
    if others:
        of_others("techniques")


_TECHNIQUES = "trimtab.techniques"  # the room above that this one opens, once a recipe asks for a name
