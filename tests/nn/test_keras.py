"""Keras gives the same numbers: a second opinion on every norm that both have.

Keras chooses its backend for good when it is imported, so it works in a process of its own: this file, run as a script, is
that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimtab.nn as tn
from trimtab.nn.ops import common

# Keras' momentum is the share of the old value and its moving variance is the biased one; its eps is 1e-3.
OF_KERAS: dict[str, Any] = {"eps": 1e-3, "momentum": 1 - 0.99, "unbiased": False}


@dataclass(frozen=True)
class Case:
    """One norm. theirs: (keras.layers) -> layer. ours: module with its parameters in the same order. shape: of our input.

    masked: with a mask. turn: the dimension of our input, and where Keras has it.
    """

    name: str
    theirs: Callable[[Any], Any]
    ours: Callable[[], nn.Module]
    shape: tuple[int, ...]
    masked: bool = False
    turn: tuple[int, int] = (1, 1)


CASES = (
    Case("batch norm", lambda k: k.BatchNormalization(axis=1), lambda: tn.BatchNorm2d(5, **OF_KERAS), (4, 5, 3, 7)),
    Case("batch norm of (N, C)", lambda k: k.BatchNormalization(), lambda: tn.BatchNorm1d(6, **OF_KERAS), (9, 6)),
    Case(
        "batch norm, channels last", lambda k: k.BatchNormalization(), lambda: tn.BatchNorm2d(5, **OF_KERAS), (4, 5, 3, 7),
        turn=(1, -1),
    ),
    Case(
        "batch norm, volumes", lambda k: k.BatchNormalization(axis=1), lambda: tn.BatchNorm3d(3, **OF_KERAS), (2, 3, 4, 3, 5)
    ),
    Case(
        "batch norm, masked", lambda k: k.BatchNormalization(), lambda: tn.BatchNorm1d(5, **OF_KERAS), (6, 5, 8),
        masked=True, turn=(1, -1),
    ),
    Case(
        "batch norm, momentum 0.8", lambda k: k.BatchNormalization(axis=1, momentum=0.8, epsilon=1e-5),
        lambda: tn.BatchNorm2d(5, momentum=1 - 0.8, unbiased=False), (4, 5, 3, 7),
    ),
    Case(
        "batch norm without shift", lambda k: k.BatchNormalization(axis=1, center=False),
        lambda: tn.BatchNorm2d(5, **OF_KERAS, bias=False), (4, 5, 3, 7),
    ),
    Case(
        "batch norm without scale and shift", lambda k: k.BatchNormalization(axis=1, center=False, scale=False),
        lambda: tn.BatchNorm2d(5, **OF_KERAS, affine=False), (4, 5, 3, 7),
    ),
    Case("layer norm", lambda k: k.LayerNormalization(), lambda: tn.LayerNorm(9, 1e-3), (4, 5, 9)),
    Case("layer norm of two axes", lambda k: k.LayerNormalization(axis=[-2, -1]), lambda: tn.LayerNorm((5, 9), 1e-3), (4, 5, 9)),
    Case(
        "layer norm of channels", lambda k: k.LayerNormalization(), lambda: tn.LayerNorm(5, 1e-3, channels_first=True),
        (4, 5, 3, 7), turn=(1, -1),
    ),
    Case("layer norm without shift", lambda k: k.LayerNormalization(center=False), lambda: tn.LayerNorm(9, 1e-3, bias=False), (4, 9)),
    Case(  # Keras hands neighbouring axes to torch's layer_norm (and rms_norm); for others it computes itself
        "layer norm of axes apart", lambda k: k.LayerNormalization(axis=[1, 3]), lambda: tn.LayerNorm((5, 9), 1e-3),
        (4, 3, 5, 9), turn=(2, 1),
    ),
    Case("group norm", lambda k: k.GroupNormalization(3, axis=1), lambda: tn.GroupNorm(3, 6, 1e-3), (4, 6, 3, 7)),
    Case("group norm, channels last", lambda k: k.GroupNormalization(3), lambda: tn.GroupNorm(3, 6, 1e-3), (4, 6, 3, 7), turn=(1, -1)),
    Case("group norm, one group", lambda k: k.GroupNormalization(1, axis=1), lambda: tn.GroupNorm(1, 6, 1e-3), (4, 6, 11)),
    Case(
        "instance norm", lambda k: k.GroupNormalization(-1, axis=1), lambda: tn.InstanceNorm2d(5, 1e-3, affine=True),
        (4, 5, 3, 7),
    ),
    Case("RMS norm", lambda k: k.RMSNormalization(), lambda: tn.RMSNorm(9, 1e-6), (4, 5, 9)),
    Case("RMS norm of two axes", lambda k: k.RMSNormalization(axis=[-2, -1], epsilon=1e-3), lambda: tn.RMSNorm((5, 9), 1e-3), (4, 5, 9)),
)  # fmt: skip


def problem(case: Case) -> dict[str, Any]:
    """Weights, three batches (the last one is for inference), what arrives from above, and the mask."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mask, upstream = None, draw(case.shape)
    if case.masked:
        mask = draw((case.shape[0], *case.shape[2:])) > -0.5
        # what a masked position gives is nobody's business (ours 0, Keras' a number), so nothing may come back through it
        upstream = upstream * mask.unsqueeze(1)
    return {
        "weights": [draw(parameter.shape) * 0.3 + 0.8 for parameter in case.ours().parameters()],
        "batches": [draw(case.shape) * 2 + 3 for _ in range(3)],
        "upstream": upstream,
        "mask": mask,
    }


def answers_of_keras(case: Case, layers: Any, given: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """Output, gradients by input and weights, and moving statistics: after two training steps, then in inference."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.movedim(*case.turn)

    layer = case.theirs(layers)
    layer.build(tuple(turned(given["batches"][0]).shape))
    for variable, value in zip(layer.trainable_variables, given["weights"], strict=True):
        variable.assign(value)
    # BatchNormalization alone behaves differently while training, and alone has a mask
    modes = [{"training": mode} for mode in (True, True, False)] if hasattr(layer, "moving_mean") else [{}, {}, {}]
    answers = {}
    for step, (x, mode) in enumerate(zip(given["batches"], modes, strict=True)):
        x.requires_grad_()
        y = layer(turned(x), **mode, **({} if given["mask"] is None else {"mask": given["mask"]}))
        y = y.movedim(*reversed(case.turn))
        weights = [variable.value for variable in layer.trainable_variables]
        gradients = torch.autograd.grad(y, [x, *weights], given["upstream"])
        moving = [layer.moving_mean.value, layer.moving_variance.value] if mode else []
        answers[f"step {step}"] = [t.detach().clone() for t in (y, *gradients, *moving)]
    return answers


def our_answers(case: Case, given: dict[str, Any], dtype: torch.dtype) -> dict[str, list[torch.Tensor]]:
    """The same of our part."""
    part: Any = case.ours().to(dtype)
    with torch.no_grad():
        for parameter, value in zip(part.parameters(), given["weights"], strict=True):
            parameter.copy_(value)
    answers = {}
    for step, x in enumerate(given["batches"]):
        x = x.detach().to(dtype).requires_grad_()
        y = part.train(step < 2)(x, **({} if given["mask"] is None else {"mask": given["mask"]}))
        gradients = torch.autograd.grad(y, [x, *part.parameters()], given["upstream"].to(dtype))
        moving = [t for name in ("running_mean", "running_var") if (t := getattr(part, name, None)) is not None]
        answers[f"step {step}"] = [t.detach().clone() for t in (y, *gradients, *moving)]
    return answers


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[torch.Tensor]]]:
    """What Keras answers to every case."""
    folder: Path = tmp_path_factory.mktemp("keras")
    # its settings file goes to the folder, too, instead of the home of whoever runs this
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder / "answers.pt")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    # Keras computes in float32, whatever it is given, and takes the variance as E[x^2] - E[x]^2, which here, where the mean is
    # 3 and the deviation 2, costs a digit less than a whole one: some thirty roundings of 6e-8, of the largest entry.
    error, scale = (found.double() - wanted.double()).abs().max(), wanted.abs().max().clamp(min=1e-3)
    assert error <= 2e-6 * scale, f"off by {error / scale:.1e} of the largest entry"


@pytest.mark.parametrize(("backend", "dtype"), [("torch", torch.float64), ("kernels", torch.float32)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_keras_gives_the_same(case, backend, dtype, keras, monkeypatch):
    if backend == "kernels":  # which serve float32, and leave tensors as small as these to torch
        monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})
    given = problem(case)
    ours, theirs = our_answers(case, given, dtype), keras[case.name]
    assert ours.keys() == theirs.keys()
    for step in ours:
        assert len(ours[step]) == len(theirs[step])
        y, wanted = ours[step][0], theirs[step][0]
        if case.masked:
            inside = given["mask"].unsqueeze(1).expand_as(y)
            assert (y[~inside] == 0).all()
            y, wanted = y[inside], wanted[inside]
        close(y, wanted)
        for found, exactly in zip(ours[step][1:], theirs[step][1:], strict=True):
            assert found.shape == exactly.shape
            close(found, exactly)


def test_keras_stays_in_its_own_process():
    assert "keras" not in sys.modules


if __name__ == "__main__":
    import keras as real

    assert real.backend.backend() == "torch" and "tensorflow" not in sys.modules
    torch.save({case.name: answers_of_keras(case, real.layers, problem(case)) for case in CASES}, sys.argv[1])
