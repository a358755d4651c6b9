"""Reading curves: what a loss did, with its noise in mind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trimtab import quantities
from trimtab.records import Series, TrainingRecord


@dataclass(frozen=True)
class LossProgress:
    """What the training loss did. All losses are averages over a tenth of the run (at least one step).

    ``learned`` is the share of the loss that was learned away: ``1 - end / reference``, where the reference is the loss of
    the best answer that ignores the input if it is known, else the loss at the start. 0 is nothing, 1 is all; negative
    is worse than knowing nothing.
    """

    start: float
    end: float
    best: float
    learned: float
    reference: float
    known_reference: bool
    finite: bool

    @property
    def suffered(self) -> bool:
        """Whether something was wrong with the outcome: less than half learned, or a tenth of the reference lost again."""
        return not self.finite or self.learned < 0.5 or self.end - self.best > 0.1 * self.reference

    @property
    def in_words(self) -> str:
        """One sentence for a finding's evidence."""
        if not self.finite:
            return f"The training loss started at {self.start:.4g} and is not finite at the end."
        against = f"; an answer that ignores the input would have {self.reference:.4g}" if self.known_reference else ""
        between = f" by way of {self.best:.4g}" if self.end - self.best > 0.1 * self.reference else ""
        return f"The training loss went from {self.start:.4g}{between} to {self.end:.4g}{against}."


def progress(training: TrainingRecord) -> LossProgress:
    """The progress of a training; NaN throughout when it recorded no loss."""
    loss = training.get("loss").array
    if not len(loss):
        return LossProgress(math.nan, math.nan, math.nan, math.nan, math.nan, False, False)
    means = block_means(loss, 10)
    start = float(loss[: max(1, min(5, len(loss) // 20))].mean())
    constant = training.facts.get("constant_loss", 0.0)
    known = constant > 1e-12
    reference = constant if known else start
    end = float(means[-1])
    finite = bool(np.isfinite(loss[-1]))
    learned = (
        1 - end / reference if finite and reference > 0 else (start - end) / abs(start or 1) if finite else -math.inf
    )
    best = float(np.nanmin(np.where(np.isfinite(means), means, np.nan))) if np.isfinite(means).any() else math.nan
    return LossProgress(start, end, best, float(learned), float(reference), known, finite)


def block_means(values: np.ndarray, count: int) -> np.ndarray:
    """Means over ``count`` equal parts (fewer for short series), shape ``(count,)``."""
    edges = np.linspace(0, len(values), min(count, len(values)) + 1).round().astype(int)
    return np.array([values[a:b].mean() for a, b in zip(edges[:-1], edges[1:], strict=True)])


def roughness(values: np.ndarray) -> float:
    """The standard deviation of a series around its own smooth course, from its second differences: a trend does not enter, and a
    few outliers do not either. Where most neighbours are equal it is that of rounding to the smallest step (an accuracy is counted).

    >>> roughness(np.array([0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0])) == 0.25 / math.sqrt(12)
    True
    """
    if len(values) < 5 or np.ptp(values) == 0:
        return 0.0
    spread = float(np.median(np.abs(np.diff(values, 2)))) / (0.6745 * math.sqrt(6))
    return spread or float(np.diff(np.unique(values)).min()) / math.sqrt(12)


@dataclass(frozen=True)
class Trend:
    """A straight line through block means: slope per block, and the two-sided probability of it under no trend."""

    slope: float
    p: float


def trend(values: np.ndarray, blocks: int = 12) -> Trend:
    """The trend of a series. Averaging over blocks first takes most of the correlation between neighbours away."""
    from scipy import stats

    means = block_means(values[np.isfinite(values)], blocks)
    if len(means) < 4 or np.ptp(means) == 0:
        return Trend(0.0, 1.0)
    fit = stats.linregress(np.arange(len(means)), means)
    return Trend(float(fit.slope), float(fit.pvalue))


def held_out(training: TrainingRecord, what: str) -> tuple[str, Series]:
    """The held-out series of that quantity (``"loss"`` or ``"accuracy"``) that would judge the training; empty if none."""
    name = quantities.held_out(training, what)
    return name, training.get(name).finite


def median_profile(training: TrainingRecord, name: str, columns: list[str]) -> np.ndarray:
    """The median over sampled steps of a profile, for these columns in this order; NaN where it was never measured."""
    profile = training.profiles.get(name)
    if profile is None or not profile.steps:
        return np.full(len(columns), np.nan)
    array = profile.array
    index = {column: i for i, column in enumerate(profile.names)}
    values = [array[:, index[c]] if c in index else np.array([np.nan]) for c in columns]
    return np.array([np.median(v[np.isfinite(v)]) if np.isfinite(v).any() else np.nan for v in values])


def weight_layers(training: TrainingRecord) -> list[tuple[str, str]]:
    """Layers with a weight matrix, in order of execution, as (layer name, weight name): no norms, no embeddings."""
    found = []
    for layer in training.layers:
        weights = [p for p in layer.parameters if p.rsplit(".", 1)[-1].startswith("weight")]
        if weights and "Norm" not in layer.kind and "Embedding" not in layer.kind:
            found.append((layer.name, weights[0]))
    return found


def called(training: TrainingRecord, layer: str) -> str:
    """A layer for a sentence: ``layer 0 (Linear)``, ``encoder.fc1 (Linear)``, ``the model``."""
    kind = next((known.kind for known in training.layers if known.name == layer), "")
    name = f"layer {layer}" if layer.isdigit() else layer or "the model"
    return f"{name} ({kind})" if kind else name
