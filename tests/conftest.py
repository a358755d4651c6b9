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

import trimtab as tt

EXAMPLES = Path(__file__).parents[1] / "examples"

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
assert tt.attach  # loading the front door registers the techniques


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


def network(kind: str = "mlp") -> nn.Module:
    """Small networks of the shapes that techniques meet."""
    torch.manual_seed(1)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    if kind == "cnn":
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    if kind == "images":
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    if kind == "normed":  # norms, a residual branch that ends in one, and layers without
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))),
            nn.Conv2d(8, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )
    if kind == "dropout":  # with generators of its own, to tell what a technique draws from the global one
        drops = [tt.nn.Dropout(0.2, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
        return nn.Sequential(
            nn.Linear(64, 16), nn.ReLU(), drops[0], nn.Linear(16, 16), nn.ReLU(), drops[1], nn.Linear(16, 10)
        )
    if kind == "recurrent":
        return nn.Sequential(
            nn.Unflatten(1, (8, 8)), LastStep(nn.LSTM(8, 16, batch_first=True)), nn.ReLU(), nn.Linear(16, 10)
        )
    raise ValueError(kind)


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    """What a step may change, to compare bit for bit."""
    return copy.deepcopy([model.state_dict(), [optimizer.state.get(p, {}) for p in model.parameters()]])


def same(a, b) -> bool:
    """Whether two nests of tensors and numbers are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def torchrun(script: str, folder: Path, *arguments: str) -> None:
    """Run a script in two processes that train together."""
    (folder / "train.py").write_text(script)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py", *arguments]
    for _ in range(3):  # on a busy machine a process of gloo may abort at its end: a thread of its own was not joined
        shown = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120)
        if "terminate called without an active exception" not in shown.stderr:
            break
    assert shown.returncode == 0, shown.stderr[-3000:]


class LastStep(nn.Module):
    """The last output of a recurrent module."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0][:, -1]


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple, steps: int = 5, batch: int = 32
) -> list[float]:
    """Some steps of ordinary training; gives the losses."""
    x, y = data
    losses = []
    for step in range(steps):
        rows = slice(step * batch % len(x), step * batch % len(x) + batch)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
