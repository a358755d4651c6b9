"""Confirming: what was chosen on some seeds runs again on fresh ones, which played no part in the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.recipe import Recipe
from trimtab.records import Arm, Comparison
from trimtab.trial.compare import of_trials
from trimtab.trial.pace import pace_words
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.session import Session

FRESH = 1000  # confirming seeds start here: they play no part in the search


def confirm(session: Session, recipes: Sequence[str], seeds: int) -> Comparison:
    """The recipes against the untreated subject on fresh seeds. It is never cut short: without it there is no result."""
    session.stop_at = math.inf
    return of_trials(session, recipes, range(FRESH, FRESH + seeds), "confirming on fresh seeds")


def lines_of(recipe: str, confirmation: Comparison | None) -> tuple[str, ...]:
    """The lines that keep a recipe, as its confirming trials have found out; none where nothing was confirmed."""
    return permanent_lines(recipe, confirmation.trials) if recipe and confirmation is not None else ()


def pace_of(confirmation: Comparison, arm: Arm | None) -> list[str]:
    """How many steps fewer, if that can be said."""
    return [said] if arm is not None and (said := pace_words(confirmation, arm)) else []


def doubts_of_effect(arm: Arm) -> list[str]:
    """What speaks against the effect of a confirmed recipe, in words."""
    words = [
        f"{technique.name} picks the weights by the metric that judges them here, so this effect is somewhat too good: measure "
        "the result once more on data that played no part in it."
        for technique in Recipe.parse(arm.recipe)
        if technique.picks_by_metric
    ]
    if arm.differences and math.isinf(arm.low):
        words.append(
            f"All {len(arm.differences)} confirming seeds changed by exactly {arm.effect:+.4g}, so there is no spread to make an "
            f"interval of (exact sign-flip p = {arm.p_sign:.3g}). A metric with finer steps, such as a loss, would say more."
        )
    elif not arm.proven and arm.differences:
        words.append(
            "The interval of the confirmed effect includes zero: the improvement is not proven at this number of seeds."
        )
    return words
