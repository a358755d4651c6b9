"""What paired seeds can say about a recipe: t interval, sign-flip test, Holm's correction, and their limits.

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
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from trimtab.records import ERROR, Arm, Comparison, Metric, Remark, Trial, remark
from trimtab.trial.looks import LEAST, Look

EXACT = 16  # differences up to which all sign patterns are enumerated: 2^15 after symmetry, 4 MB
LAST = 0.25  # part of the errors of all looks that the last one has, about
MOST_SEEDS = 100  # that somebody is asked for
DRAWS = 99_999  # random sign patterns above that; with the observed one they make 100,000
# Differences of values 10^6 times their own size carry a relative rounding error of 10^6 * 2^-53, about 10^-10.
# Closer than ten times that, two of them are the same number.
TIE = 1e-9

SeedEnd = Literal["ok", "diverged", "failed", "no_effect", "not_run"]


class Interval(NamedTuple):
    """A mean difference, the bounds of its interval, and the two-sided probability of one as far from 0 by chance."""

    mean: float
    low: float
    high: float
    p: float


def paired_t(differences: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    r"""Student's interval for a mean paired difference, and the probability of the two-sided test.

    .. math:: \bar d \pm t_{n-1,\,(1+level)/2}\; s/\sqrt n, \qquad
              p = 2\,P\left(T_{n-1} \ge |\bar d|\,\sqrt n/s\right)

    with differences :math:`d`, shape ``(n,)``, their mean :math:`\bar d` and standard deviation :math:`s` (divisor
    ``n - 1``). Exact for independent normal differences at every ``n >= 2``, the smallest included.

    One difference has no spread: the interval is infinite and ``p`` is NaN. So are they for none, with a NaN mean.

    Equal differences leave ``s = 0`` and ``t`` undefined. That is a sign of a coarse metric, not of a certain effect:
    ``p = 0`` would be a claim without ground. The sign-flip test still works there and answers for the t-test:
    ``p = 2 / 2**n`` (1 if all are zero), and the interval is what that test does not refuse. With few seeds that is
    the whole line; once ``2 / 2**n <= 1 - level`` (6 seeds at 0.95) it is the common value alone, without width.

    Args:
        differences: one number per seed, finite.
        level: how often the interval is to cover the true mean, between 0 and 1.

    Raises:
        ValueError: if a difference is not finite, or the level is not between 0 and 1.

    Source: Student 1908, The probable error of a mean.

    >>> mean, low, high, p = paired_t([0.03, 0.01, 0.04, 0.02, 0.05])
    >>> print(f"{mean:.3f} [{low:.4f}, {high:.4f}], p = {p:.4f}")
    0.030 [0.0104, 0.0496], p = 0.0132
    """
    from scipy import special

    d = _finite(differences)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but is {level}. For 95 % write level=0.95.")
    n = len(d)
    if n < 2:
        return Interval(float(d[0]) if n else math.nan, -math.inf, math.inf, math.nan)
    if _equal(d):
        mean, p = float(d[0]), smallest_p(n) if d.any() else 1.0
        return Interval(mean, mean, mean, p) if _reaches(n, level) else Interval(mean, -math.inf, math.inf, p)
    scale = float(np.abs(d).max())  # squares of 1e200, a loss on its way to infinity, would overflow
    mean, error = float((d / scale).mean()), float((d / scale).std(ddof=1)) / math.sqrt(n)
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    p = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    return Interval(scale * mean, scale * (mean - half), scale * (mean + half), p)


def two_way(differences: np.ndarray, level: float = 0.95) -> Interval:
    r"""The interval of a mean difference over seeds *and* samples, both of which are drawn from many.

    .. math:: \bar d \pm t_{\nu,\,(1+level)/2}\,\sqrt{\frac{MS_S + MS_I - MS_E}{S\,I}}, \qquad
              \nu = \frac{(MS_S + MS_I - MS_E)^2}{MS_S^2/(S-1) + MS_I^2/(I-1) + MS_E^2/((S-1)(I-1))}

    for differences :math:`d`, shape ``(S, I)`` of seeds and samples, and the mean squares of a two-way analysis of variance with random
    effects: between seeds, between samples, and of what is left (Searle, Casella & McCulloch 1992, Variance Components). The error is
    never taken to be smaller than that of the seeds alone.

    >>> d = np.add.outer([0.1, 0.0, 0.2], [0.5, -0.5, 0.3, -0.3])
    >>> mean, low, high, _ = two_way(d)
    >>> print(f"{mean:.2f} [{low:.2f}, {high:.2f}], of the seeds alone [{paired_t(d.mean(1)).low:.2f}, {paired_t(d.mean(1)).high:.2f}]")
    0.10 [-0.64, 0.84], of the seeds alone [-0.15, 0.35]
    """
    from scipy import special

    d = np.asarray(differences, dtype=np.float64)
    seeds, samples = d.shape
    if seeds < 2 or samples < 2:
        return Interval(float(d.mean()), -math.inf, math.inf, math.nan)
    mean, of_seed, of_sample = d.mean(), d.mean(1), d.mean(0)
    between_seeds = samples * of_seed.var(ddof=1)
    between_samples = seeds * of_sample.var(ddof=1)
    left = ((d - of_seed[:, None] - of_sample + mean) ** 2).sum() / ((seeds - 1) * (samples - 1))
    total = max(between_seeds + between_samples - left, between_seeds)
    if total == 0:
        return Interval(float(mean), -math.inf, math.inf, math.nan)
    of_parts = (
        between_seeds**2 / (seeds - 1) + between_samples**2 / (samples - 1) + left**2 / ((seeds - 1) * (samples - 1))
    )
    freedom = max(1.0, float(total**2 / of_parts))
    error = math.sqrt(total / (seeds * samples))
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    return Interval(
        float(mean), float(mean) - half, float(mean) + half, 2 * float(special.stdtr(freedom, -abs(mean) / error))
    )


def sign_flip(differences: Sequence[float] | np.ndarray, generator: np.random.Generator | None = None) -> float:
    r"""Two-sided sign-flip probability of the mean: how many sign patterns give a mean as far from zero as this one.

    .. math:: p = 2^{-n}\,\#\left\{s \in \{-1, 1\}^n : \left|\sum_i s_i d_i\right| \ge \left|\sum_i d_i\right|\right\}

    for differences :math:`d`, shape ``(n,)``. Exact whenever the differences are symmetric about zero under the null
    hypothesis; that they are normal is not needed. The observed pattern and its mirror image always count, so that
    ``p >= 2 / 2**n``: five seeds can never reach 0.05.

    All patterns are enumerated up to 16 differences. Above, ``DRAWS`` random patterns are drawn and the observed one is
    counted with them, ``p = (1 + hits) / (1 + DRAWS)``, which keeps the test valid (Phipson and Smyth 2010).
    Sums that differ by less than rounding (``1e-9`` of ``sum |d|``) are ties and count against the effect.

    Args:
        differences: one number per seed, finite. NaN is returned for none.
        generator: used above 16 differences, and needed there.

    Raises:
        ValueError: if a difference is not finite, or there are more than 16 and no generator.

    Source: Fisher 1935, The Design of Experiments, section 21 (Darwin's maize).

    >>> sign_flip([0.03, 0.01, 0.04, 0.02, 0.05])  # 2 of 32 patterns
    0.0625
    """
    d = _finite(differences)
    n = len(d)
    if n == 0:
        return math.nan
    d = d / (np.abs(d).max() or 1.0)  # the sum of 1e308 and 1e308 would overflow
    least = abs(d.sum()) - TIE * np.abs(d).sum()
    if n <= EXACT:
        # The first sign stays: a pattern and its mirror image have the same |sum|.
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)) & 1
        return float(np.mean(np.abs(d[0] + (1 - 2 * bits) @ d[1:]) >= least))
    if generator is None:
        raise ValueError(
            f"sign_flip enumerates the signs of up to {EXACT} differences and got {n}. "
            "Pass a generator to draw them: sign_flip(differences, np.random.default_rng(0))."
        )
    hits, left = 0, DRAWS
    while left:  # in pieces, so that memory does not grow with DRAWS * n
        rows = min(left, 10_000)
        signs = 1 - 2 * generator.integers(0, 2, (rows, n), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs(signs @ d) >= least))
        left -= rows
    return (1 + hits) / (1 + DRAWS)


def smallest_p(n: int) -> float:
    """The smallest probability that :func:`sign_flip` can return for ``n`` differences: ``2 / 2**n`` while it is exact.

    >>> [smallest_p(n) for n in (1, 3, 5, 6)]
    [1.0, 0.25, 0.0625, 0.03125]
    """
    return 2.0 ** (1 - n) if n <= EXACT else 1 / (1 + DRAWS)


def holm(ps: Sequence[float]) -> list[float]:
    r"""Holm's step-down adjusted probabilities: calling those up to ``alpha`` real errs at most ``alpha`` of the time.

    .. math:: \tilde p_{(i)} = \max_{j \le i}\, \min\left(1, (m - j + 1)\, p_{(j)}\right)

    for the ordered :math:`p_{(1)} \le \dots \le p_{(m)}`, whatever their dependence. It is never weaker than
    Bonferroni's ``m * p``. NaN, a test that was not made, stays NaN and does not count in ``m``.

    Args:
        ps: one probability per arm.

    Returns:
        The adjusted probabilities, in the order given.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(ps)
    order = sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def mcnemar(only_first: int, only_second: int) -> float:
    r"""Exact two-sided probability that two treatments of the same seeds diverge equally often.

    .. math:: p = \min\left(1,\; 2^{1-n} \sum_{i=0}^{\min(b, c)} \binom{n}{i}\right), \qquad n = b + c

    where on ``b`` seeds only the first diverged and on ``c`` only the second. Other seeds say nothing.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions; binomial, not the
    chi-square approximation.

    >>> mcnemar(6, 0)
    0.03125
    """
    n = only_first + only_second
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1)) / 2**n)


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
    if _equal(np.array(arm.differences)):  # the sign-flip test answers
        return (
            next(n for n in range(len(arm.differences) + 1, MOST_SEEDS) if _reaches(n, 1 - ERROR / arms))
            if size or arm.margin
            else 0
        )
    sure, powerful = -float(special.ndtri(error / 2)), float(special.ndtri(0.8))
    ways = [((sure + powerful) * spread / room) ** 2 for room in (size, arm.margin - size) if room > 0]
    wanted = min(ways, default=math.inf)
    return max(len(arm.differences) + 2, math.ceil(wanted) + 1) if wanted < MOST_SEEDS else 0


def seeds_for(p: float) -> int:
    """How many seeds a sign-flip test takes for a p as small as this.

    >>> seeds_for(0.05), seeds_for(0.0005)
    (6, 12)
    """
    return math.ceil(1 - math.log2(p))


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


def _finite(differences: Sequence[float] | np.ndarray) -> np.ndarray:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise ValueError(
            f"differences must be a flat sequence of finite numbers, but are {d.tolist()}. "
            "Leave out seeds that diverged and count them apart, as compare_arms does."
        )
    return d


def _equal(d: np.ndarray) -> bool:
    return float(np.ptp(d)) <= TIE * float(np.abs(d).max())


def _reaches(n: int, level: float) -> bool:
    """Whether a sign-flip test of ``n`` differences can be significant at all."""
    return smallest_p(n) <= 1 - level


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
    if len(pairs) < LEAST or _equal(pairs[:, 1] - pairs[:, 0]):
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
    elif _equal(d):
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
    needed = next((n for n in range(2, EXACT + 2) if _reaches(n, level)), 0)  # 0: no number does
    ends = sizes if len(sizes) == 1 else (sizes[0], sizes[-1])
    return remark("reach", pairs=ends, smallest=[smallest_p(n) for n in ends], alpha=alpha, needed=needed)
