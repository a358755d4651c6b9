"""The judge: runs all rules over a run and puts what they find in order."""

from __future__ import annotations

import traceback

import msgspec

import trimtab.techniques  # noqa: F401 - remedies are techniques: reading them needs their names
from trimtab.doctor.curves import progress
from trimtab.doctor.rules import ALL
from trimtab.records import Evidence, Finding, Findings, Recording, RunRecord, TrainingRecord, as_run

_RANK = {"error": 0, "warning": 1, "info": 2}
CONTROLS = ("lr_scale(factor=0.3)", "lr_scale(factor=3)")
"""Arms that every treatment tries besides the remedies: a change of rate that needs no diagnosis. A remedy that does not
beat these has not shown that the diagnosis was worth anything (Kim et al., ICST 2023)."""


def diagnose(run: RunRecord | Recording) -> Findings:
    """What is wrong in a run, or in what a recorder has of one until now: findings, the gravest first and causes before their
    consequences.

    >>> diagnose(RunRecord(id="1", subject="nothing"))
    ()
    """
    run, found = as_run(run), list[Finding]()
    for training in run.trainings:
        of_this = _of_training(training)
        if len(run.trainings) > 1:
            of_this = [msgspec.structs.replace(finding, training=training.name) for finding in of_this]
        found += of_this
    return Findings(sorted(found, key=lambda finding: _RANK[finding.severity]))


def _of_training(training: TrainingRecord) -> list[Finding]:
    found: list[Finding] = []
    for rule in ALL:
        try:
            found += rule(training)
        except Exception as error:  # a rule that crashed is a result, not a missing result
            found.append(_crashed(rule.__name__, error))
    if not any(finding.severity != "info" for finding in found):
        found += _slow_convergence(training)
    return found


def _crashed(rule: str, error: Exception) -> Finding:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        problem="rule_error",
        severity="info",
        where=rule,
        title=f"The rule {rule} could not judge this run",
        evidence=(Evidence(text=f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"),),
        cause="An error in trimtab, not in your training.",
        source="",
    )


def _slow_convergence(training: TrainingRecord) -> list[Finding]:
    """The symptom without a cause: hardly anything was learned, and no rule knows why."""
    went = progress(training)
    if training.steps < 20 or not (went.known_reference and went.learned < 0.1):
        return []
    return [
        Finding(
            problem="slow_convergence",
            severity="warning",
            where="loop",
            title="The training hardly learns, and no rule knows why",
            evidence=(Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),),
            cause="The loss stays near that of an answer that ignores the input. Step size, initialization, a missing "
            "connection between loss and parameters, or labels that do not belong to the inputs can be the reason.",
            source="",
            remedies=("lr_scale(factor=10)", "lr_scale(factor=0.1)", "batch_norm", "standardize_inputs"),
            confidence=0.5,
        )
    ]
