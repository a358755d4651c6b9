"""Comparing recipes with the untreated subject over paired seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import msgspec

from trimtab.ledger import Decision, Ledger
from trimtab.quantities import Quantity, of_other
from trimtab.recipe import Recipe, RecipeError, Technique
from trimtab.records import Arm, Beside, Comparison, Metric, Remark, RunRecord, Trial, remark
from trimtab.trial.arms import LAST, MOST_SEEDS, compare_arms, limits, seeds_to_decide
from trimtab.trial.edits import Edited, difference, version_of
from trimtab.trial.looks import Look, hopeless, looks_up_to, plan
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.run import BASELINE
from trimtab.trial.session import Session
from trimtab.trial.stats import seeds_for
from trimtab.trial.subjects import Script, Subject, SubjectError, subject_of
from trimtab.trial.terms import Terms, with_terms

FIXED, LOOKED = 5, 20  # seeds by default; the second at most
MOST_BESIDE = 6  # numbers that are told of beside the one that judges
POINTED = 0.7  # of a proof: what an arm of many decisions must point at
SAME = 0.002  # relative: a number that is printed with three digits is the one that was measured


@with_terms()
def compare(
    subject: Subject | str | os.PathLike,
    recipes: str | Technique | Recipe | Sequence[str | Technique | Recipe] = (),
    *,
    against: str | os.PathLike | Script | Sequence[str | os.PathLike | Script] = (),
    seeds: int | Sequence[int] | None = None,
    until_decided: bool = False,
    margin: float | None = None,
    log: str | os.PathLike | None = None,
    **terms: Unpack[Terms],
) -> Comparison:
    """Run the subject as it is, under each recipe, and in each other version on the same seeds, and compare.

    The record of the watched run stays in ``.trimtab/`` beside the subject, and so does every finished trial: called again,
    ``compare`` runs only what is missing.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        recipes: what to try, as text or as techniques; one or several.
        against: other versions of a script: a file, a revision of its repository (``"HEAD~1"``), or a :class:`Script`, with other arguments
            for example; one or several.
        seeds: how many (0, 1, 2 ...), or which. Seed 0 is the script as it stands. By default 5, or 20 at most with ``until_decided``.
        until_decided: look after 3 seeds, 4, 5 ..., and end with each arm as soon as it is better, worse or the same, or cannot be told
            apart by all of them; intervals are so wide that they hold at all looks together.
        margin: an arm whose interval lies between minus that and that is the same, unless it is better or worse. By default the standard
            deviation of the untreated subject over its seeds; with 0 nothing is.
        log: a file that keeps many decisions (:class:`~trimtab.ledger.Ledger`), of one call or of many: then an arm is called better only as
            surely as lets none of all that are kept in it be a false one, 95 times of 100, whatever the metric is distributed like. It is looked
            at on the way, as with ``until_decided``, and arms that do not look better are given up early.
        terms: see Terms.

    Raises:
        SubjectError: if there is no such script, or no such version of it.
        RecipeError: if a recipe does not read, or there is nothing to compare with.
        TrialError: if the untreated subject crashes, never trains or has no metric.
        LedgerError: if ``log`` is some other file, or cannot be written.
    """
    ledger = Ledger(os.fspath(log)) if log is not None else None
    subject = subject_of(subject)  # before anything runs
    versions = versions_of(subject, [against] if isinstance(against, (str, os.PathLike, Script)) else against)
    texts = [] if versions and not recipes else recipe_texts(recipes)
    edits = by_name(versions, texts)
    with Session(subject, **terms) as session:
        return compare_watched(
            session, texts, edits, seeds=seeds, until_decided=until_decided, margin=margin, ledger=ledger
        )[1]


def versions_of(subject: Subject, others: Sequence[str | os.PathLike | Script]) -> list[tuple[str, Script]]:
    """Other versions of a script, each with the name that it has in tables.

    Raises:
        SubjectError: if there is no such version, or the subject is no script.
    """
    if not others:
        return []
    if not isinstance(subject, Script):
        raise SubjectError(f"Other versions are those of a script, and {subject.label} is none.")
    return [
        (other.label, other) if isinstance(other, Script) else (os.fspath(other), version_of(subject, os.fspath(other)))
        for other in others
    ]


def recipe_texts(recipes: str | Technique | Recipe | Sequence[str | Technique | Recipe]) -> list[str]:
    """The arms of a comparison as text, each once.

    Raises:
        RecipeError: if one does not read or is empty, or there is none.
    """
    listed = [recipes] if isinstance(recipes, (str, Technique, Recipe)) else list(recipes)
    texts = [str(Recipe.of(recipe)) for recipe in listed]
    if not texts or "" in texts:
        raise RecipeError('compare needs at least one recipe, and none of them empty: "batch_norm, clip_norm(1.0)".')
    return list(dict.fromkeys(texts))


def by_name(edits: Iterable[tuple[str, Script]], recipes: Sequence[str]) -> dict[str, Script]:
    """Edits by the names that they have in tables, beside these recipes.

    Raises:
        SubjectError: if two arms have the same name, or are the same version.
    """
    named: dict[str, Script] = {}
    for name, edit in edits:
        if name in named or name in recipes:
            raise SubjectError(f"Two arms are called {name!r}. Compare them one after the other.")
        if same := [other for other, known in named.items() if known == edit]:
            raise SubjectError(f"{same[0]!r} and {name!r} are the same version: give one of them.")
        named[name] = edit
    return named


def compare_watched(
    session: Session,
    recipes: Sequence[str],
    edits: Mapping[str, Script],
    *,
    seeds: int | Sequence[int] | None = None,
    until_decided: bool = False,
    margin: float | None = None,
    ledger: Ledger | None = None,
) -> tuple[RunRecord, Comparison]:
    """:func:`compare` in a session, with the record of the watched run of the untreated subject."""
    if margin is not None and not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a difference of the metric, 0 or more, and is {margin}.")
    until_decided = until_decided or ledger is not None
    most = (LOOKED if until_decided else FIXED) if seeds is None else seeds
    wanted = list(range(most)) if isinstance(most, int) else list(dict.fromkeys(most))
    session.admit(edits)
    run = session.watch()
    arms = [*recipes, *edits]
    begun: tuple[Decision, ...] = ()
    if ledger is not None:
        how = f"{session.metric}|{session.steps}|{wanted}"  # another way to ask is another decision
        begun = ledger.begin(session.subject.label, {arm: session.sources.question(arm, how) for arm in arms})
    risks = {arm: decision.alpha for arm, decision in zip(arms, begun, strict=False)} or None
    if until_decided and len(wanted) > 1:
        stages = "comparing", "comparing further"
        comparison = decide(session, arms, wanted, stages, margin, risks=risks)
    else:
        comparison = of_trials(session, arms, wanted, "comparing", margin, risks)
        missing = len(wanted) * (len(comparison.arms) + 1) - len(comparison.trials)
        if missing:
            of = missing + len(comparison.trials)
            comparison = _saying(comparison, remark("trials_cut", seconds=session.budget, missing=missing, of=of))
    cut = any(isinstance(one, Remark) and one.code in ("trials_cut", "looks_cut") for one in comparison.remarks)
    for arm, decision in zip(arms, begun, strict=False):
        assert ledger is not None
        if not (cut and comparison.arm(arm).verdict == "undecided"):  # else the same command goes on with it
            ledger.end(_decided(decision, comparison, arm))
        said = [remark("of_log", number=decision.number, alpha=decision.alpha, log=ledger.path.name)]
        needed = seeds_for(2 * decision.alpha * LAST)
        if needed > len(wanted):
            said.append(remark("few_for_log", seeds=len(wanted), needed=needed))
        comparison = _saying(comparison, *said)
    if ledger is None:
        comparison = _saying(comparison, *_decision(comparison, session, margin, len(wanted) if until_decided else 0))
    comparison = _saying(comparison, *session.remarks)
    session.keep(lambda store: store.put_comparison(run.id, comparison))
    return run, comparison


def _decided(decision: Decision, comparison: Comparison, name: str) -> Decision:
    """What a comparison says of one of its arms, for a ledger."""
    arm = next(arm for arm in comparison.arms if arm.recipe == name)
    own = [trial for trial in comparison.trials if trial.recipe == arm.recipe]
    sign = 1 if comparison.metric.goal == "max" else -1
    return msgspec.structs.replace(
        decision,
        verdict=arm.verdict,
        metric=comparison.metric.name,
        goal=comparison.metric.goal,
        before=arm.mean - sign * arm.effect,
        effect=arm.effect,
        low=arm.low,
        high=arm.high,
        p=arm.p,
        seeds=len(arm.seeds),
        runs=len(own),
        seconds=math.fsum(trial.seconds for trial in own),
        lines=arm.lines,
    )


def _saying(comparison: Comparison, *more: Remark) -> Comparison:
    return msgspec.structs.replace(comparison, remarks=(*comparison.remarks, *more))


def _decision(comparison: Comparison, session: Session, margin: float | None, looked: int) -> list[Remark]:
    """What "same" means, and what would decide on the best arm that is undecided; it was ``looked`` at for so many seeds at most."""
    said = []
    if same := [arm for arm in comparison.arms if arm.standing == "same"]:
        said.append(remark("same_within", margin=same[0].margin, seeds=len(comparison.seeds) if margin is None else 0))
    left = [arm for arm in comparison.arms if arm.standing == "unclear" and len(arm.differences) > 1]
    if left:
        arm = max(left, key=lambda arm: arm.effect)
        seeds = seeds_to_decide(arm, len(comparison.arms), looking=True)
        runs = (seeds - len(arm.seeds)) * (1 + len(left))
        if seeds > looked:
            price = session.rounds(runs)
            said.append(remark("would_decide_on", arm=arm.recipe, seeds=seeds, runs=runs, seconds=price))
        else:
            said.append(remark("would_decide_on_none", arm=arm.recipe, seeds=looked or MOST_SEEDS))
    return said


def of_trials(
    session: Session,
    recipes: Sequence[str],
    seeds: Sequence[int],
    stage: str,
    margin: float | None = None,
    risks: Mapping[str, float] | None = None,
) -> Comparison:
    """Run what is missing and put the comparison together."""
    trials = session.trials([BASELINE, *dict.fromkeys(recipes)], seeds, stage)
    return summed_up(session, trials, seeds, margin=margin, risks=risks)


def decide(
    session: Session,
    recipes: Sequence[str],
    seeds: Sequence[int],
    stages: tuple[str, str],
    margin: float | None = None,
    harm: bool = True,
    risks: Mapping[str, float] | None = None,
) -> Comparison:
    """As :func:`of_trials`, looking at it on the way, and no farther than it takes to know: an arm ends when it is better, worse or the same,
    has lost a seed, or cannot be told apart by all of the seeds; without ``harm`` also when it cannot be proven to be better. All looks
    together keep the promise of one interval of 95 %.

    With ``risks``, of many decisions, an arm that is no better on the first seed ends there, and others when they hardly point at a proof.
    """
    numbers = looks_up_to(len(seeds), together=session.engine.workers // 2)
    first, *_ = *_, last = looks = plan(numbers)
    trials: dict[str, list[Trial]] = {}
    reached: dict[str, Look] = {}
    left = list(dict.fromkeys(recipes))
    if risks is not None:
        trials |= session.trials([BASELINE, *left], seeds[:1], stages[0])
        reached |= dict.fromkeys(left, first)
        seen = summed_up(session, trials, seeds, reached, margin, risks)
        if any(len(made) < 1 for made in trials.values()):
            return _saying(seen, remark("looks_cut", seconds=session.budget, seeds=len(seen.seeds)))
        left = [arm.recipe for arm in seen.arms if arm.effect > 0 or (arm.values and not arm.differences)]
    for look in looks:
        made = look.made[-1]
        trials |= session.trials([BASELINE, *left], seeds[:made], stages[look is not first]) if left else {}
        reached |= dict.fromkeys(left, look)
        seen = summed_up(session, trials, seeds, reached, margin, risks)
        cut = any(len(trials[arm]) < made for arm in left)
        left = [
            arm.recipe for arm in seen.arms if arm.recipe in left and not _settled(arm, len(seeds), last, harm, risks)
        ]
        if cut and left:
            seen = _saying(seen, remark("looks_cut", seconds=session.budget, seeds=len(seen.seeds)))
        if cut or not left:
            break
    return seen


def _settled(arm: Arm, most: int, last: Look, harm: bool, risks: Mapping[str, float] | None) -> bool:
    """Whether more seeds are not needed, or not worth their price."""
    if arm.standing != "unclear":
        return True
    n = len(arm.differences)
    if risks is not None:
        if not n:  # it alone trains, and fewer seeds have shown it than the risk asks for
            return False
        return n > 1 and hopeless(arm.differences, most, last.level_at(2 * risks[arm.recipe]), POINTED)
    turned = -1 if harm and arm.effect < 0 else 1
    if n < 2 or not hopeless([turned * d for d in arm.differences], most, last.level):
        return False
    # of no effect that could be proven: may it become the same?
    half = (arm.high - arm.low) / 2 * math.sqrt(n / most)
    return not abs(arm.effect) + (half if math.isfinite(half) else 0) < arm.margin


def summed_up(
    session: Session,
    trials: Mapping[str, Sequence[Trial]],
    seeds: Sequence[int],
    looks: Mapping[str, Look] | None = None,
    margin: float | None = None,
    risks: Mapping[str, float] | None = None,
) -> Comparison:
    """The comparison of finished trials: over those of ``seeds`` of which at least one trial was made. Each recipe may be at one ``look`` of
    several."""
    assert session.metric is not None
    if looks is not None:  # what a budget has cut off in the middle of a seed was not looked at
        known = {recipe: {trial.seed for trial in of_recipe} for recipe, of_recipe in trials.items()}
        whole = {recipe: known[recipe] & known[BASELINE] for recipe in looks}
        whole[BASELINE] = set[int]().union(*whole.values())
        trials = {recipe: [one for one in trials[recipe] if one.seed in whole[recipe]] for recipe in (BASELINE, *looks)}
        looks = {
            recipe: replace(look, made=tuple(dict.fromkeys(min(made, len(whole[recipe])) for made in look.made)))
            for recipe, look in looks.items()
        }
    by_seed = {trial.seed: trial for trial in trials[BASELINE]}
    made = {trial.seed for of_recipe in trials.values() for trial in of_recipe}
    treated = {recipe: list(of_recipe) for recipe, of_recipe in trials.items() if recipe != BASELINE}
    arms = compare_arms(session.metric, list(trials[BASELINE]), treated, looks=looks, margin=margin, risks=risks)
    seen = tuple(seed for seed in seeds if seed in made)
    comparison = Comparison(
        subject=session.subject.label,
        metric=session.metric,
        seeds=seen,
        baseline=tuple(by_seed[seed].value if seed in by_seed else math.nan for seed in seen),
        arms=tuple(_completed(arm, trials[arm.recipe], session) for arm in arms),
        trials=tuple(trial for recipe in trials for trial in trials[recipe]),
        looks=max((look.made for look in looks.values()), key=len) if looks else (),
        beside=tuple(_beside(session.metric, seen, trials[BASELINE], treated, looks)),
    )
    return msgspec.structs.replace(comparison, remarks=limits(comparison))


def _beside(
    metric: Metric,
    seeds: Sequence[int],
    baseline: Sequence[Trial],
    arms: Mapping[str, Sequence[Trial]],
    looks: Mapping[str, Look] | None,
) -> Iterator[Beside]:
    """What the other numbers say that all trials have which ended well, the same number from another source left out."""
    ended = [trial for of_arm in (baseline, *arms.values()) for trial in of_arm if trial.status == "ok"]
    known = [name for name in ended[0].others if all(name in trial.others for trial in ended)] if ended else []
    told = [[trial.value for trial in ended]]
    for name in sorted(known, key=lambda name: Quantity.read(name).source == "measured"):
        values = [trial.others[name] for trial in ended]
        if len(told) > MOST_BESIDE or any(_shows(values, other) for other in told):
            continue
        told.append(values)
        other = of_other(metric, name)
        untreated, *treated = ([_by_other(trial, name) for trial in of_arm] for of_arm in (baseline, *arms.values()))
        by_seed = {trial.seed: trial.value for trial in untreated}
        found = compare_arms(other, untreated, dict(zip(arms, treated, strict=True)), looks=looks, margin=0.0)
        yield Beside(
            metric=other,
            baseline=tuple(by_seed.get(seed, math.nan) for seed in seeds),
            arms=tuple(msgspec.structs.replace(arm, remarks=()) for arm in found),
        )


def _by_other(trial: Trial, name: str) -> Trial:
    return msgspec.structs.replace(trial, value=trial.others.get(name, math.nan), predicted=None)


def _shows(values: Sequence[float], other: Sequence[float]) -> bool:
    """Whether these are those, rounded or in percent."""
    return any(
        all(math.isclose(times * a, b, rel_tol=SAME) for a, b in zip(values, other, strict=True))
        for times in (1, 100, 0.01)
    )


def _completed(arm: Arm, trials: Sequence[Trial], session: Session) -> Arm:
    """The arm, its remarks saying why trials of it failed or changed nothing, each reason once; with the lines that keep it, if it is proven."""
    said = [
        ("idle_part" if trial.status == "ok" else "reason", trial.error.rstrip("."))
        for trial in trials
        if trial.status in ("ok", "failed", "no_effect") and trial.error
    ]
    reasons = [remark(code, said=text) for code, text in dict.fromkeys(said)]
    edit = session.sources.edits.get(arm.recipe)
    if isinstance(edit, Edited) and (edit.files or edit.elsewhere):
        reasons.append(remark("of_version", files=len(edit.files), elsewhere=edit.elsewhere))
    lines = _lines(arm, trials, session) if arm.helped else ()
    return msgspec.structs.replace(arm, remarks=(*arm.remarks, *reasons), lines=lines, edit=edit is not None)


def _lines(arm: Arm, trials: Sequence[Trial], session: Session) -> tuple[str, ...]:
    """What keeps an arm that is proven: the lines to add of a recipe, the difference of an edit."""
    edit, script = session.sources.edits.get(arm.recipe), session.subject
    if edit is None or not isinstance(script, Script):
        return permanent_lines(arm.recipe, trials)
    return tuple(difference(script, edit))
