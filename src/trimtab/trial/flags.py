"""The space of a search over the flags of a script: each with a distribution in the place of its value.

``--lr=log(1e-4, 1e-1) --width=choice(16, 64)`` is a space of two flags, whose points are ``--lr 0.00312 --width 64`` and the like: what is put
behind the script's own arguments. The distributions are those of recipes (:mod:`trimtab.trial.space`); ``[16, 64]`` is short for
``choice(16, 64)``.
"""

from __future__ import annotations

import ast
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.recipe import RecipeError, quoted, read_expression, written
from trimtab.records import Axis
from trimtab.trial.distributions import DISTRIBUTIONS, Choice, DistributionReader, Draw, Range, SpaceError
from trimtab.trial.space import Space, Suggestion

NEXT = re.compile(r"\s+(?=--?[^\W\d][\w.-]*\s*=)")  # between two flags; no number that is below zero begins so
FLAG = re.compile(r"(--?[^\W\d][\w.-]*)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Flag:
    """A flag, and what its value is drawn from."""

    name: str
    values: Range | Choice

    def given(self, value: Any) -> str:
        """The flag with a value, on a command line. One that begins with ``-`` stands in the same word, or is taken for a flag itself."""
        text = shlex.quote(str(value))
        joined = str(value).startswith("-") and self.name.startswith("--")
        return f"{self.name}={text}" if joined else f"{self.name} {text}"

    def __str__(self) -> str:
        return f"{self.name}={self.values}"


@dataclass(frozen=True)
class Flags:
    """The settings that a search may try: a value for each of some flags.

    >>> space = Flags.parse("--lr=log(1e-4, 1e-1) --width=[16, 64]")
    >>> [axis.name for axis in space.axes], str(space)
    (['--lr', '--width'], '--lr=log(0.0001, 0.1) --width=choice(16, 64)')
    """

    flags: tuple[Flag, ...]
    noun = "setting"
    untreated: dict[str, str] | None = None  # the values that the script has by itself are not known

    @classmethod
    def parse(cls, searches: str | Sequence[str]) -> Flags:
        """Read a space from text, or from several texts that are joined.

        Raises:
            SpaceError: for a text that does not read, an unknown distribution, bounds in the wrong order, or a flag that is there twice.
        """
        texts = [searches] if isinstance(searches, str) else list(searches)
        found = tuple(flag for text in texts for flag in _Reader(text).flags())
        names = [flag.name for flag in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SpaceError(f"{twice[0]} stands twice in the search {quoted(' '.join(texts))}; keep one.")
        return cls(found)

    def suggest(self, trial: Draw) -> Suggestion:
        """Draw a setting; numbers are rounded to three digits."""
        drawn = [(flag, *flag.values.draw(trial, flag.name)) for flag in self.flags]
        text = " ".join(flag.given(value) for flag, value, _ in drawn)
        return Suggestion(text, {flag.name: place for flag, _, place in drawn})

    @property
    def texts(self) -> tuple[str, ...]:
        """Each flag as text; :meth:`parse` reads them back."""
        return tuple(map(str, self.flags))

    def __str__(self) -> str:
        return " ".join(self.texts)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(flag.values.axis(flag.name) for flag in self.flags)

    @property
    def size(self) -> float:
        """How many settings there are; infinite with a real number among the axes."""
        return math.prod(flag.values.size for flag in self.flags)


def names_flags(text: str) -> bool:
    """Whether a search, or a point of one, is of flags and not of recipes."""
    return text.lstrip().startswith("-")


def read_space(searches: str | Sequence[str]) -> Space | Flags:
    """The space that these texts say: of recipes, or of flags.

    Raises:
        SpaceError: if one does not read, or there are both.
        RecipeError: for an unknown technique, or values that it cannot take.
    """
    texts = [searches] if isinstance(searches, str) else list(searches)
    of_flags = [text for text in texts if names_flags(text)]
    if not of_flags:
        return Space.parse(texts)
    if others := [text for text in texts if not names_flags(text)]:
        raise SpaceError(
            f"A search is over recipes or over flags of the script, and {quoted(others[0])} is of the first, {quoted(of_flags[0])} of the "
            "second. Search one, keep what wins, and then search the other."
        )
    return Flags.parse(texts)


class _Reader(DistributionReader):
    """Reads flags."""

    like = '"--lr=log(1e-4, 1e-1) --width=choice(16, 64)"'

    def flags(self) -> list[Flag]:
        return [self._flag(part) for part in NEXT.split(self.text.strip())]

    def _flag(self, part: str) -> Flag:
        read = FLAG.fullmatch(part)
        if read is None:
            raise self.unreadable(f"{part} is no flag with an = and a distribution behind it")
        name, text = read.groups()
        try:
            node = read_expression(text.strip())
        except RecipeError as error:
            raise self.unreadable(str(error)) from None
        if isinstance(node, ast.List):
            node = ast.Call(ast.Name("choice"), node.elts, [])
        if not isinstance(node, ast.Call):
            raise self.unreadable(
                f"{written(node)} is no distribution ({', '.join(DISTRIBUTIONS)}); a value that does not vary goes behind the script, "
                "among its own arguments"
            )
        values = self.distribution(node)
        if isinstance(values, Choice) and len(set(map(str, values.options))) < len(values.options):
            raise self.unreadable(f"{values} has two values that are the same on a command line")
        return Flag(name, values)
