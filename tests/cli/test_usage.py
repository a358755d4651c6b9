"""Wrong usage: exit code 2, what is wrong, and what to write instead, before anything runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trimtab.cli import COMMANDS
from trimtab.cli.info import _backends
from trimtab.nn import ops

SCRIPT = "open('ran', 'w')"


def complaint(result) -> str:
    """The message of a usage error, without the usage lines above it."""
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr.split("Error: ")[1].rstrip("\n")


@pytest.mark.parametrize("command", ["watch", "treat", "compare"])
def test_a_script_that_is_not_there(trimtab, train, command):
    train.write_text(SCRIPT)
    options = ["--with", "batch_norm"] if command == "compare" else []
    said = complaint(trimtab(command, *options, "trian.py"))
    assert (
        said
        == "'trian.py' does not exist. Did you mean train.py? Give the path of a Python file that trains a network."
    )


def test_a_module_that_is_not_there(trimtab, train):
    train.write_text(SCRIPT)
    said = complaint(trimtab("watch", "-m", "trian"))
    assert said == f"There is no module 'trian' that python -m could run from {train.parent}. Did you mean train?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["treat", "--metric", "acc=(", "train.py"], "Invalid value for '--metric': 'acc=(' is not a regular expression (missing ), unterminated subpattern at position 4)."),
        (["watch", "--metric", "acc=", "train.py"], "Invalid value for '--metric': 'acc=' has no group; it must have exactly one, around the number: 'acc=([0-9.]+)'. (?:...) groups without counting."),
        (["treat", "--metric", "(a)=(b)", "train.py"], "Invalid value for '--metric': '(a)=(b)' has 2 groups; it must have exactly one, around the number: 'acc=([0-9.]+)'. (?:...) groups without counting."),
        (["treat", "--budget", "soon", "train.py"], "Invalid value for '--budget': 'soon' is not a time. Write seconds, minutes or hours: 90s, 3m, 1.5h."),
        (["treat", "--budget", "0m", "train.py"], "Invalid value for '--budget': '0m' is not a time. Write seconds, minutes or hours: 90s, 3m, 1.5h."),
        (["treat", "--seeds", "1", "train.py"], "Invalid value for '--seeds': 1 is not in the range x>=2."),
        (["treat", "--workers", "0", "train.py"], "Invalid value for '--workers': 0 is not in the range x>=1."),
        (["treat", "--epochs", "3", "train.py"], "No such option '--epochs'"),
        (["treat"], "Missing argument 'SCRIPT'."),
        (["compare", "train.py"], "There is nothing to compare with. Give --with RECIPE, --against VERSION, --args TEXT or --env TEXT."),
        (["compare", "--with", "", "train.py"], "compare needs at least one recipe, and none of them empty: \"batch_norm, clip_norm(1.0)\"."),
        (["compare", "--with", "dropout(p=2)", "train.py"], "dropout: p=2 must lie strictly between 0 and 1: it is the probability of dropping a unit."),
        (["train.py"], "'train.py' is a script, not a command. Did you mean: trimtab treat train.py"),
        (["report", "--store", "nowhere"], "There is no folder 'nowhere'. Records are kept in .trimtab beside a watched script: --store FOLDER/.trimtab"),
    ],
)  # fmt: skip
def test_wrong_options(trimtab, train, arguments, message):
    train.write_text(SCRIPT)
    said = complaint(trimtab(*arguments))
    assert said.startswith(message.rstrip(".")) and len(said) < len(message) + 60  # click offers near options by itself
    assert not train.with_name("ran").exists()


LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch", LONG], ["treat", f"{LONG}.py"], ["watch", "a\0b"], ["watch", "-m", LONG], ["watch", "-m", "a\0b"], ["watch", "-m", "a." * 2000 + "b"],
        ["watch", ""], ["watch", "."], ["watch", "/dev/null"], ["watch", "--json", "a\0b", "train.py"], ["treat", "--html", LONG, "train.py"],
        ["report", LONG], ["report", f"{LONG}.py"], ["report", ""], ["report", "--store", LONG], ["report", "--store", "a\0b"],
        ["catalogue", "Cosine", "--plot", "a\0b.svg"], ["catalogue", "Cosine", "--plot", f"{LONG}.svg"], ["catalogue", "adam", "--json", "a\0b"],
        ["compare", "--with", "batch_norm for x in y", "train.py"], ["compare", "--with", "\udcff", "train.py"],
        ["compare", "--with", f"clip_norm({'-' * 3000}1)", "train.py"], ["tune", "--search", "dropout(p={[]: 1})", "train.py"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40].replace("\0", "0"),
)  # fmt: skip
def test_odd_names_and_texts_are_wrong_usage_and_no_traceback(trimtab, train, arguments):
    train.write_text(SCRIPT)
    shown = trimtab(*arguments)
    assert shown.exit_code in (1, 2) and "Error: " in shown.stderr and len(shown.stderr) < 600
    assert not train.with_name("ran").exists()


def test_arguments_that_are_no_text_reach_the_script(trimtab, train):
    train.write_text("import os, sys\nassert os.fsencode(sys.argv[1]) == bytes([255])\nprint('reached')")
    shown = trimtab("watch", "train.py", "\udcff")
    assert (shown.exit_code, shown.stdout) == (0, "reached\n"), shown.stderr


def test_an_unknown_technique_is_refused_before_anything_runs(trimtab, train):
    train.write_text(SCRIPT)
    said = complaint(trimtab("compare", "--with", "he_init", "--with", "batchnorm(after='linear')", "train.py"))
    assert said.startswith("There is no technique called 'batchnorm'. Did you mean batch_norm")
    assert "There are: activity_penalty, " in said and ", zoom." in said
    assert not train.with_name("ran").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("3m", 180), (" 1.5 h ", 5400), (".5m", 30), (None, float("inf"))]
)
def test_times(text, seconds):
    from trimtab.cli.common import seconds as read

    assert read(None, None, text) == seconds


def test_help_names_every_command_and_loads_nothing_for_it():
    code = "import sys; from trimtab.cli import main\ntry: main(['--help'])\nfinally: print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
    for command in COMMANDS:
        assert f"\n  {command} " in shown.stdout
    assert "..." not in shown.stdout.split("Commands:")[1]  # no summary is cut short


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(trimtab, command):
    shown = trimtab(command, "--help")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"Usage: trimtab {command}")
    if command in ("watch", "treat", "compare", "tune"):
        assert "[-m]" in shown.stdout or "-m " in shown.stdout
        assert "Everything after SCRIPT belongs to the script" in shown.stdout


@pytest.mark.parametrize("module", ["trimtab", "trimtab.cli"])
def test_runs_as_a_module(module):
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Usage: trimtab [OPTIONS] COMMAND [ARGS]...")


# -- what needs no script --------------------------------------------------------------------------------------------


def test_info_names_the_machine(trimtab):
    shown = trimtab("info")
    assert shown.exit_code == 0
    for part in ("trimtab 0.", "  torch 2.", "CPU kernels: ", "GPU: ", "torch threads: "):
        assert part in shown.stdout
    assert "Members of other packages" not in shown.stdout


def test_info_says_where_torch_is_quicker_and_why_a_backend_does_not_serve():
    lines = {line.split(":")[0].strip(): line for line in _backends()}
    if ops.backend_of(torch.ones(2)) == "cpu":
        assert (
            "cpu (layer norm below 262,144 entries: torch's own, which is quicker there) for float32"
            in lines["row_norm"]
        )
        assert "cpu for bfloat16" in lines["row_norm"]
        small = "batch norm below 262,144 entries, instance norm below 8,192 entries: torch's own"
        assert small in lines["channel_norm"]
        assert "group norm below 262,144 entries" in lines["group_norm"]
        assert "cross entropy below 16,384 entries" in lines["cross_entropy"] and "below" not in lines["dropout"]
        assert "torch (cpu does not serve: it computes in float32 and bfloat16) for float64" in lines["row_norm"]
