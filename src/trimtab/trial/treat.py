"""Treating: diagnose, let the remedies race, combine what helps, and confirm the winner on fresh seeds."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Sequence
from typing import Unpack

import msgspec

from trimtab.doctor import diagnose
from trimtab.recipe import Recipe, RecipeError
from trimtab.records import Arm, Comparison, Finding, Findings, Metric, Remark, RunRecord, Treatment, remark
from trimtab.trial.arms import seeds_to_decide
from trimtab.trial.confirm import confirm_until_decided, doubts_of_effect, lines_of
from trimtab.trial.live import Live
from trimtab.trial.looks import LEAST
from trimtab.trial.pace import pace_of
from trimtab.trial.race import RATE, SEED, WORTH, Race, expected, leaves_something, race, winner
from trimtab.trial.rates import rounded
from trimtab.trial.session import Session
from trimtab.trial.subjects import Script, Subject
from trimtab.trial.successes import Successes, by_promise, known, remember
from trimtab.trial.summary import of_trials
from trimtab.trial.terms import Terms, with_terms

SEARCH_SEEDS = 3
MOST = 8  # remedies tried alone
FEW = 3  # of them, where what was found is no more than a note
FAR = 10.0  # times its own rate: what the first steps must speak for where nothing was found
ROUNDS = 2  # combinations grow by one technique at most this often
CONTROLS = ("lr_scale(factor=0.3)", "lr_scale(factor=3)")
"""Arms that every treatment tries besides the remedies: a change of rate that needs no diagnosis. A remedy that does not
beat these has not shown that the diagnosis was worth anything (Kim et al., ICST 2023)."""
STANDARD = (
    "lr_scale(factor=3)",
    "lr_scale(factor=10)",
    "lr_scale(factor=0.3)",
    "weight_decay",
    "cosine_decay(steps={steps})",
)
"""What is worth a try where no rule found a fault; the decay over the steps of the run."""


@with_terms("When it runs short fewer remedies are tried, and fewer seeds confirm.")
def treat(
    subject: Subject | str | os.PathLike,
    *,
    seeds: int = 8,
    thorough: bool = False,
    run: str | RunRecord | None = None,
    **terms: Unpack[Terms],
) -> Treatment:
    """Find out what helps a training, by how much, and how to keep it.

    1. Watch one run and diagnose it, and look at its first steps at other rates, if it is not short. Without a finding of severity warning or
       error a few of what the notes name are tried, and that rate; where there is nothing of the kind nothing is, and the words give a
       comparison that tries what often helps.
    2. Let the remedies race on one seed, those first of which most is expected after what helped before, and two changes of learning
       rate that need no diagnosis with them as controls: whoever is clearly behind at the same step of the run goes no further. A
       cheaper recipe beats one that is as good or hardly better; two remedies are put together where one leaves something to be gained.
    3. Confirm the winner against the untreated subject on fresh seeds, three at least, and until they prove it or show that ``seeds`` will
       not: the reported effect is theirs alone, so it is not the luck of having been picked, and its interval holds whenever that was.

    A ``thorough`` treatment tries each remedy alone in whole runs on three seeds, then adds to the best recipe what helped besides.

    Everything that is finished stays in ``.trimtab/`` beside the subject: called again after an interruption, ``treat`` goes
    on where it was.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        seeds: confirming seeds, at most.
        thorough: try all remedies to their end.
        run: one that was watched before, or its id, to start from.
        terms: see Terms.

    Returns:
        the treatment; the record of the watched run is ``Store(folder).run(treatment.run)``.

    Raises:
        SubjectError: if there is no such script.
        TrialError: if the untreated subject crashes, never trains or has no metric.
    """
    with Session(subject, **terms) as session:
        return treat_watched(
            session, seeds=seeds, thorough=thorough, run_id=run.id if isinstance(run, RunRecord) else run
        )[1]


def treat_watched(
    session: Session, *, seeds: int = 8, thorough: bool = False, run_id: str | None = None
) -> tuple[RunRecord, Treatment]:
    """:func:`treat` in a session, with the record of the watched run."""
    run = session.watch() if run_id is None else session.take(run_id)
    findings = diagnose(run)
    grave = [finding for finding in findings if finding.severity != "info"]
    for finding in grave or findings:
        session.say(f"{finding.severity}: {finding.title} ({finding.problem} at {finding.where})")
    start = Treatment(subject=session.subject.label, findings=findings, run=run.id, metric=session.metric)
    readable = [_readable(session, finding) for finding in grave or findings]
    told = [finding for finding in readable if finding.remedies]
    wanted = _candidates(told, MOST if grave else FEW, known(session.subject)) if told else []
    session.later = expected(session, run, wanted) if wanted and not thorough else 0.0
    factor = 1.0 if thorough or (grave and not told) else session.best_rate(run, SEED)
    if not grave and (factor >= FAR or factor <= 1 / FAR):
        wanted = wanted or list(CONTROLS)
    said = [] if grave else [_no_fault(findings, bool(wanted))]
    named = len({recipe for finding in told for recipe in finding.remedies} - set(CONTROLS))
    if told and not grave and named > FEW:
        said.append(remark("few_raced", raced=FEW, of=named))
    if wanted and thorough:
        treatment = _searched(session, run, start, wanted, seeds)
    elif wanted:
        treatment = _raced(session, run, start, _with_rate(_by_turns(wanted), factor), seeds)
    else:
        said += [remark("no_remedy")] if grave else [remark("command", text=_try_anyway(session, run))]
        treatment = msgspec.structs.replace(start, seconds=session.seconds)
    treatment = msgspec.structs.replace(treatment, remarks=(*said, *treatment.remarks, *session.remarks))
    session.keep(lambda store: store.put_treatment(run.id, treatment))
    return run, treatment


def _no_fault(findings: Findings, tried: bool) -> Remark:
    """That no rule found what has to be treated, and which of them could not judge."""
    return remark(
        "no_fault",
        asked=findings.asked,
        rules=list(findings.unjudged),
        reasons=list(findings.unjudged.values()),
        notes=bool(findings),
        tried=tried,
    )


def _try_anyway(session: Session, run: RunRecord) -> str:
    """The command, or for a task the call, that tries the standard set."""
    return _command(session, [], [recipe.format(steps=run.main.steps if run.main else 0) for recipe in STANDARD])


def _command(session: Session, options: list[str], recipes: list[str]) -> str:
    """The command, or for a task the call, that compares recipes with these options."""
    subject, asked = session.subject, session.asked
    options = [*options, *(["--steps", str(session.steps)] if session.steps else [])]
    if not isinstance(subject, Script):
        more = "".join(f", {name[2:]}={value}" for name, value in zip(options[::2], options[1::2], strict=True))
        return f"tt.compare(task, {recipes}{more})"
    tried = [*options, *(part for recipe in recipes for part in ("--with", recipe))]
    judged = ["--metric", asked.metric] if asked.metric is not None else []
    judged += [{"min": "--minimize", "max": "--maximize"}[asked.goal]] if asked.goal else []
    script = [*["--best"] * asked.best, *["-m"] * subject.module, subject.target, *subject.arguments]
    return shlex.join(["trimtab", "compare", *tried, *judged, *script])


def _raced(session: Session, run: RunRecord, start: Treatment, wanted: list[str], seeds: int) -> Treatment:
    """Race, put together what helps where something is left to be gained, and confirm."""
    deadline, now = session.stop_at, time.monotonic()
    session.stop_at = max(deadline - session.rounds(2 * LEAST), now + (deadline - now) / 2)
    found = race(session, run, wanted)
    best = winner(found)
    if RATE.fullmatch(best) and not found.interrupted:
        best = _outermost(session, run, found, best)
    if best and not found.interrupted and leaves_something(found, best):
        best = _together(session, run, found, best)
    session.stop_at = deadline
    remember(session.subject, [finding.problem for finding in start.findings], found)
    said: list[Remark] = []
    confirmation = None
    if found.interrupted:
        said.append(remark("interrupted", proven=False))
    elif best:
        try:
            confirmation = confirm_until_decided(session, best, seeds)
        except KeyboardInterrupt:
            said.append(remark("interrupted", proven=False))
    if confirmation is not None:
        said += pace_of(confirmation, confirmation.arms[0])
        said += _cheaper(found, best)
        said += _rival(found, best)
        said += doubts_of_effect(confirmation.arms[0])
        said += _what_would_decide(session, confirmation)
    elif best or found.interrupted:
        pass
    elif len(found.trials) > 1:
        said.append(remark("none_better", of="recipe"))
    else:
        said.append(remark("budget_over", seconds=session.budget, of="remedy"))
    untried = [recipe for recipe in found.starters if recipe not in found.trials]
    if untried and len(untried) < len(found.starters) and not found.interrupted:
        said.append(remark("not_reached", seconds=session.budget, recipes=untried))
    return msgspec.structs.replace(
        start,
        recipe=best,
        race=found.runners(),
        confirmation=confirmation,
        lines=lines_of(best, confirmation),
        remarks=tuple(said),
        seconds=session.seconds,
    )


def _what_would_decide(session: Session, confirmation: Comparison) -> list[Remark]:
    """The command that decides a question which is still open, and its price; so many seeds that a true effect as large as the one seen is
    proven four times of five."""
    (arm,) = confirmation.arms
    if arm.standing != "unclear":
        return []
    seeds = seeds_to_decide(arm)
    if not seeds or arm.effect < 0:
        return []
    times = 1 + (arm.cost or 1.0)
    price = seeds * times * session.expected / session.engine.workers
    return [
        remark("would_decide", seeds=seeds, seconds=price),
        remark("command", text=_command(session, ["--seeds", str(seeds)], [arm.recipe])),
    ]


def _with_rate(wanted: list[str], factor: float) -> list[str]:
    """With the rate that the first steps speak for, and the one before it on the way there, which may do better over a whole run: before all
    others where the first is a change of rate, too, else behind the first three. They stand for the controls that lie nearer than both, or the
    other way."""
    if factor == 1:
        return wanted
    before = factor / FAR if factor > 1 else factor * FAR
    far = not math.isclose(before, 1)
    rates = [str(Recipe.parse(f"lr_scale(factor={rounded(by):g})")) for by in (factor, before)[: 1 + far]]
    idle = [control for control in CONTROLS if far or (_factor(control) > 1) != (factor > 1)]
    others = [recipe for recipe in wanted if recipe not in (*rates, *idle)]
    return [*rates, *others] if RATE.fullmatch(wanted[0]) else [*others[:3], *rates, *others[3:]]


def _by_turns(wanted: list[str]) -> list[str]:
    """The remedies with the controls behind the first three, so that a small field has both."""
    remedies = [recipe for recipe in wanted if recipe not in CONTROLS]
    return [*remedies[:3], *(recipe for recipe in wanted if recipe in CONTROLS), *remedies[3:]]


def _outermost(session: Session, run: RunRecord, found: Race, best: str) -> str:
    """Where the best is the largest or the smallest rate that was raced: the next ones, as long as they are better."""
    until = found.heats[-1]
    for _ in range(ROUNDS):
        factor = _factor(best)
        tried = [_factor(recipe) for recipe in found.trials if RATE.fullmatch(recipe)]
        if not (factor == max(tried) > 1 or factor == min(tried) < 1):
            return best
        next_ = str(Recipe.parse(f"lr_scale(factor={rounded(factor, 1 if factor > 1 else -1):g})"))
        try:
            found.trials |= session.shares([next_], SEED, Live.like(run), until, 1.0, "farther the same way")
        except KeyboardInterrupt:
            found.interrupted = True
            return best
        if next_ not in found.trials:
            return best
        if not found.gain(next_, until) > (1 + WORTH) * found.gain(best, until):
            found.why.setdefault(next_, remark("not_worth", than=best))
            return best
        best = next_
    return best


def _factor(recipe: str) -> float:
    (change,) = Recipe.parse(recipe)
    return vars(change)["factor"]


def _together(session: Session, run: RunRecord, found: Race, best: str) -> str:
    """The winner with the next one that helped, if that is worth more than both alone; else the winner."""
    until, gain = found.heats[-1], found.gain(best, found.heats[-1])
    partners = [r for r in found.ranked if r != best and r not in CONTROLS and found.gain(r, until) > 0.5 * gain]
    for partner in partners[:1]:
        try:
            pair = str(Recipe.parse(best) + Recipe.parse(partner))
        except RecipeError:  # they clash, or are the same technique at two settings
            continue
        try:
            trials = session.shares([pair], SEED, Live.like(run), until, 1.0, "putting two together")
        except KeyboardInterrupt:
            found.interrupted = True
            return best
        found.trials |= trials
        if pair in trials and found.gain(pair, until) > gain + max(WORTH * gain, found.margin(until)):
            return pair
        if pair in trials:
            found.why[pair] = remark("not_worth", than=best)
    return best


def _cheaper(found: Race, best: str) -> list[Remark]:
    """Why the one that gained most was not taken."""
    until, most = found.heats[-1], next(iter(found.ranked), best)
    if best == most or best not in found.ranked or not (found.cost(best) and found.cost(most)):
        return []
    gains = {"gained": found.gain(best, until), "most_gained": found.gain(most, until)}
    return [remark("cheaper", recipe=best, cost=found.cost(best), most=most, most_cost=found.cost(most), **gains)]


def _rival(found: Race, best: str) -> list[Remark]:
    """How the winner does against the best plain change of the learning rate, where that one left the race."""
    rates = [recipe for recipe in found.trials if RATE.fullmatch(recipe)]
    at = {recipe: found.until(recipe) for recipe in rates}
    gains = {recipe: found.gain(recipe, at[recipe]) for recipe in rates if found.trials[recipe].status == "ok"}
    known = {recipe: gain for recipe, gain in gains.items() if math.isfinite(gain)}
    if best in rates or not known:
        return []
    rate = max(known, key=lambda recipe: known[recipe])
    gained = found.gain(best, at[rate])
    return [remark("plain_rate", gained=gained, rate=rate, rate_gained=known[rate], share=found.share(at[rate]))]


def _searched(session: Session, run: RunRecord, start: Treatment, wanted: list[str], seeds: int) -> Treatment:
    assert session.metric is not None
    candidates = _affordable(wanted, session, run, seeds)
    search = of_trials(session, candidates, range(SEARCH_SEEDS), "trying remedies alone")
    ranked = _ranked(search, session.metric)
    best = ranked[0].recipe if ranked else ""
    if best:
        best, search = _combine(session, best, [arm.recipe for arm in ranked], search)
    said = _cut_short(search, wanted, session.budget)
    confirmation = None
    if best:
        confirmation = confirm_until_decided(session, best, seeds)
        said += pace_of(confirmation, confirmation.arms[0])
        said += _rivals(confirmation.arms[0], search)
        said += doubts_of_effect(confirmation.arms[0])
    elif any(trial.recipe for trial in search.trials):
        said.append(remark("none_better", of="remedy"))
    return msgspec.structs.replace(
        start,
        recipe=best,
        search=search,
        confirmation=confirmation,
        lines=lines_of(best, confirmation),
        remarks=tuple(said),
        seconds=session.seconds,
    )


def _candidates(findings: Sequence[Finding], most: int, table: Successes) -> list[str]:
    """Remedies, of which most is expected first; the controls last."""
    named = [(finding.problem, finding.remedies) for finding in findings]
    listed = [recipe for recipe in by_promise(named, table) if recipe not in CONTROLS]
    return [*listed[:most], *(str(Recipe.parse(recipe)) for recipe in CONTROLS)]


def _readable(session: Session, finding: Finding) -> Finding:
    """The finding with those of its remedies that are recipes; a rule of another package may name others."""
    kept = []
    for recipe in finding.remedies:
        try:
            Recipe.parse(recipe)
        except RecipeError as error:
            session.say(f"The rule of {finding.problem} names {recipe!r} as a remedy, which is no recipe: {error}")
        else:
            kept.append(recipe)
    return msgspec.structs.replace(finding, remedies=tuple(kept))


def _affordable(candidates: list[str], session: Session, run: RunRecord, seeds: int) -> list[str]:
    """As many candidates as the budget allows once the confirmation is paid for; at least one."""
    if math.isinf(session.budget):
        return candidates
    each = max(run.seconds, 0.1) / session.engine.workers
    left = session.budget - session.seconds - 2 * seeds * each
    affordable = int(left / each / SEARCH_SEEDS) - 1  # one is the untreated subject
    return candidates[: max(1, affordable)]


def _cut_short(search: Comparison, wanted: list[str], budget: float) -> list[Remark]:
    """What the budget did not reach for."""
    tried = {trial.recipe for trial in search.trials}
    untried = [recipe for recipe in wanted if recipe not in tried]
    if not untried:
        return []
    if len(untried) == len(wanted):
        return [remark("budget_over", seconds=budget, of="remedy")]
    return [remark("not_reached", seconds=budget, recipes=untried)]


def _ranked(search: Comparison, metric: Metric) -> list[Arm]:
    """Arms that were better than the untreated subject, the best first.

    An arm is judged by its mean effect; where the untreated subject diverged on every seed, by its own values.
    Arms that lost a seed on which the untreated subject did not diverge are out.
    """

    def key(arm: Arm) -> float:
        if arm.differences:
            return arm.effect
        return arm.mean if metric.goal == "max" else -arm.mean

    sound = [
        arm
        for arm in search.arms
        if arm.values and arm.failed + arm.no_effect == 0 and arm.diverged <= arm.baseline_diverged
    ]
    helped = [arm for arm in sound if math.isfinite(key(arm)) and (arm.effect > 0 if arm.differences else True)]
    return sorted(helped, key=key, reverse=True)


def _combine(session: Session, best: str, ranked: list[str], search: Comparison) -> tuple[str, Comparison]:
    """Grow the best recipe by what helped alone, as long as each addition clearly pays.

    It pays when the improvement over the recipe so far is positive on every search seed: the simpler recipe wins a draw.
    """
    assert session.metric is not None
    tried = [arm.recipe for arm in search.arms]
    sign = 1 if session.metric.goal == "max" else -1
    for addition in [recipe for recipe in ranked if recipe != best and recipe not in CONTROLS][:ROUNDS]:
        try:
            pair = str(Recipe.parse(best) + Recipe.parse(addition))
        except RecipeError:  # they clash, or are the same technique at two settings
            continue
        tried.append(pair)
        search = of_trials(session, tried, range(SEARCH_SEEDS), "combining what helped")
        arms = {arm.recipe: dict(zip(arm.seeds, arm.values, strict=True)) for arm in search.arms}
        gains = [sign * (arms[pair][seed] - arms[best][seed]) for seed in arms[pair] if seed in arms[best]]
        if len(gains) == len(arms[best]) and gains and min(gains) > 0:
            best = pair
    return best, search


def _rivals(arm: Arm, search: Comparison) -> list[Remark]:
    """How the winner does against the best plain change of the learning rate."""
    rates = [other for other in search.arms if RATE.fullmatch(other.recipe) and other.differences]
    chosen = next((other for other in search.arms if other.recipe == arm.recipe), None)
    if chosen is None or not rates or chosen in rates:
        return []
    best = max(rates, key=lambda other: other.effect)
    return [remark("plain_rate", gained=chosen.effect, rate=best.recipe, rate_gained=best.effect)]
