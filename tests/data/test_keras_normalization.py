"""Keras' ``Normalization.adapt`` computes the same as ``Standardize.fit``.

In a process of its own (see tests/nn/test_keras.py): this file, run as a script, is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from trimtab.data import Standardize

SHAPES = {"table": ((200, 5), -1), "sequences": ((20, 7, 5), -1), "images": ((20, 5, 4, 3), 1)}


def data(shape: tuple[int, ...], axis: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(axis, -1)
    return (x * torch.tensor([1.0, 10.0, 0.1, 3.0, 100.0]) + torch.arange(5.0)).movedim(-1, axis).contiguous()


def test_keras_agrees(tmp_path: Path):
    environment = {
        **os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path / "answers.npz")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    answers = np.load(tmp_path / "answers.npz")
    for name, (shape, axis) in SHAPES.items():
        x = data(shape, axis)
        layer = Standardize(5, axis).fit(x.split(6))
        # theirs is float32 throughout, also the sums; outputs reach 4
        np.testing.assert_allclose(layer(x).numpy(), answers[name], rtol=1e-5, atol=1e-5, err_msg=name)


if __name__ == "__main__":
    import keras as real

    assert real.backend.backend() == "torch" and "tensorflow" not in sys.modules
    found = {}
    for name, (shape, axis) in SHAPES.items():
        x = data(shape, axis).numpy()
        layer = real.layers.Normalization(axis=axis)
        layer.adapt(x)
        found[name] = layer(x).detach().numpy()
    np.savez(sys.argv[1], **found)
