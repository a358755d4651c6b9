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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.recipe import Recipe, RecipeError, quoted, read_expression, technique_class, written
from trimtab.records import Axis
from trimtab.trial.distributions import DISTRIBUTIONS, Choice, DistributionReader, Draw, Range, SpaceError, name_of_call

SHORT = {"lr": "learning_rate"}  # lr=log(1e-4, 1)


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
    noun = "recipe"

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


class _Reader(DistributionReader):
    """Reads dimensions; every name is given once."""

    like = '"dropout(p=uniform(0, 0.6)) | none" or "lr=log(1e-4, 1)"'

    def __init__(self) -> None:
        super().__init__()
        self._names: set[str] = set()

    def dimensions(self, text: str) -> Iterator[Dimension]:
        self.text = text
        try:
            whole = read_expression(f"_({text}\n)")
        except RecipeError as error:
            raise self.unreadable(str(error)) from None
        if not (isinstance(whole, ast.Call) and isinstance(whole.func, ast.Name) and whole.func.id == "_"):
            raise self.unreadable("parentheses do not match")
        if not (whole.args or whole.keywords):
            raise self.unreadable("it is empty")
        for node in whole.args:
            yield self._dimension(node, "")
        for keyword in whole.keywords:
            if keyword.arg not in SHORT:
                raise self.unreadable(
                    f"{written(keyword)} belongs to no technique; only lr may stand alone, for learning_rate(lr=...)"
                )
            yield self._dimension(keyword.value, keyword.arg)

    def _dimension(self, node: ast.expr, short: str) -> Dimension:
        found: list[tuple[Call, ...]] = [self._calls(one, short) for one in _parts(node)]
        labels = [" + ".join(call.technique for call in calls) or "none" for calls in found]
        whole = [str(Alternative("", calls)) for calls in found]
        if len(set(whole)) < len(whole):
            twice = next(text for text in whole if whole.count(text) > 1)
            raise SpaceError(f"{quoted(twice)} is an alternative twice in the search {quoted(self.text)}; keep one.")
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
        if short and not (isinstance(node, ast.Call) and name_of_call(node) not in DISTRIBUTIONS):
            technique = SHORT[short]
            return (Call(technique, ((short, self._value(node, f"{technique}.{short}")),)),)
        if isinstance(node, ast.Call) and (name := name_of_call(node)):
            if name in DISTRIBUTIONS:
                raise self.unreadable(f"{written(node)} stands alone; name the technique and the value it is for")
            if any(isinstance(a, ast.Starred) for a in node.args) or not all(k.arg for k in node.keywords):
                raise self.unreadable("arguments cannot be unpacked with * or **")
            fields = self._fields(name)
            given = [*zip(fields, node.args, strict=False), *((str(k.arg), k.value) for k in node.keywords)]
            if len(given) < len(node.args) + len(node.keywords) or len({key for key, _ in given}) < len(given):
                raise self.unreadable(
                    f"{written(node)} gives a value twice, or too many; {name} takes {', '.join(fields)}"
                )
            return (Call(name, tuple((key, self._value(value, f"{name}.{key}")) for key, value in given)),)
        raise self.unreadable(f"{written(node)} is no technique: write name, name(key=value) or none")

    def _fields(self, name: str) -> tuple[str, ...]:
        try:
            return tuple(inspect.signature(technique_class(name)).parameters)
        except RecipeError as error:
            raise SpaceError(f"In the search {quoted(self.text)}: {error}") from None

    def _value(self, node: ast.expr, name: str) -> Any:
        """A plain value, a slot, or a tuple or list that holds slots."""
        if isinstance(node, ast.Call):
            return Slot(self._name(name), self.distribution(node))
        if isinstance(node, (ast.Tuple, ast.List)) and any(isinstance(part, ast.Call) for part in ast.walk(node)):
            return tuple(self._value(part, f"{name}[{place}]") for place, part in enumerate(node.elts))
        kinds = f"a plain Python value (number, text, list) nor a distribution ({', '.join(DISTRIBUTIONS)})"
        return self.literal(node, f"{written(node)} is neither {kinds}")

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
                raise SpaceError(f"In the search {quoted(self.text)}: {error}") from None


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
