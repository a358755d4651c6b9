"""Confirming: what was chosen on some seeds runs again on fresh ones, which played no part in the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.recipe import Recipe
from trimtab.records import Arm, Comparison, Remark, remark
from trimtab.trial.compare import of_trials
from trimtab.trial.looks import Look, hopeless, levels, looks_up_to
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session

FRESH = 1000  # confirming seeds start here: they play no part in the search


def confirm(session: Session, recipes: Sequence[str], seeds: int) -> Comparison:
    """The recipes against the untreated subject on fresh seeds, as many as the budget allows."""
    return of_trials(session, recipes, range(FRESH, FRESH + seeds), "confirming on fresh seeds")


def confirm_until_decided(session: Session, recipe: str, most: int) -> Comparison:
    """As :func:`confirm`, looking at it on the way, and no farther than it takes to know: until the recipe is proven to help or to harm, has
    lost a seed, or cannot be proven by ``most`` of them any more. All looks together keep the promise of one interval of 95 %."""
    session.later = 0.0
    looks = looks_up_to(most, together=session.engine.workers // 2)
    *_, last = at = levels(looks)
    for number, (seeds, level) in enumerate(zip(looks, at, strict=True)):
        stage = "confirming further" if number else "confirming on fresh seeds"
        look = Look(level, looks[: number + 1])
        seen = of_trials(session, [recipe], range(FRESH, FRESH + seeds), stage, look)
        (arm,) = seen.arms
        if arm.standing != "unclear" or len(seen.trials) < 2 * seeds or hopeless(arm.differences, most, last):
            break
    return seen


def lines_of(recipe: str, confirmation: Comparison | None) -> tuple[str, ...]:
    """The lines that keep a recipe, as its confirming trials have found out; none where nothing was confirmed."""
    return permanent_lines(recipe, confirmation.trials) if recipe and confirmation is not None else ()


def doubts_of_effect(arm: Arm, **of: str) -> list[Remark]:
    """What speaks against the effect of a confirmed recipe; ``of`` goes into each."""
    said = [
        remark("picks_by_metric", technique=technique.name, **of)
        for technique in Recipe.parse(arm.recipe)
        if technique.picks_by_metric
    ]
    if len(arm.differences) > 1 and math.isinf(arm.low):
        said.append(remark("no_spread", seeds=len(arm.differences), effect=arm.effect, p_sign=arm.p_sign, **of))
    elif not arm.proven and arm.differences:
        said.append(remark("not_proven", **of))
    return said
