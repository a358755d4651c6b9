"""What the trials of an arm say beside the untreated ones of the same seeds, in numbers and remarks.

A seed that ends without a number is not a very bad number: it is counted beside the differences. But where the untreated run diverges and
the treated one does not, the recipe has won, and by more than a number says: such a seed counts as a difference as large as the largest
that was seen. Under the null hypothesis either run of a seed is as likely to be the one that diverges, and an arm that has lost a seed is
never called better, so the tests keep their error rates (``benchmarks/error_rates.py``). Among several arms, which all gain by one divergence of the
subject that they share, such differences count with the sign-flip test, which their being alike does not help.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from trimtab.records import ERROR, Arm, Comparison, Metric, Remark, Trial, remark
from trimtab.trial.looks import LEAST, Look
from trimtab.trial.stats import (
    DRAWS,
    EXACT,
    equal,
    holm,
    mcnemar,
    paired_t,
    reaches,
    sign_flip,
    smallest_p,
    two_way,
)

LAST = 0.25  # part of the errors of all looks that the last one has, about
MOST_SEEDS = 100  # that somebody is asked for

SeedEnd = Literal["ok", "diverged", "failed", "no_effect", "not_run"]


def compare_arms(
    metric: Metric,
    baseline: Sequence[Trial],
    arms: Mapping[str, Sequence[Trial]],
    level: float = 0.95,
    generator: np.random.Generator | None = None,
    looks: Mapping[str, Look] | None = None,
    margin: float | None = None,
    risks: Mapping[str, float] | None = None,
) -> tuple[Arm, ...]:
    """Each arm against the baseline, seed by seed, with Holm's correction over the arms.

    A seed is a pair if both runs ended "ok" with a finite number; one that is "ok" without such a number counts as
    diverged. Where there are pairs, so is a seed on which the baseline alone diverged, with the largest difference of the others,
    unless there is one on which the arm alone did.
    ``seeds``, ``values`` and ``differences`` run over the pairs, so that ``effect`` is their mean difference
    (positive is better) and ``mean`` the mean of the values. If the baseline diverged on every seed, ``seeds``, ``values`` and
    ``mean`` are those that the arm ended with, and ``differences`` is empty.
    ``wins`` counts the ``seeds`` on which the arm was better, and a number is better than a divergence.

    ``diverged``, ``failed`` and ``no_effect`` count all seeds of the arm, ``baseline_diverged`` the seeds of the arm on
    which the baseline diverged. ``remarks`` say what no number says: lost seeds, too few pairs, equal differences,
    and divergences on one side only, with their exact McNemar probability.

    Args:
        metric: which direction is better.
        baseline: the untreated trials, one per seed.
        arms: the trials of each recipe, one per seed, in any order.
        level: of the t interval.
        generator: for the sign-flip test above 16 pairs; ``np.random.default_rng(0)``, anew for each arm, if ``None``.
        looks: where this is one look of several, that of each recipe (:func:`~trimtab.trial.looks.plan`): intervals are so wide that they
            hold at all looks together, and ``p`` is fair for all of them.
        margin: differences below it make none; by default the standard deviation of the baseline over its seeds, from three of them on.
        risks: with which probability each recipe may be called better falsely, in the place of one for all of them together: then ``p_holm``
            is raised by that in the place of Holm's correction, and ``p`` is never below that of the sign-flip test, of divergences of
            McNemar's: so small ones do not rest on normal differences.

    Raises:
        ValueError: if a recipe or the baseline has two trials of one seed.

    >>> def run(recipe, *values):
    ...     return [Trial(subject="s", recipe=recipe, seed=i, status="ok", value=x) for i, x in enumerate(values)]
    >>> loss = Metric(name="loss", goal="min")
    >>> (arm,) = compare_arms(loss, run("", 0.50, 0.60, 0.55), {"dropout": run("dropout", 0.40, 0.45, 0.50)})
    >>> round(arm.effect, 3), arm.wins, arm.p_sign
    (0.1, 3, 0.25)
    """
    untreated = _by_seed("", baseline)
    margin = _noise(baseline) if margin is None else margin
    found = []
    for recipe, trials in arms.items():
        random = np.random.default_rng(0) if generator is None else generator
        look, treated = (looks or {}).get(recipe), _by_seed(recipe, trials)
        beside = {
            seed: one for seed, one in untreated.items() if look is None or seed in treated
        }  # it may have ended before others
        strict = "" if len(arms) == 1 and risks is None else "shared" if risks is None else "all"
        arm = _arm(metric, beside, recipe, treated, level, random, look, strict)
        found.append(msgspec.structs.replace(arm, margin=margin))
    if risks is None:
        corrected = holm([arm.p for arm in found])
    else:  # half of what a two-sided p says is an error for the better
        corrected = [arm.p if math.isnan(arm.p) else min(1.0, arm.p * ERROR / (2 * risks[arm.recipe])) for arm in found]
    return tuple(msgspec.structs.replace(arm, p_holm=p) for arm, p in zip(found, corrected, strict=True))


def _noise(baseline: Sequence[Trial]) -> float:
    """The standard deviation over seeds; 0 where it is not known."""
    values = [float(trial.value) for trial in baseline if trial.status == "ok" and math.isfinite(trial.value)]
    largest = max(map(abs, values), default=0.0) or 1.0
    return largest * statistics.stdev(value / largest for value in values) if len(values) >= LEAST else 0.0


def seeds_to_decide(arm: Arm, arms: int = 1, looking: bool = False) -> int:
    """How many seeds decide on an arm four times of five, if its effect and its spread are as they look; 0 if more than ``MOST_SEEDS``.

    It is decided when the effect is proven, among so many arms, or when it is the same within the margin; at the last of several looks, which
    has a quarter of all errors, with ``looking``.

    >>> arm = Arm(recipe="ema", seeds=(0, 1, 2), values=(1, 2, 3), differences=(0, 1, 2), mean=2, effect=1, low=-1.5, high=3.5, p=0.2,
    ...           p_sign=0.5, p_holm=0.2, wins=2)
    >>> seeds_to_decide(arm), seeds_to_decide(arm, arms=6)
    (9, 14)
    """
    from scipy import special

    if len(arm.differences) < 2:
        return 0
    spread, size = statistics.stdev(arm.differences), abs(arm.effect)
    error = ERROR / arms * (LAST if looking else 1)
    if equal(np.array(arm.differences)):  # the sign-flip test answers
        return (
            next(n for n in range(len(arm.differences) + 1, MOST_SEEDS) if reaches(n, 1 - ERROR / arms))
            if size or arm.margin
            else 0
        )
    sure, powerful = -float(special.ndtri(error / 2)), float(special.ndtri(0.8))
    ways = [((sure + powerful) * spread / room) ** 2 for room in (size, arm.margin - size) if room > 0]
    wanted = min(ways, default=math.inf)
    return max(len(arm.differences) + 2, math.ceil(wanted) + 1) if wanted < MOST_SEEDS else 0


def limits(comparison: Comparison) -> tuple[Remark, ...]:
    """What the statistics of a comparison can and cannot show.

    >>> arm = Arm(recipe="dropout", seeds=(0, 1, 2), values=(3, 4, 6), differences=(1, 2, 3), mean=4.33,
    ...           effect=2, low=-0.48, high=4.48, p=0.074, p_sign=0.25, p_holm=0.074, wins=3)
    >>> accuracy = Metric(name="accuracy", goal="max")
    >>> limits(Comparison(subject="s", metric=accuracy, seeds=(0, 1, 2), baseline=(2, 2, 3), arms=(arm,)))[0].values
    {'pairs': (3,), 'smallest': (0.25,), 'alpha': 0.05, 'needed': 6}
    """
    arms = comparison.arms
    sizes = sorted({len(arm.differences) for arm in arms if len(arm.differences) >= 2})
    said = []
    if sizes:
        if comparison.looks:
            said.append(remark("looks", made=comparison.looks, level=comparison.level))
        said.append(_reach(sizes, comparison.level))
        if sizes[-1] > EXACT:
            said.append(remark("drawn_signs", above=EXACT, patterns=DRAWS))
        said.append(remark("normal_differences", level=comparison.level))
    elif any(arm.no_effect < arm.tried for arm in arms):
        said.append(remark("no_pairs"))
    tested = sum(not math.isnan(arm.p) for arm in arms)
    if tested > 1:
        said.append(remark("several_tested", recipes=tested, edits=any(arm.edit for arm in arms)))
    if any(arm.diverged + arm.failed + arm.no_effect + arm.baseline_diverged for arm in arms):
        said.append(remark("lost_seeds_counted"))
    if arms:
        held_out = {trial.predicted.targets for trial in comparison.trials if trial.predicted is not None}
        said.append(remark("own_splits") if len(held_out) > 1 else remark("one_data_set"))
    return tuple(said)


def _by_seed(recipe: str, trials: Sequence[Trial]) -> dict[int, Trial]:
    by_seed = {trial.seed: trial for trial in trials}
    if len(by_seed) < len(trials):
        seed, times = Counter(trial.seed for trial in trials).most_common(1)[0]
        who = f'Recipe "{recipe}"' if recipe else "The untreated subject"
        raise ValueError(f"{who} has {times} trials of seed {seed}. Pairs need one trial per seed: keep one of them.")
    return by_seed


def _outcome(trial: Trial | None) -> SeedEnd:
    if trial is None or trial.status == "pruned":  # a search gave it up: nobody knows how it would have ended
        return "not_run"
    return "diverged" if trial.status == "ok" and not math.isfinite(trial.value) else trial.status


def _arm(
    metric: Metric,
    baseline: Mapping[int, Trial],
    recipe: str,
    trials: Mapping[int, Trial],
    level: float,
    generator: np.random.Generator,
    look: Look | None,
    strict: str,
) -> Arm:
    every = [*baseline, *(seed for seed in trials if seed not in baseline)]
    outcomes = {seed: (_outcome(baseline.get(seed)), _outcome(trials.get(seed))) for seed in every}
    both = [seed for seed in every if outcomes[seed] == ("ok", "ok")]
    # where the arm has lost seeds that the untreated run has not, those that it has won do not count
    rescues = both and ("ok", "diverged") not in outcomes.values()
    pairs = [seed for seed in every if seed in both or (rescues and outcomes[seed] == ("diverged", "ok"))]
    never = all(outcomes[seed][0] == "diverged" for seed in every)
    seeds = pairs or [seed for seed in every if never and outcomes[seed][1] == "ok"]
    values = [float(trials[seed].value) for seed in seeds]
    sign = 1 if metric.goal == "max" else -1
    most = np.finfo(float).max
    gaps = {seed: float(trials[seed].value) - float(baseline[seed].value) for seed in both}
    seen = {seed: sign * min(max(gap, -most), most) for seed, gap in gaps.items()}  # of 1e308 and -1e308
    largest = max(map(abs, seen.values()), default=0.0)
    differences = [seen.get(seed, largest) for seed in pairs]
    mean, low, high, p = paired_t(differences, look.level if look else level)
    p_sign = sign_flip(differences, generator) if len(pairs) >= 2 else math.nan
    if p_sign > p and (strict == "all" or (strict == "shared" and len(pairs) > len(both))):
        p = p_sign
    still = len(both) > 1 and all(
        len({trials_of[seed].numbers for seed in both}) == 1 for trials_of in (baseline, trials)
    )
    still = still and differences[0] != 0 and bool(trials[both[0]].numbers) and bool(baseline[both[0]].numbers)
    if still:  # one run decides
        low, high, p = mean, mean, 0.0
    if strict == "all" and seeds and not pairs:
        p = mcnemar(len(seeds), 0)
    together = np.array([(baseline[seed].value, trials[seed].value) for seed in both], dtype=float)
    correlation, saved = _shared(together)
    beyond, samples = _beyond([(baseline[seed], trials[seed]) for seed in pairs], sign, look.level if look else level)
    own = Counter(outcome for _, outcome in outcomes.values())
    return Arm(
        recipe=recipe,
        seeds=tuple(seeds),
        values=tuple(values),
        differences=tuple(differences),
        mean=_mean(values),
        effect=mean,
        low=low,
        high=high,
        p=look.fair(p) if look else p,
        p_sign=p_sign,
        p_holm=math.nan,  # compare_arms knows the other arms
        wins=sum(outcomes[seed][0] == "diverged" or seen[seed] > 0 for seed in seeds if pairs or never),
        diverged=own["diverged"],
        failed=own["failed"],
        no_effect=own["no_effect"],
        baseline_diverged=sum(first == "diverged" and second != "not_run" for first, second in outcomes.values()),
        correlation=correlation,
        beyond=beyond,
        samples=samples,
        tried=len(trials),
        cost=_times(trials, baseline, "step_seconds"),
        memory=_times(trials, baseline, "memory"),
        remarks=(
            *_remarks(np.array(differences), list(outcomes.values()), low),
            *([remark("draws_nothing")] * still),
            *_of_pairs(correlation, saved, beyond, samples, len(pairs)),
        ),
    )


def _mean(values: Sequence[float]) -> float:
    """NaN for nothing; numbers near the largest do not overflow."""
    largest = max(map(abs, values), default=0.0) or 1.0
    return largest * (math.fsum(value / largest for value in values) / len(values)) if values else math.nan


def _shared(pairs: np.ndarray) -> tuple[float, float]:
    """How much the two runs of a seed have in common, and how many times the runs it would have taken on seeds of their own; 0 and 1 where
    that cannot be said."""
    if len(pairs) < LEAST or equal(pairs[:, 1] - pairs[:, 0]):
        return 0.0, 1.0
    scaled = pairs / np.abs(pairs).max()
    of_both, of_difference = scaled.var(0, ddof=1), (scaled[:, 1] - scaled[:, 0]).var(ddof=1)
    if not of_both.all():
        return 0.0, 1.0
    return float(np.corrcoef(scaled.T)[0, 1]), float(of_both.sum() / of_difference)


def _of_pairs(correlation: float, saved: float, beyond: Sequence[float], samples: int, seeds: int) -> Iterator[Remark]:
    if correlation:
        yield remark("paired", correlation=correlation, saved=saved)
    if beyond:
        yield remark("beyond", low=beyond[0], high=beyond[1], samples=samples, seeds=seeds)


def _beyond(pairs: Sequence[tuple[Trial, Trial]], sign: int, level: float) -> tuple[tuple[float, ...], int]:
    """The bounds for other samples, too, and of how many those that were seen are; none where not all runs have predicted the same ones."""
    made = [(untreated.predicted, treated.predicted) for untreated, treated in pairs]
    known = [(ours, theirs) for ours, theirs in made if ours is not None and theirs is not None]
    if len(known) < max(2, len(pairs) - 1) or len({one.targets for pair in known for one in pair}) > 1:
        return (), 0
    times = 100 if any(trial.value > 1 for pair in pairs for trial in pair) else 1  # the metric may be in percent
    d = sign * times * np.stack([theirs.bits.astype(np.float64) - ours.bits for ours, theirs in known])
    _, low, high, _ = two_way(d, level)
    return ((low, high), d.shape[1]) if math.isfinite(high - low) else ((), 0)


def _times(trials: Mapping[int, Trial], baseline: Mapping[int, Trial], what: str) -> float:
    """How many times as much as untreated the trials needed of something; the mean over the seeds that both sides have, 0 for none."""
    pairs = [(getattr(trials[seed], what), getattr(baseline[seed], what)) for seed in trials if seed in baseline]
    known = [(ours, theirs) for ours, theirs in pairs if ours > 0 and theirs > 0]
    return math.fsum(ours for ours, _ in known) / math.fsum(theirs for _, theirs in known) if known else 0.0


def _remarks(d: np.ndarray, outcomes: Sequence[tuple[SeedEnd, SeedEnd]], low: float) -> tuple[Remark, ...]:
    said = []
    if len(d) == 0:
        said.append(remark("no_pair"))
    elif len(d) == 1:
        said.append(remark("one_pair"))
    elif equal(d):
        said.append(remark("equal_differences", pairs=len(d), difference=float(d[0]), bounded=not math.isinf(low)))
    counted = len(d) > outcomes.count(("ok", "ok"))
    if len(outcomes) > len(d):
        left = [pair for pair in outcomes if not (counted and pair == ("diverged", "ok"))]
        said.append(remark("left_out", seeds=len(outcomes) - len(d), of=len(outcomes), **_lost(left)))
    before = outcomes.count(("diverged", "ok"))
    after = outcomes.count(("ok", "diverged"))
    p = mcnemar(before, after)
    if before and after:
        said.append(remark("diverged_on_both_sides", untreated=before, treated=after, p=p))
    elif before:
        said.append(remark("diverged_untreated", seeds=before, p=p, counted=counted))
    elif after:
        said.append(remark("diverged_treated", seeds=after, p=p))
    return tuple(said)


def _lost(outcomes: Sequence[tuple[SeedEnd, SeedEnd]]) -> dict[str, int]:
    """How many seeds of either side ended how without a number."""
    counts = Counter(
        f"{side}_{end}"
        for pair in outcomes
        for side, end in zip(("untreated", "recipe"), pair, strict=True)
        if end != "ok"
    )
    return dict(sorted(counts.items()))


def _reach(sizes: Sequence[int], level: float) -> Remark:
    alpha = round(1 - level, 12)
    needed = next((n for n in range(2, EXACT + 2) if reaches(n, level)), 0)  # 0: no number does
    ends = sizes if len(sizes) == 1 else (sizes[0], sizes[-1])
    return remark("reach", pairs=ends, smallest=[smallest_p(n) for n in ends], alpha=alpha, needed=needed)
