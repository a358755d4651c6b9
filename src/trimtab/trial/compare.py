"""Comparing recipes with the untreated subject over paired seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Unpack

import msgspec

from trimtab.ledger import Decision, Ledger
from trimtab.recipe import Recipe, RecipeError, Technique
from trimtab.records import Comparison, Remark, RunRecord, remark
from trimtab.trial.arms import LAST
from trimtab.trial.deciding import decide, what_decides
from trimtab.trial.edits import version_of
from trimtab.trial.session import Session
from trimtab.trial.stats import seeds_for
from trimtab.trial.subjects import Script, Subject, SubjectError, subject_of
from trimtab.trial.summary import of_trials, saying
from trimtab.trial.terms import Terms, with_terms

FIXED, LOOKED = 5, 20  # seeds by default; the second at most


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
            comparison = saying(comparison, remark("trials_cut", seconds=session.budget, missing=missing, of=of))
    cut = any(isinstance(one, Remark) and one.code in ("trials_cut", "looks_cut") for one in comparison.remarks)
    for arm, decision in zip(arms, begun, strict=False):
        assert ledger is not None
        if not (cut and comparison.arm(arm).verdict == "undecided"):  # else the same command goes on with it
            ledger.end(_decided(decision, comparison, arm))
        said = [remark("of_log", number=decision.number, alpha=decision.alpha, log=ledger.path.name)]
        needed = seeds_for(2 * decision.alpha * LAST)
        if needed > len(wanted):
            said.append(remark("few_for_log", seeds=len(wanted), needed=needed))
        comparison = saying(comparison, *said)
    if ledger is None:
        comparison = saying(comparison, *what_decides(comparison, session, margin, len(wanted) if until_decided else 0))
    comparison = saying(comparison, *session.remarks)
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
