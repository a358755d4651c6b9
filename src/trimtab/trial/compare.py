"""Comparing recipes with the untreated subject over paired seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Unpack

import msgspec

from trimtab.recipe import Recipe, RecipeError, Technique
from trimtab.records import Arm, Comparison, RunRecord, Trial, remark
from trimtab.trial.edits import Edited, difference, version_of
from trimtab.trial.looks import Look
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session
from trimtab.trial.stats import compare_arms, limits
from trimtab.trial.subjects import Script, Subject, SubjectError, subject_of
from trimtab.trial.terms import Terms, with_terms


@with_terms()
def compare(
    subject: Subject | str | os.PathLike,
    recipes: str | Technique | Recipe | Sequence[str | Technique | Recipe] = (),
    *,
    against: str | os.PathLike | Script | Sequence[str | os.PathLike | Script] = (),
    seeds: int | Sequence[int] = 5,
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
        seeds: how many (0, 1, 2 ...), or which. Seed 0 is the script as it stands.
        terms: see Terms.

    Raises:
        SubjectError: if there is no such script, or no such version of it.
        RecipeError: if a recipe does not read, or there is nothing to compare with.
        TrialError: if the untreated subject crashes, never trains or has no metric.
    """
    subject = subject_of(subject)  # before anything runs
    versions = versions_of(subject, [against] if isinstance(against, (str, os.PathLike, Script)) else against)
    texts = [] if versions and not recipes else recipe_texts(recipes)
    edits = by_name(versions, texts)
    with Session(subject, **terms) as session:
        return compare_watched(session, texts, edits, seeds=seeds)[1]


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
    session: Session, recipes: Sequence[str], edits: Mapping[str, Script], *, seeds: int | Sequence[int] = 5
) -> tuple[RunRecord, Comparison]:
    """:func:`compare` in a session, with the record of the watched run of the untreated subject."""
    wanted = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    session.admit(edits)
    run = session.watch()
    comparison = of_trials(session, [*recipes, *edits], wanted, "comparing")
    missing = len(wanted) * (len(comparison.arms) + 1) - len(comparison.trials)
    if missing:
        of = missing + len(comparison.trials)
        cut = remark("trials_cut", seconds=session.budget, missing=missing, of=of)
        comparison = msgspec.structs.replace(comparison, remarks=(*comparison.remarks, cut))
    comparison = msgspec.structs.replace(comparison, remarks=(*comparison.remarks, *session.remarks))
    session.keep(lambda store: store.put_comparison(run.id, comparison))
    return run, comparison


def of_trials(
    session: Session, recipes: Sequence[str], seeds: Sequence[int], stage: str, look: Look | None = None
) -> Comparison:
    """Run what is missing and put the comparison together."""
    trials = session.trials(["", *dict.fromkeys(recipes)], seeds, stage)
    return summed_up(session, trials, seeds, look)


def summed_up(
    session: Session, trials: Mapping[str, Sequence[Trial]], seeds: Sequence[int], look: Look | None = None
) -> Comparison:
    """The comparison of finished trials: over those of ``seeds`` of which at least one trial was made. It may be one ``look`` of several."""
    assert session.metric is not None
    if look is not None:  # what a budget has cut off in the middle of a seed was not looked at
        whole = set.intersection(*({trial.seed for trial in of_recipe} for of_recipe in trials.values()))
        trials = {recipe: [one for one in of_recipe if one.seed in whole] for recipe, of_recipe in trials.items()}
        look = look._replace(made=tuple(dict.fromkeys(min(made, len(whole)) for made in look.made)))
    by_seed = {trial.seed: trial for trial in trials[""]}
    made = {trial.seed for of_recipe in trials.values() for trial in of_recipe}
    arms = compare_arms(
        session.metric,
        list(trials[""]),
        {recipe: list(t) for recipe, t in trials.items() if recipe},
        at_look=look.level if look else None,
    )
    comparison = Comparison(
        subject=session.subject.label,
        metric=session.metric,
        seeds=tuple(seed for seed in seeds if seed in made),
        baseline=tuple(by_seed[seed].value if seed in by_seed else math.nan for seed in seeds if seed in made),
        arms=tuple(_completed(arm, trials[arm.recipe], session) for arm in arms),
        trials=tuple(trial for recipe in trials for trial in trials[recipe]),
        looks=look.made if look else (),
    )
    return msgspec.structs.replace(comparison, remarks=limits(comparison))


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
