"""The examples as a user meets them: each sick script is diagnosed for what it has, the healthy one needs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

EXPECTED = {
    "deep_sigmoid": "vanishing_gradient",
    "exploding_rnn": "exploding_gradient",
    "unscaled_inputs": "unscaled_inputs",
    "overfitting": "overfitting",
    "wrong_learning_rate": "lr_too_low",
    "healthy": None,
}


def test_every_example_is_expected_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_first_finding_is_the_disease(name, tmp_path):
    script = tmp_path / f"{name}.py"
    script.write_text((EXAMPLES / f"{name}.py").read_text())
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "trimtab.cli", "watch", "--json", str(result), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "epoch" in done.stdout  # the script's own output, and nothing of ours
    assert "Report:" in done.stderr
    findings = [f for f in json.loads(result.read_text())["findings"] if f["severity"] != "info"]
    if EXPECTED[name] is None:
        assert findings == []
    else:
        assert findings[0]["problem"] == EXPECTED[name]
        assert findings[0]["severity"] in ("warning", "error")
        assert findings[0]["remedies"]
