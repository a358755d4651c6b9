"""The number that judges a run is the script's own, in whatever way the script reports it."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
import os
from pathlib import Path

import pytest

from tests.trial.reporting import BEGIN, WAYS, Way
from trimtab.records import Asked
from trimtab.trial.run import Job, Result, run_job
from trimtab.trial.subjects import Heard, Script
from trimtab.watching import Ending


@dataclasses.dataclass(frozen=True)
class Answering(Script):
    """A script whose variable ``answer`` is read when it has ended."""

    answers: list[float] = dataclasses.field(default_factory=list)

    def run(self, heard: Heard) -> Ending:
        outcome = super().run(heard)
        self.answers.append(getattr(outcome.main, "answer", math.nan))
        return outcome


@pytest.fixture(autouse=True)
def _a_process_of_its_own(tmp_path, monkeypatch):
    """The scripts change what belongs to the process: where it stands, its environment, its loggers."""
    monkeypatch.chdir(tmp_path)
    root, environment = logging.getLogger(), dict(os.environ)
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


def judged(way: Way) -> tuple[Result, float]:
    """What a trial of the script comes to, and what the script itself says."""
    if way.needs and importlib.util.find_spec(way.needs) is None:  # the script is the one that imports it
        pytest.skip(f"{way.needs} is not installed")
    Path("train.py").write_text(BEGIN + way.script)
    subject = Answering("train.py")
    result = run_job(Job(subject, "", 0, asked=Asked(metric=way.metric)))
    return result, subject.answers[0]


@pytest.mark.filterwarnings("default")  # of the packages that the scripts use
@pytest.mark.parametrize("title", WAYS)
def test_the_scripts_own_number_judges(title):
    way = WAYS[title]
    result, answer = judged(way)
    assert result.trial.status == "ok", result.trial.error
    metric = result.run.metric
    assert (metric.name, metric.goal, metric.folds) == (way.name, way.goal, way.folds)
    source = {"metric": "asked", "printed": "printed", "logged": "logged", "written": "written"}
    assert metric.source == source.get(way.name.split()[0], "measured")
    # What is said is read as it is said; what is measured is summed in another order, a mean over folds is rounded.
    said = metric.source != "measured" and not metric.folds
    assert result.trial.value == (answer if said else pytest.approx(answer, rel=1e-6))
