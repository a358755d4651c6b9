"""Edits as arms: other arguments, another environment, another version of the files, from another file or from git."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import trimtab as tt
from trimtab.records import to_json
from trimtab.trial.compare import by_name, compare_watched
from trimtab.trial.edits import at_revision, difference, version_of, with_arguments, with_variables
from trimtab.trial.session import Session, TrialError
from trimtab.trial.subjects import Script, SubjectError

SCRIPT = """\
import os, sys, torch
from parts.rates import rate
torch.manual_seed(0)
x = torch.randn(64, 4)
y = x.sum(1, keepdim=True)
model = torch.nn.Linear(4, 1)
scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
optimizer = torch.optim.SGD(model.parameters(), lr=rate() * scale * float(os.environ.get("SCALE", "1")))
for step in range(24):
    batch = torch.randint(64, (16,))
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
    optimizer.step()
    print(os.environ.get("CALLED", "val_loss"), torch.nn.functional.mse_loss(model(x), y).item())
"""
RATES = "def rate():\n    return 0.02\n"


def git(folder, *command: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder of a repository with a script and a package beside it, edited since the only commit; a new file, and something staged."""
    folder = tmp_path / "below"
    (folder / "parts").mkdir(parents=True)
    (folder / "train.py").write_text(SCRIPT)
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "rates.py").write_text(RATES)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "before")
    (folder / "parts" / "rates.py").write_text("from parts.more import RATE\n\ndef rate():\n    return RATE\n")
    (folder / "parts" / "more.py").write_text("RATE = 0.1\n")
    (folder / "notes.txt").write_text("staged")
    git(tmp_path, "add", "below/notes.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(folder) -> dict:
    """All that git and the folder have."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".trimtab" not in path.parts}
    return {path: text for path, text in files.items() if "__pycache__" not in path.parts}


def test_edits_are_arms_on_the_same_seeds_and_touch_nothing(repository, engine):
    before = state(repository)
    script, old = Script("below/train.py"), repository / "old"
    shutil.copytree(repository / "below", old)
    (old / "parts" / "rates.py").write_text(RATES)
    versions = ["HEAD", "old/train.py", with_arguments(script, "0.2"), with_variables(script, "SCALE=0.2")]
    silent = with_variables(script, "CALLED=test_loss")
    found = tt.compare(script, "clip_norm", against=[*versions, silent], seeds=2, engine=engine)
    called = [
        "HEAD",
        "old/train.py",
        "below/train.py 0.2",
        "SCALE=0.2 below/train.py",
        "CALLED=test_loss below/train.py",
    ]
    assert [arm.recipe for arm in found.arms] == ["clip_norm", *called]
    clipped, head, other, fewer, weaker, named = found.arms
    assert [arm.edit for arm in found.arms] == [False, *[True] * 5]
    assert any(word.startswith("With 5 arms tested") for word in found.words)  # the one without a number is not
    assert head.values == other.values == fewer.values == weaker.values  # all of them have a fifth of the rate
    assert head.values != found.baseline
    assert head.note == "1 Python file of this version is another one; data and configuration are as they are now."
    assert named.failed == 2, named.note
    assert "the run has no printed val loss; it has printed test loss, val loss" in named.note
    assert clipped.values not in (head.values, found.baseline) and head.effect < 0 and not head.lines
    shutil.rmtree(old)
    assert state(repository) == before
    assert b"HEAD" in to_json(found)
    again = tt.compare(script, against="HEAD", seeds=2, engine=engine)
    assert again.arms[0].values == head.values
    with pytest.raises(SubjectError, match="Two arms are called 'HEAD'"):
        by_name([("HEAD", script), ("HEAD", with_arguments(script, "2"))], [])


def test_another_version_is_written_into_the_view_where_that_is_a_copy(repository, engine, monkeypatch):
    monkeypatch.setenv("TRIMTAB_VIEWS", "copy")
    before = state(repository)
    script = Script("below/train.py")
    with Session(script, engine=engine) as session:
        session.admit({"HEAD": at_revision(script, "HEAD")})
        session.watch()
        trials = session.trials(["", "HEAD"], [0])
    assert trials["HEAD"][0].status == "ok", trials["HEAD"][0].error
    assert trials["HEAD"][0].value > trials[""][0].value
    assert state(repository) == before


def test_a_revision_has_what_it_had_and_nothing_is_written_outside(tmp_path, monkeypatch, engine):
    project, shared = tmp_path / "project", tmp_path / "shared"
    project.mkdir(), shared.mkdir()
    script = SCRIPT.replace(
        "from parts.rates import rate", "try:\n    from fast import rate\nexcept ImportError:\n    rate = lambda: 0.02"
    )
    (project / "train.py").write_text(f"import common\n{script}")
    (shared / "common.py").write_text("A = 1\n")
    (project / "common.py").symlink_to("../shared/common.py")
    (project / "later.py").write_text("B = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "before")
    (project / "fast.py").write_text("def rate():\n    return 0.1\n")
    (shared / "common.py").write_text("A = 2\n")
    (shared / "later.py").write_text("B = 2\n")
    (project / "later.py").unlink()
    (project / "later.py").symlink_to("../shared/later.py")  # to be written in the view, not behind the link
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a module more, and another text outside of the folder")
    before = state(tmp_path)
    monkeypatch.chdir(project)
    found = tt.compare("train.py", against="HEAD~1", seeds=2, engine=engine)
    (old,) = found.arms
    assert old.effect < 0 and not old.no_effect  # fast.py is not there
    assert "so are shared/common.py, shared/later.py, which trials do not have to themselves" in old.note
    assert not any("outside" in word for word in found.words)
    assert state(tmp_path) == before


def test_a_file_of_another_folder_is_another_trial_though_its_text_is_the_same(tmp_path, monkeypatch, engine):
    script = SCRIPT.replace(
        "from parts.rates import rate",
        "import pathlib\nrate = lambda: float(pathlib.Path(__file__).with_name('rate').read_text())",
    )
    for name, rate in {"one": "0.1", "two": "0.02", "three": "0.02"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(script)
        (tmp_path / name / "rate").write_text(rate)
    monkeypatch.chdir(tmp_path / "one")
    for _ in range(2):  # and so are those that are kept
        found = tt.compare("train.py", against="../two/train.py", seeds=2, engine=engine)
        assert found.arms[0].effect < 0 and found.arms[0].wins == 0
    with Session(Script("train.py"), engine=engine) as session:  # also before anything is known of what they read
        session.admit({"other": Script("../three/train.py"), "near": Script("train.py", ("1",))})
        assert session.sources.read("near") == session.sources.read("") == ""
        assert session.sources.read("other") == f"{tmp_path}/three/.trimtab "


def test_trials_of_an_edit_are_kept_as_long_as_what_it_reads_is_the_same(repository, engine):
    script, more = Script("below/train.py"), repository / "scale.txt"
    (repository / "below" / "train.py").write_text(
        SCRIPT.replace("sys.argv[1])", "pathlib.Path(sys.argv[1]).read_text())").replace(
            "import os", "import pathlib, os"
        )
    )

    def reused(seeds: int) -> int:
        with Session(script, engine=engine) as session:
            found = compare_watched(session, [], {"other": with_arguments(script, "scale.txt")}, seeds=seeds)[1]
            assert {trial.status for trial in found.trials} == {"ok"}
            return session.reused

    more.write_text("0.5")
    assert [reused(2), reused(2)] == [0, 4]
    more.write_text("0.25")
    assert reused(2) == 2  # those of the script as it is


def test_where_trials_have_no_views_other_files_are_written_nowhere(repository, engine, monkeypatch):
    monkeypatch.setenv("TRIMTAB_VIEWS", "shared")
    before = state(repository)
    with pytest.raises(TrialError, match="HEAD cannot be tried here: it has other files, and a trial has no view"):
        tt.compare("below/train.py", against="HEAD", seeds=2, engine=engine)
    assert state(repository) == before


def test_a_version_is_what_its_text_and_arguments_make_it(repository):
    script = Script("below/train.py", ("0.5",))
    head = at_revision(script, "HEAD")
    assert head.arguments == ("0.5",) and set(head.texts()) == {
        (repository / "below" / name) for name in ("train.py", "parts/__init__.py", "parts/rates.py")
    }
    assert head.files == (
        ("parts/rates.py", RATES.encode()),
    )  # more.py is not tracked: git does not know whether it was there
    git(repository, "stash", "--include-untracked", "--quiet")
    assert (
        head.fingerprint()
        == Script("below/train.py", ("0.5",)).fingerprint()
        == at_revision(script, "HEAD~0").fingerprint()
    )
    git(repository, "stash", "pop", "--quiet", "--index")
    assert head.fingerprint() not in (script.fingerprint(), with_variables(script, "A=1").fingerprint())
    assert with_variables(script, "A=1").fingerprint() != with_variables(script, "A=2").fingerprint()
    told = difference(script, head)
    assert "-from parts.more import RATE" in told and "+    return 0.02" in told and "-RATE = 0.1" in told
    assert difference(script, with_arguments(script, "--name 'a b'")) == ["below/train.py 0.5 --name 'a b'"]
    assert difference(script, with_variables(script, "A='b c'")) == ["A='b c' below/train.py 0.5"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda script: version_of(script, "HEAD~7"), "neither a file 'HEAD~7' nor a revision"),
        (lambda script: version_of(script, "--help"), "neither a file '--help' nor a revision"),
        (lambda script: version_of(script, "gone.py"), "neither a file 'gone.py' nor a revision"),
        (lambda script: at_revision(Script("new.py"), "HEAD"), r"HEAD \(\w{12}\) has no new.py\."),
        (lambda script: with_arguments(script, "--lr '0.1"), "no command line: No closing quotation"),
        (lambda script: with_arguments(script, " "), "changes nothing"),
        (lambda script: with_variables(script, "WIDTH 3"), "Write NAME=VALUE"),
        (lambda script: with_variables(script, "A=1 PYTHONPATH=x"), "PYTHONPATH is read before a script starts"),
        (
            lambda script: version_of(Script("below.train", module=True), "new.py"),
            "runs as a module: name its other version",
        ),
        (lambda script: by_name([("a", script), ("b", script)], []), "'a' and 'b' are the same version"),
        (lambda script: with_variables(script, "A=1").packed(), "do not go along to other machines"),
        (lambda script: tt.compare(tt.Task("t", model=torch_model, data=torch_model), against="HEAD"), "t is none"),
    ],
)
def test_versions_that_are_none(repository, make, why):
    (repository / "new.py").write_text("print()")
    with pytest.raises(SubjectError, match=why):
        make(Script("below/train.py"))


def torch_model() -> None:
    """Never called."""


def test_without_a_repository_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("print()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SubjectError, match="lies in no git repository"):
        version_of(Script("train.py"), "HEAD")


def test_there_must_be_something_to_compare_with(repository):
    with pytest.raises(tt.RecipeError, match="at least one recipe"):
        tt.compare("below/train.py")
