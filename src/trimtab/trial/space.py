"""The space of a search: recipes with distributions in the place of values, and alternatives.

A space is written in the grammar of recipes. Each dimension is a technique, or several alternatives divided by ``|``, where
``none`` leaves the place empty and ``(a, b)`` takes two techniques together; in the place of a value stands a distribution:

==================  =================================================================
``uniform(a, b)``   a number between ``a`` and ``b``
``log(a, b)``       the same, with a uniform logarithm
``int(a, b)``       a whole number from ``a`` to ``b``, both included
``log_int(a, b)``   the same, with a roughly uniform logarithm
``choice(x, ...)``  one of these values
==================  =================================================================

``lr=log(1e-4, 1)`` is short for ``learning_rate(lr=log(1e-4, 1))``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimtab.recipe import Recipe, RecipeError, nearest, quoted, read_expression, read_literal, technique_class, written
from trimtab.records import Axis

DIGITS = 3  # of a number that is tried: recipes stay readable, and near ones are the same trial
INSIDE = 16  # values looked at in each range, to see before anything runs that its techniques can take them
SHORT = {"lr": "learning_rate"}  # lr=log(1e-4, 1)


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


@dataclass(frozen=True)
class Slot:
    """A distribution at its place; the name tells it from all others of the space."""

    name: str
    values: Range | Choice

    def __str__(self) -> str:
        return str(self.values)


@dataclass(frozen=True)
class Call:
    """A technique whose arguments are plain values, slots, or tuples and lists of them."""

    technique: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for _, value in self.arguments for slot in _slots(value))

    def filled(self, values: dict[str, Any]) -> Call:
        """The technique with these values in its slots."""
        return Call(self.technique, tuple((name, _filled(value, values)) for name, value in self.arguments))

    def __str__(self) -> str:
        texts = [f"{name}={_text(value)}" if name else _text(value) for name, value in self.arguments]
        return f"{self.technique}({', '.join(texts)})" if texts else self.technique


@dataclass(frozen=True)
class Alternative:
    """What may stand at one place of the recipe: no technique, one, or several together."""

    label: str
    calls: tuple[Call, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for call in self.calls for slot in call.slots)

    def __str__(self) -> str:
        texts = [str(call) for call in self.calls]
        return texts[0] if len(texts) == 1 else f"({', '.join(texts)})" if texts else "none"


@dataclass(frozen=True)
class Dimension:
    """One place of the recipe with its alternatives."""

    name: str
    alternatives: tuple[Alternative, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(alternative.label for alternative in self.alternatives)

    def __str__(self) -> str:
        return " | ".join(map(str, self.alternatives))


@dataclass(frozen=True)
class Suggestion:
    """A recipe of the space, where it lies in it, and what is wrong with it if it is impossible."""

    recipe: str
    at: dict[str, float | str] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class Space:
    """The recipes that a search may try: one dimension for each place of the recipe.

    >>> space = Space.parse(["batch_norm | layer_norm | none", "dropout(p=uniform(0, 0.6))"])
    >>> [axis.name for axis in space.axes]
    ['batch_norm | layer_norm | none', 'dropout.p']
    >>> str(space)
    'batch_norm | layer_norm | none, dropout(p=uniform(0, 0.6))'
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, searches: str | Sequence[str]) -> Space:
        """Read a space from text, or from several texts that are joined.

        Raises:
            SpaceError: for a text that does not read, an unknown distribution, bounds in the wrong order, or a space of one recipe.
            RecipeError: for an unknown technique, or values that it cannot take.
        """
        reader = _Reader()
        texts = [searches] if isinstance(searches, str) else list(searches)
        space = cls(tuple(dimension for text in texts for dimension in reader.dimensions(text)))
        if space.size <= 1:
            raise SpaceError(
                f"There is nothing to search in {quoted(', '.join(texts))}: it is one recipe. Put a distribution in the place of a value, "
                'or alternatives: "dropout(p=uniform(0, 0.6))", "batch_norm | none". For fixed recipes: trimtab compare.'
            )
        if clash := space._impossible():
            raise SpaceError(f"No recipe of the search {quoted(', '.join(texts))} is possible: {clash}")
        return space

    def _impossible(self) -> str:
        """Why the alternatives fit together in no way; empty as soon as they do in one of the first thousand."""
        why = ""
        for chosen in itertools.islice(itertools.product(*(d.alternatives for d in self.dimensions)), 1000):
            values = {slot.name: _middle(slot.values) for one in chosen for slot in one.slots}
            try:
                Recipe.parse(", ".join(str(call.filled(values)) for one in chosen for call in one.calls))
                return ""
            except RecipeError as error:
                why = str(error)
        return why

    def suggest(self, trial: Draw) -> Suggestion:
        """Draw a recipe. Values are drawn for the chosen alternatives only; numbers are rounded to three digits."""
        at: dict[str, float | str] = {}
        values: dict[str, Any] = {}
        texts: list[str] = []
        for dimension in self.dimensions:
            chosen = dimension.alternatives[0]
            if len(dimension.alternatives) > 1:
                label = trial.suggest_categorical(dimension.name, dimension.labels)
                chosen = dimension.alternatives[dimension.labels.index(label)]
                at[dimension.name] = label
            for slot in chosen.slots:
                values[slot.name], at[slot.name] = slot.values.draw(trial, slot.name)
            texts += [str(call.filled(values)) for call in chosen.calls]
        text = ", ".join(texts)
        try:
            return Suggestion(str(Recipe.parse(text)), at)
        except RecipeError as error:
            return Suggestion(text, at, str(error))

    @property
    def texts(self) -> tuple[str, ...]:
        """Each dimension as text; :meth:`parse` reads them back."""
        return tuple(map(str, self.dimensions))

    def __str__(self) -> str:
        return ", ".join(self.texts)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Everything that varies: the choice among the alternatives of a dimension, then the values in each of them."""
        found: list[Axis] = []
        for dimension in self.dimensions:
            if len(dimension.alternatives) > 1:
                found.append(Axis(name=dimension.name, choices=dimension.labels))
            found += [slot.values.axis(slot.name) for one in dimension.alternatives for slot in one.slots]
        return tuple(found)

    @property
    def size(self) -> float:
        """How many recipes there are; infinite with a real number among the axes."""
        return math.prod(
            sum(math.prod(slot.values.size for slot in one.slots) for one in dimension.alternatives)
            for dimension in self.dimensions
        )

    @property
    def untreated(self) -> dict[str, str] | None:
        """The choices that leave every place empty; ``None`` where the space does not hold the empty recipe."""
        empty = {}
        for dimension in self.dimensions:
            label = next((one.label for one in dimension.alternatives if not one.calls), None)
            if label is None:
                return None
            if len(dimension.alternatives) > 1:
                empty[dimension.name] = label
        return empty


# -- reading ---------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads dimensions; every name is given once."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._text = ""

    def dimensions(self, text: str) -> Iterator[Dimension]:
        self._text = text
        try:
            whole = read_expression(f"_({text}\n)")
        except RecipeError as error:
            raise self._unreadable(str(error)) from None
        if not (isinstance(whole, ast.Call) and isinstance(whole.func, ast.Name) and whole.func.id == "_"):
            raise self._unreadable("parentheses do not match")
        if not (whole.args or whole.keywords):
            raise self._unreadable("it is empty")
        for node in whole.args:
            yield self._dimension(node, "")
        for keyword in whole.keywords:
            if keyword.arg not in SHORT:
                raise self._unreadable(
                    f"{written(keyword)} belongs to no technique; only lr may stand alone, for learning_rate(lr=...)"
                )
            yield self._dimension(keyword.value, keyword.arg)

    def _literal(self, node: ast.expr, why: str) -> Any:
        try:
            return read_literal(node)
        except RecipeError:
            raise self._unreadable(why) from None

    def _unreadable(self, why: str) -> SpaceError:
        return SpaceError(
            f"The search {quoted(self._text)} does not read: {why}. "
            'Write it like "dropout(p=uniform(0, 0.6)) | none" or "lr=log(1e-4, 1)".'
        )

    def _dimension(self, node: ast.expr, short: str) -> Dimension:
        found: list[tuple[Call, ...]] = [self._calls(one, short) for one in _parts(node)]
        labels = [" + ".join(call.technique for call in calls) or "none" for calls in found]
        whole = [str(Alternative("", calls)) for calls in found]
        if len(set(whole)) < len(whole):
            twice = next(text for text in whole if whole.count(text) > 1)
            raise SpaceError(f"{quoted(twice)} is an alternative twice in the search {quoted(self._text)}; keep one.")
        labels = [label if labels.count(label) == 1 else text for label, text in zip(labels, whole, strict=True)]
        alternatives = tuple(Alternative(label, calls) for label, calls in zip(labels, found, strict=True))
        name = self._name(" | ".join(labels)) if len(labels) > 1 else labels[0]
        for alternative in alternatives:
            self._check(alternative)
        return Dimension(name, alternatives)

    def _calls(self, node: ast.expr, short: str) -> tuple[Call, ...]:
        """The techniques of one alternative."""
        if isinstance(node, ast.Tuple):
            return tuple(call for one in node.elts for call in self._calls(one, ""))
        if isinstance(node, ast.Name):
            return () if node.id == "none" else (Call(node.id, ()),)
        if isinstance(node, ast.Constant) and node.value is None:
            return ()
        if short and not (isinstance(node, ast.Call) and _called(node) not in _KINDS):
            technique = SHORT[short]
            return (Call(technique, ((short, self._value(node, f"{technique}.{short}")),)),)
        if isinstance(node, ast.Call) and (name := _called(node)):
            if name in _KINDS:
                raise self._unreadable(f"{written(node)} stands alone; name the technique and the value it is for")
            if any(isinstance(a, ast.Starred) for a in node.args) or not all(k.arg for k in node.keywords):
                raise self._unreadable("arguments cannot be unpacked with * or **")
            fields = self._fields(name)
            given = [*zip(fields, node.args, strict=False), *((str(k.arg), k.value) for k in node.keywords)]
            if len(given) < len(node.args) + len(node.keywords) or len({key for key, _ in given}) < len(given):
                raise self._unreadable(
                    f"{written(node)} gives a value twice, or too many; {name} takes {', '.join(fields)}"
                )
            return (Call(name, tuple((key, self._value(value, f"{name}.{key}")) for key, value in given)),)
        raise self._unreadable(f"{written(node)} is no technique: write name, name(key=value) or none")

    def _fields(self, name: str) -> tuple[str, ...]:
        try:
            return tuple(inspect.signature(technique_class(name)).parameters)
        except RecipeError as error:
            raise SpaceError(f"In the search {quoted(self._text)}: {error}") from None

    def _value(self, node: ast.expr, name: str) -> Any:
        """A plain value, a slot, or a tuple or list that holds slots."""
        if isinstance(node, ast.Call):
            return Slot(self._name(name), self._distribution(node))
        if isinstance(node, (ast.Tuple, ast.List)) and any(isinstance(part, ast.Call) for part in ast.walk(node)):
            return tuple(self._value(part, f"{name}[{place}]") for place, part in enumerate(node.elts))
        kinds = f"a plain Python value (number, text, list) nor a distribution ({', '.join(_KINDS)})"
        return self._literal(node, f"{written(node)} is neither {kinds}")

    def _distribution(self, node: ast.Call) -> Range | Choice:
        kind, text = _called(node), written(node)
        if kind not in _KINDS:
            raise SpaceError(f"There is no distribution called {written(node.func)!r}. {nearest(kind, _KINDS)}")
        plain = f"the arguments in {text} must be plain Python values (numbers, text, lists)"
        values = tuple(self._literal(argument, plain) for argument in node.args)
        if node.keywords:
            raise self._unreadable(f"the arguments in {text} have no names; write {kind}({_KINDS[kind]})")
        if kind == "choice":
            return self._choice(values, text)
        if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
            raise self._unreadable(f"{text} must have two numbers: {kind}({_KINDS[kind]})")
        low, high = values
        if not all(-sys.float_info.max <= bound <= sys.float_info.max for bound in values):  # nor whole numbers beyond
            raise self._unreadable(f"the bounds of {quoted(text)[1:-1]} must be finite")
        if low >= high:
            raise self._unreadable(f"in {text} the first number must lie below the second")
        if "int" in kind and any(not float(v).is_integer() for v in values):
            raise self._unreadable(f"the bounds of {text} must be whole numbers")
        if "log" in kind and low <= 0:
            raise self._unreadable(f"in {text} both numbers must be positive: there is no logarithm of {low}")
        return Range(kind, float(low), float(high))

    def _choice(self, values: tuple[Any, ...], text: str) -> Choice:
        found = Choice(values)
        if len(values) < 2:
            raise self._unreadable(f"{text} must have two values at least, or is no choice")
        if len(set(found.texts)) < len(values):
            raise self._unreadable(f"{text} has a value twice")
        return found

    def _name(self, name: str) -> str:
        """The name, numbered if it is taken."""
        free = next(
            n for n in itertools.chain([name], (f"{name} ({i})" for i in itertools.count(2))) if n not in self._names
        )
        self._names.add(free)
        return free

    def _check(self, alternative: Alternative) -> None:
        """Build the techniques at values of every slot, the others at their middle, so that errors come before anything runs."""
        middle = {slot.name: _middle(slot.values) for slot in alternative.slots}
        tried = [middle, *({**middle, slot.name: v} for slot in alternative.slots for v in slot.values.inside())]
        for values in tried:
            try:
                Recipe.parse(", ".join(str(call.filled(values)) for call in alternative.calls))
            except RecipeError as error:
                raise SpaceError(f"In the search {quoted(self._text)}: {error}") from None


_KINDS = {
    "uniform": "low, high",
    "log": "low, high",
    "int": "low, high",
    "log_int": "low, high",
    "choice": "value, value, ...",
}


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """What stands between the ``|``."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _parts(node.left)
        yield from _parts(node.right)
    else:
        yield node


def _slots(value: Any) -> Iterator[Slot]:
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _slots(part)


def _filled(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, Slot):
        return values[value.name]
    return tuple(_filled(part, values) for part in value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return str(value) if isinstance(value, Slot) else repr(value)


def _middle(values: Range | Choice) -> Any:
    listed = list(values.inside())
    return listed[len(listed) // 2]
