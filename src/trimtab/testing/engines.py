"""What every engine holds: results come back whole, a trial that ends badly takes nothing with it, and the driver decides when it is over."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trimtab.quantities import judged
from trimtab.records import Metric
from trimtab.testing.traces import blamed, described, name_of
from trimtab.trial.engines import Engine
from trimtab.trial.engines.engine import Written
from trimtab.trial.live import Live, Report
from trimtab.trial.run import Job, Result
from trimtab.trial.subjects import Script

SCRIPT = """\
import os, sys, torch
from torch import nn
{begin}
torch.manual_seed(0)
y = torch.arange(320) % 4
x = torch.randn(4, 16)[y] + 1.4 * torch.randn(320, 16)
model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range({epochs}):
    for batch in torch.randperm(256).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(x[256:]), y[256:]).item()
    print("value", val_loss)
{end}
"""
METRIC = Metric(name="val loss", goal="min")


def check_engine(engine: Engine) -> None:
    """Run the suite that all engines pass: a few dozen trials of a small script, in a folder that is made for it.

    Raises:
        AssertionError: with what must hold.
    """
    name = name_of(engine)
    assert isinstance(engine, Engine), (
        f"{name}: one that is made must be given, of a class derived from Engine, and not {described(engine)}"
    )
    for check in CHECKS:
        with blamed(name, f"when it is checked that {check.__name__.replace('_', ' ')}, it"), in_folder():
            check(engine)
    engine.close()


@contextlib.contextmanager
def in_folder() -> Iterator[None]:
    """Inside, the current folder is one of its own."""
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder, contextlib.chdir(folder):
        yield


def script(begin: str = "", end: str = "", epochs: int = 5) -> Script:
    """A script in the current folder that trains for a fraction of a second."""
    Path("train.py").write_text(SCRIPT.format(begin=begin, end=end, epochs=epochs))
    return Script("train.py")


def results_of(
    engine: Engine, subject: Script, recipes: tuple[str, ...] = ("",), seeds: tuple[int, ...] = (0,)
) -> dict:
    """The results by recipe and seed."""
    found: dict[tuple[str, int], Result] = {}
    jobs = [Job(subject, recipe, seed, METRIC) for seed in seeds for recipe in recipes]
    engine.run(jobs, lambda job, result: found.__setitem__((job.recipe, job.seed), result))
    assert len(found) == len(jobs), f"of {len(jobs)} jobs {len(found)} were done"
    return found


def gives_what_this_machine_gives(engine: Engine) -> None:
    """A seed means the same numbers each time, another one others, and a recipe acts."""
    found = results_of(engine, script(), ("", "weight_decay(factor=0.1)"), (0, 1))
    again = results_of(engine, script(), ("",), (0, 1))
    for seed in (0, 1):
        trial = found["", seed].trial
        assert trial.status == "ok", f"a trial of a sound script: {trial.status}, {trial.error}"
        assert trial.value == again["", seed].trial.value, "the same seed gives another number the second time"
        assert found["weight_decay(factor=0.1)", seed].trial.value != trial.value, "a recipe has no effect"
    assert found["", 0].trial.value != found["", 1].trial.value, "two seeds give one number"
    assert len(found["", 0].run.main.get("loss")) == 40, "the record of a trial must come back with it"


def a_trial_that_ends_badly_loses_only_itself(engine: Engine) -> None:
    """Whatever one does to its process, the others end well, and it says how it ended."""
    ends = {
        "os.kill(os.getpid(), 9)": "killed by signal SIGKILL",
        "os._exit(7)": "ended with exit code 7",
        "raise ValueError('bad batch')": "ValueError: bad batch",
        "sys.exit(0)": "without a single optimizer step",
    }
    for does, error in ends.items():
        found = results_of(engine, script(begin=f"if torch.initial_seed() == 1:\n    {does}"), seeds=(0, 1))
        bad = found["", 1].trial
        assert bad.status == "failed" and math.isnan(bad.value), f"after {does} a trial is {bad.status}"
        assert error in bad.error, f"after {does} its error must say {error!r}, and says {bad.error!r}"
        other = found["", 0].trial.status
        assert other == "ok", f"after {does} in one trial another is {other}"


def a_failed_trial_gives_back_what_it_printed(engine: Engine) -> None:
    """With what was recorded until then."""
    result = results_of(engine, script(end="print('nearly')\nraise RuntimeError('late')"))["", 0]
    assert "nearly" in result.log and "RuntimeError: late" in result.log, f"its log is {result.log!r}"
    assert len(result.run.main.get("loss")) == 40, "what was recorded before it failed is lost"


def jobs_are_taken_when_a_worker_is_free(engine: Engine) -> None:
    """Not before: whoever asks for trials may choose the next by the results so far."""
    subject, order = script(), []

    def jobs() -> Iterator[Job]:
        for seed in range(engine.workers + 2):
            order.append("asked")
            yield Job(subject, "", seed, METRIC)

    engine.run(jobs(), lambda job, result: order.append("done"))
    ahead = max(order[:place].count("asked") - order[:place].count("done") for place in range(len(order) + 1))
    assert ahead <= engine.workers + 1, f"{ahead} jobs were taken with {engine.workers} workers"


def nothing_starts_after_the_deadline(engine: Engine) -> None:
    """And nothing to run takes no time."""
    done: list[Job] = []
    began = time.monotonic()
    engine.run([Job(script(), "", 0, METRIC)], lambda job, result: done.append(job), stop_at=began - 1)
    engine.run([], lambda job, result: done.append(job))
    assert done == [] and time.monotonic() - began < 2, "a job was started after the deadline"


def a_live_trial_reports_and_can_be_stopped(engine: Engine) -> None:
    """With a reason, which is its error; what it has reported until then is its curve."""
    live, heard, done = Live(every=8, rests=1000, stride=1), list[float](), list[Result]()

    def report(job: Job, said: Report) -> str:
        if said.loss is None:  # it is no sign of life
            heard.append(said.value)
        return "it falls behind" if len(heard) == 3 else ""

    jobs = [Job(script(epochs=2000), "", 0, METRIC, live=live)]
    engine.run(jobs, lambda job, result: done.append(result), report=report)
    (result,) = done
    assert (result.trial.status, result.trial.error) == ("pruned", "it falls behind"), (
        f"a stopped trial is {result.trial}"
    )
    assert list(result.trial.curves["val loss"].values)[:3] == heard[:3], "its curve is not what it reported"


def a_watched_trial_writes_to_the_driver(engine: Engine) -> None:
    """Nothing is kept where it runs: the store is the driver's."""
    written, done = list[Written](), list[Result]()
    jobs = [Job(script(), "", 0, watch=True)]
    engine.run(jobs, lambda job, result: done.append(result), keep=written.append)
    assert done[0].trial.status == "ok", done[0].trial.error
    assert {one.method for one in written} >= {"put_run"}, "what a watched trial records must come to keep(written)"
    run = done[0].run
    assert run.metric is not None and len(judged(run, run.metric)), "the number that judges must be in the record"
    assert not os.path.exists(".trimtab/runs.db"), "a trial has opened a store of its own"


CHECKS = (
    gives_what_this_machine_gives,
    a_trial_that_ends_badly_loses_only_itself,
    a_failed_trial_gives_back_what_it_printed,
    jobs_are_taken_when_a_worker_is_free,
    nothing_starts_after_the_deadline,
    a_live_trial_reports_and_can_be_stopped,
    a_watched_trial_writes_to_the_driver,
)
