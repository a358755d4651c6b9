"""An engine of another machine, as far as one can be had here: it pickles everything and shares no folder."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from trimtab.trial.engines import Engine
from trimtab.trial.engines.engine import OnReport, Written, ended, stopped
from trimtab.trial.live import Report
from trimtab.trial.run import Job, Result

WORKER = """
import os, pickle, struct, sys
from trimtab.trial.engines.engine import work
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what the script prints is its log
job = pickle.load(sys.stdin.buffer)
own = os.getpid()
def send(what):
    if os.getpid() == own:
        data = pickle.dumps(what); out.write(struct.pack("<q", len(data)) + data); out.flush()
import torch
torch.set_num_threads(1)
send(work(job, send))
os._exit(0)
"""


class RemoteEngine(Engine):
    """Runs one job after another, each in a process that begins in an empty folder and gets nothing but bytes."""

    def run(
        self,
        jobs: Iterable[Job],
        done: Callable[[Job, Result], None],
        stop_at: float = float("inf"),
        report: OnReport = lambda job, report: "",
        keep: Callable[[Written], None] = lambda written: None,
    ) -> None:
        for job in jobs:
            if time.monotonic() >= stop_at:
                return
            done(job, self._one(job, report, keep))

    def _one(self, job: Job, report: OnReport, keep: Callable[[Written], None]) -> Result:
        sent, began, reports = (
            pickle.dumps(replace(job, subject=job.subject.packed())),
            time.monotonic(),
            list[Report](),
        )
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile() as log,
            subprocess.Popen(
                [sys.executable, "-c", WORKER], cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
            ) as process,
        ):  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(sent)
            process.stdin.close()
            result = None
            while (said := _read(process.stdout)) is not None:
                if isinstance(said, Written):
                    keep(said)
                elif isinstance(said, Result):
                    result = said
                else:
                    reports.append(said)
                    if reason := report(job, said):
                        process.kill()
                        return stopped(job, reports, reason, time.monotonic() - began)
            code = process.wait()
            log.seek(0)
            printed = "\n".join(log.read().decode(errors="replace").splitlines()[-20:])
        if result is None:
            return ended(job, code, printed)
        return result if result.trial.status == "ok" else replace(result, log=printed)


def _read(stream: Any) -> Any:
    """The next message; ``None`` at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<q", head)
    data = stream.read(size)
    return pickle.loads(data) if len(data) == size else None
