"""Finished trials put together: the comparison that they are, with what their other numbers say and what keeps an arm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from trimtab.quantities import Quantity, of_other
from trimtab.records import Arm, Beside, Comparison, Metric, Remark, Trial, remark
from trimtab.trial.arms import compare_arms, limits
from trimtab.trial.edits import Edited, difference
from trimtab.trial.looks import Look
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.run import BASELINE
from trimtab.trial.session import Session
from trimtab.trial.subjects import Script

MOST_BESIDE = 6  # numbers that are told of beside the one that judges
SAME = 0.002  # relative: a number that is printed with three digits is the one that was measured


def saying(comparison: Comparison, *more: Remark) -> Comparison:
    return msgspec.structs.replace(comparison, remarks=(*comparison.remarks, *more))


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
