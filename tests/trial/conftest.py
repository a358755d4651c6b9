"""Tiny scripts for trials: each trains for a fraction of a second on made-up data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab.trial.engines import LocalEngine

# Four noisy clusters; {layers} and {rate} make it sick or healthy, {begin} and {end} stand before and after.
CLUSTERS = """\
import torch
from torch import nn
{begin}
torch.manual_seed(0)
y = torch.arange(320) % 4
x = torch.randn(4, 16)[y] + 1.4 * torch.randn(320, 16)
model = nn.Sequential({layers}, nn.Linear(24, 4))
optimizer = torch.optim.SGD(model.parameters(), lr={rate}, momentum=0.9)
for epoch in range({epochs}):
    model.train()
    for batch in torch.randperm(256).split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = nn.functional.cross_entropy(model(x[256:]), y[256:]).item()
print("value", val_loss)
{end}
"""
SHALLOW = "nn.Linear(16, 24), nn.ReLU()"
DEEP = ", ".join(["nn.Linear(16, 24), nn.Sigmoid()", *["nn.Linear(24, 24), nn.Sigmoid()"] * 5])


def clusters(layers: str = SHALLOW, rate: float = 0.05, epochs: int = 5, begin: str = "", end: str = "") -> str:
    """The text of a script."""
    return CLUSTERS.format(layers=layers, rate=rate, epochs=epochs, begin=begin, end=end)


@pytest.fixture
def engine() -> LocalEngine:
    """Two trials at a time with one thread each, on any machine: equal means equal."""
    engine = LocalEngine(2)
    engine.threads = 1
    return engine


@pytest.fixture
def train(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's script goes, in a folder of its own that is the current one.

    What its trials write there is gone with them; they leave their marks in the folder ``MARKS``: trials share what is kept in caches.
    """
    marks = str(tmp_path_factory.mktemp("marks"))
    monkeypatch.setenv("XDG_CACHE_HOME", marks)
    monkeypatch.setenv("MARKS", marks)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "train.py"


def mark(name: str) -> Path:
    """What trials have left behind as ``os.environ["MARKS"] + "/name"``."""
    return Path(os.environ["MARKS"], name)
