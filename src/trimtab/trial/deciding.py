"""Looking at a comparison on the way, and no farther than it takes to know; and what would decide where it did not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trimtab.records import Arm, Comparison, Remark, Trial, remark
from trimtab.trial.arms import MOST_SEEDS, seeds_to_decide
from trimtab.trial.looks import Look, hopeless, looks_up_to, plan
from trimtab.trial.run import BASELINE
from trimtab.trial.session import Session
from trimtab.trial.summary import saying, summed_up

POINTED = 0.7  # of a proof: what an arm of many decisions must point at


def what_decides(comparison: Comparison, session: Session, margin: float | None, looked: int) -> list[Remark]:
    """What "same" means, and what would decide on the best arm that is undecided; it was ``looked`` at for so many seeds at most."""
    said = []
    if same := [arm for arm in comparison.arms if arm.standing == "same"]:
        said.append(remark("same_within", margin=same[0].margin, seeds=len(comparison.seeds) if margin is None else 0))
    left = [arm for arm in comparison.arms if arm.standing == "unclear" and len(arm.differences) > 1]
    if left:
        arm = max(left, key=lambda arm: arm.effect)
        seeds = seeds_to_decide(arm, len(comparison.arms), looking=True)
        runs = (seeds - len(arm.seeds)) * (1 + len(left))
        if seeds > looked:
            price = session.rounds(runs)
            said.append(remark("would_decide_on", arm=arm.recipe, seeds=seeds, runs=runs, seconds=price))
        else:
            said.append(remark("would_decide_on_none", arm=arm.recipe, seeds=looked or MOST_SEEDS))
    return said


def decide(
    session: Session,
    recipes: Sequence[str],
    seeds: Sequence[int],
    stages: tuple[str, str],
    margin: float | None = None,
    harm: bool = True,
    risks: Mapping[str, float] | None = None,
) -> Comparison:
    """As :func:`~trimtab.trial.summary.of_trials`, looking at it on the way, and no farther than it takes to know: an arm ends when it is better, worse or the same,
    has lost a seed, or cannot be told apart by all of the seeds; without ``harm`` also when it cannot be proven to be better. All looks
    together keep the promise of one interval of 95 %.

    With ``risks``, of many decisions, an arm that is no better on the first seed ends there, and others when they hardly point at a proof.
    """
    looks = plan(looks_up_to(len(seeds), together=session.engine.workers // 2))
    trials: dict[str, list[Trial]] = {}
    reached: dict[str, Look] = {}
    left = list(dict.fromkeys(recipes))
    if risks is not None:
        trials |= session.trials([BASELINE, *left], seeds[:1], stages[0])
        reached |= dict.fromkeys(left, looks[0])
        seen = summed_up(session, trials, seeds, reached, margin, risks)
        if not all(trials.values()):
            return saying(seen, remark("looks_cut", seconds=session.budget, seeds=len(seen.seeds)))
        left = [arm.recipe for arm in seen.arms if arm.effect > 0 or (arm.values and not arm.differences)]
        if not left:
            return seen
    for look in looks:
        made = look.made[-1]
        trials |= session.trials([BASELINE, *left], seeds[:made], stages[look is not looks[0]])
        reached |= dict.fromkeys(left, look)
        seen = summed_up(session, trials, seeds, reached, margin, risks)
        cut = any(len(trials[arm]) < made for arm in left)
        here = [arm for arm in seen.arms if arm.recipe in left]
        left = [arm.recipe for arm in here if not _settled(arm, len(seeds), looks[-1], harm, risks)]
        if cut and left:
            seen = saying(seen, remark("looks_cut", seconds=session.budget, seeds=len(seen.seeds)))
        if cut or not left:
            break
    return seen


def _settled(arm: Arm, most: int, last: Look, harm: bool, risks: Mapping[str, float] | None) -> bool:
    """Whether more seeds are not needed, or not worth their price."""
    if arm.standing != "unclear":
        return True
    n = len(arm.differences)
    if risks is not None:  # without a difference it alone trains, and too few seeds have shown it yet
        return n > 1 and hopeless(arm.differences, most, last.level_at(2 * risks[arm.recipe]), POINTED)
    turned = -1 if harm and arm.effect < 0 else 1
    if n < 2 or not hopeless([turned * d for d in arm.differences], most, last.level):
        return False
    # of no effect that could be proven: may it become the same?
    half = (arm.high - arm.low) / 2 * math.sqrt(n / most)
    return not abs(arm.effect) + (half if math.isfinite(half) else 0) < arm.margin
