"""The tests and intervals of paired differences: Student's t, seeds and samples together, sign flips, Holm's correction, McNemar's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EXACT = 16  # differences up to which all sign patterns are enumerated: 2^15 after symmetry, 4 MB
DRAWS = 99_999  # random sign patterns above that; with the observed one they make 100,000
# Differences of values 10^6 times their own size carry a relative rounding error of 10^6 * 2^-53, about 10^-10.
# Closer than ten times that, two of them are the same number.
TIE = 1e-9


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
    if equal(d):
        mean, p = float(d[0]), smallest_p(n) if d.any() else 1.0
        return Interval(mean, mean, mean, p) if reaches(n, level) else Interval(mean, -math.inf, math.inf, p)
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


def seeds_for(p: float) -> int:
    """How many seeds a sign-flip test takes for a p as small as this.

    >>> seeds_for(0.05), seeds_for(0.0005)
    (6, 12)
    """
    return math.ceil(1 - math.log2(p))


def _finite(differences: Sequence[float] | np.ndarray) -> np.ndarray:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not np.isfinite(d).all():
        raise ValueError(
            f"differences must be a flat sequence of finite numbers, but are {d.tolist()}. "
            "Leave out seeds that diverged and count them apart, as compare_arms does."
        )
    return d


def equal(d: np.ndarray) -> bool:
    return float(np.ptp(d)) <= TIE * float(np.abs(d).max())


def reaches(n: int, level: float) -> bool:
    """Whether a sign-flip test of ``n`` differences can be significant at all."""
    return smallest_p(n) <= 1 - level
