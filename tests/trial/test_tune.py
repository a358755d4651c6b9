"""Searches: proposed, followed, stopped, resumed after a kill, and confirmed."""

from __future__ import annotations

import importlib
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import optuna
import pytest
from msgspec.structs import replace
from sklearn.datasets import load_digits

import trimtab as tt
from tests.trial.conftest import clusters, mark
from trimtab.records import Arm, Attempt, Comparison, Metric, Series, Trial, to_json
from trimtab.report.sentences import sentences
from trimtab.store import Store
from trimtab.trial.kept import StoreWarning
from trimtab.trial.live import Live, Report
from trimtab.trial.run import Job
from trimtab.trial.search import AGAIN, FINISHED, MissingOptuna, Search
from trimtab.trial.session import Session, TrialError
from trimtab.trial.space import Space, SpaceError
from trimtab.trial.subjects import Script

TUNE = importlib.import_module("trimtab.trial.tune")  # the name is also that of its function
ACCURACY, LOSS = Metric(name="val accuracy", goal="max"), Metric(name="val loss", goal="min")

# 600 handwritten digits with a rate that is a hundred times too low; every step and every end leaves a line.
DIGITS = """\
import os
import numpy as np
import torch
from torch import nn
torch.manual_seed(0)
data = np.load("digits.npz")
x, y = torch.tensor(data["x"]), torch.tensor(data["y"])
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
for epoch in range(8):
    for batch in torch.randperm(400).split(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        with open(os.environ["MARKS"] + "/steps.txt", "a") as f:
            print("step", file=f)
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(x[400:]), y[400:])
    print(f"epoch {epoch} is over")
with open(os.environ["MARKS"] + "/ends.txt", "a") as f:
    print(torch.initial_seed(), val_loss.item(), file=f)
"""


@pytest.fixture
def digits_script(train: Path) -> Path:
    images, labels = load_digits(return_X_y=True)
    np.savez(train.with_name("digits.npz"), x=(images[:600] / 8 - 1).astype(np.float32), y=labels[:600])
    train.write_text(DIGITS)
    return train


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# -- a whole search --------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_too_low_is_found_and_proven(digits_script, engine):
    space = ["lr_scale(factor=log(1e-2, 1e4)) | none", "dropout(p=uniform(0.1, 0.9)) | none"]
    found = tt.tune(digits_script, space, trials=12, seeds=3, candidates=2, engine=engine)
    assert found.metric.name == "val accuracy" and found.search == (
        "lr_scale(factor=log(0.01, 10000)) | none",
        "dropout(p=uniform(0.1, 0.9)) | none",
    )
    assert [attempt.number for attempt in found.attempts] == list(range(12))
    assert (
        found.attempts[0].recipe == "" and found.attempts[0].value == found.untreated < 0.4
    )  # the script as it is comes first
    assert len({attempt.recipe for attempt in found.attempts}) == 12
    factor = float(re.search(r"lr_scale\(factor=([0-9.]+)", found.recipe)[1])
    assert 5 <= factor <= 2000
    arm = found.confirmation.arm(found.recipe)
    assert arm.proven and arm.mean > found.untreated + 0.3 and arm.seeds == (1000, 1001, 1002)
    assert len(found.confirmation.arms) == 2
    assert arm.mean == max(arm.mean for arm in found.confirmation.arms if arm.proven)
    best = max((attempt for attempt in found.attempts if attempt.status == "ok"), key=lambda attempt: attempt.value)
    assert best.recipe in {arm.recipe for arm in found.confirmation.arms}
    assert f'tt.attach(model, optimizer).apply("{found.recipe}")' in found.lines
    assert found.words[0].startswith("Recipes tried on seed 0: 11, of which ")
    for attempt in found.attempts:
        assert attempt.status == "ok" or (attempt.error and math.isnan(attempt.value))
    assert sum(found.importances.values()) == pytest.approx(1) and next(iter(found.importances)) == "lr_scale.factor"
    with Store(digits_script.parent / ".trimtab") as store:
        assert to_json(store.tuning(found.run)) == to_json(found)  # NaN is not equal to itself
    # a trial that was followed is the trial that was not: others take it from the store
    with sqlite3.connect(digits_script.parent / ".trimtab" / "runs.db") as store:
        record = store.execute("select record from trial where instr(key, ?)", (f"|{best.recipe}|0|",)).fetchone()[0]
    kept, results = msgspec.msgpack.decode(record, type=Trial), []
    job = Job(Script(str(digits_script)), best.recipe, 0, found.metric)
    engine.run([job], lambda _, result: results.append(result.trial))
    took = {"seconds": 0, "step_seconds": 0, "memory": 0}
    assert replace(results[0], **took) == replace(kept, **took) and kept.value == best.value

    ran = lines(mark("ends.txt"))
    again = tt.tune(digits_script, space, trials=12, seeds=3, candidates=2, engine=engine)
    assert lines(mark("ends.txt")) == ran  # nothing is repeated
    assert (
        to_json(again.attempts) == to_json(found.attempts)
        and again.confirmation == found.confirmation
        and again.recipe == found.recipe
    )
    assert "Kept from before and not repeated: 11 of these." in again.words


def test_nothing_better_is_said(digits_script, engine):
    found = tt.tune(digits_script, "lr_scale(factor=choice(0.001, 0.01))", trials=9, seeds=2, engine=engine)
    assert found.recipe == "" and found.confirmation is None and found.lines == ()
    assert len(found.attempts) == 2
    assert found.words == (
        "Recipes tried on seed 0: 2, of which 2 came to an end.",
        "The search ended before 9 trials: the space holds no other recipe.",
        "No recipe was better than the untreated run on the seed of the search; nothing was confirmed.",
    )


def test_a_trial_that_was_stopped_is_not_kept_for_others(digits_script, engine):
    found = tt.tune(digits_script, "lr_scale(factor=choice(0.1, 1e30))", seeds=2, engine=engine)
    ends = {attempt.recipe: attempt.status for attempt in found.attempts}
    assert ends == {"lr_scale(factor=0.1)": "ok", "lr_scale(factor=1e+30)": "diverged"}
    assert found.words[0] == "Recipes tried on seed 0: 2, of which 1 came to an end, 1 diverged."
    with sqlite3.connect(digits_script.parent / ".trimtab" / "runs.db") as store:
        keys = [key for (key,) in store.execute("select key from trial")]
    assert any("|lr_scale(factor=0.1)|" in key for key in keys) and not any("1e+30" in key for key in keys)


def test_a_budget_for_nothing_says_so(train, engine):
    train.write_text(clusters())
    with Session(train, engine=engine) as session:
        session.watch()
    found = tt.tune(train, "lr_scale(factor=log(0.1, 10))", budget=0.01, engine=engine)
    assert found.words == ("The budget of 0.01 s was over before a recipe could be tried. Give more, or none.",)


def test_the_search_leaves_the_budget_to_the_confirmation(train, engine):
    train.write_text(clusters(rate=0.0005, begin="import time; time.sleep(0.3)"))
    with Session(train, engine=engine) as session:
        session.watch()  # starting the workers' server may take as long as the whole budget
    found = tt.tune(train, "lr_scale(factor=log(10, 100))", budget=8, seeds=2, candidates=1, engine=engine, trials=500)
    assert 1 <= len(found.attempts) < 500
    assert "The search ended before 500 trials: the budget of 8 s was over." in found.words
    assert found.confirmation is not None and len(found.confirmation.trials) >= 2 and found.seconds < 8 * 1.05 + 1


def test_recipes_that_fail_or_change_nothing_are_told(train, engine):
    train.write_text(
        clusters(begin="import sys", end="if len(model[0]._forward_hooks): pass").replace(
            "model.eval()", "model.eval()\n    if hasattr(model[0], 'norm'): raise ValueError('no norms here')"
        )
    )
    found = tt.tune(train, "batch_norm | batch_norm(after='conv') | none", seeds=2, engine=engine)
    ends = {attempt.recipe: attempt.status for attempt in found.attempts}
    assert ends == {"": "ok", "batch_norm": "failed", "batch_norm(after='conv')": "no_effect"}
    assert found.words[0] == "Recipes tried on seed 0: 2, of which 1 failed, 1 without effect."
    assert any(sentence.startswith("batch_norm failed: ValueError: no norms here") for sentence in found.words)


def test_wrong_arguments_are_refused_before_anything_runs(train):
    train.write_text("open('ran', 'w')")
    for wrong, message in (
        ({"search": "dropout(p=uniform(1, 0))"}, "must lie below"),
        ({"search": "ema | none", "trials": 0}, "trials=0 must be at least 1."),
        ({"search": "ema | none", "seeds": 1}, "seeds=1 must be at least 2."),
        ({"search": "ema | none", "candidates": 0}, "candidates=0 must be at least 1."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            tt.tune(train, **wrong)
    assert issubclass(SpaceError, ValueError) and not train.with_name("ran").exists()


# -- trials that are followed and stopped ----------------------------------------------------------------------------


def followed(engine, script: Path, recipe: str, live: Live, answer=lambda said: "") -> tuple[Trial, list[Report]]:
    """One live trial: how it ended, and what it said."""
    said, ended = [], []

    def report(job: Job, one: Report) -> str:
        if one.loss is not None:  # every second, of one that takes longer
            return ""
        said.append(one)
        return f"stopped: {one.diverged or one.finding}" if one.diverged or one.finding else answer(one)

    job = Job(Script(str(script)), recipe, 0, ACCURACY, live=live)
    engine.run([job], lambda _, result: ended.append(result.trial), report=report)
    return ended[0], said


def test_every_evaluation_is_reported_while_the_trial_runs(digits_script, engine):
    trial, said = followed(engine, digits_script, "lr_scale(factor=30)", Live())
    assert trial.status == "ok"
    assert [one.number for one in said] == list(range(7))  # the last one is complete when the script ends
    assert [one.step for one in said] == [17, 33, 49, 65, 81, 97, 113]  # 16 steps an epoch, heard of at the next one
    assert tuple(one.value for one in said) == trial.curves["val accuracy"].values[:7]
    trial, said = followed(engine, digits_script, "lr_scale(factor=30)", Live(stride=3))
    assert tuple(one.value for one in said) == trial.curves["val accuracy"].values[2:7:3]
    assert Live(stride=3).reports(trial.curves["val accuracy"], ACCURACY).values == tuple(one.value for one in said)


def test_a_trial_that_diverges_is_stopped_at_once(digits_script, engine):
    steps = mark("steps.txt")
    trial, said = followed(engine, digits_script, "lr_scale(factor=1e30)", Live())
    assert trial.status == "diverged" and math.isnan(trial.value)
    assert re.fullmatch(r"stopped: the loss is (nan|inf) at step \d+", trial.error)
    assert lines(steps) < 40 < 128 == 8 * 16
    assert lines(mark("ends.txt")) == 0
    assert said[-1].diverged


def test_a_trial_whose_weights_wander_is_stopped_by_the_doctor_unless_the_script_does_so_too(train, engine):
    train.write_text(clusters("nn.Linear(16, 24), nn.Tanh()", epochs=40))
    live = Live(every=16, rests=50)
    trial, _ = followed(engine, train, "lr_scale(factor=1000)", live)
    assert trial.status == "pruned"
    assert re.match(r"stopped: lr_too_high at step \d+: the learning rate is too high", trial.error)
    assert int(re.search(r"step (\d+)", trial.error)[1]) < 320 / 2
    trial, _ = followed(
        engine, train, "lr_scale(factor=1000)", replace_known(live, "lr_too_high", "exploding_gradient")
    )
    assert trial.status == "ok"


def replace_known(live: Live, *known: str) -> Live:
    import dataclasses

    return dataclasses.replace(live, known=known)


def test_a_stopped_trial_ends_and_keeps_what_it_has_told(digits_script, engine):
    trial, said = followed(
        engine, digits_script, "lr_scale(factor=30)", Live(), lambda one: "enough" if one.number == 2 else ""
    )
    assert (trial.status, trial.error) == ("pruned", "enough")
    assert trial.curves["val accuracy"].values == tuple(one.value for one in said[:3])
    ends = lines(mark("steps.txt"))
    time.sleep(0.3)
    assert lines(mark("steps.txt")) == ends < 128
    assert not list((digits_script.parent / ".trimtab" / "logs").glob("*.log"))


CATCHES = """\
import os, signal, time
def caught(*_):
    open(os.environ["MARKS"] + "/caught", "w").close()
signal.signal(signal.SIGTERM, caught)"""
SLOWLY = "model.eval()\n    time.sleep(0.05)\n    print(epoch, file=open(os.environ['MARKS'] + '/epochs.txt', 'a'))"


def test_a_script_that_catches_the_signal_is_heard_and_stopped_all_the_same(train, engine, monkeypatch):
    monkeypatch.setattr("trimtab.trial.engines.local.GRACE", 0.3)
    train.write_text(clusters(epochs=200, begin=CATCHES).replace("model.eval()", SLOWLY))
    trial, _ = followed(engine, train, "", Live(), lambda one: "enough")
    assert trial.status == "pruned" and mark("caught").exists()
    epochs = lines(mark("epochs.txt"))
    time.sleep(0.5)
    assert lines(mark("epochs.txt")) == epochs < 200


def test_a_live_trial_that_fails_says_how(train, engine):
    train.write_text(clusters(end="import os; os.kill(os.getpid(), 9)"))
    trial, said = followed(engine, train, "", Live())
    assert trial.status == "failed" and "SIGKILL" in trial.error and len(said) == 4


def test_the_training_loss_is_reported_as_means():
    loss = Metric(name="loss", goal="min")
    told = Live(every=4).reports(Series(steps=tuple(range(10)), values=tuple(map(float, range(10)))), loss)
    assert told == Series(steps=(3, 7), values=(1.5, 5.5))


# -- Optuna's side ---------------------------------------------------------------------------------------------------


def search(folder: Path | None, space: str | list[str], metric: Metric = LOSS, **options) -> Search:
    return Search(folder, "subject", Space.parse(space), metric, Live(), 9, **options)


def end(of: Search, recipe: str, value: float, status: str = "ok", told: tuple[float, ...] = ()) -> str:
    """Let a recipe report and end; gives the reason if it is pruned."""
    for number, one in enumerate(told):
        if reason := of.report(recipe, Report(number, 10 * number, one)):
            of.ended(Trial(subject="s", recipe=recipe, seed=0, status="pruned", error=reason), False)
            return reason
    of.ended(Trial(subject="s", recipe=recipe, seed=0, status=status, value=value), False)
    return ""


def test_a_search_closes_in_on_the_best(tmp_path):
    with search(None, ["lr_scale(factor=log(1e-3, 1e3))", "dropout(p=uniform(0.05, 0.95)) | none"]) as of:
        for recipe in of.recipes(40):
            factor = float(re.search(r"factor=([0-9.e-]+)", recipe)[1])
            end(of, recipe, (math.log10(factor) - 1) ** 2 + 0.2 * ("dropout" in recipe))
        late = [attempt for attempt in of.attempts if attempt.number >= 25]
        near = [abs(math.log10(attempt.at["lr_scale.factor"]) - 1) < 1 for attempt in late]
        assert sum(near) > len(near) / 2 > 2 / 6 * len(near)  # a blind draw is so near a third of the time
        shares, quantile = of.importances()
        assert (
            quantile == 5 / 40
            and max(shares, key=shares.get) == "lr_scale.factor"
            and sum(shares.values()) == pytest.approx(1)
        )


def test_a_trial_that_falls_behind_is_pruned_late_enough(tmp_path):
    with search(tmp_path, "lr_scale(factor=log(1e-3, 1e3))") as of:
        recipes = of.recipes(20)
        falling = np.linspace(0.9, 0.5, 9)
        for better in range(FINISHED):  # at the same report they have 0.8, 0.79, 0.78, 0.77 and 0.76, and so on
            assert end(of, next(recipes), 0.5, told=tuple(falling - 0.01 * better)) == ""
        bad = (2.0,) * 9
        reason = end(of, next(recipes), 2.0, told=bad)
        # 9 reports, so none of the first two decides
        assert reason == (
            "pruned at step 20: its best val loss so far is worse than three quarters of the finished trials had at that point (last 2)"
        )
        later = end(of, next(recipes), 0.1, told=(1.5, 0.785, 0.785, 0.785, *bad[:5]))
        assert later == reason.replace("step 20", "step 30").replace(
            "(last 2)", "(last 0.785)"
        )  # its best is what counts
        assert end(of, next(recipes), 0.1, told=(2.0, 2.0, 0.1, 2.0, 2.0)) == ""
        assert end(of, next(recipes), math.nan, told=(math.nan,) * 4).startswith("pruned at step 20")
        assert [attempt.status for attempt in of.attempts] == ["ok"] * 5 + ["pruned", "pruned", "ok", "pruned"]
        assert of.attempts[5].reports == Series(steps=(0, 10, 20), values=(2.0,) * 3)
    assert (
        of.report("unknown", Report(0, 7, diverged="the loss is nan at step 6")) == "stopped: the loss is nan at step 6"
    )


def test_a_finite_space_is_tried_once_and_whole():
    with search(None, "batch_norm | layer_norm | swa(start=int(10, 14)) | none") as of:
        recipes = list_all(of)
        assert sorted(recipes) == sorted(["", "batch_norm", "layer_norm", *(f"swa(start={i})" for i in range(10, 15))])
        assert recipes[0] == "" and of.exhausted


def list_all(of: Search) -> list[str]:
    recipes = []
    for recipe in of.recipes(100):
        recipes.append(recipe)
        end(of, recipe, float(len(recipes)))
    return recipes


def test_recipes_that_run_are_not_proposed_again():
    with search(None, "batch_norm | layer_norm | ema | none") as of:
        assert len({next(one) for one in [of.recipes(9)] for _ in range(4)}) == 4
        assert list(of.recipes(9)) == []


def test_recipes_that_clash_are_passed_over_and_told():
    with search(None, ["batch_norm | none", "batch_norm(momentum=0.2) | none"]) as of:
        assert sorted(list_all(of)) == ["", "batch_norm", "batch_norm(momentum=0.2)"]
        assert of.impossible == {
            "batch_norm, batch_norm(momentum=0.2)": "batch_norm stands 2 times in the recipe; keep one."
        }
    assert AGAIN < 100


def test_a_search_goes_on_where_it_was(tmp_path):
    space = ["lr_scale(factor=log(1e-3, 1e3)) | none", "group_norm(groups=choice(2, 4)) | none"]
    with search(tmp_path, space) as of:
        recipes = of.recipes(30)
        first = [next(recipes) for _ in range(6)]
        end(of, first[0], 0.7, told=(0.9, 0.8))
        end(of, first[1], math.nan, "diverged")
        end(of, first[2], math.nan, "failed")
        before = of.attempts
    with search(tmp_path, space) as of:  # three were running
        assert of.attempts == before and of.kept == 2  # the untreated run is counted where it is watched
        recipes = of.recipes(30)
        assert [next(recipes) for _ in range(3)] == first[3:]
        assert next(recipes) not in first
        end(of, first[3], 0.6)
        assert [attempt.recipe for attempt in of.attempts] == first[:4]
    with search(tmp_path, space, ACCURACY) as other, search(tmp_path, space[:1]) as another:  # each a study of its own
        assert other.attempts == another.attempts == ()
    with search(tmp_path, space, fresh=True) as of:
        assert of.attempts == () and next(of.recipes(3)) == ""


def test_a_search_that_goes_on_does_not_draw_its_first_recipes_again(tmp_path):
    for _ in range(2):
        with search(tmp_path, "lr_scale(factor=log(1e-3, 1e3))") as of:
            recipes = of.recipes(30)
            for _ in range(3):
                end(of, next(recipes), 0.5)
    assert len(of.attempts) == 6
    storage = f"sqlite:///{tmp_path}/tune.db"
    (name,) = optuna.study.get_all_study_names(storage)
    assert len(optuna.load_study(study_name=name, storage=storage).trials) == 6  # none that was passed over


def test_trials_that_were_kept_elsewhere_report_too(tmp_path):
    values = tuple(0.9 - 0.01 * i for i in range(9))
    curve = Series(steps=tuple(range(9)), values=values)
    with search(tmp_path, "lr_scale(factor=log(1e-3, 1e3)) | none") as of:
        recipe = next(of.recipes(3))
        of.ended(Trial(subject="s", recipe=recipe, seed=0, status="ok", value=0.8, curves={"val loss": curve}), True)
        assert of.attempts[0].reports == curve and of.kept == 1


def test_the_same_search_twice_at_a_time_is_refused(tmp_path):
    with search(tmp_path, "ema | none"):
        with pytest.raises(TrialError, match="The same search is running already, in another process"):
            search(tmp_path, "ema | none")
        with search(tmp_path, "swa | none") as other:
            assert next(other.recipes(1)) == ""
    with search(tmp_path, "ema | none") as of:
        assert next(of.recipes(1)) == ""


def test_a_damaged_file_is_said_and_the_search_goes_on(tmp_path):
    (tmp_path / "tune.db").write_text("this is not a database, it is a text of some length" * 50)
    with pytest.warns(StoreWarning, match=r"cannot open it \(.*not a database.*\)\. This search goes on in memory"):
        of = search(tmp_path, "ema | swa | none")
    with of:
        assert len(list_all(of)) == 3


def test_a_store_that_fails_on_the_way_ends_the_search_plainly(tmp_path):
    with search(tmp_path, "lr_scale(factor=log(1e-3, 1e3))") as of:
        recipe = next(of.recipes(3))
        with sqlite3.connect(tmp_path / "tune.db") as db:
            db.execute("drop table trial_intermediate_values")
        db.close()
        said = r"cannot write to .*tune\.db any more \(.*no such table.*\)\. What is finished is kept: make room, and start again\."
        with pytest.raises(TrialError, match=said):
            of.report(recipe, Report(0, 4, 0.5))


def test_optuna_is_as_it_was_before(tmp_path, capfd):
    before = optuna.logging.get_verbosity()
    with search(tmp_path, "lr_scale(factor=log(1e-3, 1e3)) | none") as of:
        for recipe in of.recipes(14):
            end(of, recipe, float(len(recipe)), told=(0.5,))
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TrialError), search(tmp_path, "ema | none"), search(tmp_path, "ema | none"):
        pass
    assert optuna.logging.get_verbosity() == before


def test_importances_take_enough_trials():
    with search(None, ["lr_scale(factor=log(1e-3, 1e3))", "ema | swa"]) as of:
        for number, recipe in enumerate(of.recipes(12)):
            shares, quantile = of.importances()
            assert (
                (shares == {} and quantile == 0)
                if number < 10
                else (sum(shares.values()) > 0 and quantile == 5 / number)
            )
            end(of, recipe, math.nan if number % 2 else float(number), "diverged" if number % 2 else "ok")


def test_trials_without_a_number_are_not_among_the_best_that_importances_look_at(monkeypatch):
    monkeypatch.setattr("trimtab.trial.search.STARTUP", 100)  # all are drawn blindly
    with search(None, ["lr_scale(factor=log(1e-3, 1e3))", "ema | swa"]) as of:
        for number, recipe in enumerate(of.recipes(60)):
            end(of, recipe, float("swa" in recipe), "diverged" if number % 2 else "ok")
        assert of.importances()[0]["ema | swa"] > 0.8


# -- choosing --------------------------------------------------------------------------------------------------------


def test_the_best_of_the_search_are_better_than_untreated_and_simple():
    def attempt(number: int, recipe: str, value: float, status: str = "ok") -> Attempt:
        return Attempt(number=number, recipe=recipe, status=status, value=value)

    attempts = [
        attempt(0, "", 0.5), attempt(1, "he_init, ema", 0.9), attempt(2, "ema", 0.9), attempt(3, "swa", 0.9), attempt(4, "he_init", 0.95),
        attempt(5, "batch_norm", 0.5), attempt(6, "layer_norm", math.nan, "diverged"), attempt(7, "rms_norm", 0.4),
    ]  # fmt: skip
    assert [one.recipe for one in TUNE._best(attempts, ACCURACY, 0.5)] == ["he_init", "ema", "swa", "he_init, ema"]
    assert [one.recipe for one in TUNE._best(attempts, LOSS, 0.5)] == ["rms_norm"]
    assert (
        TUNE._best(attempts, ACCURACY, math.nan)[-1].recipe == "rms_norm"
    )  # where the untreated run diverged, all are better


def test_the_winner_is_proven():
    def arm(recipe: str, mean: float, low: float, **lost: int) -> Arm:
        return Arm(recipe=recipe, seeds=(0, 1), values=(mean, mean), differences=(0.1, 0.2), mean=mean, effect=0.15, low=low,
                   high=0.4, p=0.02, p_sign=0.5, p_holm=0.02, wins=2, **lost)  # fmt: skip

    def compared(*arms: Arm) -> Comparison:
        return Comparison(subject="s", metric=ACCURACY, seeds=(0, 1), baseline=(0.5, 0.5), arms=arms)

    best = compared(
        arm("adam", 0.99, -0.1), arm("batch_norm", 0.9, 0.1), arm("dropout", 0.8, 0.1), arm("l2", 0.98, 0.1, diverged=1)
    )
    assert TUNE._winner(best).recipe == "batch_norm"
    assert "best of 2 proven recipes" in sentences(TUNE._doubts(best, TUNE._winner(best)))[0]
    none = compared(arm("adam", 0.9, -0.1), arm("batch_norm", 0.95, -0.2))
    assert TUNE._winner(none) is None
    assert sentences(TUNE._doubts(none, None))[0].startswith(
        "batch_norm: The interval of the confirmed effect includes zero"
    )
    alone = replace(arm("clip_norm", 0.7, -math.inf), differences=())  # untreated, every seed diverged
    assert TUNE._winner(compared(alone)).recipe == "clip_norm"


# -- an optional package -----------------------------------------------------------------------------------------------


def test_without_optuna_the_message_says_how_to_get_it(train, monkeypatch):
    train.write_text("open('ran', 'w')")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        MissingOptuna, match=r"^Searching needs Optuna \(.*\)\. Install it: pip install 'trimtab\[tune\]'$"
    ):
        tt.tune(train, "ema | none")
    assert not train.with_name("ran").exists()


def test_nothing_else_imports_optuna():
    code = "import sys, trimtab as tt; tt.tune, tt.compare; import trimtab.trial.engines.preload, trimtab.cli.tune; print('optuna' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


# -- killed, and resumed -----------------------------------------------------------------------------------------------

DRIVER = """\
import trimtab as tt
from trimtab.trial.engines import LocalEngine
engine = LocalEngine(2)
engine.threads = 1
found = tt.tune("train.py", "lr_scale(factor=log(0.1, 1e3)) | none", trials=7, seeds=2, candidates=1, engine=engine)
print(len(found.attempts), found.recipe, sum(attempt.status == "ok" for attempt in found.attempts))
"""


def test_a_search_that_was_killed_goes_on_and_leaves_the_training_alone(digits_script, tmp_path):
    plain = [sys.executable, "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    before = subprocess.run(plain, capture_output=True, check=True, env=environment).stdout
    text, ends = digits_script.read_bytes(), mark("ends.txt")
    ends.unlink()
    (tmp_path / "drive.py").write_text(DRIVER)
    command = [sys.executable, "drive.py"]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while lines(ends) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(0.5)  # its workers notice
    ran = ends.read_text()

    assert subprocess.run(plain, capture_output=True, check=True, env=environment).stdout == before
    assert digits_script.read_bytes() == text
    ends.write_text(ran)
    storage = f"sqlite:///{tmp_path}/.trimtab/tune.db"
    (study,) = optuna.study.get_all_study_names(storage)
    trials = optuna.load_study(study_name=study, storage=storage).trials
    kept = sum(
        trial.user_attrs.get("status") == "ok" for trial in trials
    )  # the untreated one ended when it was watched
    assert 1 <= kept <= lines(ends) <= kept + 2  # two at a time may have ended without being written down

    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert resumed.stderr == ""
    attempts, recipe, _ = re.fullmatch(r"(\d+) (\S+) (\d+)\n", resumed.stdout).groups()
    assert attempts == "7" and recipe.startswith("lr_scale")
    results = ends.read_text().splitlines()  # a seed and a loss to the last digit: no two recipes have the same
    assert len(results) - len(set(results)) <= lines_of(ran) - kept  # what was written down is not run again


def lines_of(text: str) -> int:
    return len(text.splitlines())
