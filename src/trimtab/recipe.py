"""Techniques and recipes: what can be done to a training, in which order, and how it reads as text.

A technique is a frozen dataclass derived from :class:`Technique`. Deriving registers it under its name, so the command
line, the catalogue and the shared test suite find it by themselves::

    @dataclass(frozen=True)
    class ClipNorm(Technique):
        \"\"\"Clip the total gradient norm ...\"\"\"
        acts_on = "update"
        max_norm: float = 1.0

        def apply(self, training):
            ...
            return Change("clips ...", undo)

A recipe is a checked list of techniques that reads and writes as text: ``"batch_norm(after='linear'), clip_norm(1.0)"``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

Place = Literal["data", "model", "loss", "update", "loop"]
Event = Literal["forward", "backward", "gradients", "before_step", "after_step", "step", "evaluation"]

_ORDER: tuple[Place, ...] = ("data", "model", "loss", "update", "loop")


class RecipeError(ValueError):
    """A recipe that cannot be read, or whose techniques clash."""


class NothingToDo(LookupError):
    """A technique found nothing in this training that it could act on."""


class LossCall:
    """A loss that a training evaluates: a function of ``torch.nn.functional`` with its arguments by their names.

    Calling it computes the loss, with the arguments given here in the place of its own::

        def smoothed(loss):
            return loss(label_smoothing=0.1) if loss.name == "cross_entropy" else None
    """

    def __init__(self, name: str, arguments: dict[str, Any], compute: Callable[[dict[str, Any]], torch.Tensor]) -> None:
        self.name, self.arguments, self._compute = name, arguments, compute

    @property
    def input(self) -> torch.Tensor:
        """What the model said."""
        return self.arguments["input"]

    @property
    def target(self) -> Any:
        """What it should have said."""
        return self.arguments.get("target")

    def __call__(self, **changed: Any) -> torch.Tensor:
        return self._compute({**self.arguments, **changed})

    def without(self, *names: str) -> LossCall:
        """The same without some of its arguments, which are to be given; so they are not kept alive."""
        return LossCall(self.name, {k: v for k, v in self.arguments.items() if k not in names}, self._compute)


class TrainingLike(Protocol):
    """What a technique may rely on: the part of :class:`trimtab.Training` that recipes see."""

    @property
    def models(self) -> Sequence[nn.Module]: ...
    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    @property
    def phase(self) -> Literal["train", "eval"]: ...
    @property
    def loss(self) -> torch.Tensor | None: ...
    def on(self, event: Event, call: Callable[..., None]) -> Callable[[], None]: ...
    def change_input(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]: ...
    def change_output(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]: ...
    def change_loss(self, call: Callable[[LossCall], torch.Tensor | None]) -> Callable[[], None]: ...
    def add_loss(self, call: Callable[[], torch.Tensor | None]) -> Callable[[], None]: ...
    def repeating(self) -> AbstractContextManager[None]: ...
    def change_rate(self, call: Callable[[torch.optim.Optimizer], float]) -> Callable[[], None]: ...
    def add_parameters(self, parameters: Iterable[nn.Parameter], beside: nn.Parameter | None) -> None: ...
    def remove_parameters(self, parameters: Iterable[nn.Parameter]) -> None: ...
    def generator(self, purpose: str, device: torch.device | None = None) -> torch.Generator: ...


@dataclasses.dataclass(frozen=True)
class Change:
    """What applying a technique did: a sentence for the report, how to take it back, and whether it ever took effect.

    ``acted`` is asked after some steps; it answers ``False`` when the technique could be attached but has done nothing
    since (a layer that is never called, a bound that is never reached is *not* such a case, a missing input is).
    ``details`` tells, a line each, what was done to every place that was looked at, and what was left alone and why;
    ``print(change)`` shows them under the sentence. ``outcome`` is asked when the change is shown, and tells in a few words what
    has come of it until then ("stopped at step 120"), or nothing.
    """

    summary: str
    undo: Callable[[], None]
    acted: Callable[[], bool] = lambda: True
    details: tuple[str, ...] = ()
    outcome: Callable[[], str] = lambda: ""

    @property
    def sentence(self) -> str:
        """The summary, and what has come of it so far."""
        return ": ".join(filter(None, (self.summary, self.outcome())))

    def __str__(self) -> str:
        return "\n  ".join([self.sentence, *self.details])


class Technique:
    """Base of all techniques; derive, decorate with ``@dataclass(frozen=True)``, and implement :meth:`apply`.

    Class attributes:
        name: what it is called in recipes; the class name in snake case unless given.
        acts_on: ``"data"``, ``"model"``, ``"loss"``, ``"update"`` or ``"loop"``; recipes apply in this order.
        group: what it is for in the catalogue: ``"normalization"``, ``"regularization"``, ``"augmentation"``, ``"optimization"``, or
            several of these.
        clashes: names of techniques that cannot be in the same recipe, each with the reason.
    """

    name: ClassVar[str] = ""
    acts_on: ClassVar[Place] = "model"
    group: ClassVar[str | tuple[str, ...]] = ""
    clashes: ClassVar[dict[str, str]] = {}
    registry: ClassVar[dict[str, type[Technique]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name") or technique_name(cls.__name__)
        known = Technique.registry.setdefault(cls.name, cls)
        if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
            raise TypeError(f"two techniques are called {cls.name!r}: {known.__module__} and {cls.__module__}")
        Technique.registry[cls.name] = cls

    def apply(self, training: TrainingLike) -> Change:
        """Change the training in place and say what was changed; raise :class:`NothingToDo` if nothing could be."""
        raise TypeError(f"{type(self).__name__} does not implement apply(training)")

    def __str__(self) -> str:
        """The text form: ``name(field=value, ...)`` with the fields that differ from their defaults."""
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name


class Recipe:
    """An ordered, checked list of techniques.

    Techniques apply in the order data, model, loss, update, loop; within one place, in the order given.

    >>> str(Recipe.parse(""))
    ''

    Raises:
        RecipeError: for a text that does not read, an unknown name or argument, a technique named twice, or a clash.
    """

    def __init__(self, techniques: Iterable[Technique] = ()) -> None:
        listed = list(techniques)
        for technique in listed:
            if not isinstance(technique, Technique):
                raise RecipeError(f"A recipe holds techniques; got {technique!r} of type {type(technique).__name__}.")
        self.techniques: tuple[Technique, ...] = tuple(sorted(listed, key=lambda one: _ORDER.index(one.acts_on)))
        self._check()

    def _check(self) -> None:
        names = [technique.name for technique in self.techniques]
        for technique in self.techniques:
            if names.count(technique.name) > 1:
                raise RecipeError(
                    f"{technique.name} stands {names.count(technique.name)} times in the recipe; keep one."
                )
            for other, reason in technique.clashes.items():
                if other in names:
                    raise RecipeError(f"{technique.name} cannot be combined with {other}: {reason}. Leave one out.")

    @classmethod
    def of(cls, what: str | Technique | Recipe | Iterable[Technique] | None) -> Recipe:
        """A recipe from any of its forms: text, one technique, several, a recipe, or ``None`` for the empty one."""
        if what is None:
            return cls()
        if isinstance(what, Recipe):
            return what
        if isinstance(what, str):
            return cls.parse(what)
        return cls([what] if isinstance(what, Technique) else what)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read the text form, ``"batch_norm(after='linear'), clip_norm(1.0)"``; arguments are Python literals."""
        try:
            elements = ast.parse(f"[{text}\n]", mode="eval").body.elts  # type: ignore[attr-defined]
        except SyntaxError as error:
            raise RecipeError(
                f"The recipe {text!r} does not read as a list of calls ({error.msg}). "
                "Write it like \"batch_norm(after='linear'), clip_norm(1.0)\"."
            ) from None
        return cls(_read_call(element, text) for element in elements)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Read ``[[technique]]`` tables with a ``name`` and the technique's fields."""
        tables = tomllib.loads(text).get("technique", [])
        return cls(_make(table.pop("name", ""), (), table) for table in tables)

    def to_toml(self) -> str:
        """The recipe as ``[[technique]]`` tables, every field written out."""
        tables = []
        for technique in self.techniques:
            fields = {f.name: getattr(technique, f.name) for f in dataclasses.fields(technique)}  # type: ignore[arg-type]
            lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items() if value is not None]
            tables.append("\n".join(["[[technique]]", f'name = "{technique.name}"', *lines]))
        return "\n\n".join(tables) + "\n"

    def __str__(self) -> str:
        return ", ".join(map(str, self.techniques))

    def __repr__(self) -> str:
        return f"Recipe({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.techniques == other.techniques

    def __hash__(self) -> int:
        return hash(self.techniques)

    def __iter__(self) -> Iterator[Technique]:
        return iter(self.techniques)

    def __len__(self) -> int:
        return len(self.techniques)

    def __add__(self, other: Recipe) -> Recipe:
        return Recipe([*self.techniques, *other.techniques])

    def apply(self, training: TrainingLike) -> list[Change]:
        """Apply all techniques; if one fails, those before it are undone and the error goes on."""
        done: list[Change] = []
        try:
            for technique in self.techniques:
                done.append(technique.apply(training))
        except BaseException:
            for change in reversed(done):
                change.undo()
            raise
        return done


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error message that offers the nearest of several names."""
    listed = sorted(choices)
    close = difflib.get_close_matches(name, listed, n=3, cutoff=0.5)
    offer = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{offer}There are: {', '.join(listed)}."


def technique_name(class_name: str) -> str:
    """What a technique is called in recipes unless its class says otherwise.

    >>> technique_name("ZeroInitResidual")
    'zero_init_residual'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower()


def technique_class(name: str) -> type[Technique]:
    """The technique of that name."""
    try:
        return Technique.registry[name]
    except KeyError:
        raise RecipeError(f"There is no technique called {name!r}. {nearest(name, Technique.registry)}") from None


def _read_call(node: ast.expr, text: str) -> Technique:
    if isinstance(node, ast.Name):
        return _make(node.id, (), {})
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise RecipeError(
            f"{ast.unparse(node)!r} in the recipe {text!r} is no technique: write name or name(key=value)."
        )
    try:
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        raise RecipeError(
            f"The arguments in {ast.unparse(node)!r} must be plain Python values (numbers, text, lists)."
        ) from None
    return _make(node.func.id, arguments, keywords)


def _make(name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Technique:
    cls = technique_class(name)
    try:
        inspect.signature(cls).bind(*arguments, **keywords)
    except TypeError as error:
        raise RecipeError(
            f"{name} cannot take these arguments ({error}). It is {name}{inspect.signature(cls)}."
        ) from None
    try:
        return cls(*arguments, **keywords)
    except RecipeError:
        raise
    except (TypeError, ValueError, ImportError) as error:  # of a package that a technique needs
        raise RecipeError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
