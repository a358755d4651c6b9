"""Confirming: what was chosen on some seeds runs again on fresh ones, which played no part in the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.recipe import Recipe
from trimtab.records import Arm, Comparison, Remark, remark
from trimtab.trial.deciding import decide
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session
from trimtab.trial.summary import of_trials

FRESH = 1000  # confirming seeds start here: they play no part in the search


def confirm(session: Session, recipes: Sequence[str], seeds: int) -> Comparison:
    """The recipes against the untreated subject on fresh seeds, as many as the budget allows."""
    return of_trials(session, recipes, range(FRESH, FRESH + seeds), "confirming on fresh seeds")


def confirm_until_decided(session: Session, recipe: str, most: int) -> Comparison:
    """As :func:`confirm`, no farther than it takes to know whether the recipe helps or harms, however little."""
    session.later = 0.0
    stages = "confirming on fresh seeds", "confirming further"
    return decide(session, [recipe], range(FRESH, FRESH + most), stages, margin=0.0, harm=False)


def lines_of(recipe: str, confirmation: Comparison | None) -> tuple[str, ...]:
    """The lines that keep a recipe, as its confirming trials have found out; none where nothing was confirmed."""
    return permanent_lines(recipe, confirmation.trials) if recipe and confirmation is not None else ()


def doubts_of_effect(arm: Arm, **of: str) -> list[Remark]:
    """What speaks against the effect of a confirmed recipe; ``of`` goes into each."""
    said = [
        remark("picks_by_metric", technique=technique.name, **of)
        for technique in (() if arm.edit else Recipe.parse(arm.recipe))
        if technique.picks_by_metric
    ]
    if len(arm.differences) > 1 and math.isinf(arm.low):
        said.append(remark("no_spread", seeds=len(arm.differences), effect=arm.effect, p_sign=arm.p_sign, **of))
    elif not arm.proven and arm.differences:
        said.append(remark("not_proven", **of))
    return said
