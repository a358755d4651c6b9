"""Slow convergence: the symptom without a cause."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.doctor.curves import progress
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.records import Evidence, Finding, TrainingRecord


@rule(needs={"loss": "no training loss was seen"}, otherwise=True)
def slow_convergence(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when hardly anything was learned (less than a tenth of what is known to be there), and no rule knows why."""
    went = progress(training)
    if training.steps < 20:
        raise CannotJudge("it made fewer than 20 steps")
    if not went.known_reference:
        raise CannotJudge("what an answer that ignores the input would cost is not known for its loss")
    if went.learned >= 0.1:
        return
    yield Finding(
        problem="slow_convergence",
        severity="warning",
        where="loop",
        title="The training hardly learns, and no rule knows why",
        evidence=(Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),),
        cause="The loss stays near that of an answer that ignores the input. Step size, initialization, a missing "
        "connection between loss and parameters, or labels that do not belong to the inputs can be the reason.",
        source="",
        remedies=(
            "lr_scale(factor=10)",
            "lr_scale(factor=0.1)",
            "batch_norm",
            "standardize_inputs",
            "orthogonal_init",
            "lr_scale(factor=0.01)",
            "adam",
            "lsuv_init",
        ),
        confidence=0.5,
    )
