"""What values of a search are drawn from: a range of numbers, or several values to choose from; and how they are written."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimtab.recipe import RecipeError, nearest, quoted, read_literal, written
from trimtab.records import Axis

DIGITS = 3  # of a number that is tried: texts stay readable, and near ones are the same trial
INSIDE = 16  # values looked at in each range, to see before anything runs that a technique can take them


DISTRIBUTIONS = {
    "uniform": "low, high",
    "log": "low, high",
    "int": "low, high",
    "log_int": "low, high",
    "choice": "value, value, ...",
}
"""What there is, with their arguments."""


class SpaceError(RecipeError):
    """A search space that cannot be read, or that holds nothing to search."""


class Draw(Protocol):
    """What values are drawn from: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included."""

    kind: str
    low: float
    high: float

    @property
    def log(self) -> bool:
        return self.kind in ("log", "log_int")

    @property
    def whole(self) -> bool:
        return self.kind in ("int", "log_int")

    @property
    def size(self) -> float:
        return self.high - self.low + 1 if self.whole else math.inf

    def draw(self, trial: Draw, name: str) -> tuple[Any, float]:
        if self.whole:
            number = trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
            return number, number
        value = self.rounded(trial.suggest_float(name, self.low, self.high, log=self.log))
        return value, value

    def rounded(self, value: float) -> float:
        """Three digits: of the number itself on a log scale, else of the width of the range.

        >>> Range("log", 1e-4, 1).rounded(0.0123456), Range("uniform", 0.9, 0.9999).rounded(0.9912345)
        (0.0123, 0.9912)
        """
        size = abs(value) if self.log else self.high - self.low
        short = round(value, DIGITS - 1 - math.floor(math.log10(size)))
        return min(max(short, self.low), self.high)

    def inside(self) -> Iterator[Any]:
        """Values from one end to the other; of real numbers, not the ends: a range is often open there."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        for i in range(INSIDE + 1) if self.whole else range(1, INSIDE):
            value = low + (high - low) * i / INSIDE
            value = math.exp(value) if self.log else value
            yield round(value) if self.whole else self.rounded(value)

    def axis(self, name: str) -> Axis:
        return Axis(name=name, low=self.low, high=self.high, log=self.log)

    def __str__(self) -> str:
        low, high = (int(x) if float(x).is_integer() and abs(x) < 1e15 else x for x in (self.low, self.high))
        return f"{self.kind}({low!r}, {high!r})"


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(map(repr, self.options))

    @property
    def size(self) -> float:
        return len(self.options)

    def draw(self, trial: Draw, name: str) -> tuple[Any, str]:
        chosen = trial.suggest_categorical(name, self.texts)
        return self.options[self.texts.index(chosen)], chosen

    def inside(self) -> Iterator[Any]:
        yield from self.options

    def axis(self, name: str) -> Axis:
        return Axis(name=name, choices=self.texts)

    def __str__(self) -> str:
        return f"choice({', '.join(self.texts)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self.texts == other.texts  # 1, 1.0 and True are three values

    def __hash__(self) -> int:
        return hash(self.texts)


class DistributionReader:
    """Reads the distributions of a text of a search.

    Attributes:
        like: how such a text is written, for messages.
        text: what is being read, for messages too.
    """

    like = ""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def literal(self, node: ast.expr, why: str) -> Any:
        """The plain value that stands there; ``why`` is said where there is none."""
        try:
            return read_literal(node)
        except RecipeError:
            raise self.unreadable(why) from None

    def unreadable(self, why: str) -> SpaceError:
        """The error that says why the text does not read."""
        return SpaceError(f"The search {quoted(self.text)} does not read: {why}. Write it like {self.like}.")

    def distribution(self, node: ast.Call) -> Range | Choice:
        """The distribution that a call says.

        Raises:
            SpaceError: if it is unknown, or its bounds are in the wrong order, or there is nothing to choose.
        """
        kind, text = name_of_call(node), written(node)
        if kind not in DISTRIBUTIONS:
            raise SpaceError(f"There is no distribution called {written(node.func)!r}. {nearest(kind, DISTRIBUTIONS)}")
        plain = f"the arguments in {text} must be plain Python values (numbers, text, lists)"
        values = tuple(self.literal(argument, plain) for argument in node.args)
        if node.keywords:
            raise self.unreadable(f"the arguments in {text} have no names; write {kind}({DISTRIBUTIONS[kind]})")
        if kind == "choice":
            return self._choice(values, text)
        if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
            raise self.unreadable(f"{text} must have two numbers: {kind}({DISTRIBUTIONS[kind]})")
        low, high = values
        if not all(-sys.float_info.max <= bound <= sys.float_info.max for bound in values):  # nor whole numbers beyond
            raise self.unreadable(f"the bounds of {quoted(text)[1:-1]} must be finite")
        if not math.isfinite(high - low):
            raise self.unreadable(f"the bounds of {quoted(text)[1:-1]} lie too far apart")
        if low >= high:
            raise self.unreadable(f"in {text} the first number must lie below the second")
        if "int" in kind and any(not float(v).is_integer() for v in values):
            raise self.unreadable(f"the bounds of {text} must be whole numbers")
        if "log" in kind and low <= 0:
            raise self.unreadable(f"in {text} both numbers must be positive: there is no logarithm of {low}")
        return Range(kind, float(low), float(high))

    def _choice(self, values: tuple[Any, ...], text: str) -> Choice:
        found = Choice(values)
        if len(values) < 2:
            raise self.unreadable(f"{text} must have two values at least, or is no choice")
        if len(set(found.texts)) < len(values):
            raise self.unreadable(f"{text} has a value twice")
        return found


def name_of_call(node: ast.Call) -> str:
    """The name that is called; empty where it is no plain name."""
    return node.func.id if isinstance(node.func, ast.Name) else ""
