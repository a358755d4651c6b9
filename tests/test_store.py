"""The store: what is put in comes out again, across processes, kills and full disks."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest

from trimtab.records import (
    Arm,
    Attempt,
    CodePlace,
    Comparison,
    Evidence,
    Finding,
    Layer,
    Metric,
    Profile,
    RunRecord,
    Series,
    TrainingRecord,
    Treatment,
    Trial,
    Tuning,
    Watched,
    to_json,
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
        StoreError, match=r"cannot open it .*file is not a database.*It is damaged: move it away, and the next"
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
    treatment = Treatment(subject="train.py", findings=(), recipe="clip_norm", remarks=("it helped",))
    assert store.treatment("r1") is None
    store.put_treatment("r1", treatment)
    assert store.treatment("r1") == treatment


def test_searches_are_kept_beside_their_run(store):
    attempt = Attempt(
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
        attempts=(attempt,),
        untreated=0.6,
    )
    assert store.tuning("r1") is None
    store.put_tuning("r1", tuning)
    assert store.tuning("r1") == tuning
    store.put_tuning("r1", msgspec.structs.replace(tuning, remarks=("again",)))
    assert store.tuning("r1").words == ("again",)


def test_comparisons_of_other_recipes_are_kept_side_by_side(store):
    def comparison(recipe, remarks=()):
        arm = Arm(recipe=recipe, seeds=(0,), values=(1.0,), differences=(1.0,), mean=1.0, effect=1.0, low=0.0, high=2.0, p=0.1,
                  p_sign=1.0, p_holm=0.1, wins=1)  # fmt: skip
        metric = Metric(name="loss", goal="min")
        return Comparison(subject="train.py", metric=metric, seeds=(0,), baseline=(2.0,), arms=(arm,), remarks=remarks)

    assert store.comparison("r1") is None
    store.put_comparison("r1", comparison("ema"))
    store.put_treatment("r1", Treatment(subject="train.py", findings=()))
    store.put_comparison("r1", comparison("swa"))
    assert store.comparison("r1") == comparison("swa")
    store.put_comparison("r1", comparison("ema", remarks=("again",)))
    kinds = [(type(one).__name__, getattr(one, "words", ())) for one in store.outcomes("r1")]
    assert kinds == [("Comparison", ("again",)), ("Comparison", ()), ("Treatment", ())]
    assert store.outcomes("r2") == []


def test_findings_are_kept_for_lists(store):
    finding = Finding(
        problem="p", severity="error", where="0", title="t", evidence=(Evidence(text="e"),), cause="", source=""
    )
    put(store, record())
    assert store.findings("r1") is None
    store.put_findings("r1", [finding])
    assert store.findings("r1") == (finding,)
    (listed,) = store.listed()
    assert (listed.run.id, listed.steps, listed.value, listed.findings, listed.outcomes) == (
        "r1",
        3,
        0.1 + 0.2,
        (finding,),
        (),
    )


def test_a_run_that_has_not_ended_says_so(store):
    put(store, record())
    assert store.run().finished
    store.put_run(record(), finished=False)
    store.add_rows("r1", [(0, "loss", 9, 0.5), (0, "val loss", 9, 0.5)], [])
    assert not store.run().finished
    (listed,) = store.listed()
    assert listed.steps == 10 and not listed.run.finished


def test_what_cannot_be_read_is_left_out(tmp_path):
    with Store(tmp_path) as store:
        put(store, record("r1", 1.0))
        put(store, record("r2", 2.0))
        store._db.execute("update run set head=x'c1' where id='r2'")
        assert store.run().id == "r1" and store.run("r1").main.steps == 3
        assert [one.run.id for one in store.listed()] == ["r1"]
        assert all(
            said.startswith(f"Left out: The run r2 in {store.path} cannot be read (it is") for said in store.skipped
        )
        with pytest.raises(StoreError, match=r"The run r2 .* cannot be read \(it is damaged, or of another version"):
            store.run("r2")
        store._db.execute("update run set head=x'c1'")
        with pytest.raises(StoreError, match=r"None of the runs .* can be read. Left out: The run r2 .* The run r1"):
            store.run()
        store.put_trial("k", Trial(subject="s", recipe="", seed=0, status="ok"))
        store._db.execute("update trial set record='x'")
        with pytest.raises(StoreError, match="The trial k in "):
            store.trial("k")


def test_damaged_rows_are_left_out_and_said(store):
    put(store, record())
    for step, name, value in [
        (3, "loss", "x'00'"), ("9e999", "loss", 1.0), ("null", "loss", 1), (1 << 62, "loss", 1), (-1, "loss", 1), (2, "loss", "'text'"),
    ]:  # fmt: skip
        store._db.execute(f"insert into point values ('r1', 0, '{name}', {step}, {value})")
    store._db.execute("insert into point values ('r1', 0, null, 3, 1.0), ('r1', 0, x'c1', 3, 1.0)")
    store._db.execute(
        "insert into profile values ('r1', 0, 'grad_norms', 4, 'text'), ('r1', 0, 'grad_norms', 9e999, x'')"
    )
    store._db.execute("insert into profile values ('r1', 0, 'grad_norms', 4, x'00')")
    training = store.run().main
    assert training.get("loss").values == record().main.get("loss").values
    assert training.profiles == record().main.profiles
    assert training.notes == (
        "a note",
        "Damaged rows of loss left out: 6.",
        "Damaged rows of None left out: 1.",
        "Damaged rows of b'\\xc1' left out: 1.",
        "Damaged rows of grad_norms left out: 3.",
    )
    store.put_run(record(), finished=False)
    (listed,) = store.listed()
    assert listed.steps == 3


def test_runs_that_lost_their_names_and_texts_that_are_none_hide_nothing(store):
    for name in ("r1", "r2", "r3"):
        put(store, record(name))
        store.put_findings(name, [])
    store._db.execute("update run set id=null where id='r3'")
    store._db.execute("update run set id=cast(x'72ff' as text) where id='r2'")  # no UTF-8
    store._db.execute("update finding set record=cast(x'ff' as text)")
    store._db.commit()
    assert [one.run.id for one in store.listed()] == ["r1"]
    assert store.run().id == "r1"
    lost, *others = store.skipped
    assert lost == f"Left out: a run in {store.path} that has lost its name."
    assert [said.split(" in /")[0] for said in sorted(others)] == [
        "Left out: The run r\ufffd",
        "Left out: What was found in run r1",
    ]


@pytest.fixture
def filled(tmp_path):
    """A store with several pages of each kind, and the bytes of its file."""
    with Store(tmp_path / "filled") as store:
        for number in range(3):
            run = record(f"r{number}", float(number))
            put(store, run)
            store.add_rows(run.id, [(0, "loss", step, 0.5) for step in range(3, 300)], [])
        for number in range(120):
            store.put_trial(f"k{number}", Trial(subject="s" * 100, recipe="ema", seed=number, status="ok"))
        store.put_treatment("r1", Treatment(subject="train.py", findings=(), remarks=("long",) * 3000))
    return (tmp_path / "filled" / "runs.db").read_bytes()


def holds(store):
    """How much of each kind a store still shows."""

    def shown(read, key):
        try:
            return read(key)
        except StoreError:
            return None

    runs = [run for run in map(lambda run: shown(store.run, run), store.runs()) if run is not None]
    return {
        "runs": len(runs),
        "points": sum(len(run.main.get("loss")) for run in runs),
        "trials": sum(shown(store.trial, f"k{number}") is not None for number in range(120)),
        "outcomes": len(store.outcomes("r1")),
    }


def test_a_damaged_page_hides_nothing_else(filled, tmp_path):
    whole = {"runs": 3, "points": 900, "trials": 120, "outcomes": 1}
    damaged = 0
    for start in range(4096, len(filled), 4096):
        folder = tmp_path / str(start)
        folder.mkdir()
        (folder / "runs.db").write_bytes(filled[:start] + bytes(4096) + filled[start + 4096 :])
        with Store.reading(folder) as store:
            found = holds(store)
            lost = [kind for kind in whole if found[kind] < whole[kind]]
            assert lost in ([], ["runs", "points"], ["points"], ["trials"], ["outcomes"]), start
            assert not lost or store.skipped
            damaged += any("is damaged (" in said for said in store.skipped)
        with Store(folder) as store:  # mended where it may be written
            assert holds(store) == found
            assert (folder / "runs.db.damaged").exists() == any("was damaged (" in said for said in store.skipped)
            store.put_trial("new", Trial(subject="s", recipe="", seed=0, status="ok"))
        with Store(folder) as store:
            assert store.trial("new") is not None and holds(store) == found
            assert store._rows("pragma integrity_check") == [("ok",)] or not (folder / "runs.db.damaged").exists()
    assert damaged > 5


def test_of_a_file_that_was_cut_off_the_rest_is_shown(filled, tmp_path):
    (tmp_path / "runs.db").write_bytes(filled[: len(filled) // 2])
    with Store.reading(tmp_path) as store:
        found = holds(store)
        assert found["points"] > 100
        assert (tmp_path / "runs.db").stat().st_size == len(filled) // 2
    with Store(tmp_path) as store:
        assert holds(store) == found


def test_a_new_folder_ignores_itself(tmp_path):
    with Store(tmp_path / "new" / FOLDER) as store:
        assert (store.folder / ".gitignore").read_text() == "*\n"
    (tmp_path / "there").mkdir()
    with Store(tmp_path / "there") as store:  # somebody else's
        assert not (store.folder / ".gitignore").exists()


@pytest.fixture
def nobody():
    """Somebody who may read only: permissions mean nothing to root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder), lambda: os.seteuid(65534 if root else os.geteuid())
        if root:
            os.seteuid(0)
        for file in Path(folder).rglob("*"):
            os.chmod(file, 0o700)


@pytest.mark.parametrize("killed", [False, True])
def test_a_store_on_a_disk_that_may_only_be_read_is_shown(nobody, killed):
    folder, become = nobody
    store = Store(folder / "kept")
    put(store, record())
    if killed:  # what it had written waits beside the file
        left = {file.name: file.read_bytes() for file in (folder / "kept").iterdir() if not file.name.endswith("-shm")}
        assert len(left["runs.db-wal"]) > 0
    store.close()
    if killed:
        for name, content in left.items():
            (folder / "kept" / name).write_bytes(content)
    for file in (folder / "kept").iterdir():
        os.chmod(file, 0o444)
    os.chmod(folder / "kept", 0o555)
    become()
    with pytest.raises(StoreError, match="cannot open it"):
        Store(folder / "kept")
    with Store.reading(folder / "kept") as store:
        assert store.run() == record()


def test_a_locked_store_is_waited_for_half_a_second_in_all(tmp_path):
    with Store(tmp_path) as store:
        put(store, record())
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("pragma locking_mode=exclusive")
    other.execute("begin exclusive")
    for opened in (Store, Store.reading):
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"database is locked\)\. Another process holds it: wait"):
            opened(tmp_path)
        assert time.monotonic() - began < 1.0
    other.close()
    with Store.reading(tmp_path) as store:
        assert store.run().id == "r1"


def test_what_is_written_while_another_process_writes_waits_in_memory(tmp_path):
    trial = Trial(subject="s", recipe="", seed=0, status="ok", value=1.0)
    with Store(tmp_path) as store, contextlib.closing(sqlite3.connect(tmp_path / "runs.db")) as other:
        put(store, record())
        other.execute("begin immediate")
        began = time.monotonic()
        for step in range(3, 30):
            store.add_rows("r1", [(0, "loss", step, 0.5)], [])
        store.put_trial("k", trial)
        with pytest.raises(sqlite3.OperationalError, match="locked"):  # the end of a run: whoever keeps it must know
            store.put_run(record(), finished=True)
        assert time.monotonic() - began < 1.0
        other.rollback()
        store.put_trial("l", trial)
        assert store.run().main.steps == 30 and store.trial("k") == store.trial("l") == trial
        other.execute("begin immediate")
        store.put_trial("m", trial)
        other.rollback()
    with Store.reading(tmp_path) as store:  # closing is the last chance
        assert store.trial("m") == trial


def test_beside_a_script(tmp_path):
    with Store.beside(tmp_path / "train.py") as store:
        assert store.folder == (tmp_path / FOLDER).resolve()


def test_names_that_are_no_texts_are_kept_as_texts(store):
    """As a file name that is not UTF-8 is printed and given."""
    odd = "file-\udcff.pt"
    run = record(output_tail=odd, hints=(odd,))
    store.add_rows("r1", [(0, odd, 1, 0.5)], [])
    store.put_run(run, finished=True)
    assert store.run().output_tail == "file-?.pt" and store.run().hints == ("file-?.pt",)
    assert store.run().main.get("file-?.pt").last == 0.5
    store.put_watched("k", Watched(run="r1", seen={odd: {"state": {}}}))
    assert store.watched("k").seen == {"file-?.pt": {"state": {}}}
    assert json.loads(to_json({"subject": odd})) == {"subject": "file-?.pt"}


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
