"""What was tried on a run, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from trimtab.records.base import Record, counted, drawing, front_door, shortened
from trimtab.records.runs import Finding, Metric, RunRecord, Series
from trimtab.records.trials import Arm, Remarks, Status, Trial, Verdict


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


class Beside(Record, frozen=True, kw_only=True):
    """What a number that does not judge says of the arms of a comparison, each tested as if it did."""

    metric: Metric
    baseline: tuple[float, ...]
    arms: tuple[Arm, ...]

    def _in_short(self) -> str:
        return f"{self.metric.name} of {counted(self.arms, 'arm')}"


class Comparison(Outcome, frozen=True, kw_only=True):
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
        return f"of {arms} by {self.metric.name} over {counted(self.seeds, 'seed')}"

    @property
    def variant(self) -> str:
        """Its recipes."""
        return "; ".join(arm.recipe for arm in self.arms)

    @property
    def best(self) -> Arm | None:
        """The arm with the largest effect, one that helped before all others."""

        def place(arm: Arm) -> tuple[bool, float]:
            return arm.helped, arm.effect if math.isfinite(arm.effect) else -math.inf

        return max(self.arms, key=place, default=None)

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


class Treatment(Outcome, frozen=True, kw_only=True):
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
        return f"of {self.subject}: {self.recipe or 'nothing that helps'}, {counted(self.findings, 'finding')}"


class Runner(Record, frozen=True, kw_only=True):
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
        ended = shortened(self.value) if self.status == "ok" else self.status
        return f"{self.recipe or 'untreated'} after {self.share:.3g} of a run: {ended}"


class Axis(Record, frozen=True, kw_only=True):
    """One thing that a search varies: a choice, or a number between ``low`` and ``high``, both included."""

    name: str
    choices: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False


class Attempt(Record, frozen=True, kw_only=True):
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
        ended = shortened(self.value) if self.status == "ok" else self.status
        return f"{self.number}, {self.recipe or 'untreated'}: {ended}"


class Tuning(Outcome, frozen=True, kw_only=True):
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
        return f"of {self.subject}: {self.recipe or 'nothing that helps'}, {counted(self.attempts, 'trial')}"


class Spread(Record, frozen=True, kw_only=True):
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
        bounds = f"[{shortened(self.low)}, {shortened(self.high)}]"
        return f"{self.part}: {shortened(self.sd)} {bounds} over {counted(self.values, 'seed')}"


class Noise(Outcome, frozen=True, kw_only=True):
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
        return f"of {self.metric.name} of {self.subject}: {shortened(self.spreads[0].sd)} over {counted(self.seeds, 'seed')}"


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
