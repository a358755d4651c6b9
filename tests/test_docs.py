"""What the documents show must work: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("examples/*.md")])
README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for line in re.findall(r"^(?:\S.* -m )?(trimtab [a-z]+[^#\n]*)", README, re.MULTILINE)]
TOUR = [line for line in COMMANDS if re.match(r"trimtab (watch examples/|report$|catalogue )", line)]  # its quick lines


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_of_the_readme_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    if "diagnose" in block:
        assert "slow_convergence" in capsys.readouterr().out  # random labels: nothing to learn, and the doctor says so


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_parse(line):
    name, *arguments = shlex.split(line)[1:]
    command = main.get_command(main.make_context("trimtab", [name]), name)
    assert command is not None
    parsed = command.make_context(name, arguments)
    script = parsed.params.get("script")
    assert script in (None, "train.py") or (ROOT / script).is_file()


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8 and len(TOUR) == 3


def test_the_tour_works_as_it_is_written(tmp_path):
    """From the folder that holds ``examples``, one line after the other; the script makes fewer epochs here."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns(".trimtab", "__pycache__"))
    for script in (tmp_path / "examples").glob("*.py"):
        shorter = re.sub(r"(?m)^(EPOCHS = |for epoch in range\((?:1, )?)\d+", r"\g<1>4", script.read_text())
        script.write_text(shorter)
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "80"}
    for line in TOUR:
        name, *arguments = shlex.split(line)
        done = subprocess.run(
            [sys.executable, "-m", name, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        if "report" in arguments:
            assert "examples/exploding_rnn.py, " in done.stdout
            assert done.stdout.endswith("Report: examples/.trimtab/report.html\n")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (ROOT / document.parent / target).exists(), f"{document} links to {target}, which is not there"
