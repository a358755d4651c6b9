"""``trimtab report``: which store and which run it shows, what stays of earlier results, and what it does with damaged ones."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.test_store import put
from tests.trial.conftest import clusters
from trimtab.records import Treatment, Trial
from trimtab.report import sample
from trimtab.store import Store

HOSTILE = "\x1b]0;title\x07\x1b]52;c;Zm9v\x07\x1b[2Jnet\x1b[31m\x9b5m\u202e\u061c\u2028\ufeff"
OBEYED = "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u061c\u2028\ufeff]"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one, with ``src/digits.py`` and two runs of it in ``src/.trimtab``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "digits.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with Store("src/.trimtab") as store:
        for number, name in enumerate(("first", "second")):
            put(store, replace(sample.run(100), id=name, started=float(number + 1)))
    return tmp_path


def remembered(folder: Path, said: str) -> None:
    (folder / "state" / "trimtab").mkdir(parents=True)
    (folder / "state" / "trimtab" / "last").write_text(said)


# -- which one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [["src/digits.py"], ["src"], ["src/.trimtab"], ["--store", "src/.trimtab"]])
def test_a_run_is_found_by_script_and_by_folder(trimtab, project, what):
    shown = trimtab("report", *what)
    assert shown.exit_code == 0, shown.stderr
    assert "digits.py, 100 steps" in shown.stdout
    assert shown.stdout.endswith("Report: src/.trimtab/report.html\n")
    assert trimtab("report", "--list", *what).stdout.count("digits.py, 100 steps") == 2


def test_without_a_store_here_the_last_one_is_shown(trimtab, project):
    remembered(project, f"{project}/src/.trimtab\n")
    shown = trimtab("report")
    assert (shown.exit_code, shown.stderr) == (0, "From src/.trimtab, where trimtab worked last.\n")
    assert trimtab("report", "first").stdout.endswith("Report: src/.trimtab/reports/first.html\n")


def test_a_store_here_comes_before_the_last_one_but_not_for_a_run_of_that(trimtab, project):
    remembered(project, f"{project}/src/.trimtab")
    with Store(".trimtab") as store:
        put(store, replace(sample.run(50), id="here"))
    assert "digits.py, 50 steps" in trimtab("report").stdout
    assert "digits.py, 100 steps" in trimtab("report", "second").stdout
    wrong = trimtab("report", "third")
    assert wrong.exit_code == 1 and ".trimtab/runs.db has no run 'third'. It has: here." in wrong.stderr


@pytest.mark.parametrize("said", [None, "", "/nowhere/.trimtab", "\0", "src"])
def test_without_any_store_it_says_where_they_are(trimtab, project, said):
    if said is not None:
        remembered(project, said)
    shown = trimtab("report")
    assert shown.exit_code == 2
    assert "There is no record in this folder, and none is remembered from elsewhere." in shown.stderr


def test_watching_is_remembered(trimtab, project):
    (project / "src" / "train.py").write_text(clusters())
    assert trimtab("watch", "src/train.py").exit_code == 0
    assert (project / "state" / "trimtab" / "last").read_text() == f"{project}/src/.trimtab\n"
    assert "train.py, 40 steps" in trimtab("report").stdout
    assert "digits.py, 100 steps" in trimtab("report", "src/digits.py").stdout


@pytest.mark.parametrize("home", ["/dev/null", "relative"])
def test_a_state_that_cannot_be_kept_is_done_without(trimtab, project, monkeypatch, home):
    monkeypatch.setenv("XDG_STATE_HOME", home)
    monkeypatch.setenv("HOME", "/dev/null")
    (project / "src" / "train.py").write_text("print('hello')")
    assert trimtab("watch", "src/train.py").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["src/other.py"], "'src/other.py' does not exist."),
        (["top.py"], "Nothing is recorded of 'top.py' yet. Record it: trimtab watch top.py"),
        (["src/new.py"], "src/.trimtab/runs.db has no run of new.py. It has runs of: digits.py."),
        (["--html", "a\0b", "src"], "Invalid value for '--html': 'a\\x00b' cannot be the name of a file"),
        (["--json", "a" * 5000, "src"], "Invalid value for '--json': 'aaaa"),
    ],
)  # fmt: skip
def test_what_is_not_there(trimtab, project, arguments, message):
    for name in ("top.py", "src/new.py"):
        (project / name).write_text("")
    shown = trimtab("report", *arguments)
    assert shown.exit_code == 2 and f"Error: {message}" in shown.stderr
    assert len(shown.stderr) < 1000


# -- what stays ------------------------------------------------------------------------------------------------------


def test_a_comparison_is_shown_again(trimtab, train):
    train.write_text(clusters())
    for recipe in ("he_init", "clip_norm"):
        told = trimtab("compare", "--seeds", "2", "--workers", "2", "--with", recipe, "train.py")
        assert told.exit_code == 0, told.output
        shown = trimtab("report")
        assert shown.stdout.split("Report:")[0] == told.stdout.split("Report:")[0]
        page = Path(".trimtab/report.html").read_text()
        assert f"<code>{recipe}</code>" in page and "Earlier: comparison" not in page.split("<main>")[0]
        again = "It is run again, and so is what else cannot be read."
        assert (again in told.stderr) == (recipe == "clip_norm")
        with (
            contextlib.closing(sqlite3.connect(".trimtab/runs.db")) as raw,
            raw,
        ):  # for the next: one of its trials is damaged
            found = {
                row[0]: msgspec.msgpack.decode(row[1], type=Trial)
                for row in raw.execute("select key, record from trial")
            }
            (key,) = [key for key, trial in found.items() if not trial.recipe and trial.seed]
            raw.execute("update trial set record=x'c1' where key=?", (key,))
    assert (
        "Tried earlier on this run: he_init" in shown.stdout
    )  # the one before is still there, as a line and on the page
    assert "Earlier: comparison" in page and "<code>he_init</code>" in page
    (listed,) = re.findall(r"^.*train\.py, .*(?:\n    .*)*", trimtab("report", "--list").stdout, re.M)
    assert listed.endswith("\n    with a comparison")
    trimtab("watch", "train.py")
    newest = Path(".trimtab/report.html").read_text()
    assert "<code>clip_norm</code>" not in newest
    pages = {file.read_text() for file in Path(".trimtab/reports").iterdir()}
    assert pages == {page, newest}  # that of the comparison too


def test_the_newest_outcome_leads(trimtab, project):
    with Store("src/.trimtab") as store:
        store.put_tuning("second", sample.tuning())
        store.put_treatment("second", sample.treatment())
    shown = trimtab("report", "src").stdout
    assert shown.startswith("batch_norm(after='linear') raised validation accuracy from 0.11 to 0.94")
    assert "Tried earlier on this run: learning_rate(lr=0.185), batch_norm raised" in shown
    with Store("src/.trimtab") as store:
        store.put_tuning("second", sample.tuning())
    assert trimtab("report", "src").stdout.startswith("learning_rate(lr=0.185), batch_norm raised")
    listed = trimtab("report", "src", "--list").stdout
    assert "\nsecond  digits.py, 100 steps, validation accuracy 0.1" in listed
    assert listed.endswith("\n    not diagnosed yet\n    with a tuning and a treatment\n")


def test_an_older_page_does_not_take_the_place_of_the_newest(trimtab, project):
    trimtab("report", "src")
    newest = (project / "src/.trimtab/report.html").read_text()
    shown = trimtab("report", "first", "--store", "src/.trimtab")
    assert shown.stdout.endswith("Report: src/.trimtab/reports/first.html\n")
    assert (project / "src/.trimtab/report.html").read_text() == newest


def test_a_list_tells_what_was_found_and_what_has_not_ended(trimtab, project):
    with Store("src/.trimtab") as store:
        store.put_findings("second", sample.findings())
        running = replace(sample.run(100), id="third", started=3.0, metric=None)
        put(store, running)
        store.put_run(running, finished=False)
        store.add_rows("third", [(0, "loss", 140, 2.0)], [])
    first, second, third = re.findall(r"^\w.*(?:\n    .*)*", trimtab("report", "src", "--list").stdout, re.M)
    assert first.endswith("\n    not diagnosed yet")
    assert second.endswith("\n    error: The gradient vanishes on its way to the first layers (and 1 more)")
    assert third.splitlines()[0] == "third  digits.py, 141 steps, not ended, or killed"
    shown = trimtab("report", "src").stdout
    assert "digits.py, 141 steps, last loss 2, not ended, or killed" in shown and "42 s" not in shown
    assert "not ended, or killed" in (project / "src/.trimtab/report.html").read_text()


# -- what is damaged, locked or hostile ------------------------------------------------------------------------------


def test_what_cannot_be_read_hides_nothing_else(trimtab, project):
    with contextlib.closing(sqlite3.connect("src/.trimtab/runs.db")) as raw, raw, Store("src/.trimtab") as store:
        put(store, replace(sample.run(100), id="third", started=3.0))
        store.put_treatment("second", sample.treatment())
        store.put_comparison("second", sample.search())
        raw.execute("update run set head=? where id='third'", (b"of another version",))
        raw.execute("update outcome set record='text' where kind='comparison'")
        raw.execute("insert into point values ('second', 0, 'loss', 'odd', 'rows')")
        raw.execute("insert into profile values ('second', 0, 'grad_norms', 7, x'00')")
        raw.execute("insert into finding values ('first', x'93')")
    shown = trimtab("report", "src")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("batch_norm(after='linear') raised")
    assert shown.stderr.startswith(
        "Left out: The run third in src/.trimtab/runs.db cannot be read (it is damaged, or of another"
    )
    assert "\nLeft out: The comparison of " in shown.stderr and shown.stderr.count("\n") == 2
    page = (project / "src/.trimtab/reports/second.html").read_text()
    assert "Damaged rows of loss left out: 1." in page and "Damaged rows of grad_norms left out: 1." in page
    listed = trimtab("report", "src", "--list")
    assert listed.exit_code == 0 and re.findall(r"^\w+", listed.stdout, re.M) == ["first", "second"]
    assert "Left out: The run third" in listed.stderr and "Left out: What was found in run first" in listed.stderr
    wrong = trimtab("report", "third", "--store", "src/.trimtab")
    assert wrong.exit_code == 1 and wrong.stderr.startswith("Error: The run third in ")


@pytest.mark.parametrize("content", [b"", b"no database at all, but a text of some length" * 40])
def test_a_store_that_is_none_says_so(trimtab, project, content):
    (project / "src/.trimtab/runs.db").write_bytes(content)
    shown = trimtab("report", "src")
    assert shown.exit_code == 1 and re.match(
        r"Error: .*src/\.trimtab/runs\.db.*(holds no run yet|not a database)", shown.stderr
    )


def test_reading_leaves_everything_as_it_is(trimtab, project):
    before = {file: file.read_bytes() for file in (project / "src/.trimtab").iterdir()}
    assert trimtab("report", "src", "--list").exit_code == 0
    assert {file: file.read_bytes() for file in (project / "src/.trimtab").iterdir()} == before
    (project / "empty").mkdir()
    assert trimtab("report", "--store", "empty").exit_code == 1
    assert list((project / "empty").iterdir()) == []


def test_a_locked_store_is_said_at_once(trimtab, project, monkeypatch):
    monkeypatch.setattr("trimtab.store.PATIENCE", 0.01)
    with contextlib.closing(sqlite3.connect("src/.trimtab/runs.db", isolation_level=None)) as other:
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin exclusive")
        for arguments in (["report", "src"], ["report", "src", "--list"]):
            shown = trimtab(*arguments)
            assert shown.exit_code == 1
            assert "Another process holds it: wait until that one has ended, or end it.\n" in shown.stderr
        (project / "src" / "train.py").write_text("print('hello')")
        shown = trimtab("watch", "src/train.py")
        assert shown.stdout == "hello\n" and "Another process holds it" in shown.stderr


def test_nothing_of_a_record_reaches_the_terminal_as_a_command(trimtab, project):
    run, (worst, warning), treated = sample.run(100), sample.findings(), sample.treatment()
    training = replace(run.main, name=HOSTILE, model=HOSTILE, notes=(HOSTILE,))
    comparison = treated.confirmation
    arms = tuple(replace(arm, recipe=f"{arm.recipe} {HOSTILE}", remarks=(HOSTILE,)) for arm in comparison.arms)
    comparison = replace(comparison, arms=arms, remarks=(HOSTILE,), metric=replace(comparison.metric, name=HOSTILE))
    finding = replace(
        worst, title=HOSTILE, where=HOSTILE, evidence=(replace(worst.evidence[0], text=HOSTILE),), remedies=(HOSTILE,)
    )
    treatment = replace(
        treated,
        findings=(finding,),
        recipe=arms[0].recipe,
        confirmation=comparison,
        lines=(HOSTILE,),
        remarks=(HOSTILE,),
    )
    hostile = replace(run, id="third\x1b[31m", started=9.0, subject=HOSTILE, error=HOSTILE, trainings=(training,))
    with Store("src/.trimtab") as store:
        put(store, hostile)
        store.put_treatment(hostile.id, treatment)
        store.put_findings(hostile.id, [finding, warning])
    (project / "src" / "new.py").write_text("")
    for arguments in (
        ["src", "--json", "r.json"], ["src", "--list"], ["nothing", "--store", "src/.trimtab"], ["src/new.py"],
    ):  # fmt: skip
        shown = trimtab("report", *arguments)
        assert not re.search(OBEYED, shown.stdout + shown.stderr)
        assert "net" in shown.stdout + shown.stderr or "nothing" in arguments
    written = Path("r.json").read_text()  # it may be a terminal
    assert not re.search(OBEYED, written) and json.loads(written)["run"]["error"] == HOSTILE
    assert not re.search(OBEYED, repr(hostile)) and "\\u202e" in repr(hostile)
    assert [file.name for file in (project / "src/.trimtab/reports").iterdir()] == ["third__31m.html"]
    page = (project / "src/.trimtab/report.html").read_text()
    assert "\x1b" not in page and "\x9b" not in page


def test_treatments_of_older_versions_are_still_shown(trimtab, project):
    with contextlib.closing(sqlite3.connect("src/.trimtab/runs.db")) as raw, raw:
        raw.execute("drop table outcome")
        raw.execute("create table treatment (run text primary key, record blob)")
        raw.execute("insert into treatment values ('second', ?)", (msgspec.msgpack.encode(sample.treatment()),))
    assert trimtab("report", "src").stdout.startswith("batch_norm(after='linear') raised")
    with Store("src/.trimtab") as store:
        assert store.treatment("second").recipe == sample.treatment().recipe
        store.put_treatment("second", Treatment(subject="digits.py", findings=(), remarks=("newer",)))
        assert store.treatment("second").words == ("newer",)


# -- where pages go ----------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_written_into_and_links_stay_links(trimtab, project):
    os.mkfifo("pipe")
    reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    Path("real.json").write_text("old")
    Path("link.json").symlink_to("real.json")
    shown = trimtab("report", "src", "--list")
    assert shown.exit_code == 0
    pages = trimtab("report", "src", "--html", "link.html", "--json", "link.json")
    assert pages.stdout.endswith("Report: link.html\n")
    assert Path("link.json").is_symlink() and Path("real.json").read_text().startswith("{")
    from trimtab.report.files import write_whole

    write_whole("pipe", b"written into")
    assert os.read(reading, 100) == b"written into"
    assert not Path("pipe").is_file()
    os.close(reading)
    assert not (project / "src/.trimtab/reports").exists()  # --html took the place of both
