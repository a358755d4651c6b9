"""Exploding gradient: rare steps with a gradient far above the usual tear the weights away."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import called, progress
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.records import Evidence, Finding, Series, TrainingRecord

SPIKE = 5.0  # times the usual gradient
JUMP = 2.0  # times the usual largest move of a weight
SHARE = 0.003  # of the steps whose gradient was measured, and two at least


@rule(
    needs={"grad_norm": "gradients were not measured", "update_ratio": "gradients were not measured"},
    early=True,  # no later step mends weights that are torn
    explains=("nan_source", "dead_relu", "vanishing_gradient"),
)
def exploding_gradient(training: TrainingRecord) -> Iterator[Finding]:
    """Looks for steps whose gradient is more than 5 times the median of the run and of the steps before it, and whose update moves some weight more than twice as far
    as usual, in a training that suffered.

    The condition on updates keeps it silent under Adam or clipping, where a large gradient does no harm; both are relative, so
    the scale of the loss, the width and the learning rate do not enter. A training suffered when less than half of its loss is
    learned or a tenth was lost again. Steps that move a weight by more than its whole size count in any case.
    """
    gradient = training.get("grad_norm").finite
    updates = training.profiles["update_ratio"]
    went = progress(training)
    if len(gradient) < 5:
        raise CannotJudge("gradients were not measured")
    if not went.suffered:
        return
    rows = np.where(np.isfinite(updates.array), updates.array, 0.0)
    move = dict(zip(updates.steps, rows.max(1), strict=True))
    norm = dict(zip(gradient.steps, gradient.values, strict=True))
    usual, usual_move = float(np.median(gradient.array)), float(np.median(rows.max(1)))
    spikes = [step for step, local in _before(gradient) if norm[step] > SPIKE * max(usual, local)]
    jumped = [step for step in spikes if move.get(step, 0.0) > JUMP * usual_move]
    torn = [step for step in move if move[step] > 1.0 and step in norm]
    if not (len(torn) > 1 or (jumped and len(spikes) >= max(2, SHARE * len(gradient)))):
        return
    worst = max(jumped or torn, key=norm.__getitem__)
    largest = norm[worst]
    where = updates.names[int(rows[updates.steps.index(worst)].argmax())].rpartition(".")[0]
    yield Finding(
        problem="exploding_gradient",
        severity="error",
        where=where,
        title="The gradient explodes",
        evidence=(
            Evidence(
                text=f"The gradient norm is {usual:.3g} in the median of {len(gradient)} steps and more than {SPIKE:g} times that on "
                f"{len(spikes)} of them; at step {worst} it is {largest:.3g}, {largest / max(usual, 1e-30):.3g} times as much.",
                numbers={"median": usual, "largest": largest, "step": float(worst), "spikes": float(len(spikes))},
                shows=("grad_norm", "grad_norms"),
            ),
            Evidence(
                text=f"At step {worst} the update moved {called(training, where)} by {move[worst]:.2g} of its size, where "
                f"{usual_move:.2g} is usual.",
                numbers={"move": float(move[worst]), "usual_move": usual_move},
                shows=("update_ratio",),
            ),
            Evidence(text=went.in_words, numbers={"learned": went.learned, "best": went.best}, shows=("loss",)),
        ),
        cause="A gradient that passes the same weights many times (or many layers) is multiplied by their singular values each "
        "time. Where these exceed 1 the loss has cliffs: at their edge the gradient is orders of magnitude larger than usual, "
        "and one step throws the weights far away from what they had learned.",
        source="Bengio, Simard, Frasconi 1994; Pascanu, Mikolov, Bengio 2013",
        remedies=(
            "clip_norm(max_norm=1.0)",
            "clip_norm(max_norm=0.1)",
            "lr_scale(factor=0.1)",
            "lr_scale(factor=0.01)",
            "agc",
        ),
        confidence=0.9,
    )


def _before(gradient: Series, window: int = 25, least: int = 10) -> Iterator[tuple[int, float]]:
    """Each step with the median of the norms before it; the first few, whose gradients are large in any run, are left out."""
    values = gradient.array
    for i in range(least, len(values)):
        yield gradient.steps[i], float(np.median(values[max(0, i - window) : i]))
