"""Learning rate too low: the weights hardly leave their start while the loss still falls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import block_means, progress, trend
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.records import Evidence, Finding, TrainingRecord

STILL = 0.05  # of their initial size


@rule(needs={"loss": "no training loss over 40 steps was seen", "movement": "weights were not measured"})
def lr_too_low(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when, at the end of the run, the weights have moved by less than 5 % of their initial size, the loss is still falling
    (trend over the run, p < 0.001, and over its second half, p < 0.05) at a third or more of its initial pace, and less than 90 % of it is learned.

    A training that has converged stops falling; one that is slowed by bad conditioning falls ever more slowly; one whose
    steps are too small goes down a straight line.
    """
    loss = training.get("loss").finite.array
    movement = training.get("movement").finite
    if len(loss) < 40:
        raise CannotJudge("no training loss over 40 steps was seen")
    if not len(movement):
        raise CannotJudge("weights were not measured")
    went = progress(training)
    whole, late = trend(loss), trend(loss[len(loss) // 2 :])
    means = block_means(loss, 10)
    early_pace, late_pace = means[0] - means[3], means[-4] - means[-1]
    slow = movement.last < STILL and went.learned < 0.9
    if not (
        slow
        and whole.slope < 0
        and whole.p < 1e-3
        and late.slope < 0
        and late.p < 0.05
        and late_pace > early_pace / 3
        and early_pace > 0
    ):
        return
    rate = training.get("lr").values
    needed = went.end / max(late_pace / (0.3 * len(loss)), 1e-30)
    updates = training.profiles.get("update_ratio")
    typical = float(np.nanmedian(updates.array)) if updates and updates.steps else float("nan")
    yield Finding(
        problem="lr_too_low",
        severity="error" if went.learned < 0.5 else "warning",
        where="optimizer",
        title="The learning rate is too low" + (f" ({rate[0]:g})" if rate else ""),
        evidence=(
            Evidence(
                text=f"After {training.steps} steps the weights have moved by {movement.last:.2%} of their initial size; one step moves a "
                f"weight by {typical:.1e} of its size in the median.",
                numbers={"movement": movement.last, "typical_update_ratio": typical},
                shows=("movement", "update_ratio"),
            ),
            Evidence(
                text=went.in_words
                + f" It still falls almost as fast as at the start (p = {whole.p:.0e}); at this pace it needs some "
                f"{needed:,.0f} more steps.",
                numbers={"learned": went.learned, "p": whole.p, "steps_needed": float(needed)},
                shows=("loss",),
            ),
        ),
        cause="Each step lowers the loss by about lr times the squared gradient, so with a tiny rate the run ends long before the loss does.",
        source="Bengio 2012, Practical recommendations for gradient-based training; Goodfellow et al. 2016, section 11.4.1",
        remedies=("lr_scale(factor=100)", "lr_scale(factor=10)", "lr_scale(factor=1000)", "lr_scale(factor=3)", "adam"),
        confidence=0.9,
    )
