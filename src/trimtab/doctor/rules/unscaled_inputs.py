"""Unscaled inputs: features of raw, very unlike magnitudes enter the first layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import called, progress
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.records import Evidence, Finding, TrainingRecord

UNLIKE = 20.0  # largest over typical feature: a condition number of 400 or more
LARGE = 20.0  # typical size of a feature


@rule(
    needs={"layers": "the inputs of the first layer were not measured"},
    explains=("lr_too_high", "exploding_gradient", "nan_source", "dead_relu", "vanishing_gradient"),
)
def unscaled_inputs(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when the largest input feature is 20 times the typical one or more, or the typical one is larger than 20, as the first
    layer with weights sees them, unless that layer is a normalization. An error when the training suffered too (less than
    half of the loss learned, or a tenth of it lost again), a warning when it might (less than 90 %), else a note."""
    largest, typical = training.get("input_largest").finite, training.get("input_typical").finite
    first = next((layer for layer in training.layers if layer.parameters), None)
    if first is not None and ("Norm" in first.kind or "Embedding" in first.kind):
        return
    if not len(largest) or first is None:
        raise CannotJudge("the inputs of the first layer were not measured")
    big, usual = float(np.median(largest.array)), float(np.median(typical.array))
    ratio = big / max(usual, 1e-30)
    if not (ratio >= UNLIKE or usual >= LARGE):
        return
    went = progress(training)
    condition = training.get("input_condition").finite
    measured = f" Measured, with a 1 for the bias, it is {condition.last:.2g}." if len(condition) else ""
    yield Finding(
        problem="unscaled_inputs",
        severity="error" if went.suffered else "warning" if went.learned < 0.9 else "info",
        where="data",
        title="The inputs are not scaled",
        evidence=(
            Evidence(
                text=f"The largest input feature of {called(training, first.name)} has a root mean square of {big:.3g}, the typical one of {usual:.3g}: "
                f"a ratio of {ratio:.3g}, and a condition number of the first layer of at least {ratio**2:.1e}.{measured}",
                numbers={
                    "largest": big,
                    "typical": usual,
                    "ratio": ratio,
                    **({"condition": condition.last} if len(condition) else {}),
                },
                shows=("input_largest", "input_typical", *(("input_condition",) if len(condition) else ())),
            ),
            Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),
        ),
        cause="The curvature of the loss along a weight grows with the square of its input. The largest feature limits the step size that "
        "still converges, and with that rate the weights of all other features hardly move; saturating and ReLU units are "
        "pushed to their flat side at once.",
        source="LeCun, Bottou, Orr, Müller 1998, Efficient BackProp",
        remedies=("standardize_inputs", "batch_norm", "lr_scale(factor=0.1)", "whiten_inputs", "adagrad", "adam"),
        confidence=0.9,
    )
