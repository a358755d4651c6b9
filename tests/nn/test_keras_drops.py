"""Keras drops in the same sense: noise of the same mean, variance and shape.

In a process of its own (see test_keras.py): this file, run as a script, is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trimtab.nn import AlphaDropout, Dropout, GaussianDropout

N = 40_000
# theirs: (keras.layers) -> layer, ours, the shape of our input, and how to turn it into theirs (channels last)
CASES: dict[str, tuple[Callable[[Any], Any], Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "dropout": (lambda k: k.Dropout(0.3, seed=1), lambda: Dropout(0.3), (N, 4), (1, 1)),
    "gaussian": (lambda k: k.GaussianDropout(0.3, seed=1), lambda: GaussianDropout(0.3), (N, 4), (1, 1)),
    "alpha": (lambda k: k.AlphaDropout(0.3, seed=1), lambda: AlphaDropout(0.3), (N, 4), (1, 1)),
    "spatial 1d": (lambda k: k.SpatialDropout1D(0.3, seed=1), lambda: Dropout(0.3, shape="channel"), (N, 4, 3), (1, -1)),
    "spatial 1d, in their layout": (
        lambda k: k.SpatialDropout1D(0.3, seed=1), lambda: Dropout(0.3, shape="locked"), (N, 3, 4), (1, 1)
    ),
    "spatial 2d": (lambda k: k.SpatialDropout2D(0.3, seed=1), lambda: Dropout(0.3, shape="channel"), (N, 4, 2, 2), (1, -1)),
}  # fmt: skip


def moments(y: torch.Tensor) -> torch.Tensor:
    """Mean of the entries of a sample, and of the products of each two of them: what moves together, and how much."""
    flat = y.flatten(1).double()
    return torch.cat([flat.mean(0, keepdim=True), flat.T @ flat / len(flat)])


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder: Path = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder / "answers.pt")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


@pytest.mark.parametrize("case", CASES)
def test_keras_drops_in_the_same_sense(case, keras):
    _, ours, shape, _ = CASES[case]
    torch.manual_seed(0)
    found = moments(ours()(torch.ones(shape)))
    # products of two entries, of deviation 1.5 at most, over 40 000 samples, for ours and theirs: 5 standard errors
    torch.testing.assert_close(found, keras[case], rtol=0, atol=5 * 2**0.5 * 1.5 / N**0.5)


if __name__ == "__main__":
    import keras as real

    assert real.backend.backend() == "torch" and "tensorflow" not in sys.modules
    answers = {}
    for name, (theirs, _, shape, turn) in CASES.items():
        y = theirs(real.layers)(torch.ones(shape).movedim(*turn), training=True)
        answers[name] = moments(y.detach().movedim(*reversed(turn)))
    torch.save(answers, sys.argv[1])
