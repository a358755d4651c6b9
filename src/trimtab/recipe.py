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

A recipe is a checked set of techniques that reads and writes as text: ``"batch_norm(after='linear'), clip_norm(1.0)"``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import math
import numbers
import re
import threading
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from trimtab.members import load_techniques

if TYPE_CHECKING:
    import torch
    from torch import nn

from trimtab.records import Flow

Place = Literal["data", "model", "loss", "update", "loop"]
Event = Literal["forward", "backward", "gradients", "before_step", "after_step", "step", "evaluation"]

MOMENTS: dict[Place, tuple[str, ...]] = {
    "data": ("scale", "geometry", "values", "parts", "mix"),
    "model": ("convert", "norm", "skip", "draw", "set", "prune", "noise", "fuse", "answer"),
    "loss": ("loss", "term", "pass", "members"),
    "update": ("penalty", "spikes", "clip", "decay", "rate", "optimizer", "constraint"),
    "loop": ("average", "stop"),
}
"""In which order techniques apply: by place, within a place by moment, within a moment by name."""

SINGLE = {
    "batch mix": "both would mix the same batches",
    "final weights": "both decide which weights are evaluated, or are left at the end",
    "input scale": "both would set the scale of the inputs",
    "L1 penalty": "both have an L1 penalty",
    "L2 penalty": "both have an L2 penalty",
    "members": "both would add members",
    "norms": "both would convert the same norms",
    "optimizer": "both would turn the optimizer into another one",
    "outputs": "both would normalize the same outputs",
    "rate": "the new optimizer needs a rate of its own; give it as its lr",
    "rotation": "both would rotate the images, and interpolate them twice",
    "schedule": "both schedule the learning rate",
    "shift": "both would shift the images, and interpolate them twice",
    "warm-up": "both would warm the learning rate up",
    "weights": "both would draw the same weights",
    "zoom": "both would zoom the images, and interpolate them twice",
}
"""What only one technique of a recipe can take, each with the reason."""


class RecipeError(ValueError):
    """A recipe that cannot be read, or whose techniques clash."""


class NothingToDo(LookupError):
    """A technique found nothing in this training that it could act on."""


class Refused(ValueError):
    """A technique cannot act on what this training turned out to be: the form of its data, or what its loss is computed from.

    It ends the training, since going on would give a number that is not the technique's.
    """


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


class AnswerLike(Protocol):
    """A tensor that is what a model has said; see :class:`trimtab.training.calls.Answer`."""

    @property
    def call(self) -> CallLike: ...
    @property
    def form(self) -> Any: ...
    def of(self, output: Any) -> torch.Tensor: ...


class CallLike(Protocol):
    """A call of a model that can be made again; see :class:`trimtab.training.calls.Call`."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def differentiated(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def intact(self) -> bool: ...
    def again(self, training: bool | None = None) -> Any: ...


class CallsLike(Protocol):
    """The calls that a training learns from; see :class:`trimtab.training.calls.Calls`."""

    @property
    def going_on(self) -> bool: ...
    def remember(self, said: Callable[[Any, Any], Any]) -> Callable[[], None]: ...
    def answer_of(self, x: Any) -> AnswerLike | None: ...
    def apart(self, *more: Any) -> AbstractContextManager[None]: ...


class TrainingLike(Protocol):
    """What a technique may rely on: the part of :class:`trimtab.Training` that recipes see."""

    @property
    def models(self) -> Sequence[nn.Module]: ...
    @property
    def heads(self) -> Sequence[nn.Module]: ...
    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...
    @property
    def seen(self) -> Flow | None: ...
    @property
    def read(self) -> dict[int, Any]: ...
    @property
    def calls(self) -> CallsLike: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    @property
    def phase(self) -> Literal["train", "eval"]: ...
    @property
    def evaluating(self) -> bool: ...
    @property
    def loss(self) -> torch.Tensor | None: ...
    def on(self, event: Event, call: Callable[..., None]) -> Callable[[], None]: ...
    def change_input(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]: ...
    def change_output(self, call: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]: ...
    def change_loss(self, call: Callable[[LossCall], torch.Tensor | None]) -> Callable[[], None]: ...
    def add_loss(self, call: Callable[[], torch.Tensor | None]) -> Callable[[], None]: ...
    def change_rate(self, call: Callable[[torch.optim.Optimizer], float]) -> Callable[[], None]: ...
    def add_parameters(self, parameters: Iterable[nn.Parameter], beside: nn.Parameter | None) -> None: ...
    def remove_parameters(self, parameters: Iterable[nn.Parameter]) -> Callable[[], None]: ...
    def generator(self, purpose: str, device: torch.device | None = None) -> torch.Generator: ...


class Now(threading.local):
    """What goes on in a thread, for the parts that techniques put into models. A treated model knows it: see :func:`evaluated`.

    Attributes:
        evaluating: a model is being evaluated, although it may be in training mode and record gradients.
    """

    KEY = "_trimtab_now"  # the attribute of modules
    evaluating = False

    def __deepcopy__(self, memo: dict) -> Now:
        return self

    def __reduce__(self) -> tuple:
        return Now, ()


def evaluated(module: nn.Module) -> bool:
    """Whether a module of a treated model is called in an evaluation, although it may be in training mode and record gradients."""
    now = getattr(module, Now.KEY, None)
    return now is not None and now.evaluating


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

    def __repr__(self) -> str:
        return f"<Change: {self.sentence}>"

    def __str__(self) -> str:
        return "\n  ".join([self.sentence, *self.details])


@dataclasses.dataclass(frozen=True)
class Suite:
    """What the tests that every technique passes must know of one.

    Attributes:
        text: a setting with which it acts within a few steps; its name alone by default.
        network: the kind of network that it needs, if it does not act on every one: ``"mlp"``, ``"cnn"``, ``"normed"`` (with batch norms),
            ``"dropout"``, ``"recurrent"``, or ``"images"`` (a convolution first).
        always: it finds something to act on in every training.
        same_losses: why the losses of the training stay what they are; empty where they must not.
        anew: another optimizer begins, with moments of its own.
        judged: it acts on evaluations.
    """

    text: str = ""
    network: str = ""
    always: bool = False
    same_losses: Literal["", "takes away what has no effect", "acts in evaluation"] = ""
    anew: bool = False
    judged: bool = False


class Technique:
    """Base of all techniques; derive, decorate with ``@dataclass(frozen=True)``, and implement :meth:`apply`.

    Class attributes:
        name: what it is called in recipes; the class name in snake case unless given.
        acts_on: ``"data"``, ``"model"``, ``"loss"``, ``"update"`` or ``"loop"``; recipes apply in this order.
        group: what it is for in the catalogue: ``"normalization"``, ``"regularization"``, ``"augmentation"``, ``"optimization"``, or
            several of these.
        moment: when it applies among those that act on the same; one of :data:`MOMENTS`. A recipe is a set: whoever writes it in
            whatever order gets the same training.
        takes: what only one technique of a recipe can have; some of :data:`SINGLE`.
        inputs: the kinds of inputs it acts on (``"images"``, ``"tables"``, ``"sequences"``); empty for all.
        clashes: names of other techniques that it cannot be with although they take nothing in common, each with the reason.
        suite: what the tests that all techniques pass must know of it.
        picks_by_metric: whether it chooses weights by the number that judges the run, whose effect is then somewhat too good.
        evaluates: whether a model computes something else in evaluation with it than its class says, although no new weight tells of it.
        unbounded: names of the fields that may be infinite.

    Making one checks the values first, then calls its ``__post_init__``, if it has one, for what only the technique knows.

    Raises:
        RecipeError: for a value that a field cannot take.
    """

    name: ClassVar[str] = ""
    acts_on: ClassVar[Place] = "model"
    group: ClassVar[str | tuple[str, ...]] = ""
    moment: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    clashes: ClassVar[dict[str, str]] = {}
    suite: ClassVar[Suite] = Suite()
    picks_by_metric: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    unbounded: ClassVar[tuple[str, ...]] = ()
    registry: ClassVar[dict[str, type[Technique]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name") or technique_name(cls.__name__)
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            load_techniques(others=False)  # so that a name which is taken is refused here
        known = Technique.registry.get(cls.name, cls)
        if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
            raise TypeError(f"two techniques are called {cls.name!r}: {known.__module__} and {cls.__module__}")
        if cls.acts_on not in MOMENTS:
            raise TypeError(f"{cls.name}: acts_on={cls.acts_on!r}: {nearest(str(cls.acts_on), MOMENTS)}")
        for field in ("takes", "inputs"):
            if isinstance(getattr(cls, field), str):
                raise TypeError(
                    f"{cls.name}: {field}={getattr(cls, field)!r} must be a tuple of texts: ({getattr(cls, field)!r},)."
                )
        if cls.moment not in ("", *MOMENTS[cls.acts_on]):
            raise TypeError(f"{cls.name}: moment={cls.moment!r}: {nearest(cls.moment, MOMENTS[cls.acts_on])}")
        if unknown := set(cls.takes) - SINGLE.keys():
            raise TypeError(f"{cls.name}: takes={min(unknown)!r}: {nearest(min(unknown), SINGLE)}")
        Technique.registry[cls.name] = cls
        setattr(cls, "__post_init__", _checked(getattr(cls, "__post_init__", None)))  # noqa: B010 (before the dataclass is made)

    @classmethod
    def order(cls) -> tuple[int, int, str]:
        """Its turn in a recipe; one without a moment comes after those that have one."""
        moments = MOMENTS[cls.acts_on]
        moment = moments.index(cls.moment) if cls.moment else len(moments)
        return list(MOMENTS).index(cls.acts_on), moment, cls.name

    def clash(self, other: Technique) -> str:
        """Why another technique cannot be in the same recipe, as far as this one knows; empty if it can."""
        common = [thing for thing in self.takes if thing in other.takes]
        if common:
            return SINGLE[common[0]]
        if self.inputs and other.inputs and not set(self.inputs) & set(other.inputs):
            return f"{self.name} acts on {' and '.join(self.inputs)}, {other.name} on {' and '.join(other.inputs)}"
        return self.clashes.get(other.name, "")

    def apply(self, training: TrainingLike) -> Change:
        """Change the training in place and say what was changed; raise :class:`NothingToDo` if nothing could be."""
        raise TypeError(f"{type(self).__name__} does not implement apply(training)")

    @property
    def stays(self) -> bool:
        """Whether it belongs to a model also where that is not trained."""
        return self.evaluates or self.acts_on in ("data", "model")

    def plain(self, training: TrainingLike) -> str:
        """How plain torch does the same to this training, for those who keep the technique without trimtab: code, and where it goes.

        Asked before :meth:`apply`. Empty, unless there is a simple way that gives the same values, or says how close it comes.
        """
        return ""

    def __str__(self) -> str:
        """The text form: ``name(field=value, ...)`` with the fields that differ from their defaults."""
        given = [
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(given)})" if given else self.name


class Recipe:
    """A checked set of techniques.

    Its meaning does not depend on the order in which it is written: techniques apply in the order data, model, loss, update, loop,
    within each of them by their moments (:data:`MOMENTS`), such as penalties before clipping, and then by name.

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
        self.techniques: tuple[Technique, ...] = tuple(sorted(listed, key=lambda one: one.order()))
        self._check()

    def _check(self) -> None:
        names = [technique.name for technique in self.techniques]
        for technique in self.techniques:
            if names.count(technique.name) > 1:
                raise RecipeError(
                    f"{technique.name} stands {names.count(technique.name)} times in the recipe; keep one."
                )
        for one, other in itertools.permutations(self.techniques, 2):
            if reason := one.clash(other):
                raise RecipeError(f"{one.name} cannot be combined with {other.name}: {reason}. Leave one out.")

    @classmethod
    def of(cls, what: str | Technique | Recipe | Iterable[Technique] | None) -> Recipe:
        """A recipe from any of its forms: text, one technique, several, a recipe, or ``None`` for the empty one."""
        if what is None:
            return cls()
        if isinstance(what, Recipe):
            return what
        if isinstance(what, str):
            return cls.parse(what)
        if isinstance(what, Technique):
            return cls([what])
        if not isinstance(what, Iterable) or isinstance(what, type):
            raise RecipeError(
                f"A recipe is a text, a technique, or several techniques; got {what!r} of type {type(what).__name__}."
            )
        return cls(what)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read the text form, ``"batch_norm(after='linear'), clip_norm(1.0)"``; arguments are Python literals."""
        try:
            listed = read_expression(f"[{text}\n]")
            if not isinstance(listed, ast.List):
                raise _Misread("brackets do not match, or something stands between the techniques that is no comma")
            return cls(_read_call(element) for element in listed.elts)
        except _Misread as error:
            raise RecipeError(
                f"The recipe {quoted(text)} does not read as a list of calls ({error}). "
                "Write it like \"batch_norm(after='linear'), clip_norm(1.0)\"."
            ) from None

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """Read ``[[technique]]`` tables with a ``name`` and the technique's fields."""
        try:
            whole = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"The recipe is no TOML: {error}.") from None
        tables = whole.pop("technique", [])
        if whole:
            raise RecipeError(
                f"A recipe in TOML is a list of [[technique]] tables, each with a name; got {quoted(', '.join(whole))} beside them."
            )
        if not isinstance(tables, list) or not all(
            isinstance(one, dict) and isinstance(one.get("name"), str) for one in tables
        ):
            raise RecipeError(
                'A recipe in TOML is a list of [[technique]] tables, each with a name: name = "batch_norm".'
            )
        return cls(_make(table.pop("name"), (), _from_toml(table)) for table in tables)

    def to_toml(self) -> str:
        """The recipe as ``[[technique]]`` tables, every field written out but those that are None by default."""
        tables = []
        for technique in self.techniques:
            given = [(field, getattr(technique, field.name)) for field in dataclasses.fields(technique)]  # type: ignore[arg-type]
            lines = [
                f"{field.name} = {_to_toml(value)}" for field, value in given if (value, field.default) != (None, None)
            ]
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

    def __add__(self, other: str | Technique | Recipe | Iterable[Technique]) -> Recipe:
        return Recipe([*self.techniques, *Recipe.of(other).techniques])

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
    """The technique of that name.

    Raises:
        RecipeError: if there is none, or its class is no dataclass.
    """
    try:
        if name not in Technique.registry:
            load_techniques()
        cls = Technique.registry[name]
    except KeyError:
        raise RecipeError(f"There is no technique called {quoted(name)}. {nearest(name, Technique.registry)}") from None
    if "__dataclass_fields__" not in vars(cls):
        where = f"{cls.__module__}.{cls.__qualname__}"
        raise RecipeError(
            f"The technique {name} must be a dataclass, and {where} is none. Put @dataclass(frozen=True) above the class."
        )
    return cls


# -- reading ---------------------------------------------------------------------------------------------------------

_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)  # of ast, for a text that is no Python


class _Misread(RecipeError):
    """Why a text is no recipe, without the text."""


def quoted(text: str, most: int = 200) -> str:
    """A text for a message, a very long one cut short."""
    return repr(text) if len(text) <= most else f"{text[:most]!r}..."


def read_expression(text: str) -> ast.expr:
    """The Python expression that a text is.

    Raises:
        RecipeError: with the reason alone, if it is none.
    """
    try:
        return ast.parse(text, mode="eval").body
    except _UNREADABLE as error:
        raise _Misread(_reason(error)) from None


def read_literal(node: ast.expr) -> Any:
    """The plain Python value that an expression says.

    Raises:
        RecipeError: with the reason alone, if it says none.
    """
    try:
        return ast.literal_eval(node)
    except (RecursionError, MemoryError) as error:
        raise _Misread(_reason(error)) from None
    except _UNREADABLE:
        raise _Misread(f"{written(node)!r} is no plain Python value (number, text, list)") from None


def written(node: ast.AST) -> str:
    """An expression as text, for a message, a very long one cut short."""
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        return "what stands there"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _reason(error: BaseException) -> str:
    if isinstance(error, (RecursionError, MemoryError)):
        return "it is nested too deeply"
    return getattr(error, "msg", "") or str(error)


def _read_call(node: ast.expr) -> Technique:
    if isinstance(node, ast.Name):
        return _make(node.id, (), {})
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise _Misread(f"{written(node)!r} is no technique: write name or name(key=value)")
    if any(isinstance(argument, ast.Starred) for argument in node.args) or not all(word.arg for word in node.keywords):
        raise _Misread("arguments cannot be unpacked with * or **")
    try:
        arguments = [read_literal(argument) for argument in node.args]
        keywords = {str(keyword.arg): read_literal(keyword.value) for keyword in node.keywords}
    except _Misread:
        plain = "must be plain Python values (numbers, text, lists)"
        raise RecipeError(f"The arguments in {quoted(written(node))} {plain}.") from None
    return _make(node.func.id, arguments, keywords)


def _make(name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Technique:
    cls = technique_class(name)
    try:
        given = inspect.signature(cls).bind(*arguments, **keywords).arguments
    except TypeError as error:
        raise RecipeError(f"{name} cannot take these arguments ({error}). It is {name}{_signature(cls)}.") from None
    return cls(**given)


def _signature(cls: type) -> str:
    """The arguments of a technique as they are written, types without quotes.

    >>> @dataclasses.dataclass
    ... class Toy:
    ...     p: float
    ...     by: str | None = None
    >>> _signature(Toy)
    '(p: float, by: str | None = None)'
    """
    kinds = [(one, one.annotation) for one in inspect.signature(cls).parameters.values()]
    texts = [kind if isinstance(kind, str) else inspect.formatannotation(kind) for _, kind in kinds]
    given = ["" if one.default is one.empty else f" = {one.default!r}" for one, _ in kinds]
    return f"({', '.join(f'{one.name}: {text}{value}' for (one, _), text, value in zip(kinds, texts, given, strict=True))})"


# -- values ----------------------------------------------------------------------------------------------------------

_KINDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "text",
    types.NoneType: "None",
}


def _kinds(cls: type) -> dict[str, Any]:
    """The types of a technique's fields; nothing where they cannot be known here."""
    try:
        return _hints(cls)
    except (NameError, TypeError):
        return {}


_hints = functools.cache(typing.get_type_hints)


def _checked(then: Callable[[Any], None] | None) -> Callable[[Any], None]:
    """What is done when a technique is made: its values are looked at, then what its class does by itself."""
    then = getattr(then, "then", then)  # of a class that it is derived from

    def __post_init__(self: Technique) -> None:
        cls, kinds = type(self), _kinds(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, _plain(getattr(self, field.name), kinds.get(field.name)))
        check_values(cls, _values(self))
        if then is None:
            return
        try:
            then(self)
        except RecipeError:
            raise
        except (TypeError, ValueError, ArithmeticError, ImportError) as error:  # of a package that a technique needs
            raise RecipeError(said_by(cls.name, error)) from error

    __post_init__.then = then  # type: ignore[attr-defined]
    return __post_init__


def said_by(name: str, error: Exception) -> str:
    """What a part says of what it got, in the name of the technique that gave it.

    >>> said_by("rotate", ValueError("RandomRotation(degrees=-1): degrees must be 0 or more."))
    'rotate(degrees=-1): degrees must be 0 or more.'
    """
    text = re.sub(r"^[A-Z]\w*(?=[(:]| got )", name, str(error), count=1)
    return text if re.match(rf"{name}(?=[(:]| got )", text) else f"{name}: {text}"


def check_values(cls: type[Technique], values: Mapping[str, Any]) -> None:
    """Refuse values that are not of the type that a technique's field declares or that float32 cannot hold, and an ``eps`` below 0.

    Raises:
        RecipeError: that names the field, what was given and what it must be.
    """
    kinds = _kinds(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values or field.name not in kinds:
            continue
        value, must = values[field.name], ""
        if not _fits(value, kinds[field.name]):
            must = _called(kinds[field.name])
        elif field.name == "eps" and not value >= 0:
            must = "0 or more"
        else:
            must = _beyond(value, field.name in cls.unbounded)
        if must:
            raise RecipeError(
                f"{cls.name}: {field.name}={quoted(_written(value), 60)[1:-1]} must be {must}. It is {cls.name}{_signature(cls)}."
            )


def _values(technique: Technique) -> dict[str, Any]:
    return {field.name: getattr(technique, field.name) for field in dataclasses.fields(technique)}  # type: ignore[arg-type]


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(each) and all(map(_fits, value, each))
    if kind is float or kind is int:  # True is none, nor is NaN
        return (
            isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool) and value == value
        )
    return isinstance(value, kind) if kind in _KINDS else True


def _called(kind: Any) -> str:
    """A type in words.

    >>> print(_called(float | None), _called(tuple[float, float]), _called(Literal["a", "b"]), sep="; ")
    a number or None; a pair (a number, a number); 'a' or 'b'
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_called, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        several = "as many as wanted" if inner[-1] is Ellipsis else ", ".join(map(_called, inner))
        return f"a {'pair' if len(inner) == 2 and inner[-1] is not Ellipsis else 'tuple'} ({several})"
    return _KINDS.get(kind, str(kind))


def _beyond(value: Any, unbounded: bool) -> str:
    """What a number must be that no weight could be; empty for all others."""
    if isinstance(value, tuple):
        return next(filter(None, (_beyond(one, unbounded) for one in value)), "")
    if isinstance(value, int):
        return "" if abs(value) < 2**63 else "below 2**63 in size"
    if not isinstance(value, float) or not value or (math.isinf(value) and unbounded):
        return ""
    if math.isinf(value):
        return "a finite number"
    return "" if 1e-38 <= abs(value) <= 3e38 else "0, or from 1e-38 to 3e38 in size, as float32 holds it"


def _plain(value: Any, kind: Any) -> Any:
    """A list as the tuple that a field asks for, since TOML has but lists, and numbers of NumPy as Python's."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    wanted = {typing.get_origin(one) or one for one in kinds}
    if isinstance(value, list) and tuple in wanted and list not in wanted:
        value = tuple(value)
    if not isinstance(value, tuple):
        return value
    inner = typing.get_args(next((one for one in kinds if typing.get_origin(one) is tuple), None))
    each = inner if len(inner) == len(value) and Ellipsis not in inner else (inner[0] if inner else None,) * len(value)
    return tuple(map(_plain, value, each))


def _written(value: Any) -> str:
    """A value as it reads back: Python has no literal for infinity."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


_NONE = {"none": True}  # TOML has no word for it


def _to_toml(value: Any) -> str:
    if value is None:
        return "{ none = true }"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_to_toml(str(key))} = {_to_toml(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, float):
        return repr(float(value))  # inf and nan are TOML's words too
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _from_toml(value: Any) -> Any:
    if value == _NONE:
        return None
    if isinstance(value, dict):
        return {key: _from_toml(inner) for key, inner in value.items()}
    return [_from_toml(inner) for inner in value] if isinstance(value, list) else value
