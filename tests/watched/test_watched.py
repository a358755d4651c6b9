"""A script under ``trimtab watch`` writes, prints, computes and ends as it does alone, byte for byte."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.watched.corpus import BEGIN, FIRST, SCRIPTS

HERE = Path(__file__).parent


ENVIRONMENT = os.environ | {
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "agg",
}  # sets of names have the same order in all processes


@pytest.fixture(scope="module")
def server():
    """Forks processes, which need not import all anew."""
    started = [sys.executable, "-W", "default", str(HERE / "server.py")]
    with subprocess.Popen(
        started, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


def forked(server: subprocess.Popen, job: dict) -> int:
    """How a process ends that the server forks."""
    print(json.dumps(job), file=server.stdin, flush=True)
    return int(server.stdout.readline())


def started(job: dict, more: dict[str, str] | None = None) -> int:
    """How a process ends that is started anew, as from a shell."""
    program = [sys.executable, *["-m", "trimtab", "watch"] * job["watch"], *job["command"]]
    with open(job["out"], "wb") as out, open(job["err"], "wb") as err:
        return subprocess.run(
            program,
            cwd=job["folder"],
            env=ENVIRONMENT | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=200,
        ).returncode


def left_by(run: Callable[[dict], int], folder: Path, watch: bool, text: str) -> dict:
    """Run a script with two arguments, and give all that it left."""
    folder.mkdir()
    (folder / "train.py").write_text(text)
    outputs = {name: str(folder.parent / f"{folder.name}.{name}") for name in ("out", "err")}
    code = run({"folder": str(folder), "watch": watch, "command": ["train.py", "--lr", "0.5"], **outputs})
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".trimtab" not in path.parts
    }
    out, err = (Path(outputs[name]).read_bytes().replace(os.fsencode(folder), b"FOLDER") for name in ("out", "err"))
    return {"code": code, "out": out.decode(errors="replace"), "err": err.decode(errors="replace"), "files": files}


def check(run: Callable[[dict], int], folder: Path, name: str) -> None:
    alone, watched = (left_by(run, folder / str(watch), watch, SCRIPTS[name]) for watch in (False, True))
    told = watched["err"]
    assert watched["out"] == alone["out"], told[-2000:]
    assert watched["code"] == alone["code"], told[-2000:]
    assert watched["files"] == alone["files"]
    assert _failures(alone["err"]) in _failures(told)
    assert "error of its own" not in told and "trimtab's own" not in told and "could not be" not in told


@pytest.mark.parametrize("name", FIRST)
def test_a_watched_script_is_what_it_is_alone(server, tmp_path, name):
    check(functools.partial(forked, server), tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_so_is_every_one_where_nothing_is_imported_before(tmp_path, name):
    check(started, tmp_path, name)


@pytest.mark.slow
def test_thirty_folds_need_no_more_memory(tmp_path):
    fold = """
        m = net(nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 2))
        fit(m, torch.optim.Adam(m.parameters(), 1e-4), 12, inputs=torch.randn(64, 2000))
    """
    body = f"for _ in range(30):{fold}\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    # Above this size blocks go back to the system when they are freed. Else glibc keeps blocks of a weight's size, and from how small
    # ones come to lie between them the highest use varies by a fifth from run to run, watched or not.
    fixed = functools.partial(started, more={"MALLOC_MMAP_THRESHOLD_": "1000000"})
    alone, watched = (left_by(fixed, tmp_path / str(watch), watch, BEGIN + body) for watch in (False, True))
    most = [int(one["out"].split()[-1]) for one in (alone, watched)]
    assert most[1] < 1.1 * most[0]


def _failures(text: str) -> str:
    """From the first traceback on; warnings of C++ code may name a frame of ours, and addresses change."""
    return re.sub(r"0x[0-9a-f]+", "", text[text.find("Traceback") if "Traceback" in text else len(text) :])
