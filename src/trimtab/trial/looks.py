r"""Looking at a comparison more than once: how wide intervals must be for all looks together to keep one promise.

Whoever stops at the first interval that excludes zero, after 3 seeds, 4, 5 ..., errs more often than each of these intervals does. A
group-sequential design (Pocock 1977; Lan & DeMets 1983) says beforehand how often each look may err. With normal paired differences and no
true effect the course of Student's :math:`t` from look to look does not depend on their spread, so its critical values
:math:`c_k` can be found by simulation once and for all:

.. math:: P\left(|t_{n_1}| \le c_1, \dots, |t_{n_{k-1}}| \le c_{k-1}, |t_{n_k}| > c_k\right) = \alpha_k, \qquad \sum_k \alpha_k = \alpha

The intervals :math:`\bar d \pm c_k\, s/\sqrt{n_k}` then hold at all looks together with probability :math:`1 - \alpha` (repeated confidence
intervals, Jennison & Turnbull 1989), whenever one stops, for whatever reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trimtab.trial.stats import paired_t

LEAST = 3  # seeds before the first look
FIRST = 0.2  # part of all errors that the first look may make; the others share the rest evenly
GROWTH = 1.2  # of the number of seeds from look to look
DRAWS = 200_000  # courses that are simulated: 0.05 is met within 0.001
HOPE = 0.35  # part of the last critical value that the course so far must point at


class Look(NamedTuple):
    """One look at a comparison: the level of Student's interval there, and the numbers of seeds of all looks until now."""

    level: float
    made: tuple[int, ...]


def looks_up_to(most: int, together: int = 1) -> tuple[int, ...]:
    """After how many seeds to look, the last time after ``most``; ``together`` of them run at a time.

    >>> looks_up_to(10)
    (3, 4, 5, 6, 8, 10)
    >>> looks_up_to(2), looks_up_to(10, together=4)
    ((2,), (4, 8, 10))
    """
    step = max(1, together)
    found = [min(most, math.ceil(LEAST / step) * step)]
    while found[-1] < most:
        farther = max(math.ceil(GROWTH * found[-1]), found[-1] + step)
        found.append(min(most, math.ceil(farther / step) * step))
    return tuple(found)


def levels(looks: Sequence[int], error: float = 0.05) -> tuple[float, ...]:
    """The level of Student's interval at each look, for all of them together to err ``error`` of the time.

    Args:
        looks: numbers of seeds, increasing, two at least.
        error: how often a true difference of zero may be outside of any of them.

    >>> levels((5,))
    (0.95,)
    >>> [round(level, 3) for level in levels((3, 4, 5))]
    [0.99, 0.977, 0.968]
    """
    from scipy import special

    if not looks or min(looks) < 2 or any(b <= a for a, b in zip(looks, looks[1:], strict=False)):
        raise ValueError(f"looks must be increasing numbers of seeds, two at least, but are {tuple(looks)}.")
    if len(looks) == 1:
        return (1 - error,)
    first = FIRST * error
    each = (error - first) / (len(looks) - 1)
    d = np.random.default_rng(0).standard_normal((DRAWS, looks[-1]))
    inside = np.ones(DRAWS, dtype=bool)
    found = []
    for number, n in enumerate(looks):
        t = np.abs(d[:, :n].mean(1)) * math.sqrt(n) / d[:, :n].std(1, ddof=1)
        if number == 0:
            critical = -float(special.stdtrit(n - 1, first / 2))
        else:
            critical = float(np.partition(t[inside], -round(each * DRAWS))[-round(each * DRAWS)])
        inside &= t <= critical
        found.append(1 - 2 * float(special.stdtr(n - 1, -critical)))
    return tuple(found)


def hopeless(differences: Sequence[float], most: int, last: float) -> bool:
    """Whether more seeds are not worth their price: what was seen until now does not even point at ``HOPE`` of what the last look, after
    ``most`` of them and at the level ``last``, asks for. To stop there costs 0.01 of power at most, and no error.

    >>> hopeless([0.1, -0.2, 0.1, -0.1], 10, 0.98), hopeless([0.1, 0.2, 0.1, -0.1], 10, 0.98)
    (True, False)
    """
    from scipy import special

    n = len(differences)
    if n <= LEAST:
        return False
    mean, _, _, p = paired_t(differences)
    t = math.copysign(float(special.stdtrit(n - 1, 1 - p / 2)), mean)
    return t * math.sqrt(most / n) < HOPE * float(special.stdtrit(most - 1, (1 + last) / 2))
