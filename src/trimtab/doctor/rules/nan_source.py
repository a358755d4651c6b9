"""NaN source: the training loss stops being a finite number."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trimtab.doctor.curves import called
from trimtab.doctor.rule import rule
from trimtab.records import Evidence, Finding, TrainingRecord


@rule(needs={"loss": "no training loss was seen"}, explains=("dead_relu", "vanishing_gradient"))
def nan_source(training: TrainingRecord) -> Iterator[Finding]:
    """Fires on the first training loss that is NaN or infinite, and names the first layer, in order of execution, whose output
    is not finite in the next sampled step. Exact: no threshold."""
    step = training.facts.get("first_nonfinite_loss")
    if step is None:
        return
    step = int(step)
    where, text = "loss", "No layer's output was seen to be non-finite."
    stds = training.profiles.get("activation_std")
    for at, row in zip(stds.steps, stds.rows, strict=True) if stds else ():
        broken = (
            [n for n, v in zip(stds.names, row, strict=True) if not math.isfinite(v)] if at >= step and stds else []
        )
        ordered = [layer.name for layer in training.layers if layer.name in broken]
        if ordered:
            where = ordered[0]
            text = f"At step {at} the output of {called(training, where)} is the first that is not finite ({len(ordered)} of {len(row)} layers are not)."
            break
    before = [v for s, v in zip(training.get("loss").steps, training.get("loss").values, strict=True) if s < step]
    grew = training.get("grad_norm").finite
    grown = [v for s, v in zip(grew.steps, grew.values, strict=True) if s <= step]
    evidence = [
        Evidence(
            text=f"The training loss is not finite from step {step} on"
            + (f"; the step before it was {before[-1]:.4g}." if before else ", the first."),
            numbers={"step": float(step)},
            shows=("loss",),
        ),
        Evidence(text=text, shows=("activation_std",)),
    ]
    if len(grown) > 1:
        evidence.append(
            Evidence(
                text=f"The gradient norm went from {grown[0]:.3g} to {grown[-1]:.3g} before that.",
                numbers={"first": grown[0], "last": grown[-1]},
                shows=("grad_norm",),
            )
        )
    yield Finding(
        problem="nan_source",
        severity="error",
        where=where,
        title=f"The loss is not a finite number from step {step} on",
        evidence=tuple(evidence),
        cause="Numbers overflow when weights or activations grow without bound (a step size or gradient that is too large, inputs of "
        "raw magnitude), or an operation has no finite value (log of 0, division by 0, NaN in the data). "
        "From then on every weight that the gradient reaches is NaN, and nothing is learned any more.",
        source="Goodfellow, Bengio, Courville, Deep Learning, 2016, sections 4.1 and 8.2.4",
        remedies=()
        if step == 0  # nothing has grown yet
        else (
            "lr_scale(factor=0.1)",
            "clip_norm(max_norm=1.0)",
            "lr_scale(factor=0.01)",
            "standardize_inputs",
            "skip_spikes",
        ),
    )
