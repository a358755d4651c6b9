"""Kill -9 at random moments: nothing that was finished is lost or made again, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trial.conftest import DEEP, clusters, mark

MOMENTS = 50
DRIVER = """\
import os, sys
import trimtab as tt
from trimtab.trial.engines import LocalEngine
from trimtab.trial.terms import Silent


class Told(Silent):
    def advance(self, trial, from_store):
        with open(os.environ["MARKS"] + "/told.txt", "a") as file:
            print(os.getpid(), f"{trial.recipe} seed {trial.seed} to {trial.share:.3f}", from_store, sep="|", file=file)


engine = LocalEngine(2)
engine.threads = 1
found = tt.treat("train.py", seeds=3, engine=engine, progress=Told())
with open(os.environ["MARKS"] + "/ends.txt", "a") as file:
    print(found.recipe, [arm.values for arm in found.confirmation.arms], file=file)
"""


def processes(marks: str) -> dict[int, str]:
    """Those of a treatment by their number, each with its command line: they have its environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARKS={marks}".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return {number: line for number, line in found.items() if line}  # what has ended has none


def lines(name: str) -> list[str]:
    return mark(name).read_text().splitlines() if mark(name).exists() else []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by Linux's /proc")
def test_kills_at_random_moments_lose_repeat_and_leave_nothing(train, tmp_path):
    train.write_text(clusters(DEEP, epochs=150))
    (tmp_path / "drive.py").write_text(DRIVER)
    chance, marks = random.Random(0), os.environ["MARKS"]
    killed = {"driver": 0, "worker": 0}

    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "drive.py"], start_new_session=True, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start().wait() == 0
    takes = time.monotonic() - began
    (expected,) = lines("ends.txt")
    while sum(killed.values()) < MOMENTS:
        if len(lines("ends.txt")) != 1:
            (tmp_path / ".trimtab").rename(tmp_path / f"store{sum(killed.values())}")  # it came to its end: begin anew
            mark("ends.txt").write_text(expected + "\n")
            mark("told.txt").unlink()
        driver = start()
        time.sleep(chance.uniform(1.5, max(3.0, takes)))
        workers = [number for number, line in processes(marks).items() if "forkserver" in line]
        if chance.random() < 0.5 or len(workers) < 2:
            driver.kill()
            killed["driver"] += 1
        else:
            with_it = chance.choice(workers)  # the server of the workers is one of them
            os.kill(with_it, signal.SIGKILL)
            killed["worker"] += 1
        driver.wait()
        deadline = time.monotonic() + 10
        while (left := processes(marks)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"{left} go on"
        told = [line.rsplit("|", 2) for line in lines("told.txt")]
        made = [what for _, what, kept in told if kept == "False"]
        twice = {what for what in made if made.count(what) > 1}
        assert not twice, f"{twice} were finished and made again"
    while len(lines("ends.txt")) == 1:
        assert start().wait() == 0
    assert set(lines("ends.txt")) == {expected}
    assert not list((tmp_path / ".trimtab").glob("trials/*")), "scratch folders are left behind"
    assert min(killed.values()) > MOMENTS // 5
