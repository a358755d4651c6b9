"""Treatments from the watched run to the lines that keep them, resumed after a kill, within a budget."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

import trimtab as tt
from tests.trial.conftest import DEEP, clusters, mark
from trimtab.recipe import Recipe
from trimtab.records import Arm, Comparison, Finding, Metric, Trial
from trimtab.report.sentences import sentences
from trimtab.store import Store
from trimtab.trial.confirm import FRESH
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.run import Job
from trimtab.trial.session import Session, TrialError
from trimtab.trial.subjects import Script
from trimtab.trial.terms import Silent
from trimtab.trial.treat import treat_watched

TREAT = importlib.import_module("trimtab.trial.treat")  # the name is also that of its function
SICK = clusters(DEEP, epochs=16)
COUNTED = "import os\nwith open(os.environ['MARKS'] + '/runs.txt', 'a') as f:\n    print(torch.initial_seed(), file=f)"


def test_a_sick_script_is_treated_and_the_lines_keep_the_effect(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "MOST", 2)  # the first two remedies and the controls: the others would only take time
    train.write_text(SICK)
    found = tt.treat(train, seeds=3, engine=engine)
    assert "vanishing_gradient" in {finding.problem for finding in found.findings}
    assert found.metric.name == "val accuracy"
    (arm,) = found.confirmation.arms
    assert arm.recipe == found.recipe
    assert arm.seeds == (FRESH, FRESH + 1, FRESH + 2)
    assert arm.effect > 0.4
    assert arm.cost > 0.5 and 0.9 < arm.memory < 1.5  # the steps of a tiny network are mostly noise
    untreated, *runners = found.race
    assert (untreated.recipe, untreated.share) == ("", 1.0)  # a short script is run whole
    assert {runner.recipe for runner in runners} >= {found.recipe, *TREAT.CONTROLS}
    assert any("plain changes of learning rate" in sentence for sentence in found.words)
    with Store(train.parent / ".trimtab") as store:
        assert store.treatment(found.run) == found
        assert store.run(found.run).main.code.optimizer_name == "optimizer"

    # the lines, put where they say, give by hand what the trial of seed 0 gave
    where, *lines = found.lines
    number = int(re.fullmatch(r"# in train.py, after line (\d+): optimizer = torch.optim.SGD\(.*", where)[1])
    assert [arm.lines for arm in found.confirmation.arms] == [found.lines]
    text = SICK.splitlines()
    train.with_name("by_hand.py").write_text("\n".join([*text[:number], *lines, *text[number:]]))
    command = [sys.executable, str(train.with_name("by_hand.py"))]
    by_hand = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    results = []
    engine.run([Job(Script(str(train)), found.recipe, 0, found.metric)], lambda job, result: results.append(result))
    assert by_hand.stdout.strip() == results[0].run.output_tail
    with Store(train.parent / ".trimtab") as store:
        assert results[0].trial.value > store.run(found.run).reached + 0.4


def test_a_thorough_treatment_tries_whole_runs_on_three_seeds(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "_candidates", lambda *_: ["batch_norm", "lr_scale(factor=0.3)"])
    train.write_text(SICK)
    found = tt.treat(train, seeds=2, engine=engine, thorough=True)
    assert found.recipe == "batch_norm" and found.race == ()
    assert {(trial.seed, trial.share) for trial in found.search.trials} == {(0, 1.0), (1, 1.0), (2, 1.0)}
    assert [arm.seeds for arm in found.confirmation.arms] == [(FRESH, FRESH + 1)]


def test_a_treatment_starts_from_a_run_that_was_watched(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "_candidates", lambda *_: ["batch_norm"])
    train.write_text(SICK + "\n" + COUNTED)
    run = tt.watch(train)
    found = tt.treat(train, seeds=2, engine=engine, run=run)
    assert found.run == run.id and found.recipe == "batch_norm"
    assert len(mark("runs.txt").read_text().splitlines()) == 1 + 1 + 4  # watched, raced, and confirmed
    with pytest.raises(TrialError, match=r"There is no run 'yesterday' of .*train.py"):
        tt.treat(train, engine=engine, run="yesterday")


def test_ctrl_c_ends_with_the_best_that_is_known(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "_candidates", lambda *_: ["batch_norm", "lr_scale(factor=0.3)"])
    train.write_text(SICK)

    class Impatient(Silent):
        def stage(self, text: str, total: int, each: float = 0, after: float = 0) -> None:
            if text.startswith("confirming"):
                raise KeyboardInterrupt

    found = tt.treat(train, engine=engine, progress=Impatient())
    assert found.recipe == "batch_norm" and found.confirmation is None and found.lines == ()
    assert found.words[0].startswith("Interrupted: this is the best that was known until then") and "not proven" in str(
        found
    )


def test_a_healthy_script_needs_nothing(train, engine):
    train.write_text(clusters(begin=COUNTED))
    found = tt.treat(train, engine=engine)
    assert not [finding for finding in found.findings if finding.severity != "info"]
    assert found.recipe == "" and found.search is None and found.confirmation is None and found.lines == ()
    said, command = found.words
    assert said.startswith("No rule found a fault (10 asked") and "no proof of health" in said
    assert command.startswith("trimtab compare --with 'lr_scale(factor=3)' --with 'lr_scale(factor=10)' ")
    assert command.endswith(f" {train}")
    tried = [text for text in shlex.split(command) if text not in ("trimtab", "compare", "--with", str(train))]
    assert len(tried) == len(TREAT.STANDARD) and all(Recipe.parse(recipe) for recipe in tried)
    assert command in str(found)
    assert len(mark("runs.txt").read_text().splitlines()) == 1


def test_a_script_that_nothing_helps_says_so(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "_candidates", lambda *_: ["batch_norm(after='conv')", "lr_scale(factor=0.3)"])
    train.write_text(
        SICK.replace("val_loss = nn.functional.cross_entropy(model(x[256:]), y[256:]).item()", "val_loss = 0.5")
    )
    found = tt.treat(train, engine=engine, metric="value ([0-9.]+)")
    assert found.recipe == "" and found.confirmation is None and found.lines == ()
    reasons = {runner.recipe: " ".join(sentences(runner.why)) for runner in found.race}
    assert reasons["batch_norm(after='conv')"].startswith(
        "Without effect: batch_norm(after='conv') found nothing to act on"
    )
    assert reasons["lr_scale(factor=0.3)"] == "No better than untreated at the end of a run: 0.5, not 0.5."
    assert found.words == (
        "No recipe was better than the untreated run on the seed of the search; nothing was confirmed.",
    )


def test_equal_differences_are_not_called_an_interval_with_zero(train, engine, monkeypatch):
    monkeypatch.setattr(TREAT, "_candidates", lambda *_: ["batch_norm"])
    train.write_text(SICK + "\nprint('acc', 0.9 if hasattr(model[0], 'norm') else 0.1)")
    found = tt.treat(train, seeds=2, engine=engine, metric="acc ([0-9.]+)")
    assert found.recipe == "batch_norm"
    assert "All 2 confirming seeds changed by exactly +0.8, so there is no spread" in found.words[-3]
    assert found.words[-2].startswith("6 seeds would decide")


def test_the_budget_is_kept(train, engine):
    train.write_text(SICK.replace("torch.manual_seed(0)", "torch.manual_seed(0)\nimport time; time.sleep(0.5)"))
    engine.workers = 1
    with Session(train, engine=engine, budget=8) as session:
        began = time.monotonic()
        _, found = treat_watched(session, seeds=2)
        took = time.monotonic() - began
    assert took < 8 * 1.05 + 1  # what was running is stopped
    assert len(found.race) < 10 and any("The budget of 8 s" in sentence for sentence in found.words)


def test_a_budget_for_nothing_says_so(train, engine):
    train.write_text(SICK)
    with pytest.raises(TrialError, match=r"0.01 s was over before .*train.py came to its end by itself.*Give more"):
        tt.treat(train, engine=engine, budget=0.01)
    with Session(train, engine=engine) as session:
        session.watch()
    found = tt.treat(train, engine=engine, budget=0.01)
    assert found.recipe == "" and found.words == (
        "The budget of 0.01 s was over before a remedy could be tried. Give more, or none.",
    )


def test_lines_for_code_that_was_not_found():
    assert permanent_lines("he_init", [])[-1] == 'tt.attach(model, optimizer).apply("he_init")'


# -- resumed after a kill --------------------------------------------------------------------------------------------

DRIVER = """\
import importlib
from msgspec.structs import replace

import trimtab as tt
from trimtab.trial.engines import LocalEngine
module = importlib.import_module("trimtab.trial.treat")
module.MOST, module.CONTROLS = 2, ()
engine = LocalEngine(2)
engine.threads = 1
found = tt.treat("train.py", seeds=2, engine=engine, thorough=True)
print(found.recipe, [arm.values for arm in found.confirmation.arms], [trial.value for trial in found.search.trials])
"""
# a line for each run that came to its end, and the treated runs told apart by what was hung on the first layer
FINISHED = "import os\nwith open(os.environ['MARKS'] + '/runs.txt', 'a') as f:\n    print(seed, sorted(model[0]._modules), val_loss, file=f)"


@pytest.mark.slow
def test_a_treatment_that_was_killed_goes_on_where_it_was(train, tmp_path):
    begin = "import time\nseed = torch.initial_seed()\n"
    train.write_text(clusters(DEEP, epochs=16, begin=begin, end="time.sleep(0.1)\n" + FINISHED))
    (tmp_path / "drive.py").write_text(DRIVER)
    command = [sys.executable, "drive.py"]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = mark("runs.txt")
    deadline = time.monotonic() + 90
    while (not path.exists() or len(path.read_text().splitlines()) < 6) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(0.5)  # its workers notice
    before = path.read_text().splitlines()
    kept = finished_trials(tmp_path)
    assert 4 <= len(kept) <= len(before) <= len(kept) + 2  # two at a time may have ended without being written down
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    total = path.read_text().splitlines()
    assert len(total) - len(before) == len(finished_trials(tmp_path)) - len(kept)  # no finished trial was run twice
    assert set(kept) <= set(finished_trials(tmp_path))

    assert re.match(r"(batch|layer)_norm \[\(0", resumed.stdout)
    assert len(total) == 3 * 3 + 2 * 2 + len(before) - len(kept)  # 3 search seeds, 2 confirming ones

    (tmp_path / ".trimtab").rename(tmp_path / "away")
    uninterrupted = subprocess.run(command, capture_output=True, text=True, check=True)
    assert resumed.stdout == uninterrupted.stdout


def finished_trials(folder: Path) -> dict[str, Trial]:
    """The trials in the store by their key."""
    import sqlite3

    with sqlite3.connect(folder / ".trimtab" / "runs.db") as db:
        keys = [key for (key,) in db.execute("select key from trial where key not like 'watch|%'")]
    with Store(folder / ".trimtab") as store:
        return {key: store.trial(key) for key in keys}


def test_a_treatment_that_chose_by_the_judging_metric_says_so():
    arm = Arm(
        recipe="early_stopping", seeds=(0, 1), values=(0.5, 0.6), differences=(0.2, 0.3), mean=0.55, effect=0.25, low=0.1,
        high=0.4, p=0.02, p_sign=0.5, p_holm=0.02, wins=2,
    )  # fmt: skip
    search = Comparison(
        subject="train.py", metric=Metric(name="val loss", goal="min"), seeds=(0, 1), baseline=(0.8, 0.9), arms=(arm,)
    )
    (said,) = sentences(TREAT.doubts_of_effect(arm))
    assert said.startswith("early_stopping picks the weights by the metric that judges them here")
    dropout = replace(arm, recipe="dropout")
    assert TREAT.doubts_of_effect(dropout) == TREAT._rivals(dropout, search) == []
    # beside the best change of the rate alone that was tried, a remedy or not
    rates = [
        replace(arm, recipe=f"lr_scale(factor={by})", effect=gain) for by, gain in ((0.3, 0.1), (0.01, 0.2), (3, 0.0))
    ]
    both = replace(arm, recipe="adam, lr_scale(factor=0.1)", effect=0.3)
    (said,) = sentences(TREAT._rivals(dropout, replace(search, arms=(dropout, *rates, both))))
    assert said.endswith("the best of the plain changes of learning rate, lr_scale(factor=0.01), gained +0.2.")


def test_a_remedy_that_is_no_recipe_is_told_and_left_out():
    told = []
    finding = Finding(
        problem="odd", severity="error", where="model", title="Odd", evidence=(), cause="", source="",
        remedies=("wieght_decay", "adam"),
    )  # fmt: skip
    assert TREAT._readable(SimpleNamespace(say=told.append), finding).remedies == ("adam",)
    assert told[0].startswith(
        "The rule of odd names 'wieght_decay' as a remedy, which is no recipe: There is no technique"
    )
