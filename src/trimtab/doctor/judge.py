"""The judge: runs all rules over a run and puts what they find in order."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from trimtab.doctor.present import unused
from trimtab.doctor.rule import CannotJudge, Rule
from trimtab.doctor.rules import all_rules
from trimtab.members import package_of, said
from trimtab.records import Evidence, Finding, Findings, Recording, RunRecord, TrainingRecord, as_run

_RANK = {"error": 0, "warning": 1, "info": 2}


def diagnose(run: RunRecord | Recording) -> Findings:
    """What is wrong in a run, or in what a recorder has of one until now: findings, the gravest first and causes before their
    consequences, and what no rule could judge.

    >>> diagnose(RunRecord(id="1", subject="nothing"))
    ()
    """
    run, found, unjudged = as_run(run), list[tuple[int, Finding]](), list[dict[str, str]]()
    for number, training in enumerate(run.trainings, 1):
        judged = msgspec.structs.replace(training, metric=run.metric)
        of_this, reasons = _of_training(judged)
        found += [(number, finding) for finding in of_this]
        unjudged += [reasons] * bool(training.steps)
    ranked = sorted(_once(run, found), key=lambda finding: _RANK[finding.severity])
    lacking = (
        {rule: reason for rule, reason in unjudged[0].items() if all(rule in of for of in unjudged)} if unjudged else {}
    )
    return Findings(ranked, asked=len(all_rules()), unjudged=lacking)


def _of_training(training: TrainingRecord) -> tuple[list[Finding], dict[str, str]]:
    found: list[Finding] = []
    unjudged: dict[str, str] = {}
    asked = all_rules()
    for rule in asked:
        if rule.otherwise and any(finding.severity != "info" for finding in found):
            continue
        try:
            given = [(one, _wrong(one)) for one in rule(training)]
            found += (one for one, wrong in given if not wrong)
            found += (_failed(rule, wrong) for wrong in dict.fromkeys(wrong for _, wrong in given if wrong))
        except CannotJudge as reason:
            unjudged[rule.problem] = str(reason)
        except Exception as error:  # a rule that crashed is a result, not a missing result
            found.append(_crashed(rule, error))
    explains = {rule.problem: rule.explains for rule in asked}
    if training.facts.get("first_nonfinite_loss") == 0:  # from the start: nothing that came later has caused it
        explains = {"nan_source": tuple(one.problem for one in found)}
    return [
        msgspec.structs.replace(one, remedies=unused(one.remedies, training)) for one in _folded(found, explains)
    ], unjudged


def _folded(found: list[Finding], consequences: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Findings of one cause as one: the cause, with what follows from it."""
    left = list(found)
    for cause in found:  # in causal order
        follow = [one for one in left if one is not cause and one.problem in consequences.get(cause.problem, ())]
        if cause not in left or cause.severity == "info" or not follow:
            continue
        said = "; ".join(f"{one.title[0].lower()}{one.title[1:]} ({one.problem})" for one in follow)
        whole = msgspec.structs.replace(
            cause,
            severity=min((one.severity for one in (cause, *follow)), key=_RANK.__getitem__),
            evidence=(*cause.evidence, Evidence(text=f"It shows in other ways, too: {said}.")),
            consequences=tuple(one.problem for one in follow),
        )
        left = [whole if one is cause else one for one in left if one not in follow]
    return left


def _once(run: RunRecord, found: list[tuple[int, Finding]]) -> Iterator[Finding]:
    """What is found in several trainings of one kind (the folds of a cross-validation) is one finding, the gravest, that says in which."""
    if len(run.trainings) < 2:
        yield from (finding for _, finding in found)
        return
    kinds = [(one.model, one.optimizers, one.facts.get("parameters")) for one in run.trainings]
    groups: dict[Any, list[tuple[int, Finding]]] = {}
    for number, finding in found:
        what = finding.where if finding.problem == "rule_error" else finding.problem
        groups.setdefault((what, kinds[number - 1]), []).append((number, finding))
    for (_, kind), group in groups.items():
        stepped = (number for number, one in enumerate(run.trainings, 1) if one.steps)  # what never trained is no fold
        alike = [number for number in stepped if kinds[number - 1] == kind]
        number, finding = min(group, key=lambda one: _RANK[one[1].severity])
        title = finding.title
        if len(alike) > 1:
            pairs = itertools.pairwise(run.trainings[number - 1] for number in alike)
            noun = "fold" if all(after.began >= before.ended for before, after in pairs) else "training"
            names = ", ".join(str(1 + alike.index(number)) for number, _ in group)
            title += f", in {noun}{'s' * (len(group) > 1)} {names} of {len(alike)}"
        yield msgspec.structs.replace(finding, title=title, training=run.trainings[number - 1].name)


def _wrong(finding: object) -> str:
    """What is wrong with what a rule gives as a finding; empty if nothing is."""
    if not isinstance(finding, Finding):
        return f"A rule must give findings, and gave a {type(finding).__name__}."
    try:
        msgspec.convert(msgspec.to_builtins(finding), Finding)
    except (TypeError, ValueError) as error:
        return f"It gave a finding whose fields are not what they must be: {error}."
    return "" if finding.title else "It gave a finding without a title."


def _crashed(rule: Rule, error: Exception) -> Finding:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _failed(rule, f"{said(error)} ({place.name}, line {place.lineno})")


def _failed(rule: Rule, why: str) -> Finding:
    package = package_of("rules", rule)
    return Finding(
        problem="rule_error",
        severity="info",
        where=rule.problem,
        title=f"The rule {rule.problem}{f' of {package}' if package else ''} could not judge this run",
        evidence=(Evidence(text=why),),
        cause=f"An error in {package or 'trimtab'}, not in your training.",
        source="",
    )
