"""Commands run in this process; scripts in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from tests.trial.conftest import train
from trimtab.cli import main

assert train  # a fixture of trials and commands alike


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``trimtab`` with these arguments; nothing but its own exit may end it."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="trimtab")
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        return result

    return run
