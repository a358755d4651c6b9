"""Learning rate too high: steps so large that the loss does not settle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import progress, weight_layers
from trimtab.records import Evidence, Finding, TrainingRecord

LARGE = 0.03  # of a weight's size per step, in the median: after 30 such steps little of the start is left


def lr_too_high(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when the typical step moves the typical weight by more than 3 % of its size *and* the loss shows it: not finite, no
    better than an answer that ignores the input, or risen again by a tenth of that.

    The update ratio is what the optimizer really did, so no limit on the rate itself is needed: 1.0 is right for Adadelta and
    0.5 for logistic regression. Without a symptom large steps are no finding.
    """
    updates = training.profiles.get("update_ratio")
    if updates is None or not updates.steps or not len(training.get("loss")):
        return
    weights = {weight for _, weight in weight_layers(training)}
    columns = [i for i, name in enumerate(updates.names) if name in weights] or list(range(len(updates.names)))
    rows = updates.array[:, columns]
    rows = rows[np.isfinite(rows).any(1)]
    if not len(rows):
        return
    typical = float(np.median(np.nanmedian(rows, 1)))
    first = float(np.nanmedian(rows[0]))
    went = progress(training)
    unsettled = not went.finite or went.learned < 0.1 or went.end - went.best > 0.1 * went.reference
    if not (unsettled and max(typical, first if went.learned < 0.1 else 0.0) > LARGE):
        return
    rate = training.get("lr").values
    yield Finding(
        problem="lr_too_high",
        severity="error" if went.learned < 0.5 else "warning",
        where="optimizer",
        title="The learning rate is too high" + (f" ({rate[0]:g})" if rate else ""),
        evidence=(
            Evidence(
                text=f"The typical step moves the typical weight by {typical:.2g} of its size; the first sampled one by {first:.2g}.",
                numbers={"typical_update_ratio": typical, "first_update_ratio": first},
                shows=("update_ratio",),
            ),
            Evidence(
                text=went.in_words + (f" Its best tenth of the run averaged {went.best:.4g}." if went.finite else ""),
                numbers={"learned": went.learned, "best": went.best},
                shows=("loss",),
            ),
        ),
        cause="A gradient step lowers the loss only while the second-order term of its Taylor expansion stays below the first-order "
        "one: lr < 2 g'g / g'Hg. Beyond that the step overshoots, and the loss jumps about or grows.",
        source="Goodfellow, Bengio, Courville, Deep Learning, 2016, section 4.3.1; LeCun et al. 1998",
        remedies=(
            "lr_scale(factor=0.1)",
            "lr_scale(factor=0.01)",
            "lr_scale(factor=0.3)",
            "batch_norm",
            "clip_norm(max_norm=1.0)",
            "adam",
        ),
        confidence=0.8,
    )
