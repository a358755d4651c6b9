"""One curve over the seeds of two arms, untreated against treated: the mean as a line, lowest to highest as a band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.records import Comparison, Series
from trimtab.report.plots.curves import Band, Curve, CurvesData, axis_scale_of
from trimtab.report.plots.decimate import bucket_edges, decimate

BASELINE = "untreated"
_BAND_POINTS = 150


def curve_names(comparison: Comparison) -> tuple[str, ...]:
    """The curves that the trials kept, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for trial in comparison.trials for name in trial.curves))


def seeds_data(comparison: Comparison, recipe: str, name: str) -> CurvesData | None:
    """Curve ``name`` of the untreated trials (recipe ``""``) and of ``recipe``'s trials; ``None`` if no trial kept it."""
    curves = []
    for arm, title, colour in (("", BASELINE, "base"), (recipe, recipe, "c0")):
        trials = [trial for trial in comparison.trials if trial.recipe == arm and len(trial.curves.get(name, ()))]
        if trials:
            curves.append(_band(f"{title} ({_seeds(len(trials))})", [trial.curves[name] for trial in trials], colour))
    if not curves:
        return None
    spread = [values for curve in curves if curve.band for values in (curve.values, curve.band.low, curve.band.high)]
    return CurvesData(name, tuple(curves), axis_scale_of(np.concatenate(spread)), (name,))


def _band(title: str, seeds: Sequence[Series], colour: str) -> Curve:
    """Mean and range over the seeds; a seed counts between its first and its last step, non-finite values never."""
    grid = np.unique(np.concatenate([np.asarray(series.steps) for series in seeds]))
    rows = np.full((len(seeds), len(grid)), np.nan)
    broken = set()
    for row, series in zip(rows, seeds, strict=True):
        good = series.finite
        broken |= {step for step, value in zip(series.steps, series.values, strict=True) if not np.isfinite(value)}
        if len(good):
            row[:] = np.interp(grid, good.steps, good.values, left=np.nan, right=np.nan)
    alive = np.isfinite(rows).any(axis=0)
    if not alive.any():
        thin = decimate(grid, np.full(len(grid), np.nan))
        return Curve(title, thin.steps, thin.values, thin.broken, colour)
    grid, rows = grid[alive], rows[:, alive]
    thin = decimate(grid, np.nanmean(rows, axis=0))
    starts = bucket_edges(len(grid), _BAND_POINTS)[:-1]
    low = np.minimum.reduceat(np.nanmin(rows, axis=0), starts)
    high = np.maximum.reduceat(np.nanmax(rows, axis=0), starts)
    band = Band(np.append(grid[starts], grid[-1]), np.append(low, low[-1]), np.append(high, high[-1]))
    marks = np.array(sorted(broken), dtype=int)
    return Curve(title, thin.steps, thin.values, marks[bucket_edges(len(marks), 100)[:-1]], colour, band)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
