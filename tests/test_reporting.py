"""Python and notebooks: runs that are watched from there, reports of what there is, and records that show themselves."""

from __future__ import annotations

import inspect
import math
import warnings
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace
from torch import nn

import trimtab as tt
from tests.test_store import put
from tests.trial.conftest import clusters
from trimtab import reporting
from trimtab.records import Findings, Metric, RunRecord, Series, TrainingRecord, as_run, to_json
from trimtab.report import sample
from trimtab.store import Store, StoreError
from trimtab.trial.subjects import SubjectError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own that is the current one, of a user who has worked nowhere yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recording(steps: int = 30) -> tuple[tt.Training, tt.Recorder]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = tt.attach(model, optimizer).apply("clip_norm(max_norm=1.0)")
    recorder = training.watch()
    for _ in range(steps):
        x = torch.randn(16, 8)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    training.kept.append(optimizer)
    return training, recorder


# -- watching ----------------------------------------------------------------------------------------------------------


def test_a_script_is_watched_from_python(here, capsys):
    (here / "train.py").write_text(clusters() + "\nprint('done')\nraise SystemExit(3)")
    run = tt.watch("train.py")
    assert capsys.readouterr().out.endswith("done\n")
    assert isinstance(run, RunRecord) and run.main.steps == 40 and run.exit_code == 3 and run.finished
    assert run.subject == "train.py" and run.metric.name == "val accuracy"
    with Store(".trimtab") as store:
        assert store.run().trainings == run.trainings
        assert store.findings(run.id) is not None
    assert tt.report().run.id == run.id  # kept here, and remembered
    (here / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "elsewhere")
        assert tt.report().run.id == run.id


def test_arguments_and_metric_of_a_watched_script(here):
    (here / "train.py").write_text(clusters(begin="import sys; print('rate', sys.argv[1])"))
    run = tt.watch(tt.Script("train.py", ("0.5",)), metric=r"value ([0-9.]+)")
    assert run.output_tail.startswith("rate 0.5\n") and run.metric.name.startswith("metric ")


def test_a_script_is_watched_where_no_store_can_be(here):
    (here / "train.py").write_text(clusters())
    (here / ".trimtab").write_text("a file")
    with pytest.warns(UserWarning, match="its record stays in memory"):
        assert tt.watch("train.py").main.steps == 40


def test_what_is_no_script_is_refused(here):
    (here / "nb.ipynb").write_text("{}")
    with pytest.raises(
        SubjectError, match=r"'nb.ipynb' is a notebook, not a Python file. Make it one, and run that: jupyter nbconvert"
    ):
        tt.watch("nb.ipynb")
    with pytest.raises(SubjectError, match="does not exist") as refused:
        tt.watch("x" * 5000)
    assert len(str(refused.value)) < 300
    with pytest.raises(SubjectError, match="does not exist"):
        tt.watch("a\0b.py")


def train_it() -> None: ...


@pytest.mark.parametrize("subject", [train_it, nn.Linear, nn.Linear(1, 1), 3, None])
@pytest.mark.parametrize("verb", ["watch", "treat", "compare", "noise", "tune"])
def test_what_is_no_subject_is_refused_with_what_is_one(here, verb, subject):
    more = {"compare": ["ema"], "tune": ["ema | none"]}.get(verb, [])
    with pytest.raises(SubjectError) as refused:
        getattr(tt, verb)(subject, *more)
    said = str(refused.value)
    assert said.startswith("A subject is the path of a script, a Script with its arguments, or a Task; got ")
    assert "tt.Task('digits', model=make_model, data=load_data)" in said
    if subject is train_it:
        assert "got the function train_it." in said


# -- diagnosing and reporting ------------------------------------------------------------------------------------------


def test_a_recorder_is_diagnosed_and_reported_open_and_closed(here):
    _, recorder = recording()
    found = tt.diagnose(recorder)
    assert isinstance(found, Findings)
    opened = recorder.report()
    assert opened.run.main.steps == 30 and opened.path is None
    run = recorder.close()
    assert tt.diagnose(recorder) == tt.diagnose(run) == tt.diagnose(run.main)
    closed = recorder.report("x.html")
    assert closed.path == Path("x.html") and Path("x.html").read_text() == closed.page
    assert repr(closed).endswith("\nReport: x.html")
    assert "30 steps" in str(closed)


@pytest.mark.parametrize("what", [3, "nothing", nn.Linear(1, 1), None])
def test_what_has_no_record_is_refused(what):
    with pytest.raises(TypeError, match=r"The record of a run is wanted; got \w+\. A recorder has one, open or closed"):
        tt.diagnose(what)
    with pytest.raises(TypeError):
        as_run(what)


def test_reports_of_a_store(here):
    run = sample.run(100)
    with Store("src/.trimtab") as store:
        put(store, run)
        store.put_comparison(run.id, sample.search())
        store.put_treatment(run.id, sample.treatment())
    (here / "src" / "digits.py").write_text("")
    for what in ("src/digits.py", "src", Path("src/.trimtab")):
        made = tt.report(what)
        assert made.run.id == run.id and [type(one).__name__ for one in made.outcomes] == ["Treatment", "Comparison"]
        assert str(made).startswith("batch_norm(after='linear') raised validation accuracy from 0.11 to 0.94")
        assert "Earlier: comparison" in made.page
    with pytest.raises(StoreError, match="holds no run yet"):
        tt.report("nowhere.py")
    with pytest.raises(StoreError):
        tt.report()


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (sample.treatment(), "batch_norm(after='linear') raised validation accuracy from 0.11 to 0.94"),
        (sample.search(), "batch_norm(after='linear') raised validation accuracy from 0.09 to 0.94"),
        (sample.tuning(), "learning_rate(lr=0.185), batch_norm raised validation accuracy"),
    ],
)
def test_reports_of_outcomes(here, outcome, said):
    assert str(tt.report(outcome)).startswith(said)
    made = tt.report(outcome, "x.html", run=sample.run(100))
    assert made.run.main.steps == 100 and "<svg" in Path("x.html").read_text()
    kept = replace(sample.run(100), id="20260105-101500-digits")
    with Store(".trimtab") as store:
        put(store, kept)
    found = tt.report(replace(outcome, run=kept.id)) if hasattr(outcome, "run") else None
    assert found is None or to_json(found.run) == to_json(kept)  # the run that it started from is found


def test_a_notebook_shows_the_page():
    made = tt.report(sample.run(100))
    shown = made._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and shown.count("<script") == 0  # escaped, and in a frame of its own
    assert "&lt;!doctype html&gt;" in shown


# -- records that show themselves --------------------------------------------------------------------------------------

SHOWN = {
    "series": (sample.run().main.get("loss"), "<Series of 940 values: 2.", "940 values on steps 0 to 939: first 2."),
    "no series": (Series(), "<Series without values>", "no values"),
    "profile": (sample.run().main.profiles["grad_norms"], "<Profile of 16 names on ", "<Profile of 16 names on "),
    "training": (sample.run().main, "<TrainingRecord net: Sequential, SGD, 940 steps, last loss 2.32>", "net: Sequential, SGD, 940 steps, 8 layers\n  loss "),
    "run": (sample.run(), "<RunRecord 20260105-101500-digits: digits.py, 940 steps, val accuracy 0.1057>", "digits.py, 940 steps, last loss"),
    "finding": (sample.findings()[0], "<Finding error: The gradient vanishes on its way to the first layers, at net.0>", "error   The gradient vanishes"),
    "arm": (sample.search().arms[0], "<Arm batch_norm(after='linear'): +0.8462 [0.8", "batch_norm(after='linear'): +0.85 [0.81, 0.88]"),
    "trial": (sample.search().trials[0], "<Trial untreated, seed 0: 0.09", "<Trial untreated, seed 0: 0.09"),
    "comparison": (sample.comparison(), "<Comparison of batch_norm(after='linear') against the untreated digits.py by val accuracy over 5 seeds>", "validation accuracy (more is better), 5 paired seeds\n"),
    "treatment": (sample.treatment(), "<Treatment of digits.py: batch_norm(after='linear'), 2 findings>", "Search\n"),
    "tuning": (sample.tuning(), "<Tuning of digits.py: learning_rate(lr=0.185), batch_norm, 24 trials>", "Search\n"),
    "attempt": (sample.tuning().attempts[0], "<Attempt 0, ", "<Attempt 0, "),
    "findings": (Findings(sample.findings()), "<Finding error: ", "error   The gradient vanishes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_a_record_shows_itself(kind):
    record, short, text = SHOWN[kind]
    assert repr(record).startswith(short) and all(len(line) < 160 for line in repr(record).splitlines())
    assert text in str(record) and len(str(record)) < 6000
    shown = record._repr_html_()
    assert shown.startswith("<pre style=") and shown.rstrip().endswith("</pre>")
    assert len(shown) < 30_000


def test_small_records_show_the_fields_that_say_something():
    metric = Metric(name="val loss", goal="min")
    assert repr(metric) == str(metric) == "Metric(name='val loss', goal='min')"
    assert metric._repr_html_() is None  # a notebook takes repr then


def test_odd_records_show_themselves_too():
    odd = [
        RunRecord(id="r", subject="s"),
        RunRecord(id="r", subject="s", finished=False, error="it broke"),
        TrainingRecord(name="n", model="m"),
        Series(steps=(0, 1), values=(math.nan, math.inf)),
        sample.treatment().__class__(subject="s", findings=()),
        replace(sample.comparison(), arms=(), trials=()),
    ]
    for record in odd:
        assert repr(record) and isinstance(str(record), str) and record._repr_html_().startswith("<pre")
    assert repr(Findings()) == "()" and str(Findings((), 9)) == "No rule found a fault (9 asked)."
    hostile = replace(sample.findings()[0], title="<script>alert(1)</script> \x1b[31m")
    assert "<script" not in hostile._repr_html_() and "\x1b" not in str(hostile)


def test_trainings_changes_and_recorders_in_short():
    training, recorder = recording(3)
    said = "<Training of Sequential, SGD, at step 3, changed: gradient norm clipped at 1: never acted in"
    assert repr(training).startswith(said)
    assert repr(training.changes[0]).startswith("<Change: gradient norm clipped at 1: never acted in")
    assert repr(recorder) == "<Recorder of Sequential, 3 steps>"
    recorder.close()
    training.undo()
    assert repr(training) == "<Training of Sequential, SGD, at step 3>"


def test_findings_are_stored_and_read_as_a_tuple_is():
    found = Findings(sample.findings())
    treatment = replace(sample.treatment(), findings=found)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(treatment), type=type(treatment))
    assert again.findings == found == sample.findings()


def test_runs_of_older_versions_have_ended():
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(sample.run(10)))
    del old["finished"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=RunRecord).finished


def test_the_room_of_reports_is_still_a_room():
    import trimtab.report
    from trimtab.report import verdict

    assert verdict(sample.run(sick=False)) == "No rule found a fault"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trimtab.report is tt.report and {"report", "watch"} <= set(dir(tt)) & set(tt.__all__)


def test_help_on_the_report_says_how_it_is_called():
    assert inspect.signature(tt.report) == inspect.signature(reporting.report)
    assert (inspect.getdoc(tt.report) or "").startswith('``trimtab.report("train.py")``')
