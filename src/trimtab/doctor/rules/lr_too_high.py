"""Learning rate too high: steps that throw the loss up instead of lowering it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import progress, roughness, weight_layers
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.records import Evidence, Finding, TrainingRecord

PEAK = 0.1  # above where the loss was before the first step
LOST = 0.15  # of what had been learned
SURE = 3.0  # standard errors of a mean
WINDOW = 3  # steps that are averaged: one bad batch is no peak
LARGE = 0.03  # of a weight's size: steps that were all smaller overshot nowhere


@rule(
    needs={"update_ratio": "gradients were not measured", "loss": "no training loss was seen"},
    early=True,  # no later step mends weights that wander about
    explains=("exploding_gradient", "nan_source", "dead_relu", "vanishing_gradient"),
)
def lr_too_high(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when the loss itself shows that steps overshoot, beyond the noise of its batches, and some of them were large.

    Either the loss was thrown up, by a tenth or more above what it was before the first step (or an answer that ignores the
    input has, where that is more), and the training never got over it: not finite at the end, or less than half learned. Or a
    seventh of what had been learned was lost again.

    A slow learner does neither, however large its steps are beside its small weights (the first step of Adam is the rate itself:
    0.05 of a weight of size 0.02 at rate 0.001), nor does a training that a higher rate would help. No limit on the rate is
    needed: 1.0 is right for Adadelta and 0.5 for logistic regression.
    """
    updates, loss = training.profiles["update_ratio"], training.get("loss").finite
    if not len(loss):
        raise CannotJudge("no training loss was seen")
    weights = {weight for _, weight in weight_layers(training)}
    columns = [i for i, name in enumerate(updates.names) if name in weights] or list(range(len(updates.names)))
    rows = updates.array[:, columns]
    rows = rows[np.isfinite(rows).any(1)]
    if not len(rows):
        raise CannotJudge("updates of weights were not measured")
    moves = np.nanmedian(rows, 1)
    typical, largest = float(np.median(moves)), float(moves.max())
    went = progress(training)
    values = loss.array
    before = max(values[0], went.reference) if went.known_reference else values[0]
    width = min(WINDOW, len(values))
    means = np.convolve(values, np.ones(width) / width, "valid")
    peak, at = float(means.max()), loss.steps[int(means.argmax())]
    spread = roughness(values)
    thrown = peak - before > max(PEAK * abs(before), SURE * spread / math.sqrt(width))
    lost = went.end - went.best > max(
        LOST * (before - went.best), SURE * spread * math.sqrt(20 / len(values)), 0.05 * went.reference
    )
    # Rare large steps that cost what was learned are an explosion of the gradient. And without a known measure of learning a loss may rise
    # by itself (of a generator, of a policy): there, too, large steps must be the usual ones. A few are enough at the beginning.
    begun = at <= max(20, 0.1 * training.steps) and went.known_reference
    thrown &= (largest if begun or not went.finite else typical) > LARGE
    lost &= typical > LARGE
    if not ((thrown and went.learned < 0.5) or (went.finite and lost)):
        return
    rate = training.get("lr").values
    evidence = [
        Evidence(
            text=f"The loss was {values[0]:.4g} before the first step"
            + (f" and {peak:.4g} around step {at}, the mean of {width} steps." if thrown else ".")
            + (f" Its best tenth of the run averaged {went.best:.4g}, its last {went.end:.4g}." if lost else ""),
            numbers={"before": float(values[0]), "peak": peak, "step": float(at), "best": went.best, "end": went.end},
            shows=("loss",),
        ),
        Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),
        Evidence(
            text=f"The largest of the sampled steps moved the typical weight by {largest:.2g} of its size; {typical:.2g} is usual.",
            numbers={"largest_update_ratio": largest, "typical_update_ratio": typical},
            shows=("update_ratio",),
        ),
    ]
    yield Finding(
        problem="lr_too_high",
        severity="error" if went.learned < 0.5 else "warning",
        where="optimizer",
        title="The learning rate is too high" + (f" ({rate[0]:g})" if rate else ""),
        evidence=tuple(evidence),
        cause="A gradient step lowers the loss only while the second-order term of its Taylor expansion stays below the first-order "
        "one: lr < 2 g'g / g'Hg. Beyond that the step overshoots, and the loss jumps about or grows.",
        source="Goodfellow, Bengio, Courville, Deep Learning, 2016, section 4.3.1; LeCun et al. 1998",
        remedies=(
            "lr_scale(factor=0.1)",
            "lr_scale(factor=0.01)",
            "lr_scale(factor=0.3)",
            *([f"warmup(steps={max(10, training.steps // 20)})"] if thrown else []),
            "batch_norm",
            "clip_norm(max_norm=1.0)",
            "adam",
        ),
        confidence=0.8,
    )
