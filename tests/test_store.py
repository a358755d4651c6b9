"""The store: what is put in comes out again, across processes, kills and full disks."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from trimtab.records import (
    CodePlace,
    Layer,
    Metric,
    Probe,
    Profile,
    RunRecord,
    Series,
    TrainingRecord,
    Treatment,
    Trial,
    Tuning,
)
from trimtab.store import FOLDER, Store, StoreError


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path) as store:
        yield store


def record(name="r1", started=1.0, **fields):
    training = TrainingRecord(
        name="training", model="Net", optimizers=("SGD",), steps=3, epochs=2,
        layers=(Layer(name="0", kind="Linear", parameters=("0.weight",), units=4),),
        series={"loss": Series(steps=(0, 1, 2), values=(1.0, math.inf, 0.1 + 0.2))},
        profiles={"grad_norms": Profile(names=("0.weight", "1.weight"), steps=(0, 2), rows=((1.0, 2.0), (3.0, 4.0)))},
        facts={"parameters": 12.0}, code=CodePlace(file="train.py", line=3, source="x = 1"), notes=("a note",),
    )  # fmt: skip
    return RunRecord(
        id=name,
        subject="train.py",
        started=started,
        trainings=(training,),
        metric=Metric(name="loss", goal="min"),
        **fields,
    )


def put(store, run):
    points = [
        (i, name, step, value)
        for i, training in enumerate(run.trainings)
        for name, series in training.series.items()
        for step, value in zip(series.steps, series.values, strict=True)
    ]
    profiles = [
        (i, name, step, row)
        for i, training in enumerate(run.trainings)
        for name, profile in training.profiles.items()
        for step, row in zip(profile.steps, profile.rows, strict=True)
    ]
    store.add_rows(run.id, points, profiles)
    store.put_run(run, finished=True)


def test_a_run_reads_back_equal(store):
    run = record(error="it crashed", exit_code=3, output_tail="last\nlines", versions={"torch": "2"})
    put(store, run)
    assert store.run("r1") == run
    assert store.run() == run
    assert store.run().main.get("loss").values[2] == 0.1 + 0.2  # every bit


def test_numbers_that_are_none_read_back_as_none(store):
    put(store, record())
    store.add_rows("r1", [(0, "loss", 3, math.nan)], [(0, "grad_norms", 3, [math.nan, -math.inf])])
    training = store.run().main
    assert math.isnan(training.get("loss").last)
    assert training.profiles["grad_norms"].rows[-1][1] == -math.inf
    assert math.isnan(training.profiles["grad_norms"].rows[-1][0])


def test_rows_written_before_a_layer_was_known_are_filled_with_nan(store):
    put(store, record())
    store.add_rows("r1", [], [(0, "grad_norms", 4, [5.0])])
    last = store.run().main.profiles["grad_norms"].rows[-1]
    assert last[0] == 5.0
    assert math.isnan(last[1])


def test_rows_written_after_the_head_count(store):
    """As after a kill: the head is older than the rows."""
    put(store, record())
    store.add_rows("r1", [(0, "loss", 7, 0.5), (0, "val loss", 8, 0.5)], [])
    assert store.run().main.steps == 8


def test_runs_are_listed_oldest_first_and_the_newest_is_taken(store):
    for name, started in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        put(store, record(name, started))
    assert store.runs() == ["a", "b", "c"]
    assert store.run().id == "c"
    assert store.run("a").started == 1.0


def test_putting_a_run_again_replaces_its_head(store):
    put(store, record())
    store.put_run(msgspec.structs.replace(record(), seconds=9.0), finished=True)
    assert store.runs() == ["r1"]
    assert store.run().seconds == 9.0
    assert len(store.run().main.get("loss")) == 3


def test_errors_say_what_there_is(store):
    with pytest.raises(StoreError, match=r"holds no run yet\. Make one: trimtab watch SCRIPT\."):
        store.run()
    put(store, record())
    with pytest.raises(StoreError, match=r"has no run 'r2'. It has: r1\."):
        store.run("r2")


def test_a_file_that_is_no_database_says_so(tmp_path):
    (tmp_path / "runs.db").write_text("this is not a database, it is a text of some length" * 50)
    with pytest.raises(
        StoreError, match=r"cannot open it .*file is not a database.*choose another folder with --store"
    ):
        Store(tmp_path)


def test_trials_are_kept_by_key(tmp_path):
    trial = Trial(
        subject="train.py",
        recipe="batch_norm",
        seed=3,
        status="ok",
        value=0.5,
        curves={"loss": Series(steps=(0,), values=(1.0,))},
    )
    with Store(tmp_path) as store:
        assert store.trial("k") is None
        store.put_trial("k", trial)
        store.put_trial("k2", msgspec.structs.replace(trial, status="diverged", value=math.nan))
    with Store(tmp_path) as store:
        assert store.trial("k") == trial
        assert math.isnan(store.trial("k2").value)
        store.put_trial("k", msgspec.structs.replace(trial, value=0.7))
        assert store.trial("k").value == 0.7


def test_treatments_are_kept_beside_their_run(store):
    treatment = Treatment(subject="train.py", findings=(), recipe="clip_norm", words=("it helped",))
    assert store.treatment("r1") is None
    store.put_treatment("r1", treatment)
    assert store.treatment("r1") == treatment


def test_searches_are_kept_beside_their_run(store):
    probe = Probe(
        number=0,
        recipe="ema",
        status="ok",
        value=0.5,
        at={"ema | none": "ema"},
        reports=Series(steps=(1,), values=(0.4,)),
    )
    tuning = Tuning(
        subject="train.py",
        search=("ema | none",),
        metric=Metric(name="loss", goal="min"),
        probes=(probe,),
        untreated=0.6,
    )
    assert store.tuning("r1") is None
    store.put_tuning("r1", tuning)
    assert store.tuning("r1") == tuning
    store.put_tuning("r1", msgspec.structs.replace(tuning, words=("again",)))
    assert store.tuning("r1").words == ("again",)


def test_beside_a_script(tmp_path):
    with Store.beside(tmp_path / "train.py") as store:
        assert store.folder == (tmp_path / FOLDER).resolve()


def test_another_process_reads_while_one_writes(tmp_path):
    code = "import sys; from trimtab.store import Store; s = Store(sys.argv[1]); print(s.run().main.get('loss').values)"
    with Store(tmp_path) as store:
        put(store, record())
        store._db.execute("begin immediate")  # a write that is under way
        store._db.execute("insert into point values ('r1', 0, 'loss', 9, 9.0)")
        read = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
            env={"PYTHONPATH": str(Path(sys.modules["trimtab"].__file__).parents[1])},
        )  # fmt: skip
        store._db.rollback()
    assert read.stdout == "(1.0, inf, 0.30000000000000004)\n", read.stderr


def test_a_failed_write_leaves_nothing_half_done(store):
    put(store, record())
    with pytest.raises(sqlite3.Error):
        store.add_rows("r1", [(0, "loss", 3, 1.0), (0, "loss", 4, object())], [])  # type: ignore[list-item]
    assert len(store.run().main.get("loss")) == 3
