"""``trimtab tune``: what it prints, writes and keeps, its exit codes, and what it says when it cannot begin."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trimtab as tt
from tests.trial.conftest import clusters, mark
from trimtab.store import Store

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOW = clusters(rate=0.0005)


@pytest.mark.slow
def test_a_rate_that_is_a_hundred_times_too_low_is_found(train):
    """The answer is known: examples/README.md has x100 and x1000 as its best."""
    text = (EXAMPLES / "wrong_learning_rate.py").read_text()
    train.write_text(text.replace("EPOCHS = 100", "EPOCHS = 10"))
    command = ["--search", "lr=log(3e-6, 3)", "--trials", "8", "--seeds", "3", "--candidates", "1", "--workers", "2"]
    command += ["--metric", "val loss ([0-9.]+)", "--json", "found.json", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    shown = subprocess.run(
        [sys.executable, "-m", "trimtab.cli", "tune", *command], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    found = json.loads(train.with_name("found.json").read_text())["tuning"]
    rate = float(re.fullmatch(r"learning_rate\(lr=([0-9.]+)\)", found["recipe"])[1])
    assert 3e-3 <= rate <= 0.3
    assert found["proven"] is True and 0.3 < found["low"] < found["effect"] < found["high"]
    assert found["seeds"] == [1000, 1001, 1002] and len(found["attempts"]) == 8
    assert re.search(r"val loss from 0\.[67]\d* to 0\.[01]", shown.stdout)
    stages = re.findall(r"^(.*): (\d+) of (\d+) done in \d+ s$", shown.stderr, re.M)
    assert stages == [("watching one run", "1", "1"), ("searching", "8", "8"), ("confirming on fresh seeds", "6", "6")]
    assert re.fullmatch(r"(.* done in \d+ s\n){3}", shown.stderr)  # and nothing of Optuna's
    page = (train.parent / ".trimtab" / "report.html").read_text()
    assert "Trials and their settings" in page and "Keep it: the lines to add" in page


def test_a_search_is_shown_again_and_goes_further(trimtab, train):
    train.write_text(SLOW)
    arguments = ["--search", "lr_scale(factor=choice(20, 100, 0.1)) | none", "--seeds", "2", "--workers", "2"]
    shown = trimtab("tune", *arguments, "--trials", "2", "--candidates", "1", "--json", "found.json", "train.py")
    assert shown.exit_code in (0, 3), shown.output  # two seeds prove little
    found = json.loads(train.with_name("found.json").read_text())["tuning"]
    assert [attempt["recipe"] for attempt in found["attempts"]][0] == "" and len(found["attempts"]) == 2
    assert trimtab("report").stdout.split("Report:")[0] == shown.stdout.split("Report:")[0]

    more = trimtab("tune", *arguments, "--candidates", "1", "train.py")
    assert "Kept from before and not repeated: 1 of these." in more.stdout
    assert "the space holds no other recipe." in " ".join(more.stdout.split())
    kept = int(re.search(r"^Kept from before and not repeated: (\d+) runs?\.$", more.stdout, re.M)[1])
    assert kept >= 2  # the watched run, and the search so far
    with Store(train.parent / ".trimtab") as store:
        assert len(store.tuning(store.runs()[-1]).attempts) == 4


def of_flags() -> str:
    """A script that has two flags, and knows the activations of torch by their names."""
    begin = (
        "import argparse\nflags = argparse.ArgumentParser()\nflags.add_argument('--rate', type=float, default=0.0005)\n"
    )
    begin += "flags.add_argument('--act', default='ReLU')\nflags = flags.parse_args()"
    return clusters("nn.Linear(16, 24), getattr(nn, flags.act)()", begin=begin).replace("lr=0.05", "lr=flags.rate")


def test_the_flags_of_a_script_are_searched_and_the_command_line_is_what_keeps_them(trimtab, train):
    train.write_text(of_flags())
    search = ["--rate=log(0.01, 0.1) --act=['Tanh', 'Nope']"]
    options = ["--trials", "4", "--candidates", "1", "--seeds", "3", "--workers", "2"]
    shown = trimtab("tune", "--search", *search, *options, "--json", "found.json", "train.py", "--rate", "0.001")
    assert shown.exit_code == 0, shown.output
    found = json.loads(train.with_name("found.json").read_text())["tuning"]
    assert re.fullmatch(r"--rate 0\.\d+ --act Tanh", found["recipe"]) and found["proven"] is True
    assert found["lines"] == [f"train.py --rate 0.001 {found['recipe']}"] and found["lines"][0] in shown.stdout
    assert {attempt["status"] for attempt in found["attempts"] if "Nope" in attempt["recipe"]} == {"failed"}
    assert "Settings tried on seed 0: 4, of which" in shown.stdout
    assert "--act Nope failed: AttributeError: module 'torch.nn' has no attribute 'Nope'" in shown.stdout
    assert "Trials and their settings" in (train.parent / ".trimtab" / "report.html").read_text()

    again = tt.tune(tt.Script("train.py", ("--rate", "0.001")), search, trials=4, candidates=1, seeds=3)
    assert again.recipe == found["recipe"] and "Kept from before and not repeated: 4 of these." in again.words
    assert len(again.confirmation.trials) == 6 and list(again.axes[0].choices) == []


def test_flags_that_the_script_refuses_are_no_search(trimtab, train):
    train.write_text(of_flags())
    shown = trimtab("tune", "--search", "--ratte=[1, 2]", "--workers", "2", "train.py")
    assert shown.exit_code == 1
    assert "Every setting of --ratte=choice(1, 2) that was tried failed (2), the first, --ratte " in shown.stderr
    assert "exit code 2: train.py: error: unrecognized arguments: --ratte" in shown.stderr


def test_nothing_better_ends_with_3(trimtab, train):
    train.write_text(clusters())
    shown = trimtab("tune", "--search", "lr_scale(factor=1e-6) | none", "--workers", "2", "train.py")
    assert shown.exit_code == 3
    assert shown.stdout.startswith("None of 1 recipe tried was better than the script as it is\n")
    assert "Lines to add" not in shown.stdout


def test_a_script_that_fails_ends_with_1(trimtab, train):
    train.write_text("raise ValueError('no data')")
    shown = trimtab("tune", "--search", "ema | none", "train.py")
    assert shown.exit_code == 1
    assert "train.py failed, so there is nothing to compare with: ValueError: no data" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py"], "Missing option '--search'."),
        (["--search", "dropout(p=uniform(1, 0))", "train.py"], "The search 'dropout(p=uniform(1, 0))' does not read: in uniform(1, 0) the first number must lie below the second."),
        (["--search", "--lr=log(0, 1)", "train.py"], "The search '--lr=log(0, 1)' does not read: in log(0, 1) both numbers must be positive"),
        (["--search", "--lr=[1, 2]", "--search", "ema | none", "train.py"], "A search is over recipes or over flags of the script"),
        (["--search", "ema", "train.py"], "There is nothing to search in 'ema': it is one recipe."),
        (["--search", "emma | none", "train.py"], "In the search 'emma | none': There is no technique called 'emma'. Did you mean ema"),
        (["--search", "ema | none", "--trials", "0", "train.py"], "Invalid value for '--trials': 0 is not in the range x>=1."),
        (["--search", "ema | none", "--seeds", "1", "train.py"], "Invalid value for '--seeds': 1 is not in the range x>=2."),
        (["--search", "ema | none", "nowhere.py"], "'nowhere.py' does not exist."),
    ],
)  # fmt: skip
def test_wrong_usage(trimtab, train, arguments, message):
    train.write_text("open('ran', 'w')")
    shown = trimtab("tune", *arguments)
    assert shown.exit_code == 2 and shown.stdout == ""
    assert shown.stderr.split("Error: ")[1].startswith(message)
    assert not train.with_name("ran").exists()


def test_without_optuna_the_message_says_how_to_get_it(trimtab, train, monkeypatch):
    train.write_text("open('ran', 'w')")
    monkeypatch.setitem(sys.modules, "optuna", None)
    shown = trimtab("tune", "--search", "ema | none", "train.py")
    assert shown.exit_code == 1 and shown.stdout == ""
    assert shown.stderr.startswith("Error: Searching needs Optuna (")
    assert shown.stderr.endswith("Install it: pip install 'trimtab[tune]'\n")
    assert not train.with_name("ran").exists()


@pytest.mark.slow
def test_interrupting_leaves_a_search_that_goes_on(train):
    train.write_text(
        clusters(
            begin="import os, time",
            end="time.sleep(0.2)\nwith open(os.environ['MARKS'] + '/runs.txt', 'a') as f: print(val_loss, file=f)",
        )
    )
    arguments = [
        "tune",
        "--search",
        "lr_scale(factor=log(0.5, 50))",
        "--trials",
        "6",
        "--seeds",
        "2",
        "--candidates",
        "1",
    ]
    command = [sys.executable, "-m", "trimtab.cli", *arguments, "--workers", "2", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )
    runs = mark("runs.txt")
    deadline = time.monotonic() + 90
    # the watched run and three more: a worker gets a third one when the first of two is written down
    while (not runs.exists() or len(runs.read_text().splitlines()) < 4) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the trials get it too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith(
        "Interrupted. Finished trials are kept: start the same command again and it goes on from here.\n"
    )
    assert "Traceback" not in errors and "optuna" not in errors.lower()
    done = subprocess.run(command, text=True, capture_output=True, env=environment)
    assert done.returncode in (0, 3), done.stderr
    kept = int(re.search(r"not repeated: (\d+) of these", done.stdout)[1])
    assert 1 <= kept < 6
