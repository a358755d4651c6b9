"""Commands on scripts: what ends well, what ends badly, what a full disk leaves."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trial.conftest import DEEP, clusters, mark
from trimtab.store import Store

SICK = clusters(DEEP, epochs=12)
LONG = clusters(DEEP, epochs=60)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# -- watch -----------------------------------------------------------------------------------------------------------


def test_watch_keeps_output_and_exit_code_and_tells_the_rest_on_standard_error(trimtab, train):
    train.write_text(SICK + "\nraise SystemExit(7)")
    shown = trimtab("watch", "--json", "found.json", "train.py")
    assert shown.exit_code == 7
    assert re.fullmatch(r"value 1\.\d+\n\n?", shown.stdout)
    assert shown.stderr.startswith(
        "The script did not end well: the script ended itself with exit code 7. What was recorded until then is kept.\n"
    )
    assert "vanishing_gradient" in shown.stderr
    assert shown.stderr.endswith("Report: .trimtab/report.html\n")
    assert (train.parent / ".trimtab" / "report.html").stat().st_size > 10_000
    found = read(train.with_name("found.json"))
    assert found["run"]["exit_code"] == 7 and found["run"]["subject"] == "train.py"
    assert found["metric"]["name"] == "val accuracy" and found["metric"]["goal"] == "max"
    first = found["findings"][0]
    assert set(first) >= {"problem", "severity", "where", "confidence", "evidence", "remedies"}
    assert first["problem"] == "vanishing_gradient" and first["severity"] in ("error", "warning")
    assert first["evidence"][0]["text"] and "batch_norm" in first["remedies"]


def test_options_after_the_script_are_the_scripts(trimtab, train):
    train.write_text("import sys\nprint(sys.argv)")
    shown = trimtab("watch", "train.py", "--html", "x", "--json=y", "-m", "--help")
    assert shown.exit_code == 0
    assert shown.stdout == "['train.py', '--html', 'x', '--json=y', '-m', '--help']\n"
    assert not train.with_name("y").exists()


def test_a_module_runs_as_python_m_does(trimtab, train):
    package = train.parent / "packed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rate.py").write_text("RATE = 0.05")
    (package / "learn.py").write_text(
        clusters(begin="import sys\nfrom .rate import RATE\nprint(__name__, sys.argv[1:])")
    )
    shown = trimtab("watch", "-m", "packed.learn", "--epochs", "3")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("__main__ ['--epochs', '3']\nvalue ")
    assert (package / ".trimtab" / "report.html").exists()


def test_a_script_that_crashes_shows_its_traceback_and_keeps_its_record(trimtab, train):
    train.write_text(clusters(end="raise ValueError('bad')"))
    shown = trimtab("watch", "train.py")
    assert shown.exit_code == 1
    assert "Traceback (most recent call last):" in shown.stderr and "ValueError: bad\n" in shown.stderr
    assert "site-packages/trimtab" not in shown.stderr and "training/script.py" not in shown.stderr
    assert "The script did not end well: ValueError: bad at train.py:20." in shown.stderr

    (name,) = Store(".trimtab").runs()
    listed = trimtab("report", "--list").stdout
    assert re.fullmatch(
        rf"{name}  train\.py, 40 steps, validation accuracy 0\.\d+, ValueError: bad at train\.py:20\n", listed
    )
    again = trimtab("report", name, "--html", "again.html", "--json", "again.json")
    assert again.exit_code == 0
    assert "ValueError: bad at train.py:20" in again.stdout
    assert again.stdout.endswith("Report: again.html\n")
    assert read(train.with_name("again.json"))["run"]["error"] == "ValueError: bad at train.py:20"
    wrong = trimtab("report", "nothing")
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("Error: .trimtab/runs.db has no run 'nothing'.") and name in wrong.stderr


def test_a_script_that_never_trains(trimtab, train):
    train.write_text("print('hello')")
    shown = trimtab("watch", "--json", "found.json", "train.py")
    assert (shown.exit_code, shown.stdout) == (0, "hello\n")
    assert shown.stderr.startswith("No training was seen: the script made no torch.optim step.")
    assert read(train.with_name("found.json"))["findings"] == []


def test_a_script_whose_loss_is_nan(trimtab, train):
    train.write_text(clusters(rate=1e20))
    shown = trimtab("watch", "--json", "found.json", "train.py")
    assert (shown.exit_code, shown.stdout) == (0, "value nan\n")
    assert any(f["severity"] == "error" for f in read(train.with_name("found.json"))["findings"])
    assert "NaN" in shown.stderr or "not finite" in shown.stderr or "non-finite" in shown.stderr


def test_a_metric_that_matches_nothing_is_said(trimtab, train):
    train.write_text(clusters())
    shown = trimtab("watch", "--metric", "acc=([0-9]+)", "train.py")
    assert shown.exit_code == 0
    assert "--metric 'acc=([0-9]+)' matched no line that train.py printed" in shown.stderr
    assert "Seen were: --metric 'val loss'; --metric 'val accuracy'." in shown.stderr
    shown = trimtab("watch", "--metric", "test loss", "train.py")
    assert "train.py has no number called 'test loss'. Seen were: --metric 'val loss'" in shown.stderr


def test_a_script_may_change_its_folder(trimtab, train, tmp_path):
    (tmp_path / "other").mkdir()
    train.write_text(clusters(begin="import os; os.chdir('other')"))
    shown = trimtab("watch", "--json", "found.json", "train.py")
    os.chdir(tmp_path)
    assert shown.exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == [
        ".trimtab",
        "found.json",
        "other",
        "train.py",
    ]
    assert list((tmp_path / "other").iterdir()) == []


# -- treat and compare -----------------------------------------------------------------------------------------------


def test_treat_tells_and_writes_what_helped(trimtab, train):
    train.write_text(SICK)
    shown = trimtab("treat", "--seeds", "3", "--workers", "2", "--json", "found.json", "train.py")
    assert shown.exit_code == 0, shown.output
    assert "Lines to add:" in shown.stdout and "tt.attach(model, optimizer).apply(" in shown.stdout
    assert shown.stdout.endswith("Report: .trimtab/report.html\n")
    stages = re.findall(r"^(.*): (\d+) of (\d+) done in \d+ s$", shown.stderr, re.M)
    assert [stage for stage, _, _ in stages][:2] == ["watching one run", "racing to the end"]
    assert stages[-1] == ("confirming on fresh seeds", "6", "6")
    treatment = read(train.with_name("found.json"))["treatment"]
    assert set(treatment) >= {"recipe", "metric", "effect", "low", "high", "seeds"}
    assert treatment["recipe"] in shown.stdout and treatment["seeds"] == [1000, 1001, 1002]
    assert treatment["low"] < treatment["effect"] < treatment["high"] and treatment["proven"] is True
    assert any(line.startswith("tt.attach(") for line in treatment["lines"])

    again = trimtab("treat", "--seeds", "3", "--workers", "2", "train.py")
    assert (
        again.stdout.splitlines()[-1] == f"Kept from before and not repeated: {sum(int(n) for _, n, _ in stages)} runs."
    )
    assert trimtab("report").stdout.split("Report:")[0] == again.stdout.split("Report:")[0]  # the treatment is kept too


def test_treat_on_a_healthy_script(trimtab, train):
    train.write_text(clusters())
    shown = trimtab("treat", "--json", "found.json", "train.py")
    assert shown.exit_code == 0
    assert "No rule found a fault" in shown.stdout
    result = read(train.with_name("found.json"))
    assert result["treatment"]["recipe"] == "" and result["treatment"]["effect"] is None
    assert result["rules"] == {
        "asked": 10,
        "unjudged": {"overfitting": "it needs a number for held-out data that was seen at least 6 times"},
    }
    assert "\ntrimtab compare --with 'lr_scale(factor=3)'" in shown.stdout


def test_treat_says_when_nothing_helps(trimtab, train):
    train.write_text(SICK + "\nprint('acc 0.1')")
    shown = trimtab("treat", "--metric", "acc ([0-9.]+)", "--budget", "9s", "train.py")
    assert shown.exit_code == 3
    assert "Lines to add" not in shown.stdout


def test_treat_on_a_script_that_fails_shows_why(trimtab, train):
    train.write_text(clusters(end="raise ValueError('bad')"))
    shown = trimtab("treat", "train.py")
    assert shown.exit_code == 1
    assert (
        "Error: train.py failed, so there is nothing to compare with: ValueError: bad at train.py:20.\n" in shown.stderr
    )
    assert "\nTraceback (most recent call last):\n" in shown.stderr
    command = re.search(r"Its record up to there is kept: trimtab (report \S+)", shown.stderr)[1]
    assert "40 steps" in trimtab(*command.split()).stdout


def test_our_options_behind_the_script_are_noticed(trimtab, train):
    train.write_text("import argparse; argparse.ArgumentParser().parse_args()")
    shown = trimtab("treat", "train.py", "--seeds", "3")
    assert shown.exit_code == 1
    assert "error: unrecognized arguments: --seeds 3" in shown.stderr
    assert shown.stderr.rstrip("\n").endswith(
        "--seeds stood behind the script and so belonged to it. For trimtab, write it before: trimtab treat --seeds ... train.py"
    )


def test_compare_tells_and_writes_every_arm(trimtab, train):
    train.write_text(SICK)
    arms = ["--with", "batch_norm", "--with", "batch_norm(after='conv')"]
    shown = trimtab("compare", "--seeds", "2", "--exit-code", *arms, "--json", "found.json", "train.py")
    assert shown.exit_code == 0, shown.output
    assert "Reason: batch_norm(after='conv') found nothing to act on" in " ".join(shown.stdout.split())
    found = read(train.with_name("found.json"))["comparison"]
    assert [arm["recipe"] for arm in found["arms"]] == ["batch_norm", "batch_norm(after='conv')"]
    assert found["arms"][1]["no_effect"] == 2 and found["arms"][1]["effect"] is None
    assert found["seeds"] == [0, 1]
    assert (found["verdict"], [arm["verdict"] for arm in found["arms"]]) == ("better", ["better", "same"])


def test_compare_goes_on_until_it_is_decided_and_can_end_with_the_verdict(trimtab, train):
    train.write_text(SICK)
    asked = ["compare", "--until-decided", "--seeds", "8", "--exit-code", "--json", "found.json"]
    shown = trimtab(*asked, "--with", "batch_norm", "train.py")
    found = read(train.with_name("found.json"))["comparison"]
    assert (shown.exit_code, found["verdict"], found["seeds"], found["looks"]) == (0, "better", [0, 1, 2], [3]), (
        shown.output
    )
    shown = trimtab(*asked, "--margin", "1000", "--with", "adam(lr=1e-9)", "train.py")
    found = read(train.with_name("found.json"))["comparison"]
    assert (shown.exit_code, found["verdict"], found["arms"][0]["margin"]) == (4, "same", 1000.0), shown.output
    assert "Differences below 1e+03, count as none" in " ".join(shown.stdout.split())


def test_compare_tells_of_edits(trimtab, train):
    train.write_text(SICK.replace("0.05", "float(sys.argv[1]) if sys.argv[1:] else float(os.environ.get('RATE', 0.5))")
                     .replace("import torch\n", "import os, sys, torch\n", 1))  # fmt: skip
    shown = trimtab(
        "compare", "--seeds", "2", "--args", "0.01", "--env", "RATE=0.01", "--json", "found.json", "train.py"
    )
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("None of the 2 arms is proven to help")
    page = (train.parent / ".trimtab" / "report.html").read_text()
    assert "Every arm runs on the same seeds" in page
    found = read(train.with_name("found.json"))["comparison"]
    arms = found["arms"]
    assert [arm["recipe"] for arm in arms] == ["0.01", "RATE=0.01"] and arms[0]["values"] == arms[1]["values"]
    beside = {(one["metric"]["name"], one["metric"]["best"]): one for one in found["beside"]}
    assert ("loss", False) in beside and all(
        len(one["arms"]) == 2 and len(one["baseline"]) == 2 for one in beside.values()
    )
    assert "Beside it, better counted as more:" in page and "training loss: 0.01 " in page
    (loss,) = (one for (name, best), one in beside.items() if name == "val loss" and not best)
    by_hand = [a - b for a, b in zip(loss["baseline"], loss["arms"][0]["values"], strict=True)]
    assert loss["arms"][0]["differences"] == pytest.approx(by_hand)  # less is better
    wrong = trimtab("compare", "--against", "nowhere", "train.py")
    assert wrong.exit_code == 2
    assert "Error: There is no file 'nowhere', and train.py lies in no git repository that git reads" in wrong.stderr


# -- interrupted, and full disks -------------------------------------------------------------------------------------


def trimtab_process(*arguments: str, limit: int = 0, **options) -> subprocess.Popen:
    """``trimtab`` in a process of its own; with ``limit``, no file may grow beyond so many bytes, as on a full disk."""

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-m", "trimtab.cli", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}, preexec_fn=full_disk if limit else None, **options,
    )  # fmt: skip


def test_interrupting_keeps_what_is_finished(train):
    # Ctrl-C reaches the trials too; one that ended early because of it must not pass for a finished one
    early = "try: time.sleep(0.7)\nexcept KeyboardInterrupt: open(os.environ['MARKS'] + '/early', 'w')\n"
    train.write_text(
        clusters(
            begin="import os, time",
            end=f"{early}with open(os.environ['MARKS'] + '/runs.txt', 'a') as f: print(1, file=f)",
        )
    )
    arguments = ["compare", "--seeds", "3", "--with", "he_init", "train.py"]
    process = trimtab_process(*arguments, start_new_session=True)
    runs = mark("runs.txt")
    deadline = time.monotonic() + 60
    while (not runs.exists() or len(runs.read_text().splitlines()) < 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the trials get it too
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith(
        "Interrupted. Finished trials are kept: start the same command again and it goes on from here.\n"
    )
    assert "Traceback" not in errors
    assert not mark("early").exists()
    before = len(runs.read_text().splitlines())
    assert 3 <= before < 6
    out, _ = trimtab_process(*arguments).communicate(timeout=60)
    kept = int(re.search(r"Kept from before and not repeated: (\d+) runs?\.", out)[1])
    assert len(runs.read_text().splitlines()) - before == 6 - kept
    assert before - 2 <= kept <= before


def test_watch_on_a_full_disk_that_takes_no_store(train):
    train.write_text(SICK)
    process = trimtab_process("watch", "train.py", limit=2000)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith("value 1.")
    assert errors.startswith("trimtab keeps its records in ") and " and cannot open it (" in errors
    assert "This run is watched all the same" in errors
    assert "vanishing_gradient" in errors
    assert "The report .trimtab/report.html could not be written (OSError: " in errors
    assert "Traceback" not in errors


def test_watch_on_a_disk_that_fills_up(train):
    train.write_text(LONG + "\nraise SystemExit(5)")
    process = trimtab_process("watch", "train.py", limit=110_000)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 5
    assert out.startswith("value ")
    assert errors.startswith("trimtab cannot write to ") and " any more (" in errors
    assert "runs.db could not take the whole record; what is said here was kept in memory." in errors
    assert "480 steps" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_treat_on_a_full_disk(train):
    train.write_text(LONG)
    process = trimtab_process("compare", "--seeds", "2", "--with", "batch_norm", "train.py", limit=120_000)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "trimtab cannot write to " in errors and "What is not written yet stays in memory" in errors
    assert "batch_norm" in out and "2/2" in out
    assert "Traceback" not in errors


def test_treat_where_no_store_can_be(trimtab, train):
    train.write_text(clusters())
    (train.parent / ".trimtab").write_text("a file where the folder would be")
    shown = trimtab("treat", "train.py")
    assert shown.exit_code == 0
    assert shown.stderr.startswith("trimtab keeps its records in ") and "cannot open it" in shown.stderr
    assert "No rule found a fault" in shown.stdout
    assert "The report .trimtab/report.html could not be written (" in shown.stdout


def test_files_that_cannot_be_written_do_not_hide_the_result(trimtab, train):
    train.write_text(clusters())
    shown = trimtab("watch", "--json", "new/found.json", "--html", "train.py/page.html", "train.py")
    assert shown.exit_code == 0
    assert "No rule found a fault" in shown.stderr
    assert "The report train.py/page.html could not be written (" in shown.stderr
    assert read(train.parent / "new" / "found.json")["findings"] == []
    shown = trimtab("watch", "--json", "train.py/found.json", "train.py")
    assert shown.exit_code == 0
    assert "train.py/found.json could not be written (" in shown.stderr
