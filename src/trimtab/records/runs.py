"""What a run was, and what was found in it."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, Self

from trimtab.records.base import Record, counted, drawing, shortened

if TYPE_CHECKING:
    import numpy as np


Severity = Literal["info", "warning", "error"]
Goal = Literal["max", "min"]


class Series(Record, frozen=True, kw_only=True):
    """One number over the steps of a training. ``values[i]`` was seen at ``steps[i]``; steps never decrease."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def _in_short(self) -> str:
        if not self.values:
            return "without values"
        return f"of {counted(self.values, 'value')}: {shortened(self.values[0])} ... {shortened(self.last)}"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def array(self) -> np.ndarray:
        """The values as float64, shape ``(n,)``."""
        import numpy as np

        return np.asarray(self.values, dtype=np.float64)

    @property
    def finite(self) -> Series:
        """The part of the series whose values are finite numbers."""
        keep = [i for i, value in enumerate(self.values) if math.isfinite(value)]
        return Series(steps=tuple(self.steps[i] for i in keep), values=tuple(self.values[i] for i in keep))

    @property
    def last(self) -> float:
        """The newest value; NaN for an empty series."""
        return self.values[-1] if self.values else math.nan


class Profile(Record, frozen=True, kw_only=True):
    """One number per layer (or parameter) on each sampled step: ``rows[i][j]`` is ``names[j]`` at ``steps[i]``."""

    names: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    rows: tuple[tuple[float, ...], ...] = ()

    def _in_short(self) -> str:
        return f"of {counted(self.names, 'name')} on {counted(self.steps, 'step')}"

    @property
    def array(self) -> np.ndarray:
        """All rows as float64, shape ``(steps, names)``; NaN where a layer was not called."""
        import numpy as np

        return np.asarray(self.rows, dtype=np.float64).reshape(len(self.steps), len(self.names))

    def of(self, name: str) -> Series:
        """The series of one layer."""
        column = self.names.index(name)
        return Series(steps=self.steps, values=tuple(row[column] for row in self.rows))


class Layer(Record, frozen=True, kw_only=True):
    """A module of the model that does work of its own, in the order in which the forward pass calls it."""

    name: str
    kind: str
    parameters: tuple[str, ...] = ()
    units: int = 0


INPUT, OUTPUT = "<input>", "<output>"


class Flow(Record, frozen=True, kw_only=True):
    """What goes where in a model, as one forward pass was seen: modules by their names in the order of their first call, and
    ``(from, to, activation)`` for every value that goes from one to another: the name of the activation function on its way, or nothing.
    It comes from ``INPUT`` and ends at ``OUTPUT``."""

    order: tuple[str, ...] = ()
    edges: tuple[tuple[str, str, str], ...] = ()


class CodePlace(Record, frozen=True, kw_only=True):
    """Where a script makes its optimizer, and what it calls model and optimizer there.

    ``lines`` keep a recipe, with ``.apply(...)`` in the place of its text. They go after the statement of ``source``, which ends in
    ``line``; before it, it begins in ``first``; or stand instead of it.
    """

    file: str
    line: int
    source: str
    model_name: str = ""
    optimizer_name: str = ""
    first: int = 0
    where: Literal["after", "before", "instead"] = "after"
    lines: tuple[str, ...] = ()


@functools.lru_cache(maxsize=64)
def groups(pattern: str) -> int:
    """How many groups a regular expression has.

    Raises:
        ValueError: with the reason, if it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, that a later version may read it differently
            return re.compile(pattern).groups
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None
    except (re.error, OverflowError, ValueError) as error:
        raise ValueError(str(error)) from None


class Asked(Record, frozen=True, kw_only=True):
    """What the user wants a run to be judged by: a regular expression that reads a number from the output, or the name of a number;
    which way is better; and whether the best value counts in the place of the last."""

    metric: str | None = None
    goal: Goal | None = None
    best: bool = False

    @property
    def pattern(self) -> str | None:
        """The regular expression, if it is one: it has a group."""
        try:
            return self.metric if self.metric is not None and groups(self.metric) else None
        except ValueError:
            return None


class Metric(Record, frozen=True, kw_only=True):
    """The number a run is judged by: a series of the run, whether more or less is better, and why this one.

    ``source`` is who said it (see :mod:`trimtab.quantities`); with ``best`` its best value counts, else its last; with ``folds`` the mean
    over so many trainings. ``offered`` are the other numbers that could have judged.
    """

    name: str
    goal: Goal
    why: str = ""
    source: str = "measured"
    best: bool = False
    folds: int = 0
    offered: tuple[str, ...] = ()

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is strictly better than ``b``; a number is always better than NaN."""
        if math.isnan(a) or math.isnan(b):
            return math.isnan(b) and not math.isnan(a)
        return a > b if self.goal == "max" else a < b

    def level(self, values: Sequence[float]) -> float:
        """What a course has come to: its best, or the mean of its last quarter, which moves less than its last value; NaN for nothing.

        >>> Metric(name="val loss", goal="min").level([4.0, 3.0, 2.0, 1.5, math.nan])
        1.5
        """
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return math.nan
        if self.best:
            return max(finite) if self.goal == "max" else min(finite)
        last = finite[-max(1, len(finite) // 4) :]
        return math.fsum(last) / len(last)


class Measured(Record, frozen=True, kw_only=False):
    """What a recorded series or profile is: declared by what measures it, and carried in the record of the run.

    Attributes:
        name: of the series or profile.
        title: of its picture.
        meaning: what it is, in which unit, and how to read it.
        of: what each of its numbers belongs to: numbers of the run are a series, those of layers or parameters are a profile; of a
            training there is one (``TrainingRecord.facts``), the newest.
        share: it lies between 0 and 1.
        owed: of a profile: its absence is worth a line.
        rank: where its picture stands, the lowest first.
    """

    name: str
    title: str
    meaning: str
    of: Literal["run", "training", "layer", "parameter"] = "run"
    share: bool = False
    owed: bool = False
    rank: int = 100


class TrainingRecord(Record, frozen=True, kw_only=True):
    """One training inside a run: one model, its optimizers, and everything that was measured of them.

    ``series`` has one number a step or an evaluation (``loss``, ``lr``, ``val accuracy`` ...),
    ``profiles`` one number per layer on sampled steps (``activation_std``, ``grad_norm`` ...),
    ``facts`` single numbers (``parameters``, ``classes`` ...). ``began`` and ``ended`` count the steps of all trainings of the run
    before its first and until its last one. ``metric`` is the number that judges the run, told to the rules.
    """

    name: str
    model: str
    optimizers: tuple[str, ...] = ()
    steps: int = 0
    epochs: int | None = None
    layers: tuple[Layer, ...] = ()
    series: dict[str, Series] = {}
    profiles: dict[str, Profile] = {}
    facts: dict[str, float] = {}
    code: CodePlace | None = None
    notes: tuple[str, ...] = ()
    began: int = 0
    ended: int = 0
    flow: Flow | None = None
    metric: Metric | None = None

    def _in_short(self) -> str:
        loss = self.get("loss")
        last = f", last loss {shortened(loss.last)}" if len(loss) else ""
        return f"{self.name}: {', '.join([self.model, *self.optimizers])}, {counted(self.steps, 'step')}{last}"

    def get(self, name: str) -> Series:
        """The series of that name, empty if the run had none."""
        return self.series.get(name, Series())


class RunRecord(Record, frozen=True, kw_only=True):
    """One watched run of a script (or of attached code): its trainings, how it ended, and what it printed last.

    ``latest`` says of every number that the script said in several trainings which of these came last; ``hints`` are printed numbers
    that no rule knows, with how often they came; ``reached`` is what the run came to by its metric, once it has ended.
    ``finished`` is false of a run that is going on, or was killed: what it had until then is there. ``unwatched`` is what was
    not watched, with the reason: an error of trimtab's own, as a rule. ``measured`` says what the series and profiles are. ``cut`` are the
    steps after which it was ended, as was asked for; 0 of a run that came to its own end.
    """

    id: str
    subject: str
    started: float = 0.0
    seconds: float = 0.0
    exit_code: int = 0
    error: str = ""
    output_tail: str = ""
    trainings: tuple[TrainingRecord, ...] = ()
    metric: Metric | None = None
    versions: dict[str, str] = {}
    applied: tuple[str, ...] = ()
    latest: dict[str, int] = {}
    hints: tuple[str, ...] = ()
    reached: float | None = None
    finished: bool = True
    unwatched: tuple[str, ...] = ()
    measured: tuple[Measured, ...] = ()
    cut: int = 0

    def _in_short(self) -> str:
        parts = [self.subject, counted(self.main.steps if self.main is not None else 0, "step")]
        if self.metric is not None and self.main is not None:
            reached = self.main.get(self.metric.name).last if self.reached is None else self.reached
            parts += [f"{self.metric.name} {shortened(reached)}"] * (not math.isnan(reached))
        parts += [self.error] * bool(self.error) + ["not ended"] * (not self.finished)
        return f"{self.id}: {', '.join(parts)}"

    @property
    def main(self) -> TrainingRecord | None:
        """The training that made the most steps."""
        return max(self.trainings, key=lambda training: training.steps, default=None)


class Evidence(Record, frozen=True, kw_only=True):
    """One observation that speaks for a finding: a sentence, its numbers, and the series or profile that shows it."""

    text: str
    numbers: dict[str, float] = {}
    shows: tuple[str, ...] = ()


class Finding(Record, frozen=True, kw_only=True):
    """A named problem with its place, its evidence, its cause and what to try. ``remedies`` are recipes, best first; ``consequences`` are
    problems that were found too, and follow from this one."""

    problem: str
    severity: Severity
    where: str
    title: str
    evidence: tuple[Evidence, ...]
    cause: str
    source: str
    remedies: tuple[str, ...] = ()
    confidence: float = 1.0
    training: str = ""
    consequences: tuple[str, ...] = ()

    def _in_short(self) -> str:
        return f"{self.severity}: {self.title}, at {self.where}"


class Watched(Record, frozen=True, kw_only=True):
    """That a subject was run untreated and watched: the id of the run, the files of its folders that it met, each as it was then, and what
    it changed outside of them."""

    run: str
    seen: dict[str, dict] = {}
    outside: tuple[str, ...] = ()


class Findings(tuple[Finding, ...]):
    """What ``diagnose`` gives: findings that show themselves, how many rules were ``asked``, and those that could not judge, each with
    what it lacked.

    >>> Findings()
    ()
    """

    asked: int
    unjudged: Mapping[str, str]

    def __new__(cls, found: Iterable[Finding] = (), asked: int = 0, unjudged: Mapping[str, str] | None = None) -> Self:
        made = super().__new__(cls, found)
        made.asked, made.unjudged = asked, dict(unjudged or {})
        return made

    @property
    def silence(self) -> str:
        """What it means that nothing was found.

        >>> Findings((), 9, {"overfitting": "no held-out number was seen"}).silence
        'No rule found a fault (9 asked, 1 could not judge: overfitting, no held-out number was seen)'
        """
        if not self.asked:
            return "No rule found a fault"
        unable = f", {len(self.unjudged)} could not judge: {self.unable}" if self.unjudged else ""
        return f"No rule found a fault ({self.asked} asked{unable})"

    @property
    def unable(self) -> str:
        """Which rules could not judge, and why: those of one reason together."""
        reasons: dict[str, list[str]] = {}
        for rule, reason in self.unjudged.items():
            reasons.setdefault(reason, []).append(rule)
        return "; ".join(f"{' and '.join(rules)}, {reason}" for reason, rules in reasons.items())

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) if self else "()"

    def __str__(self) -> str:
        return drawing().text(self)

    def _repr_html_(self) -> str:
        return drawing().html(self)


class Recording(Protocol):
    """What has the record of a run, or is still making it: a :class:`trimtab.Recorder`."""

    def record(self) -> RunRecord: ...


def as_run(what: RunRecord | TrainingRecord | Recording) -> RunRecord:
    """The record of a run from what has one; of a recorder that is still open, what it has until now.

    Raises:
        TypeError: that says what has one.
    """
    if isinstance(what, RunRecord):
        return what
    if isinstance(what, TrainingRecord):
        return RunRecord(id="", subject=what.name, trainings=(what,))
    if callable(record := getattr(what, "record", None)) and isinstance(run := record(), RunRecord):
        return run
    raise TypeError(
        f"The record of a run is wanted; got {type(what).__name__}. A recorder has one, open or closed: "
        "recorder = tt.attach(model, optimizer).watch(). trimtab.watch('train.py') gives one."
    )
