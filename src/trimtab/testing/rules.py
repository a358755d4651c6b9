"""What every rule holds: it says when it cannot judge, never fails on an odd record, and its findings can be acted on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from trimtab.doctor.rule import CannotJudge, Rule
from trimtab.recipe import Recipe
from trimtab.records import Finding, Layer, Profile, Series, TrainingRecord


def check_rule(rule: Rule, fires: Sequence[TrainingRecord] = (), silent: Sequence[TrainingRecord] = ()) -> None:
    """Run the suite that all rules pass.

    Args:
        rule: what :func:`trimtab.doctor.rule.rule` makes.
        fires: records of trainings in which it must find its problem.
        silent: records of trainings in which it must find nothing.

    Raises:
        AssertionError: with what must hold.
    """
    name = rule.problem
    assert isinstance(rule, Rule), f"{rule!r} must be made by the decorator trimtab.doctor.rule.rule"
    assert rule.__doc__ and rule.__doc__ != Rule.__doc__, f"{name}: its docstring must say when it fires"
    assert all(rule.needs.values()), f"{name}: needs must say what is said where something is missing"
    for missing in rule.needs:
        for training in (TrainingRecord(name="training", model="Net"), _without(missing)):
            try:
                rule(training)
            except CannotJudge as reason:
                assert str(reason) in rule.needs.values() or str(reason), (
                    f"{name}: it cannot judge, and gives no reason"
                )
            else:
                raise AssertionError(f"{name}: it needs {missing!r}, and judges a training that has none")
    for training in odd_trainings():
        _findings(rule, training)
    for training in fires:
        found = _findings(rule, training)
        assert found, f"{name}: nothing is found in {training.name!r}, which has it"
    for training in silent:
        assert not _findings(rule, training), f"{name}: it fires in {training.name!r}, which does not have it"


def _findings(rule: Rule, training: TrainingRecord) -> list[Finding]:
    try:
        found = rule(training)
    except CannotJudge as reason:
        assert str(reason), f"{rule.problem}: it cannot judge, and gives no reason"
        return []
    for finding in found:
        check_finding(rule.problem, finding)
    return found


def check_finding(problem: str, finding: Finding) -> None:
    """A finding has the name of its rule, a place, evidence with numbers, a cause, and remedies that are recipes."""
    assert finding.problem == problem, f"{problem}: it gives a finding called {finding.problem!r}"
    assert finding.where and finding.title and finding.cause, f"{problem}: a finding needs where, title and cause"
    assert 0 < finding.confidence <= 1, f"{problem}: confidence={finding.confidence} must lie in (0, 1]"
    assert finding.evidence, f"{problem}: a finding without evidence is an opinion"
    for evidence in finding.evidence:
        assert evidence.text.strip(), f"{problem}: evidence needs a sentence"
    for remedy in finding.remedies:
        Recipe.parse(remedy)


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
