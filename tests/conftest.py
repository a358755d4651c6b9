"""What tests share: small trainings on real data, and scripts written to a folder."""

from __future__ import annotations

import atexit
import copy
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, and for the scripts that tests start too: threads that wait burn both cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What trimtab keeps for its user: tests have a user of their own.
os.environ["XDG_CACHE_HOME"] = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trimtab.members import load_techniques
from trimtab.testing.trainings import LastStep, Residual, network, same, train

__all__ = ["EXAMPLES", "LastStep", "Residual", "network", "numbers", "same", "torchrun", "train"]

EXAMPLES = Path(__file__).parents[1] / "examples"

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
load_techniques()


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: sums in one order, so equal means equal."""
    torch.set_num_threads(1)


@pytest.fixture
def no_other_training():
    """Trainings of other tests end with their optimizers, which the garbage collector finds."""
    gc.collect()


@pytest.fixture
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """512 handwritten digits, inputs (512, 64) in about -1..1, and their classes."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:512] / 8 - 1, dtype=torch.float32), torch.tensor(labels[:512])


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script into a fresh folder and gives its path."""

    def write(text: str, name: str = "train.py") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    """What a step may change, to compare bit for bit."""
    return copy.deepcopy([model.state_dict(), [optimizer.state.get(p, {}) for p in model.parameters()]])


def torchrun(script: str, folder: Path, *arguments: str) -> None:
    """Run a script in two processes that train together."""
    (folder / "train.py").write_text(script)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", *arguments]
    for _ in range(3):  # on a busy machine a process of gloo may abort at its end: a thread of its own was not joined
        shown = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120)
        if "terminate called without an active exception" not in shown.stderr:
            break
    assert shown.returncode == 0, shown.stderr[-3000:]
