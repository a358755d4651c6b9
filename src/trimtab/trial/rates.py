"""Rates by what is cheap: a range test on the first steps of the unmodified subject."""

from __future__ import annotations

import math

import numpy as np

from trimtab.optim.range_test import suggest
from trimtab.records import Series
from trimtab.training import Training

STEPS = 100
FACTORS = np.geomspace(1e-4, 1e4, STEPS)  # of the subject's own rate
LEAST = 4 * STEPS  # steps of a run of which so many are cheap
ABOVE = 4.0  # times the loss at the start that end the test
HALVES = 2  # of a power of ten that a suggestion is rounded to: it is no better known


def raise_rate(training: Training) -> None:
    """Let the rate rise from step to step, over all the factors."""
    made = 0

    def count(loss: object) -> None:
        nonlocal made
        made += 1

    training.change_rate(lambda optimizer: float(FACTORS[min(made, STEPS - 1)]))
    training.on("step", count)


def suggested(losses: Series) -> float | None:
    """The factor that the losses of such a run speak for, rounded to 1 or 3 times a power of ten; ``None`` if for none.

    >>> suggested(Series(steps=tuple(range(100)), values=tuple(2 - min(k, 75) / 50 + 9 * (k > 85) for k in range(100))))
    100.0
    """
    values = np.array(losses.values[:STEPS])
    if len(values) < STEPS // 5 or not math.isfinite(values[0]):
        return None
    start = float(np.mean(values[:5]))
    over = ~np.isfinite(values) | (values > start + (ABOVE - 1) * abs(start))
    end = int(np.argmax(over)) if over.any() else len(values)
    factor, _ = suggest(FACTORS[:end], values[:end], False, FACTORS[-1]) if end > 1 else (None, "")
    if factor is None:
        return None
    return rounded(factor)


def rounded(factor: float, farther: int = 0) -> float:
    """The next of 1 and 3 times a power of ten, or one that is so many of them farther.

    >>> rounded(29), rounded(29, 1), rounded(0.3, -1)
    (30.0, 100.0, 0.1)
    """
    power = (round(HALVES * math.log10(factor)) + farther) / HALVES
    return float(f"{10**power:.0e}")
