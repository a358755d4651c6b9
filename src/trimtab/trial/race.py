"""Racing: remedies run side by side on one seed, in heats; whoever is clearly behind at the same step runs no further."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.doctor.curves import roughness
from trimtab.quantities import judged
from trimtab.records import Metric, Remark, Runner, RunRecord, Series, Trial, remark
from trimtab.trial import looks
from trimtab.trial.live import Live
from trimtab.trial.session import Session

SEED = 0
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of a run, after which arms are compared
LEAST = 150  # steps before arms are compared: shorter runs are run whole
KEPT = 1 / 3  # of the arms that run on
PRICE = 6.0  # runs of the script by itself that a race may cost, if steps cost what they do untreated
IMPORTS = 2.0  # seconds that a script which is run by itself needs for its imports
CLEAR = 2.0  # standard deviations of a metric's noise that are clearly behind
ALIKE = 1.2  # times as dear as the cheapest, and noise may be the reason
WORTH = 0.05  # of the gain, that a dearer recipe must bring at least
RATE = re.compile(r"lr_scale\([^()]*\)")  # a plain change of the learning rate
BOUNDED = ("accuracy", "auc", "auroc", "f1", "precision", "recall", "iou", "dice", "r2")  # at most 1


@dataclass
class Race:
    """The state of a race: the heats, who ran how far, and who leads."""

    metric: Metric
    untreated: Series
    heats: tuple[int, ...]
    starters: tuple[str, ...] = ()
    trials: dict[str, Trial] = field(default_factory=dict)  # the newest of each
    first: dict[str, Trial] = field(default_factory=dict)  # those of the first heat
    why: dict[str, Remark] = field(default_factory=dict)
    ranked: list[str] = field(default_factory=list)  # of the last heat, the best first
    interrupted: bool = False

    @property
    def of(self) -> int:
        """Reports of a whole run."""
        return len(self.untreated)

    def gain(self, recipe: str, until: int) -> float:
        """How much better than untreated it was after so many reports; NaN if it never came there."""
        if self.trials[recipe].status != "ok":
            return math.nan
        ours, theirs = self.reached(recipe, until), self.metric.level(self.untreated.values[:until])
        if not math.isfinite(theirs):  # it diverged: whatever ends with a number is better
            levels = [self.reached(other, until) for other in self.trials if self.trials[other].status == "ok"]
            finite = [level for level in levels if math.isfinite(level)]
            worst = (min if self.metric.goal == "max" else max)(finite, default=math.nan)
            theirs = worst - self.sign * (0.01 * abs(worst) + 1e-9)
        return self.sign * (ours - theirs)

    def share(self, until: int) -> float:
        """Which share of the steps of a run has been made when so many reports have."""
        return share_of(self.untreated, until)

    def until(self, recipe: str) -> int:
        """How many reports an arm has made."""
        trial = self.trials[recipe]
        if trial.share == 1 or trial.status != "ok":
            return self.of
        return max(1, len(trial.curves.get(self.metric.name, Series())))

    def reached(self, recipe: str, until: int) -> float:
        """The level of an arm after so many reports, whether its trial kept them or, of a whole run, a course of other length."""
        trial = self.trials[recipe]
        values = trial.curves.get(self.metric.name, Series()).values
        kept = until if trial.share < 1 else round(until / self.of * len(values))
        return self.metric.level(values[: max(1, kept)])

    @property
    def sign(self) -> int:
        """1 where more is better."""
        return 1 if self.metric.goal == "max" else -1

    def margin(self, until: int) -> float:
        """Differences up to here are noise."""
        values = [value for value in self.untreated.values if math.isfinite(value)]
        if len(values) < 4:
            return 0.0
        import numpy as np

        return CLEAR * roughness(np.array(values)) * math.sqrt(2 / max(1, until // 4))

    def cost(self, recipe: str) -> float:
        """How many times as long as untreated a step takes, in the first heat, where all trials are followed alike; 0 if it is not known.
        1 for changes of the rate, which cost nothing: what is measured of them is noise.

        Whole runs are not followed, but the untreated one was watched: there a change of the rate, which costs nothing, stands for it;
        so it does where the untreated one diverged.
        """
        if recipe == "" or RATE.fullmatch(recipe):
            return 1.0
        took = {name: one.step_seconds for name, one in self.first.items() if one.step_seconds > 0}
        theirs = took.get("", 0.0) if self.heats[0] < self.of else 0.0
        theirs = theirs or min((took[name] for name in took if RATE.fullmatch(name)), default=0.0)
        ours = took.get(recipe, 0.0)
        return ours / theirs if ours > 0 and theirs > 0 else 0.0

    def runners(self) -> tuple[Runner, ...]:
        """What the record has of it."""
        untreated = Runner(
            recipe="",
            share=1.0,
            status="ok",
            value=self.metric.level(self.untreated.values),
            cost=1.0,
            reports=self.untreated,
        )
        arms = (
            Runner(
                recipe=recipe,
                share=trial.share,
                status=trial.status,
                value=self.reached(recipe, self.until(recipe)) if trial.status == "ok" else trial.value,
                cost=self.cost(recipe),
                reports=trial.curves.get(self.metric.name, Series()),
                why=(self.why[recipe],) if recipe in self.why else (),
            )
            for recipe, trial in self.trials.items()
            if recipe
        )
        return (untreated, *arms)


def heats_of(course: Series, metric: Metric, steps: int) -> tuple[int, ...]:
    """After how many reports of a run of so many steps arms are compared.

    Not before a remedy had some steps to act. And not before the untreated run is as bad as at its end: where it was better on its way,
    as one that overfits is, what a remedy is good for shows later; then half a run is the first heat. The last one is the whole run.
    """
    of = len(course)
    values = [value for value in course.values if math.isfinite(value)]
    margin = Race(metric, course, ()).margin(of)
    end = metric.level(values)
    sign = 1 if metric.goal == "max" else -1
    settled = [
        share
        for share in SHARES
        if len(values) < of or sign * (metric.level(values[: reports_at(course, share)]) - end) <= margin
    ]
    shares = [*(SHARES if len(settled) == len(SHARES) else SHARES[-1:]), 1.0]
    shares = [share for share in shares if share * steps >= LEAST] or [1.0]
    return tuple(dict.fromkeys(reports_at(course, share) for share in shares))


def reports_at(course: Series, share: float) -> int:
    """After how many of its reports a course has made such a share of its steps.

    >>> reports_at(Series(steps=(1, 2, 4, 8, 16, 32), values=(0.0,) * 6), 1 / 2)
    5
    """
    return next(count for count in range(1, len(course) + 1) if share_of(course, count) >= share - 1e-9)


def share_of(course: Series, until: int) -> float:
    """Which share of its steps a course has made after so many reports; they may come at any steps."""
    first = min(course.steps[0], 1)  # steps may be counted from 0
    return (course.steps[until - 1] + 1 - first) / (course.steps[-1] + 1 - first) if len(course) > 1 else 1.0


def field_size(shares: Sequence[float], most: int, each: float = 1.0) -> int:
    """How many arms may start for a race to these shares of a run to cost no more than ``PRICE``, if a whole trial costs ``each``."""
    for size in range(most, 2, -1):
        left, price = size, 0.0
        for share in shares:
            price += left * each * share  # every heat starts anew
            left = max(2, math.ceil(left * KEPT))
        if price <= PRICE:
            return size
    return min(most, 3)


def begun(session: Session, run: RunRecord, wanted: Sequence[str]) -> Race:
    """A race of the recipes that nobody has run yet."""
    metric = session.metric
    assert metric is not None
    course = Live.like(run).reports(judged(run, metric), metric)
    found = Race(metric, course, heats_of(course, metric, run.main.steps if run.main else 0))
    each = session.expected / (run.seconds + IMPORTS)
    found.starters = tuple(wanted[: field_size([*map(found.share, found.heats)], len(wanted), each)])
    return found


def expected(session: Session, run: RunRecord, wanted: Sequence[str]) -> float:
    """Seconds that such a race is expected to take, with what confirms its winner."""
    found = begun(session, run, wanted)
    starting = len(found.starters)
    return session.rounds(1 + starting, found.share(found.heats[0])) + _ahead(session, found, 0, starting)


def race(session: Session, run: RunRecord, wanted: Sequence[str]) -> Race:
    """Run the recipes against one another, in heats; the last ones standing are ``ranked``."""
    live, found = Live.like(run), begun(session, run, wanted)
    metric, field_ = found.metric, list(found.starters)
    for number, until in enumerate(found.heats):
        recipes = [*([""] if number == 0 else []), *field_]
        share = found.share(until)
        said = f"racing to {_share(share)}"
        session.later = _ahead(session, found, number, len(field_))
        try:
            trials = session.shares(recipes, SEED, live, until, share, said)
        except KeyboardInterrupt:  # the best that is known until now
            found.interrupted = True
            field_ = [recipe for recipe in field_ if recipe in found.trials]
            break
        found.trials |= trials
        found.first = found.first or trials
        if not any(recipe in trials for recipe in field_):  # the time was over: what was known before counts
            field_ = [recipe for recipe in field_ if recipe in found.trials]
            break
        last = number + 1 == len(found.heats)
        field_ = _on(found, [recipe for recipe in field_ if recipe in trials], until, last)
        if not field_:
            break
        leader, gain = field_[0], found.gain(field_[0], until)
        if gain > found.margin(until):
            theirs, ours = metric.level(found.untreated.values[:until]), found.reached(leader, until)
            session.say(remark("leads", recipe=leader, metric=metric.name, before=theirs, after=ours, share=share))
        if not last:
            field_ = _stay(found, field_, until)
    found.ranked = field_
    return found


def _ahead(session: Session, found: Race, number: int, starting: int) -> float:
    """Seconds that are expected to follow a heat in which so many start: the heats behind it, and what confirms the winner."""
    seconds, left = 0.0, starting
    for until in found.heats[number + 1 :]:
        left = max(2, math.ceil(left * KEPT))
        seconds += session.rounds(left, found.share(until))
    return seconds + session.rounds(2 * looks.LEAST)


def _share(share: float) -> str:
    return f"{100 * share:.0f} % of a run" if share < 0.95 else "the end"


def _on(race: Race, recipes: list[str], until: int, last: bool) -> list[str]:
    """Those that came there with a number, the best first; in the last heat, those of them that are better than untreated."""
    there = []
    for recipe in recipes:
        trial, gain = race.trials[recipe], race.gain(recipe, until)
        if trial.status != "ok":
            race.why[recipe] = remark("ended", how=trial.status, why=trial.error.rstrip("."))
        elif not math.isfinite(gain) or (last and gain <= 0):
            untreated = race.metric.level(race.untreated.values[:until])
            race.why[recipe] = remark(
                "no_better", share=race.share(until), value=race.reached(recipe, until), than=untreated
            )
        else:
            there.append(recipe)
    return sorted(there, key=lambda recipe: -race.gain(recipe, until))


def _stay(race: Race, ranked: list[str], until: int) -> list[str]:
    """Those that run on: the best third, two at least, and whoever is not clearly behind the last of them, one at most."""
    some = max(2, math.ceil(len(ranked) * KEPT))
    cut = [race.gain(recipe, until) for recipe in ranked[:some]][-1]
    stay = ranked[:some] + [r for r in ranked[some : some + 1] if race.gain(r, until) >= cut - race.margin(until)]
    for recipe in ranked:
        if recipe not in stay:
            values = {"value": race.reached(recipe, until), "than": race.reached(ranked[0], until)}
            race.why[recipe] = remark("behind", share=race.share(until), leader=ranked[0], **values)
    return stay


def winner(race: Race) -> str:
    """The best of the last heat; a cheaper one that is as good, or nearly, wins."""
    if not race.ranked:
        return ""
    until = race.heats[-1]
    best = race.ranked[0]
    gain = race.gain(best, until)
    if not gain > 0:
        return ""
    enough = gain - max(WORTH * gain, race.margin(until))
    rivals = [recipe for recipe in race.ranked if race.gain(recipe, until) >= enough]

    least = min(race.cost(recipe) or 1.0 for recipe in rivals)
    cheap = [recipe for recipe in rivals if (race.cost(recipe) or 1.0) <= ALIKE * least]
    return max(cheap, key=lambda recipe: race.gain(recipe, until))


def leaves_something(race: Race, recipe: str) -> bool:
    """Whether something is left to be gained: a metric that ends at 1 is not nearly there."""
    value = race.reached(recipe, race.heats[-1])
    if race.metric.goal == "max" and any(word in race.metric.name.lower() for word in BOUNDED):
        return 1 - value > 0.1 * race.gain(recipe, race.heats[-1])
    return True
