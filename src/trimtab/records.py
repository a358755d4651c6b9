"""Frozen data: what a run was, what was found in it, and what trials showed.

Everything that is drawn, judged or saved passes through these records; none of them holds a tensor.
They are ``msgspec`` structs: compare by value, and read and write as JSON or MessagePack. ``repr`` of one fits on a line; ``print`` shows
it as the command line does, and a notebook too. ``record.__struct_fields__`` names everything that is in it.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import msgspec

if TYPE_CHECKING:
    import numpy as np

Severity = Literal["info", "warning", "error"]
Goal = Literal["max", "min"]
Status = Literal["ok", "diverged", "failed", "no_effect", "pruned"]
Standing = Literal["proven", "rescued", "same", "unclear", "worse", "lost"]
Verdict = Literal["better", "worse", "same", "undecided"]
ERROR = 0.05  # how often something may be called an effect that is none


# What a terminal obeys, but for line breaks and tabs, or what hides from its reader: control characters, marks that turn the direction
# of a text around, halves of letters.
CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff"
_CONTROL = re.compile(f"[{CONTROL}]")


def front_door() -> Any:
    """The package itself. It knows the rooms that stand above this one: what draws records, and what makes them."""
    return sys.modules[__name__.partition(".")[0]]


def drawing() -> Any:
    """The room that draws records."""
    return front_door().drawing()


class Record(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Base of all records: immutable, keyword-only."""

    def _in_short(self) -> str:
        """What ``repr`` says; nothing for all fields."""
        return ""

    def __repr__(self) -> str:
        said = self._in_short()
        return f"<{type(self).__name__} {_escaped(said)}>" if said else super().__repr__()

    def __str__(self) -> str:
        return drawing().text(self) if self._in_short() else repr(self)

    def _repr_html_(self) -> str | None:
        return drawing().html(self) if self._in_short() else None


def _short(value: float) -> str:
    return f"{value:.4g}"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _number(items: Sequence[Any] | int, noun: str) -> str:
    count = items if isinstance(items, int) else len(items)
    return f"{count} {noun}{'s' * (count != 1)}"


class Series(Record):
    """One number over the steps of a training. ``values[i]`` was seen at ``steps[i]``; steps never decrease."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def _in_short(self) -> str:
        if not self.values:
            return "without values"
        return f"of {_number(self.values, 'value')}: {_short(self.values[0])} ... {_short(self.last)}"

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


class Profile(Record):
    """One number per layer (or parameter) on each sampled step: ``rows[i][j]`` is ``names[j]`` at ``steps[i]``."""

    names: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    rows: tuple[tuple[float, ...], ...] = ()

    def _in_short(self) -> str:
        return f"of {_number(self.names, 'name')} on {_number(self.steps, 'step')}"

    @property
    def array(self) -> np.ndarray:
        """All rows as float64, shape ``(steps, names)``; NaN where a layer was not called."""
        import numpy as np

        return np.asarray(self.rows, dtype=np.float64).reshape(len(self.steps), len(self.names))

    def of(self, name: str) -> Series:
        """The series of one layer."""
        column = self.names.index(name)
        return Series(steps=self.steps, values=tuple(row[column] for row in self.rows))


class Layer(Record):
    """A module of the model that does work of its own, in the order in which the forward pass calls it."""

    name: str
    kind: str
    parameters: tuple[str, ...] = ()
    units: int = 0


INPUT, OUTPUT = "<input>", "<output>"


class Flow(Record):
    """What goes where in a model, as one forward pass was seen: modules by their names in the order of their first call, and
    ``(from, to, activation)`` for every value that goes from one to another: the name of the activation function on its way, or nothing.
    It comes from ``INPUT`` and ends at ``OUTPUT``."""

    order: tuple[str, ...] = ()
    edges: tuple[tuple[str, str, str], ...] = ()


class CodePlace(Record):
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


class Applied(Record):
    """What a trial has applied to one of its trainings: where the lines that keep it go, how plain torch says the same, what weights the
    model has more than before, and whether the optimizer's groups go on showing the script's rate."""

    code: CodePlace | None = None
    plain: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    rates: bool = False


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


class Asked(Record):
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


class Metric(Record):
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


class TrainingRecord(Record):
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
        last = f", last loss {_short(loss.last)}" if len(loss) else ""
        return f"{self.name}: {', '.join([self.model, *self.optimizers])}, {_number(self.steps, 'step')}{last}"

    def get(self, name: str) -> Series:
        """The series of that name, empty if the run had none."""
        return self.series.get(name, Series())


class RunRecord(Record):
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
        parts = [self.subject, _number(self.main.steps if self.main is not None else 0, "step")]
        if self.metric is not None and self.main is not None:
            reached = self.main.get(self.metric.name).last if self.reached is None else self.reached
            parts += [f"{self.metric.name} {_short(reached)}"] * (not math.isnan(reached))
        parts += [self.error] * bool(self.error) + ["not ended"] * (not self.finished)
        return f"{self.id}: {', '.join(parts)}"

    @property
    def main(self) -> TrainingRecord | None:
        """The training that made the most steps."""
        return max(self.trainings, key=lambda training: training.steps, default=None)


class Evidence(Record):
    """One observation that speaks for a finding: a sentence, its numbers, and the series or profile that shows it."""

    text: str
    numbers: dict[str, float] = {}
    shows: tuple[str, ...] = ()


class Finding(Record):
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


class Predicted(Record):
    """Which of a number of held-out samples were predicted right in the end, in the order in which they came: a bit for each, eight to a byte.
    ``targets`` stands for what they are: two trials with the same saw the same samples."""

    samples: int
    right: bytes
    targets: str

    @property
    def bits(self) -> np.ndarray:
        """One for each that was right; shape ``(samples,)``."""
        import numpy as np

        return np.unpackbits(np.frombuffer(self.right, np.uint8), count=self.samples)


class Trial(Record):
    """One run of a subject under a recipe and a seed. ``value`` is the metric at the end, NaN unless status is ok.

    Only a search stops trials before their end: ``pruned``, with the reason in ``error``, or ``diverged``. A trial that was to make only
    a ``share`` of the run has the metric that it had there. ``numbers`` stands for every loss and every score that was seen: two runs
    with the same are the same. ``others`` are the other numbers that could have judged, by name, and under the name of the metric its best
    value, or its last where the best judges. ``predicted`` are the predictions that the metric is the share of, where
    it is one. ``step_seconds`` is the time from one step to the next, ``memory`` the most bytes that its process had;
    0 where that is not known.
    """

    subject: str
    recipe: str
    seed: int
    status: Status
    value: float = math.nan
    seconds: float = 0.0
    error: str = ""
    curves: dict[str, Series] = {}
    changed: tuple[str, ...] = ()
    applied: tuple[Applied, ...] = ()
    numbers: str = ""
    share: float = 1.0
    step_seconds: float = 0.0
    memory: float = 0.0
    others: dict[str, float] = {}
    predicted: Predicted | None = None

    def _in_short(self) -> str:
        ended = _short(self.value) if self.status == "ok" else self.status
        return f"{self.recipe or 'untreated'}, seed {self.seed}: {ended}"


class Watched(Record):
    """That a subject was run untreated and watched: the id of the run, the files of its folders that it met, each as it was then, and what
    it changed outside of them."""

    run: str
    seen: dict[str, dict] = {}
    outside: tuple[str, ...] = ()


class Remark(Record):
    """Something that is to be said beside the numbers: what, by its code, and the values that the sentence has.

    ``report/sentences.py`` has the sentences, so that they can be reworded and translated, and a program need not read them.
    """

    code: str
    values: dict[str, bool | int | float | str | tuple[int | float | str, ...]] = {}

    def _in_short(self) -> str:
        return f"{self.code}: {drawing().sentences((self,))[0]}"


def remark(code: str, **values: float | str | Sequence[float | str]) -> Remark:
    """A remark with these values.

    >>> remark("no_pair")
    <Remark no_pair: No seed on which both runs ended with a number: there is no difference to test.>
    """
    kept: dict[str, Any] = {
        name: value if isinstance(value, (int, float, str)) else tuple(value) for name, value in values.items()
    }
    return Remark(code=code, values=kept)


Remarks = tuple[Remark | str, ...]
"""What is to be said, in turn. Texts are what a trial itself has said, and the sentences that older versions stored."""


class Arm(Record):
    """A recipe against the baseline over paired seeds. Effects are oriented so that positive is better.

    ``low``/``high`` bound the mean paired difference (t interval at ``Comparison.level``), ``p_sign`` is the exact two-sided
    sign-flip probability, ``p_holm`` the t-test probability after Holm's correction over the arms. Differences below ``margin`` count as none
    (0: every difference counts). ``tried`` are the seeds that it was run on. ``correlation``
    is that of the untreated and the treated run of a seed, 0 where that is not known. ``beyond`` are the bounds of the
    interval that holds for other ``samples`` of the same kind, too, and not for those held out alone; none where they were not seen. ``remarks`` are what no number says;
    ``lines`` keep the recipe of an arm that is proven; of an ``edit``, which is another version of the subject and no recipe, they are the
    difference. ``cost`` is how many times as long as untreated a step takes, ``memory`` how many
    times as much the process needs.
    """

    recipe: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    differences: tuple[float, ...]
    mean: float
    effect: float
    low: float
    high: float
    p: float
    p_sign: float
    p_holm: float
    wins: int
    diverged: int = 0
    failed: int = 0
    no_effect: int = 0
    baseline_diverged: int = 0
    remarks: Remarks | str = msgspec.field(default=(), name="note")  # as stores have it, those of older versions a text
    lines: tuple[str, ...] = ()
    cost: float = 0.0
    memory: float = 0.0
    edit: bool = False
    margin: float = 0.0
    correlation: float = 0.0
    beyond: tuple[float, ...] = ()
    samples: int = 0
    tried: int = 0

    def _in_short(self) -> str:
        interval = f" [{_short(self.low)}, {_short(self.high)}]"
        return (
            f"{self.recipe}: {self.effect:+.4g}{interval} over {_number(self.seeds, 'seed')}{', proven' * self.proven}"
        )

    @property
    def note(self) -> str:
        """The remarks, in sentences."""
        return " ".join(drawing().sentences(self.remarks))

    @property
    def standing(self) -> Standing:
        """What the trials say of it.

        ``"lost"``: seeds were lost with it. ``"rescued"``: it ended with a number on every seed, and the untreated subject on none.
        ``"proven"``: the interval of the improvement excludes zero, and so does the test after Holm's correction over the arms.
        ``"worse"``: the same of a change for the worse. ``"same"``: the interval excludes all differences of ``margin`` and more.
        ``"unclear"``: none of these.
        """
        if self.diverged + self.failed + self.no_effect:
            return "lost"
        if self.values and not self.differences:
            return "unclear" if self.p_holm > ERROR else "rescued"
        if (self.low > 0 or self.high < 0) and not self.p_holm > ERROR:  # it is NaN where nothing was to correct
            return "proven" if self.low > 0 else "worse"
        return "same" if -self.margin < self.low <= self.high < self.margin else "unclear"

    @property
    def verdict(self) -> Verdict:
        """The same in one of four words, for decisions.

        ``"better"``: proven, or it alone trains. ``"worse"``: proven, also on the seeds that it has left, or it has failed on every seed, or
        diverged on every one of three or more on which the untreated subject did not. ``"same"``: differences of ``margin`` and more are
        excluded, or every number of every run is that of the untreated one. ``"undecided"``: none of these.
        """
        if self.standing != "lost":
            return _VERDICTS[self.standing]
        lost = self.diverged + self.failed + self.no_effect
        tried = self.tried or len(self.seeds) + lost
        if self.no_effect == tried:
            return "same"
        broken = self.failed == tried or (self.failed + self.diverged == tried >= _LOST)
        harmed = self.high < 0 and not self.p_holm > ERROR
        return "worse" if harmed or (broken and not self.baseline_diverged) else "undecided"

    @property
    def proven(self) -> bool:
        """Whether the interval of the improvement excludes zero and no seed was lost on the way."""
        return self.standing == "proven"

    @property
    def helped(self) -> bool:
        """Whether it is proven to help, or the subject trains with it alone."""
        return self.standing in ("proven", "rescued")


_LOST = 3  # seeds that have all diverged: that is no chance
_VERDICTS: dict[Standing, Verdict] = {
    "proven": "better",
    "rescued": "better",
    "worse": "worse",
    "same": "same",
    "unclear": "undecided",
}


class Outcome(Record, frozen=True, kw_only=True):
    """What was tried on a watched run, and what came of it. Derive for another kind; a store keeps all of them.

    How a kind is told of on the terminal, on the page and as JSON is a file in ``report/outcomes``. ``remarks`` are
    what is to be said beside its numbers.
    """

    subject: str
    remarks: Remarks = msgspec.field(default=(), name="words")  # as stores have it

    @property
    def words(self) -> tuple[str, ...]:
        """The remarks, a sentence each."""
        return drawing().sentences(self.remarks)

    @classmethod
    def kind(cls) -> str:
        """Its name, in stores and as JSON."""
        return cls.__name__.lower()

    @property
    def variant(self) -> str:
        """What tells it from others of its kind on the same run; a later one without such a mark takes the place of the one before."""
        return ""


class Beside(Record):
    """What a number that does not judge says of the arms of a comparison, each tested as if it did."""

    metric: Metric
    baseline: tuple[float, ...]
    arms: tuple[Arm, ...]

    def _in_short(self) -> str:
        return f"{self.metric.name} of {_number(self.arms, 'arm')}"


class Comparison(Outcome):
    """Recipes against the untreated subject, each over the same seeds; ``looks`` are the numbers of seeds after which it was looked at, if
    it was to end as soon as it was decided: intervals hold at all of these together, and p are fair for all of them. ``beside`` is what
    the other numbers of the same trials say."""

    metric: Metric
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    arms: tuple[Arm, ...]
    trials: tuple[Trial, ...] = ()
    level: float = 0.95
    looks: tuple[int, ...] = ()
    beside: tuple[Beside, ...] = ()

    def _in_short(self) -> str:
        arms = f"{'; '.join(arm.recipe for arm in self.arms)} against the untreated {self.subject}"
        return f"of {arms} by {self.metric.name} over {_number(self.seeds, 'seed')}"

    @property
    def variant(self) -> str:
        """Its recipes."""
        return "; ".join(arm.recipe for arm in self.arms)

    @property
    def best(self) -> Arm | None:
        """The arm with the largest effect, one that helped before all others."""
        key = lambda arm: (arm.helped, arm.effect if math.isfinite(arm.effect) else -math.inf)  # noqa: E731
        return max(self.arms, key=key, default=None)

    @property
    def verdict(self) -> Verdict:
        """That of the best arm; ``"undecided"`` if there is none."""
        return self.best.verdict if self.best is not None else "undecided"

    def arm(self, recipe: str) -> Arm:
        """The arm of that recipe, with its techniques in whatever order.

        Raises:
            LookupError: if there is none.
        """
        known = {arm.recipe: arm for arm in self.arms}
        if recipe not in known:
            recipe = str(front_door().Recipe.parse(recipe))
        if recipe not in known:
            raise LookupError(f"There is no arm {recipe!r} in this comparison. It has: {'; '.join(known)}.")
        return known[recipe]


class Treatment(Outcome):
    """The end of a treatment: what was found, what was tried, what helped, by how much, and how to keep it.

    ``recipe`` is empty when nothing helped (or nothing needed to); ``confirmation`` compares it with the untreated
    subject on seeds that played no part in choosing it. ``race`` are the arms that ran side by side on one seed, the untreated one first;
    ``search`` is the comparison of a thorough treatment in its place. ``run`` is the id of the watched run that it started from.
    """

    findings: tuple[Finding, ...]
    run: str = ""
    recipe: str = ""
    metric: Metric | None = None
    search: Comparison | None = None
    race: tuple[Runner, ...] = ()
    confirmation: Comparison | None = None
    lines: tuple[str, ...] = ()
    seconds: float = 0.0

    def _in_short(self) -> str:
        return f"of {self.subject}: {self.recipe or 'nothing that helps'}, {_number(self.findings, 'finding')}"


class Runner(Record):
    """An arm of a race, on its one seed: how far it was let run, as a share of the run, what the metric was there, and how many times as
    long as untreated its steps take. ``reports`` are the evaluations that were heard of, ``why`` says why it was not let run on."""

    recipe: str
    share: float
    status: Status
    value: float = math.nan
    cost: float = 0.0
    reports: Series = Series()
    why: Remarks = ()

    def _in_short(self) -> str:
        ended = _short(self.value) if self.status == "ok" else self.status
        return f"{self.recipe or 'untreated'} after {self.share:.3g} of a run: {ended}"


class Axis(Record):
    """One thing that a search varies: a choice, or a number between ``low`` and ``high``, both included."""

    name: str
    choices: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False


class Attempt(Record):
    """One recipe that a search tried, on its one seed.

    ``at`` is where in the space it lies: the value on every axis that the recipe has, a choice by its text. ``reports`` are
    the evaluations that were heard of while it ran, ``value`` is the metric at the end, NaN unless status is ok.
    """

    number: int
    recipe: str
    status: Status
    value: float = math.nan
    seconds: float = 0.0
    error: str = ""
    at: dict[str, float | str] = {}
    reports: Series = Series()

    def _in_short(self) -> str:
        ended = _short(self.value) if self.status == "ok" else self.status
        return f"{self.number}, {self.recipe or 'untreated'}: {ended}"


class Tuning(Outcome):
    """The end of a search over recipes: what was tried, what mattered, what was confirmed, and how to keep it.

    ``recipe`` is the best one that is proven to help, empty when none is; ``confirmation`` compares the best of the search with
    the untreated subject on seeds that played no part in it. ``untreated`` is the untreated subject's value on the seed of the
    search. ``importances`` are shares of how much each axis decides about the best ``quantile`` of the attempts, empty when there
    were too few. ``run`` is the id of the watched run that the search started from.
    """

    search: tuple[str, ...]
    metric: Metric
    run: str = ""
    axes: tuple[Axis, ...] = ()
    attempts: tuple[Attempt, ...] = msgspec.field(default=(), name="probes")  # as stores have it
    untreated: float = math.nan
    importances: dict[str, float] = {}
    quantile: float = 0.0
    recipe: str = ""
    confirmation: Comparison | None = None
    lines: tuple[str, ...] = ()
    seconds: float = 0.0

    def _in_short(self) -> str:
        return f"of {self.subject}: {self.recipe or 'nothing that helps'}, {_number(self.attempts, 'trial')}"


class Spread(Record):
    """How much the numbers of a subject move where seeds vary a part of what is random: "all", "init" (what is drawn until the first optimizer
    is made) or "order" (what is drawn from then on).

    ``values`` are those of the metric on the seeds that ended with one, ``lost`` are the other seeds; ``sd`` is their standard deviation,
    with the bounds of its interval of 95 %. ``others`` are the standard deviations of the other numbers, by name.
    """

    part: str
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    lost: tuple[int, ...] = ()
    others: dict[str, float] = {}

    def _in_short(self) -> str:
        bounds = f"[{_short(self.low)}, {_short(self.high)}]"
        return f"{self.part}: {_short(self.sd)} {bounds} over {_number(self.values, 'seed')}"


class Noise(Outcome):
    """How much the number that judges the untreated subject moves from run to run by chance. ``spreads`` has all that is random first, then the
    parts that were varied alone; ``trials`` are those of all. ``smallest`` is, by the number of seeds, the smallest difference between two
    versions that share nothing which would be proven four times of five.
    """

    metric: Metric
    seeds: tuple[int, ...]
    spreads: tuple[Spread, ...]
    smallest: dict[int, float] = {}
    trials: tuple[Trial, ...] = ()

    def _in_short(self) -> str:
        return (
            f"of {self.metric.name} of {self.subject}: {_short(self.spreads[0].sd)} over {_number(self.seeds, 'seed')}"
        )


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


@dataclass(frozen=True)
class Story:
    """What a command tells: a run, what is wrong in it, what was tried on it now, and what was tried before."""

    run: RunRecord
    findings: Sequence[Finding] = ()
    outcome: Outcome | None = None
    earlier: Sequence[Outcome] = ()

    @property
    def found(self) -> Sequence[Finding]:
        """The findings, or those that the outcome started from."""
        return self.findings or getattr(self.outcome, "findings", ()) or self.findings

    @property
    def metric(self) -> Metric | None:
        """The number that judges."""
        return self.run.metric if self.outcome is None else getattr(self.outcome, "metric", self.run.metric)


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


def to_json(record: Record | Sequence[Record] | dict) -> bytes:
    """A record as indented JSON; numbers that JSON cannot say (NaN, infinity) become ``null``. What a terminal would obey is escaped.

    >>> to_json({"subject": "\x1b[31mred \x9b5m", "value": float("nan")}).decode().splitlines()[1:3]
    ['  "subject": "\\\\u001b[31mred \\\\u009b5m",', '  "value": null']
    """
    return _escaped(msgspec.json.format(_encoded(msgspec.json.encode, record), indent=2).decode()).encode()


def to_bytes(record: Record | Sequence[Record]) -> bytes:
    """A record as MessagePack."""
    return _encoded(msgspec.msgpack.encode, record)


def _encoded(encode: Callable[[Any], bytes], record: Any) -> bytes:
    """Names of files and what a script prints may be no texts at all: where they are not, ``?`` stands for a letter."""
    try:
        return encode(record)
    except UnicodeEncodeError:
        return encode(_legible(msgspec.to_builtins(record)))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_legible(key): _legible(inner) for key, inner in value.items()}
    return [_legible(inner) for inner in value] if isinstance(value, (list, tuple)) else value
