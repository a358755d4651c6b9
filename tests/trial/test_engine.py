"""One process a trial: what a trial does to itself stays its own, and the same seed means the same data and weights."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import trimtab as tt
from tests.trial.conftest import clusters, mark
from tests.trial.remote import RemoteEngine
from trimtab.testing.engines import CHECKS
from trimtab.trial.engines import LocalEngine
from trimtab.trial.engines.local import _Task, _uninterrupted, _Worker
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result
from trimtab.trial.subjects import Script

ON_SEED_1 = "import os, sys, torch\nif torch.initial_seed() == 1:\n    {}"  # scripts start with the seed of their trial


def local() -> LocalEngine:
    """Two trials at a time with one thread each."""
    engine = LocalEngine(2)
    engine.threads = 1
    return engine


def run(
    engine: LocalEngine, script: Path, recipes: tuple[str, ...] = ("",), seeds: tuple[int, ...] = (0,), **job
) -> dict:
    """The results by recipe and seed."""
    results: dict[tuple[str, int], Result] = {}
    subject = Script(str(script))
    jobs = [Job(subject, recipe, seed, **job) for seed in seeds for recipe in recipes]
    engine.run(jobs, lambda job, result: results.__setitem__((job.recipe, job.seed), result))
    assert len(results) == len(jobs)
    return results


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_engine_holds_what_all_engines_hold(check, train):
    check(local())


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_so_does_one_that_shares_no_folder(check, train):
    check(RemoteEngine())


@pytest.mark.slow
def test_a_comparison_on_another_machine(train):
    train.write_text(clusters(rate=0.0005))
    found = tt.compare("train.py", ["lr_scale(factor=30)"], seeds=1, engine=RemoteEngine())
    assert found.arms[0].wins == 1 and [trial.status for trial in found.trials] == ["ok"] * 2
    assert tt.Script("train.py").packed().fingerprint() == tt.Script("train.py").fingerprint()


@pytest.mark.parametrize(
    ("does", "status", "error"),
    [
        ("os.kill(os.getpid(), 9)", "failed", "the process of the trial was killed by signal SIGKILL"),
        ("os._exit(7)", "failed", "the process of the trial ended with exit code 7"),
        ("sys.exit(3)", "failed", "the script ended itself with exit code 3"),
        ("sys.exit('no data')", "failed", "no data"),
        ("sys.exit(0)", "failed", "the script ended without a single optimizer step"),
        ("raise ValueError('bad batch')", "failed", "ValueError: bad batch at train.py:5"),
        ("torch.optim.SGD.step = None", "failed", "TypeError: 'NoneType' object is not callable"),
        ("x = 1e4; torch.randn = lambda *a, f=torch.randn: f(*a) * 1e30", "diverged", "not finite at the end"),
    ],
)
def test_a_trial_that_ends_badly_loses_only_itself(train, engine, does, status, error):
    train.write_text(clusters(begin=ON_SEED_1.format(does)))
    results = run(engine, train, seeds=(0, 1, 2, 3))
    trial = results["", 1].trial
    assert trial.status == status
    assert error in trial.error
    assert np.isnan(trial.value)
    assert [results["", seed].trial.status for seed in (0, 2, 3)] == ["ok"] * 3


def test_a_process_that_the_script_leaves_behind_is_not_waited_for(train, engine):
    left = "import os, time\nif os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\nos.kill(os.getpid(), 9)"
    train.write_text(clusters(end=left))
    began = time.monotonic()
    assert "SIGKILL" in run(engine, train)["", 0].trial.error
    assert time.monotonic() - began < 15


def test_scripts_that_do_not_want_to_end_are_ended_together_when_the_time_is_over(train, engine):
    stubborn = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(os.environ['MARKS'] + f'/{os.getpid()}', 'w')"
    train.write_text(clusters(begin=f"{stubborn}; time.sleep(60)"))
    jobs = [Job(Script(str(train)), "", seed) for seed in (1, 2)]
    ended = []
    stop_at = time.monotonic() + 4
    engine.run(jobs, lambda job, result: ended.append(result), stop_at=stop_at)
    assert not ended and time.monotonic() - stop_at < 2.5  # each by itself would have 5 seconds
    assert len(list(mark(".").iterdir())) == 2  # both had begun


def test_a_script_that_stops_itself_at_nan_has_diverged(train, engine):
    train.write_text(clusters(rate=1e30, end="assert val_loss == val_loss, 'NaN'"))
    trial = run(engine, train)["", 0].trial
    assert trial.status == "diverged"
    assert "the loss was nan when the script ended: AssertionError: NaN" in trial.error


# -- pairs -----------------------------------------------------------------------------------------------------------

SEEDING = {
    "with none of its own": "generator = None",
    "with torch.manual_seed": "torch.manual_seed(7); generator = None",
    "with every library's": "torch.manual_seed(7); random.seed(8); np.random.seed(9); generator = None",
    "with keyword": "torch.manual_seed(seed=7); random.seed(a=8); np.random.seed(seed=9); generator = None",
    "with a generator": "torch.manual_seed(7); generator = torch.Generator().manual_seed(5)",
}
# Prints the initial weights, the order of the batches, and what the other generators give; techniques act in between.
PAIRED = """\
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
{seeding}
x = torch.linspace(-1, 1, 96).reshape(48, 2)
rows = TensorDataset(torch.arange(48), x, (x[:, 0] > 0).long())
model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
print("weights", [round(v, 6) for v in model[0].weight.flatten().tolist()])
rng = np.random.default_rng(3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for epoch in range(2):
    for number, inputs, target in DataLoader(rows, batch_size=8, shuffle=True, generator=generator):
        print("batch", *number.tolist(), random.random(), np.random.rand(), rng.random())
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
print("losses", losses)
"""
ARMS = (
    "",
    "dropout(p=0.5)",
    "he_init",
    "batch_norm, dropout(p=0.2), standardize_inputs",
    "xavier_init, weight_decay(factor=0.1)",
)


def parts(result: Result) -> tuple[str, str]:
    """What must be paired (weights and batches), and the losses."""
    assert result.trial.status == "ok", result.trial.error
    paired, losses = result.run.output_tail.split("losses")
    assert paired.count("batch") == 12 and "weights" in paired
    return paired, losses


@pytest.mark.parametrize("seeding", SEEDING.values(), ids=SEEDING.keys())
def test_a_seed_pairs_initial_weights_and_data_order_across_arms(train, engine, seeding):
    train.write_text(PAIRED.format(seeding=seeding))
    results = run(engine, train, ARMS, (0, 1))
    paired = {key: parts(result)[0] for key, result in results.items()}
    assert {key: paired[key] for key in paired} == {key: paired["", key[1]] for key in paired}
    first, second = (paired["", seed].split() for seed in (0, 1))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert same < 40  # of 200 words: the names and some equal row numbers
    for name in ("weights", "batch"):  # and each kind differs
        lines = [[line for line in paired["", seed].splitlines() if line.startswith(name)] for seed in (0, 1)]
        assert lines[0] != lines[1]
    losses = {key: parts(result)[1] for key, result in results.items()}
    assert len(set(losses.values())) == len(losses)


@pytest.mark.parametrize("name", ["with torch.manual_seed", "with every library's", "with a generator"])
def test_seed_0_is_the_script_as_it_stands(train, engine, name):
    begin = "import random as r, numpy as n; r.seed(1); n.random.seed(1)\n"  # so that all is fixed in the plain run
    train.write_text(begin + PAIRED.format(seeding=SEEDING[name]))
    plain = subprocess.run(
        [sys.executable, str(train)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    watched = run(engine, train, watch=True)["", 0]
    assert watched.run.output_tail == plain.stdout.rstrip("\n")
    assert run(engine, train)["", 0].run.output_tail == plain.stdout.rstrip("\n")


def test_a_trial_run_twice_gives_the_same_numbers(train, engine):
    train.write_text(PAIRED.format(seeding=SEEDING["with none of its own"]))
    first, second = (run(engine, train, ARMS, (3,)) for _ in range(2))
    assert {key: parts(result) for key, result in first.items()} == {
        key: parts(result) for key, result in second.items()
    }


def test_the_driver_keeps_its_random_numbers(train, engine):
    train.write_text(clusters())
    random.seed(1)
    before = random.getstate()
    run(engine, train)
    assert random.getstate() == before


# -- the driver dies -------------------------------------------------------------------------------------------------

DRIVER = """\
import sys
from trimtab.trial.subjects import Script
from trimtab.trial.engines import LocalEngine
from trimtab.trial.engines.local import _uninterrupted
from trimtab.trial.run import Job
subject = Script(sys.argv[1])  # no __main__ guard: a script's trials do not need one
LocalEngine(2).run([Job(subject, "", seed) for seed in range(4)], lambda job, result: print(result.trial.status, flush=True))
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_die_with_a_driver_that_is_killed(train, tmp_path):
    note = "import os, time, pathlib\npathlib.Path(os.environ['MARKS'], f'{os.getpid()}.pid').touch()"
    train.write_text(clusters(begin=note, end="time.sleep(120)"))
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    process = subprocess.Popen([sys.executable, str(driver), str(train)], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(pids := [int(p.stem) for p in mark("").glob("*.pid")]) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(pids) == 2 and all(map(alive, pids))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(alive, pids))
        assert not list(mark("").glob("*.pid"))[2:]  # no further trial was started
    finally:
        for pid in [process.pid, *(int(p.stem) for p in mark("").glob("*.pid"))]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def test_an_interrupt_waits_until_a_worker_is_started_and_does_not_reach_it():
    code = "import time; print('up', flush=True); time.sleep(0.3); print('end')"
    said = []
    with pytest.raises(KeyboardInterrupt), _uninterrupted():
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            said.append(child.stdout.readline())
            signal.raise_signal(signal.SIGINT)
            child.send_signal(signal.SIGINT)
            said.append(child.stdout.read())
    assert said == ["up\n", "end\n"]
    with pytest.raises(KeyboardInterrupt):  # and from here on it is as before
        signal.raise_signal(signal.SIGINT)


def test_a_second_run_tells_its_reports_again_and_a_finding_is_none_of_them():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    worker = _Worker(
        _Task(Job(Script(__file__), "", 0), None), None, receiver, SimpleNamespace(is_alive=lambda: True), None
    )
    told = [
        Report(0, 4, 0.1),
        Report(1, 6, finding="the gradient explodes"),
        Report(1, 8, 0.2),
        Report(-1, 9, loss=0.3),
    ]
    heard = []
    for said in (*told, *told):  # the process was killed, and another one begins anew
        sender.send(said)
    assert worker.heard(lambda job, said: heard.append(said.step) or "", None) is None
    assert heard == [4, 6, 8, 9, 6, 9]
