"""Tuning: search a space of recipes, or of flags, on one seed, and confirm the best of it on fresh ones."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from trimtab.quantities import judged
from trimtab.recipe import Recipe
from trimtab.records import Arm, Attempt, Comparison, Metric, Remark, RunRecord, Tuning, remark
from trimtab.trial.confirm import confirm, doubts_of_effect
from trimtab.trial.edits import with_arguments
from trimtab.trial.flags import Flags, names_flags, read_space
from trimtab.trial.live import Live
from trimtab.trial.pace import pace_of
from trimtab.trial.search import Search, require_optuna
from trimtab.trial.session import BY_DOCTOR, Session, TrialError
from trimtab.trial.space import Space
from trimtab.trial.subjects import Script, Subject, SubjectError, subject_of
from trimtab.trial.terms import Terms, with_terms

REASONS = 3  # of failed trials that are told
REFUSED = 5  # settings of flags that fail, and none that does not, before the search is given up
SEED = 0  # of the search: all recipes see the same weights and batches, so that they differ by themselves only


@with_terms("The search ends in time for the confirmation, but gets half of it in any case.")
def tune(
    subject: Subject | str | os.PathLike,
    search: str | Sequence[str],
    *,
    trials: int = 30,
    seeds: int = 5,
    candidates: int = 3,
    **terms: Unpack[Terms],
) -> Tuning:
    """Search for the recipe, or the flags of the script, that make a training best, and prove what was found.

    1. Watch the subject as it is, once; that settles the metric.
    2. Try ``trials`` points of the space on one seed. Optuna's TPE proposes them. A trial tells of its evaluations while it
       runs: one that falls behind the others is pruned, one whose loss is not finite, or whose weights are torn by its gradients
       or its learning rate, is stopped at once.
    3. Confirm the best ``candidates`` against the untreated subject on ``seeds`` fresh paired seeds. The best of those that are
       proven to help wins: the luck of having been picked in the search is no part of the effect.

    Everything that is finished stays in ``.trimtab/`` beside the subject: called again, also after a kill, ``tune`` goes on where
    it was, and with more ``trials`` it goes further. Needs Optuna: ``pip install 'trimtab[tune]'``.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        search: the space, one text a dimension: a technique with distributions in the place of values, or alternatives.
            ``["lr=log(1e-4, 1)", "batch_norm | layer_norm | none", "dropout(p=uniform(0, 0.6)) | none"]``; there are ``uniform``,
            ``log``, ``int``, ``log_int`` and ``choice``. Or flags of the script's own command line, with distributions in the place of
            their values: ``"--lr=log(1e-4, 1e-1) --width=choice(16, 64)"``.
        trials: points to try, those of earlier calls included.
        seeds: confirming seeds.
        candidates: points to confirm.
        terms: see Terms.

    Raises:
        MissingOptuna: if Optuna is not installed.
        SpaceError: if the space does not read, or holds nothing to search.
        RecipeError: if its techniques cannot take the values.
        SubjectError: if there is no such script, or the space is of flags and the subject no script.
        TrialError: if the untreated subject crashes, never trains or has no metric, or each setting of its flags fails.
        ValueError: if ``trials`` or ``candidates`` is below 1, or ``seeds`` below 2.
    """
    require_optuna()
    for name, value, least in (("trials", trials, 1), ("seeds", seeds, 2), ("candidates", candidates, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")
    subject, space = subject_of(subject), read_space(search)  # before anything runs
    if isinstance(space, Flags) and not isinstance(subject, Script):
        raise SubjectError(f"Flags are those of a script, and {subject.label} is none: search over recipes.")
    with Session(subject, **terms) as session:
        return tune_watched(session, space, trials=trials, seeds=seeds, candidates=candidates)[1]


def tune_watched(
    session: Session, space: Space | Flags, *, trials: int = 30, seeds: int = 5, candidates: int = 3
) -> tuple[RunRecord, Tuning]:
    """:func:`tune` in a session, with the record of the watched run of the untreated subject."""
    run = session.watch()
    assert session.metric is not None and run.main is not None
    metric, live = session.metric, Live.like(run)
    untreated = session.trials([""], [SEED])[""][0].value
    reports = len(live.reports(judged(run, metric), metric))
    folder = session.subject.folder if session.store is not None else None
    search = Search(
        folder, session.subject.fingerprint(), space, metric, live, reports, session.asked.metric, session.fresh
    )
    with search:
        session.reused += search.kept
        deadline, session.stop_at = session.stop_at, _search_until(session, seeds, candidates)
        session.progress.stage("searching", max(0, trials - len(search.attempts)))
        session.explore(_admitted(session, _hopeful(search, trials)), SEED, live, search.report, search.ended)
        session.stop_at = deadline
        attempts, (importances, quantile) = search.attempts, search.importances()
    if _refused(search):
        raise TrialError(
            f"Every setting of {search.space} that was tried failed ({len(attempts)}), the first, {attempts[0].recipe}, by this: "
            f"{attempts[0].error}. Search over flags that {session.subject.label} has, and values that they can take; --fresh tries again."
        )
    said = _course(search, attempts, trials, session.budget)
    best = _best(attempts, metric, untreated)[:candidates]
    confirmation, winner = None, None
    if best:
        confirmation = confirm(session, list(_admitted(session, (attempt.recipe for attempt in best))), seeds)
        winner = _winner(confirmation)
        said += pace_of(confirmation, winner)
        said += _doubts(confirmation, winner, space.noun)
    elif any(attempt.recipe for attempt in attempts):
        said.append(remark("none_better", of=space.noun))
    recipe = winner.recipe if winner is not None else ""
    tuning = Tuning(
        subject=session.subject.label,
        search=space.texts,
        metric=metric,
        run=run.id,
        axes=space.axes,
        attempts=attempts,
        untreated=untreated,
        importances=importances,
        quantile=quantile,
        recipe=recipe,
        confirmation=confirmation,
        lines=winner.lines if winner is not None else (),
        remarks=(*said, *session.remarks),
        seconds=session.seconds,
    )
    session.keep(lambda store: store.put_tuning(run.id, tuning))
    return run, tuning


def _hopeful(search: Search, trials: int) -> Iterator[str]:
    """What a search proposes, until it is clear that the script refuses all of it."""
    for text in search.recipes(trials):
        yield text
        if len(search.attempts) >= REFUSED and _refused(search):
            return


def _refused(search: Search) -> bool:
    """Whether each setting of a search over flags has failed."""
    ends = {attempt.status for attempt in search.attempts}
    return isinstance(search.space, Flags) and ends == {"failed"}


def _admitted(session: Session, texts: Iterable[str]) -> Iterator[str]:
    """Recipes as they are; settings of flags, each of which is an edit of the script, as arms of the session."""
    for text in texts:
        if names_flags(text):
            assert isinstance(session.subject, Script)
            session.admit({text: with_arguments(session.subject, text)})
        yield text


def _search_until(session: Session, seeds: int, candidates: int) -> float:
    """When the search must end for the confirmation to end in time; half of the budget is its own."""
    if math.isinf(session.budget):
        return math.inf
    confirming = math.ceil((candidates + 1) * seeds / session.engine.workers) * session.expected
    return session.started + max(session.budget - confirming, session.budget / 2)


def _best(attempts: Sequence[Attempt], metric: Metric, untreated: float) -> list[Attempt]:
    """The attempts that beat the untreated run, the best first; of equal ones the simpler."""
    sign = -1 if metric.goal == "max" else 1
    better = [
        attempt
        for attempt in attempts
        if attempt.recipe and attempt.status == "ok" and metric.better(attempt.value, untreated)
    ]
    length = {a.recipe: 1 if names_flags(a.recipe) else len(Recipe.parse(a.recipe)) for a in better}
    return sorted(better, key=lambda attempt: (sign * attempt.value, length[attempt.recipe], attempt.number))


def _winner(confirmation: Comparison) -> Arm | None:
    """The best by mean of the arms that are proven, or that end with a number where the untreated subject never does."""
    helped = [arm for arm in confirmation.arms if arm.helped]
    sign = 1 if confirmation.metric.goal == "max" else -1
    return max(helped, key=lambda arm: sign * arm.mean, default=None)


def _course(search: Search, attempts: Sequence[Attempt], trials: int, budget: float) -> list[Remark]:
    """What the search came to: how many recipes ended how, and why there were not more."""
    noun = search.space.noun
    tried = [attempt for attempt in attempts if attempt.recipe]
    if not tried and not search.exhausted:
        return [remark("budget_over", seconds=budget, of=noun)]
    doctored = sum(attempt.status == "pruned" and BY_DOCTOR in attempt.error for attempt in tried)
    ends = Counter(attempt.status for attempt in tried)
    said = [
        remark(
            "searched",
            seed=SEED,
            recipes=len(tried),
            by_doctor=doctored,
            of=noun,
            **{str(end): n for end, n in ends.items()},
        )
    ]
    lost = [attempt for attempt in tried if attempt.status in ("failed", "no_effect")]
    said += [
        remark("attempt_lost", recipe=attempt.recipe, end=attempt.status, why=attempt.error.rstrip("."))
        for attempt in list({attempt.error: attempt for attempt in lost}.values())[:REASONS]
    ]
    if search.kept:
        said.append(remark("kept", recipes=search.kept))
    if search.impossible:
        recipe, why = next(iter(search.impossible.items()))
        said.append(remark("impossible", recipes=len(search.impossible), first=recipe, why=why))
    if len(attempts) < trials:
        cut = remark("search_cut", trials=trials, seconds=budget)
        said.append(remark("search_exhausted", trials=trials, of=noun) if search.exhausted else cut)
    return said


def _doubts(confirmation: Comparison, winner: Arm | None, noun: str = "recipe") -> list[Remark]:
    """What speaks against the winner, or against the best where none is."""
    sign = 1 if confirmation.metric.goal == "max" else -1
    proven = sum(arm.proven for arm in confirmation.arms)
    if winner is None:
        best = max(confirmation.arms, key=lambda arm: sign * arm.mean if math.isfinite(arm.mean) else -math.inf)
        return doubts_of_effect(best, **({"recipe": best.recipe} if len(confirmation.arms) > 1 else {}))
    said = doubts_of_effect(winner)
    return [*said, remark("best_of_proven", recipes=proven, of=noun)] if proven > 1 else said
