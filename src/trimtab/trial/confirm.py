"""Confirming: what was chosen on some seeds runs again on fresh ones, which played no part in the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.recipe import Recipe
from trimtab.records import Arm, Comparison, Remark, remark
from trimtab.trial.compare import of_trials
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session

FRESH = 1000  # confirming seeds start here: they play no part in the search
LOOK, EARLY = 3, 0.01  # seeds that prove what is obvious, and how often they may be wrong


def confirm(session: Session, recipes: Sequence[str], seeds: int) -> Comparison:
    """The recipes against the untreated subject on fresh seeds, as many as the budget allows."""
    return of_trials(session, recipes, range(FRESH, FRESH + seeds), "confirming on fresh seeds")


def confirm_obvious(session: Session, recipe: str, seeds: int) -> Comparison:
    """As :func:`confirm`, but over the first ``LOOK`` of the seeds alone if they prove it.

    Two looks may err twice: the first errs at most ``EARLY`` of the time, the last what is left of 0.05, so that both together keep
    the promise of one interval of 95 % (Bonferroni's inequality).
    """
    session.later = 0.0
    if seeds > LOOK:
        seen = of_trials(session, [recipe], range(FRESH, FRESH + LOOK), "confirming on fresh seeds", 1 - EARLY)
        if seen.arms[0].standing in ("proven", "worse", "rescued") or len(seen.trials) < 2 * LOOK:
            return seen
        return of_trials(session, [recipe], range(FRESH, FRESH + seeds), "confirming further", 0.95 + EARLY)
    return confirm(session, [recipe], seeds)


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
    if arm.differences and math.isinf(arm.low):
        said.append(remark("no_spread", seeds=len(arm.differences), effect=arm.effect, p_sign=arm.p_sign, **of))
    elif not arm.proven and arm.differences:
        said.append(remark("not_proven", **of))
    return said
