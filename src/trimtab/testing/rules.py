"""What every rule holds: it says when it cannot judge, never fails on an odd record, and its findings can be acted on."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from msgspec.structs import replace

from trimtab.doctor.rule import CannotJudge, Rule
from trimtab.recipe import Recipe
from trimtab.records import Evidence, Finding, Layer, Profile, Series, Severity, TrainingRecord, to_bytes
from trimtab.testing.traces import blamed, described, name_of


def check_rule(rule: Rule, fires: Sequence[TrainingRecord] = (), silent: Sequence[TrainingRecord] = ()) -> None:
    """Run the suite that all rules pass.

    Args:
        rule: what :func:`trimtab.doctor.rule.rule` makes.
        fires: records of trainings in which it must find its problem.
        silent: records of trainings in which it must find nothing.

    Raises:
        AssertionError: with what must hold.
    """
    name = _name(rule)
    assert isinstance(rule, Rule), (
        f"{name}: it must be made by the decorator @rule(needs={{...}}) of trimtab.doctor.rule, and is {described(rule)}"
    )
    assert rule.__doc__ and rule.__doc__ != Rule.__doc__, f"{name}: its docstring must say when it fires"
    assert isinstance(rule.needs, Mapping), f"{name}: needs must be a dict, from what is needed to what is said without"
    assert all(isinstance(said, str) and said.strip() for said in rule.needs.values()), (
        f"{name}: needs must say what is said where something is missing"
    )
    for missing in rule.needs:
        for training in (TrainingRecord(name="training", model="Net"), _without(missing)):
            asked = Asked(rule, training)
            assert asked.reason, f"{name}: it needs {missing!r}, and judges a training that has none"
            assert asked.explicit or asked.reason in rule.needs.values(), (
                f"{name}: without {missing!r} it says {asked.reason!r}, which its needs do not have"
            )
    for training in odd_trainings():
        Asked(rule, training)
    for training in fires:
        asked = Asked(rule, training)
        assert not asked.reason, (
            f"{name}: nothing is found in {training.name!r}, which has it: it cannot judge, since {asked.reason}"
        )
        assert asked.found, f"{name}: nothing is found in {training.name!r}, which has it"
    for training in (healthy(), *silent):
        found = Asked(rule, training).found
        assert not found, f"{name}: it fires in {training.name!r}, which does not have it: {found[0].title}"


def _name(rule: Any) -> str:
    if isinstance(rule, Rule):
        return rule.problem
    given = inspect.getclosurevars(rule).nonlocals.get("needs") if inspect.isfunction(rule) else None
    return name_of(given if callable(given) else rule)  # of the function below a decorator that was not called


class Asked:
    """What a rule says of a record, which it must leave as it is.

    Attributes:
        found: its findings.
        reason: why it cannot judge; empty where it can.
        explicit: whether its own function has said so.

    Raises:
        AssertionError: where it fails, or what it says does not hold.
    """

    def __init__(self, rule: Rule, training: TrainingRecord) -> None:
        self.rule, self.found, self.reason, self.explicit = rule, list[Finding](), "", False
        said, before = f"{rule.problem}: on the record {training.name!r} it", to_bytes(training)
        with blamed(rule.problem, f"on the record {training.name!r} it must judge, or raise CannotJudge, and"):
            self.found = self._judged(training, said)
        assert to_bytes(training) == before, f"{said} changes the record, which others read too"
        with blamed(rule.problem, f"on the record {training.name!r} it gives a finding that"):
            for finding in self.found:
                check_finding(rule.problem, finding, training)

    def _judged(self, training: TrainingRecord, said: str) -> list[Finding]:
        def judge(training: TrainingRecord) -> Iterable[Finding]:
            try:
                given = self.rule.judge(training)
                assert isinstance(given, Iterable), f"{said} must yield findings, and gives {described(given)}"
                return list(given)
            except CannotJudge:
                self.explicit = True
                raise

        try:
            return dataclasses.replace(self.rule, judge=judge)(training)
        except CannotJudge as reason:
            self.reason = str(reason).strip()
            assert self.reason, f"{said} cannot judge, and gives no reason"
            return []


def check_finding(problem: str, finding: Finding, training: TrainingRecord | None = None) -> None:
    """A finding has the name of its rule, a place, evidence with numbers of the record, a cause, and remedies that are recipes."""
    of = f"{problem}: on the record {training.name!r} it gives" if training is not None else f"{problem}: it gives"
    assert isinstance(finding, Finding), f"{of} {described(finding)}, and must give findings"
    assert finding.problem == problem, f"{of} a finding called {finding.problem!r}"
    assert finding.severity in get_args(Severity), (
        f"{of} a finding of severity {finding.severity!r}, and it must be one of {', '.join(get_args(Severity))}"
    )
    assert finding.where and finding.title and finding.cause, f"{problem}: a finding needs where, title and cause"
    assert 0 < finding.confidence <= 1, f"{problem}: confidence={finding.confidence} must lie in (0, 1]"
    assert finding.evidence, f"{problem}: a finding without evidence is an opinion"
    for evidence in finding.evidence:
        assert isinstance(evidence, Evidence) and evidence.text.strip(), f"{problem}: evidence needs a sentence"
        _check_shown(of, evidence, training)
    assert any(evidence.numbers for evidence in finding.evidence), (
        f"{of} a finding whose evidence has no numbers; one at least must have some, such as numbers={{'lr': 0.1}}"
    )
    assert isinstance(finding.remedies, tuple), (
        f"{of} a finding with remedies={finding.remedies!r} must be a tuple of recipes"
    )
    for remedy in finding.remedies:
        try:
            recipe = Recipe.parse(remedy)
        except Exception as error:
            raise AssertionError(f"{of} the remedy {remedy!r}, which is no recipe: {error}") from error
        assert len(recipe), f"{of} a remedy that is empty"


def _check_shown(of: str, evidence: Evidence, training: TrainingRecord | None) -> None:
    assert isinstance(evidence.shows, tuple), f"{of} evidence that shows={evidence.shows!r}, which must be a tuple"
    numbers = all(isinstance(value, (int, float)) for value in evidence.numbers.values())
    assert numbers, f"{of} evidence with numbers={evidence.numbers!r}, which must be numbers by their names"
    if training is not None:
        unknown = [name for name in evidence.shows if name not in training.series | training.profiles]
        assert not unknown, f"{of} evidence that shows {unknown[0]!r}, and the record has no such series or profile"


def odd_trainings() -> Iterator[TrainingRecord]:
    """Records as they come: of nothing, of one step, of numbers that are none, of layers without numbers, whole ones."""
    yield TrainingRecord(name="empty", model="Net")
    whole = healthy()
    yield whole
    yield replace(whole, name="without layers", layers=(), profiles={})
    yield replace(whole, name="one step", steps=1, series={k: _cut(v, 1) for k, v in whole.series.items()})
    yield replace(whole, name="not a number", series={k: _all(v, math.nan) for k, v in whole.series.items()})
    yield replace(whole, name="infinite", series={k: _all(v, math.inf) for k, v in whole.series.items()})
    yield replace(whole, name="zero", series={k: _all(v, 0.0) for k, v in whole.series.items()})
    yield replace(
        whole, name="profiles without rows", profiles={k: Profile(names=v.names) for k, v in whole.profiles.items()}
    )
    for value in (math.nan, 0.0, 1.0):
        rows = {k: replace(v, rows=tuple((value,) * len(v.names) for _ in v.steps)) for k, v in whole.profiles.items()}
        yield replace(whole, name=f"profiles of {value}", profiles=rows)


def healthy(steps: int = 400) -> TrainingRecord:
    """A training that goes well: the loss falls to a tenth, gradients and updates are usual, data are shuffled."""
    names = [f"net.{i}" for i in range(0, 12, 2)]
    layers = tuple(Layer(name=n, kind="Linear", parameters=(f"{n}.weight", f"{n}.bias"), units=32) for n in names)
    weights = tuple(f"{n}.weight" for n in names)
    sampled = range(0, steps, 10)
    every = tuple(range(steps))

    def series(value: float, end: float) -> Series:
        values = (value * (end / value) ** (i / steps) * (1 + 0.02 * math.sin(7 * i)) for i in every)
        return Series(steps=every, values=tuple(values))

    def profile(columns: Sequence[str], value: float) -> Profile:
        rows = tuple(tuple(value * (1 + 0.1 * math.sin(i + s)) for i, _ in enumerate(columns)) for s in sampled)
        return Profile(names=tuple(columns), steps=tuple(sampled), rows=rows)

    return TrainingRecord(
        name="healthy", model="Net", optimizers=("SGD",), steps=steps, layers=layers,
        series={
            "loss": series(2.3, 0.2), "val loss": series(2.3, 0.3), "val accuracy": series(0.1, 0.9), "lr": series(0.1, 0.1),
            "grad_norm": series(1.0, 0.5), "movement": series(0.01, 0.6), "input_largest": series(1.2, 1.2),
            "input_typical": series(1.0, 1.0), "label_grouping": series(1e-3, 1e-3), "label_grouping_p": series(0.6, 0.6),
        },
        profiles={
            "grad_norms": profile(weights, 0.1), "update_ratio": profile(weights, 1e-3),
            "activation_std": profile(names, 1.0), "activation_mean": profile(names, 0.1), "dead_units": profile(names, 0.01),
        },
        facts={"parameters": 6000.0, "classes": 10.0, "constant_loss": 2.303},
    )  # fmt: skip


def _without(name: str) -> TrainingRecord:
    whole = healthy()
    if name == "layers":
        return replace(whole, layers=())
    series = {key: value for key, value in whole.series.items() if key != name}
    return replace(whole, series=series, profiles={k: v for k, v in whole.profiles.items() if k != name})


def _cut(series: Series, most: int) -> Series:
    return Series(steps=series.steps[:most], values=series.values[:most])


def _all(series: Series, value: float) -> Series:
    return Series(steps=series.steps, values=(value,) * len(series.steps))
