"""Thin a long series for drawing: cut it in buckets, keep the lowest and the highest point of each, at their real steps.

A picture 500 pixels wide cannot show 100,000 points, and must not lose the one that matters. The edges of the buckets are
``np.linspace(0, n, buckets + 1).round()``: buckets of unequal size (``np.array_split``) drawn at equal distances would put a
jump at the wrong step, and so would drawing a bucket's extremum at the bucket's middle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

POINTS = 600


@dataclass(frozen=True)
class Thinned:
    """What is left of a series: ``values[i]`` at ``steps[i]``, NaN where the line breaks.

    ``broken`` has the real step of the first non-finite value of every bucket that held one.
    """

    steps: np.ndarray
    values: np.ndarray
    broken: np.ndarray


def bucket_edges(length: int, buckets: int) -> np.ndarray:
    """Edges of at most ``buckets`` non-empty buckets over ``length`` items; bucket ``i`` is ``[edges[i], edges[i+1])``.

    >>> bucket_edges(10, 4).tolist()
    [0, 2, 5, 8, 10]
    """
    return np.linspace(0, length, min(buckets, length) + 1).round().astype(int)


def decimate(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> Thinned:
    """At most ``points`` points (plus the two ends) that show every bucket's lowest and highest value where it was.

    A bucket with non-finite values keeps one of them too, as NaN, so that the line has its gap.

    >>> loss = np.ones(10_000)
    >>> loss[7_321] = 50.0
    >>> thin = decimate(np.arange(10_000), loss)
    >>> int(thin.steps[thin.values.argmax()]), len(thin.steps) <= 602
    (7321, True)
    """
    steps, values = np.asarray(steps), np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    if len(values) <= points:
        return Thinned(steps, np.where(finite, values, np.nan), steps[~finite])
    kept, broken = {0, len(values) - 1}, []
    edges = bucket_edges(len(values), points // (2 if finite.all() else 3))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        good = start + np.flatnonzero(finite[start:end])
        if len(good):
            kept |= {int(good[values[good].argmin()]), int(good[values[good].argmax()])}
        if len(good) < end - start:
            first = int(start + finite[start:end].argmin())
            kept.add(first)
            broken.append(first)
    index = np.array(sorted(kept))
    return Thinned(steps[index], np.where(finite, values, np.nan)[index], steps[np.array(broken, dtype=int)])
