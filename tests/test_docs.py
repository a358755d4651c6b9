"""What the documents show must work: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trimtab.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("examples/*.md")])
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\.venv/bin/(trimtab [^#\n]+)", README, re.MULTILINE)


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
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (ROOT / document.parent / target).exists(), f"{document} links to {target}, which is not there"
