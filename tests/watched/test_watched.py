"""A script under ``trimtab watch`` writes, prints, computes and ends as it does alone, byte for byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watched.corpus import SCRIPTS

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server():
    """Forks processes, which need not import all anew."""
    environment = os.environ | {"PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}
    started = [sys.executable, "-W", "default", str(HERE / "server.py")]
    with subprocess.Popen(
        started, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


def end_of(server: subprocess.Popen, folder: Path, watch: bool, text: str) -> dict:
    """Run a script with two arguments, and give all that it left."""
    folder.mkdir()
    (folder / "train.py").write_text(text)
    outputs = {name: str(folder.parent / f"{folder.name}.{name}") for name in ("out", "err")}
    job = {"folder": str(folder), "watch": watch, "command": ["train.py", "--lr", "0.5"], **outputs}
    print(json.dumps(job), file=server.stdin, flush=True)
    code = int(server.stdout.readline())
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".trimtab" not in path.parts
    }
    out, err = (Path(outputs[name]).read_bytes().replace(os.fsencode(folder), b"FOLDER") for name in ("out", "err"))
    return {"code": code, "out": out, "files": files, "err": err}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_watched_script_is_what_it_is_alone(server, tmp_path, name):
    alone, watched = (end_of(server, tmp_path / str(i), bool(i), SCRIPTS[name]) for i in range(2))
    told = watched["err"].decode(errors="replace")
    assert watched["out"].decode(errors="replace") == alone["out"].decode(errors="replace"), told[-2000:]
    assert watched["code"] == alone["code"], told[-2000:]
    assert watched["files"] == alone["files"]
    assert _failures(alone["err"].decode(errors="replace")) in _failures(told)
    assert "error of its own" not in told and "trimtab's own" not in told and "could not be" not in told


def _failures(text: str) -> str:
    """From the first traceback on; warnings of C++ code may name a frame of ours, and addresses change."""
    return re.sub(r"0x[0-9a-f]+", "", text[text.find("Traceback") if "Traceback" in text else len(text) :])
