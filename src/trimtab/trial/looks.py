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
from dataclasses import dataclass

import numpy as np

LEAST = 3  # seeds before the first look
FIRST = 0.2  # part of all errors that the first look may make; the others share the rest evenly
GROWTH = 1.2  # of the number of seeds from look to look
DRAWS = 200_000  # courses that are simulated: 0.05 is met within 0.001
HOPE = 0.35  # part of the last critical value that the course so far must point at


ERRORS = (
    0.05 / 8,
    0.05 / 4,
    0.05 / 2,
    0.05,
    0.1,
    0.2,
    0.4,
)  # of all looks together, at which their shares of it are simulated


@dataclass(frozen=True)
class Look:
    """One look at a comparison, of several that keep one promise together.

    Attributes:
        level: of Student's interval here, for those of all looks together to hold 95 % of the time.
        made: the numbers of seeds of all looks until now.
        shares: the p that Student's test may have here at most, for all looks together to err as often as ``ERRORS`` says.
        sure: the part of a still smaller error that is surely this look's own.
    """

    level: float
    made: tuple[int, ...]
    shares: tuple[float, ...]
    sure: float

    def fair(self, p: float) -> float:
        """How often all looks together would err, if they took a p as small as this one of Student's test here for an effect: a p value that
        may be looked at after each look, and corrected for several arms as any other.

        >>> look = plan((3, 5))[1]
        >>> [round(look.fair(p), 3) for p in (1 - look.level, 0.001, 0.5, float("nan"))]
        [0.05, 0.001, 1.0, nan]
        """
        if math.isnan(p):
            return p
        if p <= self.shares[0]:
            return min(ERRORS[0], p / self.sure)
        if p > self.shares[-1]:
            return 1.0
        return float(np.exp(np.interp(math.log(p), np.log(self.shares), np.log(ERRORS))))

    def level_at(self, error: float) -> float:
        """The level of Student's interval here, for those of all looks together to err so often: :meth:`fair`, backwards.

        >>> look = plan((3, 5))[1]
        >>> look.level_at(0.05) == look.level, round(look.fair(1 - look.level_at(0.001)), 6)
        (True, 0.001)
        """
        if error < ERRORS[0]:
            return 1 - min(self.shares[0], error * self.sure)
        return 1 - float(np.exp(np.interp(math.log(error), np.log(ERRORS), np.log(self.shares))))


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
    return tuple(1 - p for p in _allowed(looks, _courses(looks), error))


def plan(looks: Sequence[int]) -> tuple[Look, ...]:
    """The looks after these numbers of seeds, for all of them together to be right 95 % of the time."""
    courses = _courses(looks)
    allowed = [_allowed(looks, courses, error) for error in ERRORS]
    at = ERRORS.index(0.05)
    sure = [1.0] if len(looks) == 1 else [FIRST, *[(1 - FIRST) / (len(looks) - 1)] * (len(looks) - 1)]
    return tuple(
        Look(1 - allowed[at][number], tuple(looks[: number + 1]), tuple(each[number] for each in allowed), sure[number])
        for number in range(len(looks))
    )


def _courses(looks: Sequence[int]) -> np.ndarray:
    """The size of Student's t from look to look, many times, where there is no effect; shape ``(DRAWS, looks)``."""
    if not looks or min(looks) < 2 or any(b <= a for a, b in zip(looks, looks[1:], strict=False)):
        raise ValueError(f"looks must be increasing numbers of seeds, two at least, but are {tuple(looks)}.")
    if len(looks) == 1:  # known without drawing
        return np.empty((0, 1))
    d = np.random.default_rng(0).standard_normal((DRAWS, looks[-1]))
    return np.stack([np.abs(d[:, :n].mean(1)) * math.sqrt(n) / d[:, :n].std(1, ddof=1) for n in looks], 1)


def _allowed(looks: Sequence[int], courses: np.ndarray, error: float) -> list[float]:
    """The largest p that each look may take for an effect."""
    from scipy import special

    if len(looks) == 1:
        return [error]
    each = (1 - FIRST) * error / (len(looks) - 1)
    inside = np.ones(len(courses), dtype=bool)
    found = []
    for number, n in enumerate(looks):
        t = courses[:, number]
        if number == 0:
            critical = -float(special.stdtrit(n - 1, FIRST * error / 2))
        else:
            place = round(each * len(courses))
            critical = float(np.partition(t[inside], -place)[-place])
        inside &= t <= critical
        found.append(2 * float(special.stdtr(n - 1, -critical)))
    return found


def hopeless(differences: Sequence[float], most: int, last: float, hope: float = HOPE) -> bool:
    """Whether more seeds are not worth their price: what was seen until now does not even point at ``hope`` of what the last look, after
    ``most`` of them and at the level ``last``, asks for. To stop there costs 0.01 of power at most, and no error.

    >>> hopeless([0.1, -0.2, 0.1, -0.1], 10, 0.98), hopeless([0.1, 0.2, 0.1, -0.1], 10, 0.98)
    (True, False)
    """
    from scipy import special

    n = len(differences)
    if n <= LEAST and hope == HOPE:
        return False
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    t = mean * math.sqrt(n) / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
    return t * math.sqrt(most / n) < hope * float(special.stdtrit(most - 1, (1 + last) / 2))
