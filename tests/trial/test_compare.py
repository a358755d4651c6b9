"""Comparisons: the arms asked for, outcomes that are no numbers, what is kept, and Python tasks."""

from __future__ import annotations

import math
import os
import sqlite3
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import trimtab as tt
from tests.trial.conftest import DEEP, clusters, mark
from trimtab.records import Metric, Predicted, Trial
from trimtab.store import Store
from trimtab.trial.kept import StoreWarning
from trimtab.trial.progress import TrialBar
from trimtab.trial.session import Session, TrialError
from trimtab.trial.subjects import Script, SubjectError, Task
from trimtab.trial.summary import summed_up

COUNTED = "import os\nwith open(os.environ['MARKS'] + '/runs.txt', 'a') as f:\n    print(torch.initial_seed(), file=f)"


def runs(train) -> int:
    """How many times a script was run that begins with COUNTED."""
    return len(mark("runs.txt").read_text().splitlines())


def test_gives_every_arm_over_the_same_seeds(train, engine):
    train.write_text(clusters(DEEP, epochs=12, begin=COUNTED))
    recipes = [tt.Recipe.parse("batch_norm"), "lr_scale(factor=0.5)", "lr_scale(factor=0.5)"]
    found = tt.compare(train, recipes, seeds=3, engine=engine)
    assert [arm.recipe for arm in found.arms] == ["batch_norm", "lr_scale(factor=0.5)"]
    assert found.metric.name == "val accuracy"
    assert found.seeds == (0, 1, 2)
    norm = found.arm("batch_norm")
    assert norm.seeds == (0, 1, 2)
    assert norm.effect > 0.3 and norm.wins == 3
    assert norm.differences == pytest.approx([v - b for v, b in zip(norm.values, found.baseline, strict=True)])
    assert len(found.trials) == 9 and all(trial.status == "ok" for trial in found.trials)
    assert runs(train) == 9  # the watched run is the untreated trial of seed 0

    # once more, with another seed: only what is missing is run
    again = tt.compare(str(train), "batch_norm", seeds=[0, 1, 2, 7], engine=engine)
    assert runs(train) == 11
    assert again.arms[0].values[:3] == norm.values
    assert tt.compare(train, "batch_norm", seeds=1, engine=engine, fresh=True).arms[0].values == norm.values[:1]
    assert runs(train) == 13


def test_a_recipe_that_finds_nothing_is_no_zero_effect(train, engine):
    train.write_text(clusters())
    found = tt.compare(train, ["batch_norm(after='conv')", "he_init"], seeds=2, engine=engine)
    arm = found.arm("batch_norm(after='conv')")
    assert arm.no_effect == 2
    assert math.isnan(arm.effect) and arm.differences == () and not arm.proven
    assert arm.note.count("Reason: batch_norm(after='conv') found nothing to act on: the model has no hidden") == 1
    assert found.arm("he_init").no_effect == 0 and len(found.arm("he_init").differences) == 2


def test_a_technique_on_a_layer_that_never_runs_is_no_zero_effect(train, engine):
    train.write_text(clusters(begin=SPARE).replace("model = nn.Sequential", "model = WithSpare"))
    found = tt.compare(train, "dropout", seeds=2, engine=engine)
    assert found.arms[0].no_effect == 2
    assert "Reason: never took effect: dropout with p=0.5 before 1 layers: spare" in found.arms[0].note


SPARE = """\
class WithSpare(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.used = nn.Linear(16, 4)
        self.spare = nn.Linear(16, 24)
    def forward(self, x):
        return self.used(x)
"""


def test_diverged_seeds_are_an_outcome_of_their_own(train, engine):
    train.write_text(clusters(begin="rate = 1e20 if torch.initial_seed() == 1 else 0.05").replace("lr=0.05", "lr=rate"))
    found = tt.compare(train, ["he_init", "lr_scale(factor=1e15)", "lr_scale(factor=1e-21)"], seeds=3, engine=engine)
    assert [math.isnan(value) for value in found.baseline] == [False, True, False]
    assert found.arm("he_init").diverged == 1 and found.arm("he_init").baseline_diverged == 1
    assert found.arm("he_init").seeds == (0, 2) and len(found.arm("he_init").differences) == 2
    wild = found.arm("lr_scale(factor=1000000000000000.0)")
    assert wild.diverged == 3 and wild.values == () and math.isnan(wild.effect)
    mended = found.arm("lr_scale(factor=1e-21)")
    assert mended.diverged == 0 and mended.seeds == (0, 1, 2)
    assert mended.differences[1] == max(map(abs, mended.differences))  # a win, as large as the largest difference
    assert "Untreated, 1 seed diverged that did not with the recipe" in mended.note


def test_a_failing_arm_says_why(train, engine):
    train.write_text(clusters(end="assert not hasattr(model[0], 'norm'), 'no norms here'"))
    arm = tt.compare(train, "batch_norm", seeds=2, engine=engine).arms[0]
    assert arm.failed == 2
    assert arm.note.endswith("Reason: AssertionError: no norms here at train.py:20.")
    assert arm.note.count("no norms here") == 1


def test_the_budget_ends_a_comparison_between_seeds(train, engine):
    train.write_text(clusters(begin="import time; time.sleep(0.5)"))
    engine.workers = 1
    session = Session(train, engine=engine, budget=4)
    from trimtab.trial.compare import compare_watched

    _, found = compare_watched(session, ["he_init"], {}, seeds=50)
    assert session.seconds < 4 + 5
    assert 1 <= len(found.trials) < 100
    assert len(found.seeds) == len(found.baseline) < 50
    assert found.words[-1].startswith("The budget of 4 s was over before ")


@pytest.mark.parametrize(
    ("text", "pattern", "message"),
    [
        (clusters(end="raise RuntimeError('boom')"), None, r"failed, so there is nothing to compare with: RuntimeError: boom at train.py:20\.\nIt printed last:\nvalue [\s\S]*Traceback[\s\S]*Its record up to there is kept: trimtab report 20"),
        (clusters(begin="raise SystemExit(3)"), None, "the script ended itself with exit code 3.$"),
        ("print('hello')", None, r"train.py ended without a single torch.optim step, so there is nothing to treat.[\s\S]*It printed last:\nhello"),
        (clusters(), "acc=([0-9.]+)", r"--metric 'acc=\(\[0-9.\]\+\)' matched no line that .*train.py printed"),
        (clusters(begin="import os; os.kill(os.getpid(), 9)"), None, "the process of the trial was killed by signal SIGKILL"),
    ],
    ids=["raises", "exits", "never trains", "metric", "killed"],
)  # fmt: skip
def test_an_untreated_run_that_cannot_be_judged_ends_it(train, engine, text, pattern, message):
    train.write_text(text)
    with pytest.raises(TrialError, match=message):
        tt.compare(train, "he_init", engine=engine, metric=pattern)
    if "boom" in text:
        (run,) = Store(train.parent / ".trimtab").runs()
        assert Store(train.parent / ".trimtab").run(run).main.steps == 40


@pytest.mark.parametrize(
    ("recipes", "message"),
    [([], "at least one recipe"), ("", "none of them empty"), ("bach_norm", "Did you mean batch_norm")],
)
def test_recipes_are_read_before_anything_runs(train, recipes, message):
    train.write_text(clusters(begin=COUNTED))
    with pytest.raises(tt.RecipeError, match=message):
        tt.compare(train, recipes)
    assert not mark("runs.txt").exists()


def test_a_metric_read_from_the_output(train, engine):
    train.write_text(clusters())
    found = tt.compare(train, "lr_scale(factor=0.1)", seeds=2, engine=engine, metric=r"value ([0-9.]+)")
    assert found.metric.name.startswith("metric")
    assert all(math.isfinite(value) for value in found.baseline)


# -- what is kept ----------------------------------------------------------------------------------------------------


def session_trials(train, engine, recipes=("", "he_init"), seeds=(0, 1)) -> Session:
    with Session(train, engine=engine) as session:
        session.watch()
        session.trials(recipes, seeds)
        session.trials(recipes, seeds)  # a later stage asks again
    return session


def test_only_what_an_earlier_session_ran_counts_as_kept(train, engine):
    train.write_text(clusters(begin=COUNTED))
    assert session_trials(train, engine).reused == 0
    assert runs(train) == 4
    assert session_trials(train, engine).reused == 4  # the watched run is the untreated trial of seed 0
    assert session_trials(train, engine, seeds=(0, 1, 2)).reused == 4
    assert runs(train) == 6


def test_progress_tells_kept_trials_once(train, engine):
    told = []

    class Told:
        def stage(self, text, total, *seconds):
            told.append((text, total))

        def advance(self, trial, from_store):
            told.append((trial.recipe, trial.seed, from_store))

    train.write_text(clusters())
    for _ in range(2):
        with Session(train, engine=engine, progress=Told()) as session:
            session.watch()
            session.trials(["", "he_init"], [0], "one")
            session.trials(["", "he_init"], [0], "two")
    first = [("watching one run", 1), ("", 0, False), ("one", 1), ("he_init", 0, False)]
    assert told == [*first, ("watching one run", 1), ("", 0, True), ("one", 1), ("he_init", 0, True)]


def test_a_script_or_a_module_of_its_own_that_changed_is_another_subject(train, engine):
    (train.parent / "lib").mkdir()
    (train.parent / "lib" / "__init__.py").write_text("")
    (train.parent / "lib" / "rate.py").write_text("from .deep import RATE")
    (train.parent / "lib" / "deep.py").write_text("RATE = 0.05")
    (train.parent / "unrelated.py").write_text("1")
    train.write_text(clusters(begin="from lib.rate import RATE").replace("lr=0.05", "lr=RATE"))
    before = Script(str(train)).fingerprint()
    (train.parent / "unrelated.py").write_text("2")
    assert Script(str(train)).fingerprint() == before
    assert Script("train.py").fingerprint() == before
    assert Script(str(train), ("--x",)).fingerprint() != before
    (train.parent / "lib" / "deep.py").write_text("RATE = 0.06")
    assert Script(str(train)).fingerprint() != before


class Meddler:
    """Writes into a file when a trial has ended."""

    def __init__(self, file, after):
        self.file, self.after = file, after

    def stage(self, text, total, *seconds): ...
    def running(self, *what): ...

    def advance(self, trial, from_store):
        self.after -= 1
        if self.after == 0:
            self.file.write_text(self.file.read_text() + "# more")


def test_a_script_that_changes_under_its_trials_stops_them(train, engine):
    train.write_text(clusters())
    with pytest.raises(TrialError, match="was changed while its trials were running"):
        tt.compare(train, "he_init", seeds=3, engine=engine, progress=Meddler(train, 2))


def test_a_file_that_is_read_and_changes_under_the_trials_stops_them(train, engine):
    train.write_text(clusters(begin="open('numbers.txt').read()\nopen('written.txt', 'w').write('1')"))
    numbers, other, written = (train.with_name(name) for name in ("numbers.txt", "other.txt", "written.txt"))
    for file in (numbers, other, written):
        file.write_text("# 1")
    for file in (other, written):  # what nobody reads may change
        assert len(tt.compare(train, "he_init", seeds=2, engine=engine, progress=Meddler(file, 2)).trials) == 4
    with pytest.raises(TrialError, match=r"numbers\.txt changed while trials of .* were running, which read it"):
        tt.compare(train, "he_init", seeds=4, engine=engine, progress=Meddler(numbers, 2))


def test_failed_trials_are_tried_again_by_the_next_session(train, engine):
    train.write_text(
        clusters(begin=COUNTED, end="import os\nassert not hasattr(model[0], 'norm') or os.path.exists('mended')")
    )
    assert tt.compare(train, "batch_norm", seeds=2, engine=engine).arms[0].failed == 2
    (train.parent / "mended").touch()
    assert tt.compare(train, "batch_norm", seeds=2, engine=engine).arms[0].failed == 0
    assert runs(train) in (6, 7, 8)  # those that failed beside others were tried once more alone


def test_without_a_store_results_stay_in_memory(train, engine):
    train.write_text(clusters())
    (train.parent / ".trimtab").write_text("a file where the folder would be")
    with pytest.warns(StoreWarning, match="cannot open it .* keeps its results in memory"):
        found = tt.compare(train, "he_init", seeds=2, engine=engine)
    assert len(found.trials) == 4 and all(trial.status == "ok" for trial in found.trials)


def test_a_store_that_fails_in_mid_session_is_said_once(train, engine):
    train.write_text(clusters())
    with Session(train, engine=engine) as session:
        session.watch()

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        session.store.put_trial = full
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = session.trials(["", "he_init"], [0, 1, 2])
    said = [str(w.message) for w in caught if w.category is StoreWarning]
    assert len(said) == 1 and "cannot write to" in said[0] and "disk is full" in said[0]
    assert [len(trials) for trials in found.values()] == [3, 3]


# -- Python tasks ----------------------------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def data() -> tuple:
    generator = torch._C.Generator().manual_seed(0)  # not shifted: the data are the same for every seed
    y = torch.arange(320) % 4
    x = torch.randn(4, 16, generator=generator)[y] + 1.4 * torch.randn(320, 16, generator=generator)
    return (x[:256], y[:256]), (x[256:], y[256:])


def no_data() -> tuple:
    raise FileNotFoundError("no data here")


def distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - nn.functional.one_hot(target, 4)).square().mean()


def test_a_task_is_a_subject(train, engine):
    found = tt.compare(Task("clusters", model, data, epochs=3), ["batch_norm", "he_init"], seeds=2, engine=engine)
    assert found.metric.name == "val accuracy"
    assert all(value > 0.5 for value in found.baseline)  # of four classes
    assert [len(arm.differences) for arm in found.arms] == [2, 2]
    module = tt.compare(
        Task("module", model, data, loss=nn.CrossEntropyLoss(), epochs=3), "he_init", seeds=2, engine=engine
    )
    assert (module.metric, module.baseline) == (found.metric, found.baseline)
    own = tt.compare(Task("distance", model, data, loss=distance, epochs=3), "he_init", seeds=2, engine=engine)
    assert own.metric.name == "val loss" and own.metric.goal == "min"
    assert all(0 < value < 2 for value in own.baseline)


def test_a_task_that_fails_says_where(train, engine):
    with pytest.raises(TrialError, match=r"clusters failed.*FileNotFoundError: no data here[\s\S]*Traceback"):
        tt.compare(Task("clusters", model, no_data), "he_init", engine=engine)


def test_a_task_of_lambdas_is_refused_at_once():
    with pytest.raises(SubjectError, match=r"runs in a process of its own, and model=.*lambda.* cannot be sent there"):
        Task("clusters", lambda: nn.Linear(1, 1), data)


# -- subjects --------------------------------------------------------------------------------------------------------


def test_a_script_that_is_not_there_offers_the_nearest(train):
    train.write_text("")
    with pytest.raises(
        SubjectError, match=r"'trian.py' does not exist. Did you mean train.py\? Give the path of a Python file"
    ):
        Script("trian.py")
    with pytest.raises(SubjectError, match=r"'train' does not exist. Did you mean train.py\?"):
        tt.treat("train")
    with pytest.raises(SubjectError, match="is a folder, not a script"):
        Script(os.fspath(train.parent))


def test_modules_are_found_from_the_current_folder(train):
    package = train.parent / "bundle"
    package.mkdir()
    for name in ("__init__", "train", "__main__"):
        (package / f"{name}.py").write_text("")
    assert Script("bundle.train", module=True).path == (package / "train.py").resolve()
    assert Script("bundle", module=True).path == (package / "__main__.py").resolve()
    with pytest.raises(SubjectError, match=r"no module 'bundle.trian' .* Did you mean bundle.train\?"):
        Script("bundle.trian", module=True)
    with pytest.raises(SubjectError, match=r"no module 'nothing.train'"):
        Script("nothing.train", module=True)
    with pytest.raises(SubjectError, match=r"Did you mean bundle.train\?"):
        Script("bundle/train.py", module=True)


def test_the_bar_tells_stages_where_there_is_no_terminal():
    import io

    from rich.console import Console

    from trimtab.records import Trial

    out = io.StringIO()
    with TrialBar(Console(file=out, width=200)) as bar:
        bar.stage("comparing", 3)
        bar.advance(Trial(subject="s", recipe="", seed=0, status="ok", value=0.5), True)
        for seed in (0, 1):
            bar.advance(
                Trial(subject="s", recipe="dropout(p=[0.5])", seed=seed, status="failed", error="[/]broken"), False
            )
    assert out.getvalue() == "dropout(p=[0.5]), seed 0, failed: [/]broken\ncomparing: 3 of 3 done in 0 s\n"


SWALLOWING = """
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
steps = 0
while steps < 60:
    try:
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step()
        steps += 1
    except BaseException:
        continue  # a bad batch
    print("val_loss", loss.item())
"""
TWO = """
import torch
first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (first, second)]
for step in range(60):
    for optimizer, made in zip(optimizers[::-1], (first(torch.ones(4, 2)).detach(), first(torch.ones(4, 2)))):
        optimizer.zero_grad()
        second(made).square().mean().backward()
        optimizer.step()
    print("val_loss", second(first(torch.ones(4, 2))).square().mean().item())
"""


@pytest.mark.parametrize("script", [SWALLOWING, TWO], ids=["its end is taken for an error", "two models by turns"])
def test_where_runs_are_ended(train, engine, script):
    train.write_text(script)
    with Session(train, engine=engine, steps=20) as session:
        run = session.watch()
    assert run.cut == 20 and run.exit_code == 0
    assert {training.steps for training in run.trainings} == {20}
    assert {len(series) for training in run.trainings if (series := training.get("printed val loss"))} == {20}


@pytest.mark.slow
def test_a_thread_that_trains_is_ended_and_what_waits_for_it_too(train, engine):
    body = SWALLOWING.replace("\n", "\n    ").replace("except BaseException", "except ValueError")
    train.write_text(f"import threading\nover = threading.Event()\ndef work():{body}\n    over.set()\n"
                     "threading.Thread(target=work, daemon=True).start()\nover.wait()\n")  # fmt: skip
    with Session(train, engine=engine, steps=20) as session:
        assert session.watch().main.steps == 20


def test_a_run_that_is_taken_must_be_of_what_would_be_tried(train, engine):
    rate = train.with_name("rate.txt")
    rate.write_text("0.05")
    train.write_text(clusters(rate="float(pathlib.Path('rate.txt').read_text())", begin="import pathlib"))
    with Session(train, engine=engine) as session:
        whole = session.watch()
        (first,) = session.trials(["adam"], [0])["adam"]
    with Session(train, engine=engine) as session:  # trials of either way are the same ones
        session.take(whole.id)
        assert session.trials(["adam"], [0])["adam"] == [first] and session.reused == 1
    alone = tt.watch(train)  # nobody knows what this one has read, until a trial has read it
    with Session(train, engine=engine) as session:
        session.take(alone.id)
        session.trials(["ema"], [0])
    rate.write_text("0.5  ")
    for run in (whole, alone):
        with (
            Session(train, engine=engine) as session,
            pytest.raises(TrialError, match=r"rate\.txt changed after the run"),
        ):
            session.take(run.id)
    with Session(train, engine=engine, steps=8) as session:
        cut = session.watch()
    for terms in ({}, {"steps": 9}):
        with Session(train, engine=engine, **terms) as session, pytest.raises(TrialError, match="its first 8 steps"):
            session.take(cut.id)
    train.write_text(train.read_text() + "# and more\n")
    with Session(train, engine=engine) as session, pytest.raises(TrialError, match=r"train\.py changed after the run"):
        session.take(alone.id)


def test_runs_that_are_ended_early(train, engine):
    """Every run ends where it would go on behind the last step; what is measured after that step still counts."""
    train.write_text(clusters(epochs=4) + "open(os.environ['MARKS'] + '/whole', 'w')".join(["import os\n", "\n"]))
    found = tt.compare(train, ["lr_scale(factor=3)"], seeds=2, engine=engine, fraction=0.5)
    assert len(found.trials) == 4 and {(trial.status, trial.curves["loss"].steps[-1]) for trial in found.trials} == {
        ("ok", 15)
    }
    assert {len(trial.curves["val accuracy"]) for trial in found.trials} == {2}
    assert "Every run was ended after its first 16 of 32 steps" in found.words[-1]
    mark("whole").unlink()  # of the run from which the fraction is taken
    again = tt.compare(train, ["lr_scale(factor=3)"], seeds=2, engine=engine, steps=16)
    assert again.trials == found.trials and not mark("whole").exists()
    for wrong in ({"steps": 10, "fraction": 0.5}, {"fraction": 0.0}, {"steps": -1}):
        with pytest.raises(ValueError, match=r"at most one of them given: steps=2000, or fraction=0.2"):
            tt.compare(train, ["lr_scale(factor=3)"], engine=engine, **wrong)


def test_the_other_numbers_of_the_trials_are_told_once_each():
    """What shows the judging number, rounded or in percent, or what not all trials have, is not."""
    random = np.random.default_rng(0)

    def run(recipe: str, seed: int, better: float) -> Trial:
        value = 0.8 + 0.01 * random.standard_normal() + better
        others = {
            "printed val accuracy": value + 0.01, "test accuracy": round(100 * value, 1), "printed val loss": 2 - value,
            "val loss": 2 - value + 1e-5, "loss": 0.5, "logged val/f1": 0.7,
        }  # fmt: skip
        if seed == 1:
            del others["logged val/f1"]
        seen = Predicted(samples=4, right=bytes([16 * (2 + 5 * bool(recipe) + seed)]), targets="a")
        return Trial(subject="s", recipe=recipe, seed=seed, status="ok", value=value, others=others, predicted=seen)

    trials = {recipe: [run(recipe, seed, better) for seed in range(4)] for recipe, better in (("", 0.0), ("adam", 0.1))}
    trials["adam"][3] = Trial(subject="s", recipe="adam", seed=3, status="diverged")
    session = SimpleNamespace(
        metric=Metric(name="printed val accuracy", goal="max", source="printed"),
        subject=SimpleNamespace(label="s"),
        sources=SimpleNamespace(edits={}),
    )
    found = summed_up(session, trials, range(4))
    assert [(one.metric.name, one.metric.best, one.metric.goal) for one in found.beside] == [
        ("printed val accuracy", True, "max"), ("printed val loss", False, "min"), ("loss", False, "min"),
    ]  # fmt: skip
    best, loss, training = found.beside
    for other in (best, loss):
        assert other.arms[0].differences == pytest.approx(found.arms[0].differences)
    assert found.arms[0].samples == 4 and not any(
        other.arms[0].samples for other in found.beside
    )  # what was predicted is of the number that judges
    assert best.arms[0].seeds == (0, 1, 2) and best.arms[0].diverged == 1
    assert training.arms[0].effect == 0 and training.arms[0].verdict == "undecided"


def test_what_cannot_be_compared_is_refused_before_anything_runs(train):
    train.write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=r"margin must be a difference of the metric, 0 or more, and is -1"):
        tt.compare(train, "adam", margin=-1)
    with pytest.raises(SubjectError, match="Other versions are those of a script, and blobs is none"):
        tt.compare(Task("blobs", model=dict, data=dict), against="HEAD~1")
