"""Rates by what is cheap: the first steps of the unmodified subject at rates ten times apart, on the same batches.

A range test raises the rate within one run: each rate has a few steps, and another batch than its neighbours. Here each has a run of its
own to itself, from the same weights, so that the losses of a step differ by the rate alone, and small differences show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trimtab.records import Series

LEAST = 200  # steps of a run, of which few enough can be spent
SHARE, STEPS = 10, (40, 100)  # the part of a run that is spent on a rate, at least and at most so many steps
APART = 10.0
MOST = 5  # rates that are tried one behind the other, in one direction
CLEAR = 3.0  # standard errors of paired differences
HALVES = 2  # of a power of ten that a rate is rounded to


def steps_of(run: int) -> int:
    """How many steps of a run of so many each rate gets; 0 where all together would be too much."""
    least, most = STEPS
    return 0 if run < LEAST else min(most, max(least, run // SHARE))


def climb(losses_at: Callable[[Sequence[float]], Mapping[float, Series]], own: Series) -> float:
    """The factor, a power of ten, that lowers the training loss most of those on the way to it; 1 where the neighbours are no better.

    Args:
        losses_at: gives the losses of the first steps at factors of the subject's rate; what could not be run is missing.
        own: those at its own rate.

    >>> def losses_at(factors):  # the best is 100
    ...     return {f: Series(steps=tuple(range(60)), values=tuple(abs(np.log10(f) - 2) + k % 3 for k in range(60))) for f in factors}
    >>> climb(losses_at, losses_at([1.0])[1.0])
    100.0
    """
    tried = losses_at((APART, 1 / APART))
    better = [factor for factor, losses in tried.items() if lower(losses, own)]
    if not better:
        return 1.0
    best = min(better, key=lambda factor: _end(tried[factor]))
    losses, way = tried[best], APART if best > 1 else 1 / APART
    for _ in range(MOST - 1):
        farther = losses_at((best * way,)).get(best * way)
        if farther is None or not lower(farther, losses):
            break
        best, losses = best * way, farther
    return float(f"{best:.0e}")


def lower(ours: Series, theirs: Series) -> bool:
    """Whether losses of the same batches are lower, in the second half of the steps: by ``CLEAR`` standard errors of the differences."""
    many = min(len(ours), len(theirs))
    if many < STEPS[0] // 2 or len(ours) < len(theirs):  # it ended early
        return False
    differences = np.array(theirs.values[many // 2 : many]) - np.array(ours.values[many // 2 : many])
    if not np.isfinite(differences).all():
        return False
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    return float(np.mean(differences)) > CLEAR * error


def _end(losses: Series) -> float:
    return float(np.mean(losses.values[len(losses) // 2 :]))


def rounded(factor: float, farther: int = 0) -> float:
    """The next of 1 and 3 times a power of ten, or one that is so many of them farther.

    >>> rounded(29), rounded(29, 1), rounded(0.3, -1)
    (30.0, 100.0, 0.1)
    """
    power = (round(HALVES * math.log10(factor)) + farther) / HALVES
    return float(f"{10**power:.0e}")
