"""Comparing recipes with the untreated subject over paired seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Unpack

import msgspec

from trimtab.recipe import Recipe, RecipeError, Technique
from trimtab.records import Arm, Comparison, RunRecord, Trial, remark
from trimtab.trial.looks import Look
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session
from trimtab.trial.stats import compare_arms, limits
from trimtab.trial.subjects import Subject
from trimtab.trial.terms import Terms, with_terms


@with_terms()
def compare(
    subject: Subject | str | os.PathLike,
    recipes: str | Technique | Recipe | Sequence[str | Technique | Recipe],
    *,
    seeds: int | Sequence[int] = 5,
    **terms: Unpack[Terms],
) -> Comparison:
    """Run the subject untreated and under each recipe on the same seeds, and compare.

    The record of the watched run stays in ``.trimtab/`` beside the subject, and so does every finished trial: called again,
    ``compare`` runs only what is missing.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        recipes: what to try, as text or as techniques; one or several.
        seeds: how many (0, 1, 2 ...), or which. Seed 0 is the script as it stands.
        terms: see Terms.

    Raises:
        SubjectError: if there is no such script.
        RecipeError: if a recipe does not read.
        TrialError: if the untreated subject crashes, never trains or has no metric.
    """
    texts = recipe_texts(recipes)  # before anything runs
    with Session(subject, **terms) as session:
        return compare_watched(session, texts, seeds=seeds)[1]


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


def compare_watched(
    session: Session, recipes: Sequence[str], *, seeds: int | Sequence[int] = 5
) -> tuple[RunRecord, Comparison]:
    """:func:`compare` in a session, with the record of the watched run of the untreated subject."""
    wanted = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    run = session.watch()
    comparison = of_trials(session, recipes, wanted, "comparing")
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
    by_seed = {trial.seed: trial for trial in trials[""]}
    made = {trial.seed for of_recipe in trials.values() for trial in of_recipe}
    arms = compare_arms(
        session.metric,
        list(trials[""]),
        {recipe: list(t) for recipe, t in trials.items() if recipe},
        at_look=look.level if look else 0.0,
    )
    comparison = Comparison(
        subject=session.subject.label,
        metric=session.metric,
        seeds=tuple(seed for seed in seeds if seed in made),
        baseline=tuple(by_seed[seed].value if seed in by_seed else math.nan for seed in seeds if seed in made),
        arms=tuple(_completed(arm, trials[arm.recipe]) for arm in arms),
        trials=tuple(trial for recipe in trials for trial in trials[recipe]),
        looks=look.made if look else (),
    )
    return msgspec.structs.replace(comparison, remarks=limits(comparison))


def _completed(arm: Arm, trials: Sequence[Trial]) -> Arm:
    """The arm, its remarks saying why trials of it failed or changed nothing, each reason once; with the lines that keep it, if it is proven."""
    said = [
        ("idle_part" if trial.status == "ok" else "reason", trial.error.rstrip("."))
        for trial in trials
        if trial.status in ("ok", "failed", "no_effect") and trial.error
    ]
    reasons = [remark(code, said=text) for code, text in dict.fromkeys(said)]
    lines = permanent_lines(arm.recipe, trials) if arm.helped else ()
    return msgspec.structs.replace(arm, remarks=(*arm.remarks, *reasons), lines=lines)
