"""Races by hand: when arms are compared, who runs on, who wins, and what a field costs."""

import importlib
import math

import numpy as np
import pytest

from trimtab.records import Metric, RunRecord, Series, TrainingRecord, Trial
from trimtab.report.sentences import sentences
from trimtab.trial import race as module
from trimtab.trial.engines.engine import Engine, stopped
from trimtab.trial.live import Live, Report
from trimtab.trial.race import PRICE, Race, field_size, heats_of, leaves_something, winner
from trimtab.trial.rates import climb, lower, steps_of
from trimtab.trial.session import Session
from trimtab.trial.subjects import Script
from trimtab.trial.successes import Success, Tried, by_promise, known, remember, tried_in
from trimtab.trial.terms import Silent

TREAT = importlib.import_module("trimtab.trial.treat")
ACCURACY, LOSS = Metric(name="val accuracy", goal="max"), Metric(name="val loss", goal="min")


def series(values) -> Series:
    return Series(steps=tuple(range(len(values))), values=tuple(float(value) for value in values))


def ran(metric: Metric, recipe: str, values, step_seconds: float = 1.0, status="ok", share: float = 1.0) -> Trial:
    curve = series(values)
    value = curve.last if status == "ok" else math.nan
    return Trial(
        subject="s", recipe=recipe, seed=0, status=status, value=value, curves={metric.name: curve}, share=share,
        step_seconds=step_seconds, error="" if status == "ok" else "the loss is nan",
    )  # fmt: skip


def race(metric: Metric, untreated, **arms) -> Race:
    """A race whose arms have run to its only heat, the end; an arm is its course, or that with the cost of its steps."""
    found = Race(metric, series(untreated), (len(untreated),))
    found.trials[""] = ran(metric, "", untreated)
    for name, arm in arms.items():
        course, cost = arm if isinstance(arm, tuple) else (arm, 1.0)
        found.trials[name] = ran(metric, name, course, cost)
    found.first = {**found.trials, "lr_scale(factor=3)": found.trials[""]}
    found.ranked = sorted(arms, key=lambda name: -found.gain(name, len(untreated)))
    return found


def test_arms_are_compared_early_where_the_untreated_run_gets_better_to_its_end():
    assert heats_of(series(np.linspace(0.1, 0.6, 40)), ACCURACY, 4000) == (5, 10, 20, 40)
    assert heats_of(series([0.1] * 40), ACCURACY, 4000) == (5, 10, 20, 40)
    assert heats_of(series(np.linspace(2, 1, 8)), LOSS, 4000) == (1, 2, 4, 8)
    assert heats_of(series([0.5]), ACCURACY, 4000) == (1,)
    assert heats_of(series([2.0, 1.0, *[math.nan] * 38]), LOSS, 4000) == (5, 10, 20, 40)  # it diverged
    assert heats_of(series([0.1] * 40), ACCURACY, 400) == (20, 40)
    assert heats_of(series([0.1] * 40), ACCURACY, 100) == (40,)  # a short run is run whole


def test_of_a_run_that_overfits_arms_are_compared_late():
    falls = np.concatenate([np.linspace(1, 0.5, 10), np.linspace(0.5, 0.9, 30)])
    assert heats_of(series(falls), LOSS, 4000) == (20, 40)


@pytest.mark.parametrize("heats", [(5, 10, 20, 40), (20, 40), (1,)])
def test_a_field_is_as_large_as_its_price_allows(heats):
    of = 40 if heats[-1] > 1 else 1
    size = field_size([until / of for until in heats], 12)
    price, left = 0.0, size
    for until in heats:
        price, left = price + left * until / of, max(2, math.ceil(left / 3))
    assert 3 <= size <= 12 and (price <= PRICE or size == 3)
    assert field_size([until / of for until in heats], 2) == 2


def test_a_gain_is_that_of_the_last_quarter_and_never_that_of_a_trial_that_broke():
    found = race(LOSS, [1.0] * 8, good=[1, 1, 1, 1, 1, 1, 0.4, 0.6], broken=[1.0] * 8)
    found.trials["broken"] = ran(LOSS, "broken", [0.1], status="diverged")
    assert found.gain("good", 8) == pytest.approx(0.5)
    assert math.isnan(found.gain("broken", 8))
    best = race(Metric(name="val loss", goal="min", best=True), [1.0] * 8, good=[1, 0.2, 1, 1, 1, 1, 1, 1])
    assert best.gain("good", 8) == pytest.approx(0.8)
    diverged = race(LOSS, [math.nan] * 8, finite=[0.5] * 8)
    assert diverged.gain("finite", 8) > 0
    whole = race(ACCURACY, [0.5] * 8)
    whole.trials["thinned"] = ran(
        ACCURACY, "thinned", [0.5] * 100 + [0.9] * 100
    )  # a whole run keeps a course of its own length
    assert (whole.gain("thinned", 4), whole.gain("thinned", 8)) == (0, pytest.approx(0.4))


def test_who_is_clearly_behind_runs_no_further():
    noisy = 0.5 + 0.01 * np.random.default_rng(0).standard_normal(40)
    found = race(ACCURACY, noisy, a=noisy + 0.4, b=noisy + 0.3, near=noisy + 0.299, far=noisy + 0.1, worse=noisy - 0.1)
    there = module._on(found, list(found.trials)[1:], 40, last=True)
    assert there == ["a", "b", "near", "far"]
    assert found.why["worse"].code == "no_better"
    assert module._stay(found, there, 40) == ["a", "b", "near"]
    assert found.why["far"].code == "behind" and found.why["far"].values == {
        "share": 1.0, "leader": "a", "value": found.reached("far", 40), "than": found.reached("a", 40),
    }  # fmt: skip


def test_what_ended_on_its_way_is_out_with_its_reason():
    found = race(ACCURACY, [0.5] * 8, a=[0.9] * 8)
    found.trials["broken"] = ran(ACCURACY, "broken", [0.9], status="diverged")
    assert module._on(found, ["a", "broken"], 8, last=False) == ["a"]
    assert found.why["broken"].values == {"how": "diverged", "why": "the loss is nan"}


def test_a_cheaper_recipe_that_is_nearly_as_good_wins():
    dear = ([0.96] * 8, 3.0)
    assert winner(race(ACCURACY, [0.1] * 8, dear=dear, cheap=([0.95] * 8, 1.1))) == "cheap"
    assert winner(race(ACCURACY, [0.1] * 8, dear=dear, cheap=([0.8] * 8, 1.1))) == "dear"
    assert winner(race(ACCURACY, [0.1] * 8, a=[0.96] * 8, b=[0.95] * 8)) == "a"
    assert winner(race(ACCURACY, [0.1] * 8)) == ""
    # a little dearer is as dear: what steps take is noisy
    assert winner(race(ACCURACY, [0.1] * 8, a=([0.96] * 8, 1.7), b=([0.95] * 8, 1.5))) == "a"


def test_shares_are_those_of_the_steps_where_reports_come_irregularly():
    course = Series(steps=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), values=(0.1,) * 10)
    heats = heats_of(course, ACCURACY, 4096)
    assert heats == (7, 8, 9, 10)
    found = Race(ACCURACY, course, heats)
    assert [found.share(until) for until in heats] == [1 / 8, 1 / 4, 1 / 2, 1.0]
    found.trials["half"] = ran(ACCURACY, "half", [0.1] * 8 + [0.9], share=0.5)
    assert found.until("half") == 9 and found.reached("half", 9) == pytest.approx((0.1 + 0.9) / 2)
    at = Series(
        steps=(49, 99, 149, 199), values=(0.1,) * 4
    )  # steps that are counted from 0, and an end before the last step
    assert heats_of(at, ACCURACY, 400)[-1] == 4 and Race(ACCURACY, at, (2, 4)).share(2) == pytest.approx(0.5, abs=0.01)


def test_arms_are_shown_with_the_numbers_that_were_compared():
    found = race(LOSS, [4.0, 3, 2, 2, 2, 2, 1, 2], worse=[4.0, 3, 2, 2, 2, 2, 1.7, 2.1])
    found.trials[""] = ran(LOSS, "", [4.0, 3], share=0.25)
    module._on(found, ["worse"], 8, last=True)
    untreated, worse = found.runners()
    assert (untreated.recipe, untreated.share, untreated.value, untreated.cost) == ("", 1.0, 1.5, 1.0)
    assert worse.value == pytest.approx(1.9)
    assert sentences(worse.why) == ("No better than untreated at the end of a run: 1.9, not 1.5.",)


def test_two_are_put_together_only_where_something_is_left():
    assert not leaves_something(race(ACCURACY, [0.1] * 8, a=[0.97] * 8), "a")
    assert leaves_something(race(ACCURACY, [0.1] * 8, a=[0.7] * 8), "a")
    assert leaves_something(race(LOSS, [1.0] * 8, a=[0.2] * 8), "a")


class Cut:
    """A session whose time is over after so many heats."""

    def __init__(self, heats: int) -> None:
        self.metric, self.heats, self.said, self.expected, self.later = ACCURACY, heats, [], 9.3, 0.0

    def rounds(self, trials, share=1.0) -> float:
        return trials * share * self.expected

    def shares(self, recipes, seed, live, until, share, stage):
        self.heats -= 1
        if self.heats < 0:
            return {}
        courses = {"": [0.1] * until, "good": [0.8] * until, "fair": [0.6] * until, "poor": [0.1] * until}
        return {recipe: ran(ACCURACY, recipe, courses[recipe], share=share) for recipe in recipes}

    def say(self, said) -> None:
        self.said.append(said.code)


@pytest.mark.parametrize(("heats", "share"), [(4, 1.0), (2, 0.25), (1, 0.125)])
def test_a_race_that_is_cut_short_ends_with_what_was_known(heats, share):
    training = TrainingRecord(name="t", model="M", steps=4000, series={"val accuracy": series([0.1] * 40)})
    run = RunRecord(id="r", subject="s", trainings=(training,), metric=ACCURACY, seconds=9.0)
    found = module.race(Cut(heats), run, ["poor", "good", "fair"])
    assert winner(found) == "good" and found.trials["good"].share == share
    assert {one.recipe: one.share for one in found.runners()}["poor"] == 0.125
    assert winner(module.race(Cut(0), run, ["poor", "good"])) == ""


RATED = """\
import torch
torch.manual_seed(0)
x = torch.randn(256, 8)
y = x @ torch.arange(8.0).unsqueeze(1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(400):
    batch = torch.randint(256, (32,))
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
    optimizer.step()
"""


def test_the_first_steps_tell_a_rate_that_is_far_off(train, engine):
    train.write_text(RATED)
    with Session(train, engine=engine) as session:
        run = session.watch()
        assert session.best_rate(run, 0) == session.best_rate(run, 0) == 100
        session._longest = 199
        assert session.best_rate(run, 0) == 1  # too large a part of a run


class Finds(Engine):
    """Tells of a finding on the way to the share, and once a second that a trial is running."""

    def run(self, jobs, done, stop_at=0.0, report=None, keep=None):
        for job in jobs:
            ways = [Report(0, 44, 0.5), Report(1, 60, finding="the gradient explodes"), Report(-1, 70, loss=0.3)]
            assert [report(job, said) for said in ways] == ["", "", ""]
            end = Report(1, 87, 0.7, step_seconds=0.002)
            done(job, stopped(job, [*ways, end], report(job, end), 1.0))


def test_a_finding_or_a_pulse_does_not_stand_for_a_report(train):
    train.write_text("")
    ran = []

    class Told(Silent):
        def running(self, recipe, seed, step, of, loss):
            ran.append((recipe, seed, step, of, loss))

    with Session(train, engine=Finds(), progress=Told()) as session:
        session.metric, session.expected, session._steps = ACCURACY, 10.0, 344
        trials = session.shares(["", "batch_norm"], 0, Live(), 2, 0.25, "racing")
    assert [(one.status, one.value, one.step_seconds) for one in trials.values()] == 2 * [("ok", 0.7, 0.002)]
    assert ran == [("", 0, 70, 86, 0.3), ("batch_norm", 0, 70, 86, 0.3)]


class Farther:
    """A session that runs what is asked for, each to its course."""

    def __init__(self, **courses) -> None:
        self.courses, self.asked = {f"lr_scale(factor={float(by[1:]):g})": values for by, values in courses.items()}, []

    def shares(self, recipes, seed, live, until, share, stage):
        self.asked += recipes
        return {recipe: ran(ACCURACY, recipe, self.courses[recipe]) for recipe in recipes if recipe in self.courses}


def rates(**arms) -> Race:
    found = race(ACCURACY, [0.1] * 8)
    found.trials |= {f"lr_scale(factor={float(by[1:]):g})": ran(ACCURACY, "r", values) for by, values in arms.items()}
    return found


@pytest.mark.parametrize(
    ("raced", "best", "more", "asked", "chosen"),
    [
        ({"x3.0": [0.5] * 8, "x0.3": [0.1] * 8}, 3, {"x10.0": [0.8] * 8, "x30.0": [0.7] * 8}, [10, 30], 10),
        ({"x3.0": [0.5] * 8, "x0.3": [0.1] * 8}, 3, {"x10.0": [0.51] * 8}, [10], 3),  # not worth it
        ({"x3.0": [0.1] * 8, "x0.3": [0.5] * 8}, 0.3, {"x0.1": [0.6] * 8, "x0.03": [0.7] * 8}, [0.1, 0.03], 0.03),
        ({"x3.0": [0.5] * 8, "x10.0": [0.4] * 8}, 3, {}, [], 3),  # the next one was raced
        ({"x3.0": [0.5] * 8, "x0.3": [0.1] * 8}, 3, {}, [10], 3),  # the time was over
    ],
)
def test_the_outermost_rate_is_followed_while_the_next_is_better(raced, best, more, asked, chosen):
    run = RunRecord(
        id="r", subject="s", metric=ACCURACY, seconds=9.0,
        trainings=(TrainingRecord(name="t", model="M", steps=4000, series={"val accuracy": series([0.1] * 8)}),),
    )  # fmt: skip
    session = Farther(**more)
    found = TREAT._outermost(session, run, rates(**raced), f"lr_scale(factor={best:g})")
    assert session.asked == [f"lr_scale(factor={by:g})" for by in asked]
    assert found == f"lr_scale(factor={chosen:g})"


def test_the_rate_of_the_first_steps_races_before_the_controls():
    remedies = ["batch_norm", "adam", "ema", "dropout"]
    wanted = TREAT._by_turns([*remedies, *TREAT.CONTROLS])
    assert TREAT._with_rate(wanted, 1.0) == wanted == [*remedies[:3], *TREAT.CONTROLS, "dropout"]
    assert TREAT._with_rate(wanted, 10.0) == [*remedies[:3], "lr_scale(factor=10)", "lr_scale(factor=3)", "dropout"]
    rates = ["lr_scale(factor=100)", "lr_scale(factor=10)"]  # where it is far, with the one on the way there
    assert TREAT._with_rate(["lr_scale(factor=1000)", "adam"], 100.0) == [*rates, "lr_scale(factor=1000)", "adam"]
    assert TREAT._with_rate([*reversed(rates), "adam"], 100.0) == [*rates, "adam"]
    assert TREAT._with_rate(["adam"], 0.01) == ["adam", "lr_scale(factor=0.01)", "lr_scale(factor=0.1)"]
    assert TREAT._with_rate(wanted, 0.01) == [*remedies[:3], "lr_scale(factor=0.01)", "lr_scale(factor=0.1)", "dropout"]
    assert TREAT._with_rate(list(TREAT.CONTROLS), 0.1) == ["lr_scale(factor=0.1)", "lr_scale(factor=0.3)"]


@pytest.mark.parametrize(
    ("level", "best"),
    [
        (lambda power: abs(power - 3), 1000),
        (lambda power: abs(power + 2), 0.01),
        (lambda power: abs(power), 1),
        (lambda power: 1.0, 1),  # all the same
        (lambda power: abs(power - 3) if power < 2 else math.nan, 10),  # what diverges is no better
        (lambda power: -power, 1e5),  # not for ever
    ],
)
def test_rates_are_climbed_as_long_as_the_next_lowers_the_loss(level, best):
    noise = np.random.default_rng(0).normal(size=60)  # of the batches, which are the same at every rate

    def losses_at(factors):
        return {factor: series(level(math.log10(factor)) + noise) for factor in factors}

    assert climb(losses_at, losses_at([1.0])[1.0]) == pytest.approx(best)
    assert climb(lambda factors: {}, losses_at([1.0])[1.0]) == 1  # the time was over


def test_other_batches_hide_small_differences_and_an_early_end_is_no_better():
    draw = np.random.default_rng(0)
    ours, theirs = (series(level + draw.normal(size=60)) for level in (0.95, 1.0))
    assert not lower(ours, theirs) and lower(series([v - 0.05 for v in theirs.values]), theirs)
    assert not lower(series([v - 0.5 for v in theirs.values[:50]]), theirs)
    assert [steps_of(run) for run in (199, 200, 700, 5000)] == [0, 40, 70, 100]


def test_why_a_cheaper_one_was_taken_is_said():
    found = race(ACCURACY, [0.1] * 8, muon=([0.97] * 8, 2.7), norm=([0.96] * 8, 1.5))
    best = winner(found)
    (said,) = sentences(TREAT._cheaper(found, best))
    assert best == "norm" and said == (
        "In the race muon gained +0.87 for 2.7 times the cost of a step, norm +0.86 for 1.5 times: nearly as much at a lower price, so norm "
        "was taken."
    )
    assert TREAT._cheaper(race(ACCURACY, [0.1] * 8, muon=[0.97] * 8, norm=[0.9] * 8), "muon") == []


def test_costs_are_known_by_a_change_of_the_rate_where_the_untreated_run_diverged():
    found = race(LOSS, [1.0] * 8, dear=([0.5] * 8, 3.0))
    found.heats = (4, 8)
    found.first = {"": ran(LOSS, "", [1.0], step_seconds=0.0, status="diverged"), **found.first}
    found.first[""] = ran(LOSS, "", [1.0], step_seconds=0.0, status="diverged")
    found.first["lr_scale(factor=3)"] = ran(LOSS, "lr_scale(factor=3)", [1.0] * 8, step_seconds=1.5)
    assert (found.cost("dear"), found.cost("")) == (2.0, 1.0)


def test_what_a_race_has_shown_of_each_remedy_is_its_part_of_the_best_gain_where_it_ended():
    found = race(ACCURACY, [0.5] * 8, best=([0.9] * 8, 2.0), half=[0.7] * 8, worse=[0.4] * 8, broken=[0.9] * 8)
    found.trials["early"] = ran(ACCURACY, "early", [0.6] * 4, share=0.5)
    found.trials["broken"] = ran(ACCURACY, "broken", [0.9], status="failed")
    found.trials["refused"] = ran(ACCURACY, "refused", [0.5], status="no_effect")
    shown = tried_in(found)
    assert {name: one.part for name, one in shown.items()} == {
        "best": 1.0, "half": 0.5, "worse": 0.0, "broken": 0.0, "early": 0.25,
    }  # fmt: skip
    assert shown["best"].cost == 2.0


def test_what_helped_elsewhere_comes_first_and_the_subject_itself_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("")
    one, two = Script(tmp_path / "one.py"), Script(tmp_path / "two.py")
    named = [("vanishing_gradient", ("batch_norm", "he_init"))]
    before = known(one)
    remember(one, ["vanishing_gradient"], race(ACCURACY, [0.5] * 8, he_init=[0.9] * 8, batch_norm=[0.4] * 8))
    table = known(two)
    assert by_promise(named, table) == ["he_init", "batch_norm"]
    assert known(one) == before
    remember(one, ["vanishing_gradient"], race(ACCURACY, [0.5] * 8, he_init=[0.4] * 8, batch_norm=[0.9] * 8))
    assert len(known(two)) == len(table)  # the newest race of a subject takes the place of its last one
    assert by_promise(named, known(two)) == ["batch_norm", "he_init"]
    (file,) = (tmp_path / "state").rglob("successes.json")
    for nothing in ('{"one": 3}', '{"a":' * 200_000, "", '{"one": {"problems": []}}'):
        file.write_text(nothing)
        assert known(two) == {name: success for name, success in before.items() if name != "two.py"}
    file.unlink()
    file.mkdir()  # it cannot be written: that is done without, and nothing is left behind
    remember(one, ["vanishing_gradient"], race(ACCURACY, [0.5] * 8, he_init=[0.9] * 8))
    assert known(two) == {name: success for name, success in before.items() if name != "two.py"}
    assert [entry.name for entry in file.parent.iterdir()] == ["successes.json"]


def test_the_best_remedies_of_several_findings_come_by_turns_and_one_that_two_name_once():
    named = [("a", ("batch_norm", "clip_norm")), ("b", ("he_init", "batch_norm", "muon"))]
    assert by_promise(named, {}) == ["batch_norm", "he_init", "clip_norm", "muon"]
    dear = Success(problems=("b",), remedies={"he_init": Tried(part=1.0, cost=4.0)})
    assert by_promise(named, {"x": dear, "y": dear})[-1] == "he_init"
