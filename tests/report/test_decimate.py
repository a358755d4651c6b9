"""Thinned series keep what matters: every bucket's extremes, at the steps where they were."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.report.plots.decimate import bucket_edges, decimate

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(st.lists(numbers, min_size=1, max_size=400), st.integers(4, 60), st.integers(1, 7))
def test_extremes_of_every_bucket_are_kept_at_their_steps(values, points, stride):
    array = np.array(values, dtype=np.float64)
    steps = np.arange(len(array)) * stride
    thin = decimate(steps, array, points)
    assert (np.diff(thin.steps) > 0).all()
    original = np.where(np.isfinite(array), array, np.nan)
    np.testing.assert_array_equal(thin.values, original[thin.steps // stride])  # every point is a real one
    if len(array) <= points:
        assert len(thin.steps) == len(array)
        return
    finite = np.isfinite(array)
    edges = bucket_edges(len(array), points // (2 if finite.all() else 3))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        inside = (thin.steps >= start * stride) & (thin.steps < end * stride)
        good = array[start:end][finite[start:end]]
        if len(good):
            assert np.nanmin(thin.values[inside]) == good.min()
            assert np.nanmax(thin.values[inside]) == good.max()
        if len(good) < end - start:
            first = start + np.flatnonzero(~finite[start:end])[0]
            assert first * stride in thin.broken
            assert np.isnan(thin.values[inside]).any()
    assert len(thin.steps) <= points + 2
    assert {thin.steps[0], thin.steps[-1]} == {steps[0], steps[-1]}


@given(st.integers(1, 5_000), st.integers(1, 700))
def test_buckets_cover_everything_and_differ_by_one_at_most(length, buckets):
    sizes = np.diff(bucket_edges(length, buckets))
    assert sizes.sum() == length and sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_a_jump_stays_at_its_step():
    values = np.where(np.arange(1_003) < 900, 0.0, 1.0)
    thin = decimate(np.arange(1_003), values, points=120)
    jump = int(np.flatnonzero(np.diff(thin.values) > 0.5)[0])
    assert thin.steps[jump] <= 899 < 900 <= thin.steps[jump + 1]
    assert thin.steps[jump + 1] - thin.steps[jump] <= 2 * np.ceil(1_003 / 60)


def test_nothing_to_thin():
    assert len(decimate(np.arange(0), np.zeros(0)).steps) == 0
