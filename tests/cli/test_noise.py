"""``trimtab noise``: the runs that it makes, what it says of them, and that they are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.trial.conftest import clusters
from trimtab.trial.noise import noise_watched
from trimtab.trial.session import Session


def test_noise_of_all_and_of_parts(trimtab, train):
    train.write_text(clusters(epochs=2))
    shown = trimtab("noise", "--seeds", "2", "--parts", "--json", "found.json", "train.py")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("validation accuracy moves by ")
    found = json.loads(train.with_name("found.json").read_text())["noise"]
    parts = {spread["part"]: spread for spread in found["spreads"]}
    assert (
        list(parts) == ["all", "init", "order"]
        and len({spread["others"]["val loss"] for spread in parts.values()}) == 3
    )
    for spread in parts.values():
        assert spread["sd"] == pytest.approx(np.std(spread["values"], ddof=1)) and len(spread["others"]) == 3
    assert list(found["smallest"]) == ["3", "5", "10"]
    assert f" a difference of {found['smallest']['5']:.2g} can be seen" in shown.stdout
    mean = parts["all"]["mean"]
    error = np.sqrt(mean * (1 - mean) / 64)
    assert (
        f"Of other 64 samples of the same kind, as many as are held out, the metric of one and the same network would move by {error:.2g}"
        in " ".join(shown.stdout.split())
    )
    with Session(train) as session:
        _, again = noise_watched(session, 2, parts=True)
        assert session.reused == 6
    assert [list(spread.values) for spread in again.spreads] == [spread["values"] for spread in parts.values()]
