"""Label smoothing against its formula written out, and against Keras and optax.

Both choose their backend and precision for good when they are imported, so they work in a process of their own: this file, run as
a script, is that process.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import trimtab.nn as tn
from trimtab.nn.functional import cross_entropy

SMOOTHINGS = (0.0, 0.1, 0.35)
IGNORED = -3


def problem(shape: tuple[int, ...] = (12, 7), soft: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K, ...) in float64, and classes or probabilities."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    if soft:
        return x, torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)
    return x, torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)


def written_out(
    x: torch.Tensor, target: torch.Tensor, smoothing: float, convention: str, weight: torch.Tensor, reduction: str
) -> torch.Tensor:
    """``-sum_k q_k w_k log softmax(x)_k`` in Python's numbers, entry by entry; q is the smoothed target."""
    classes = x.shape[1]
    soft = target.is_floating_point()
    rows = x.movedim(1, -1).reshape(-1, classes).tolist()
    targets = target.movedim(1, -1).reshape(-1, classes).tolist() if soft else target.flatten().tolist()
    losses, total = [], 0.0
    for row, t in zip(rows, targets, strict=True):
        if t == IGNORED:
            losses.append(0.0)
            continue
        p = t if soft else [float(k == t) for k in range(classes)]
        if convention == "torch":
            q = [(1 - smoothing) * own + smoothing / classes for own in p]
        else:  # each class gives its share eps to the other K - 1
            q = [(1 - smoothing) * own + smoothing / (classes - 1) * (1 - own) for own in p]
        log_p = torch.tensor(row, dtype=torch.float64).log_softmax(0).tolist()
        losses.append(-sum(q[k] * weight[k].item() * log_p[k] for k in range(classes)))
        total += 1.0 if soft else weight[t].item()
    each = torch.tensor(losses, dtype=torch.float64).view(x.shape[:1] + x.shape[2:])
    return {"mean": each.sum() / total, "sum": each.sum(), "none": each}[reduction]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("convention", ["torch", "seed"])
@pytest.mark.parametrize("kind", ["plain", "weighted", "ignored", "weighted and ignored", "positions", "all", "soft", "weighted soft", "soft positions"])  # fmt: skip
def test_it_is_the_formula(kind, convention, smoothing, reduction):
    x, y = problem((4, 7, 3) if "positions" in kind or kind == "all" else (12, 7), soft="soft" in kind)
    weight = None
    if "weighted" in kind or kind == "all":
        weight = torch.linspace(0.2, 3, 7, dtype=torch.float64)
    if "ignored" in kind or kind == "all":
        y[::3] = IGNORED
    expected = written_out(
        x, y, smoothing, convention, torch.ones(7) if weight is None else weight, reduction
    )  # fmt: skip
    given = dict(weight=weight, ignore_index=IGNORED, reduction=reduction, label_smoothing=smoothing)
    found = cross_entropy(x, y, **given, convention=convention)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)  # sums of ten numbers up to 20 in float64
    module = tn.CrossEntropyLoss(**given, convention=convention)
    assert torch.equal(module(x, y), found)
    assert torch.equal(copy.deepcopy(module)(x, y), found)


@pytest.mark.parametrize("convention", ["torch", "seed"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients(convention, soft):
    x, y = problem((5, 4, 2), soft)
    weight = torch.linspace(0.5, 2, 4, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(x, y, weight, label_smoothing=0.2, convention=convention)

    assert torch.autograd.gradcheck(loss, x.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, x)


def test_the_gradient_is_softmax_minus_the_smoothed_target():
    x, y = problem()
    for convention, own, other in (("torch", 0.9 + 0.1 / 7, 0.1 / 7), ("seed", 0.9, 0.1 / 6)):
        x.requires_grad_()
        loss = cross_entropy(x, y, reduction="sum", label_smoothing=0.1, convention=convention)
        (gradient,) = torch.autograd.grad(loss, x)
        q = torch.full_like(x, other).scatter(1, y[:, None], own).detach()
        torch.testing.assert_close(gradient, x.softmax(1) - q)


@pytest.mark.parametrize("convention", ["torch", "seed"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS[1:])
def test_it_is_smallest_where_the_softmax_is_the_smoothed_target(convention, smoothing):
    """The loss is then the entropy of the target, and nothing is smaller."""
    y = torch.tensor([2])
    own, other = (
        (1 - smoothing + smoothing / 5, smoothing / 5) if convention == "torch" else (1 - smoothing, smoothing / 4)
    )
    q = torch.full((1, 5), other, dtype=torch.float64)
    q[0, 2] = own
    at_best = cross_entropy(q.log(), y, label_smoothing=smoothing, convention=convention)
    torch.testing.assert_close(at_best, -(q * q.log()).sum())
    for seed in range(20):
        step = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.1
        assert cross_entropy(q.log() + step, y, label_smoothing=smoothing, convention=convention) > at_best


def test_the_two_conventions_are_one_of_two_strengths():
    x, y = problem()
    torch.testing.assert_close(
        cross_entropy(x, y, label_smoothing=0.3, convention="seed"), F.cross_entropy(x, y, label_smoothing=0.3 * 7 / 6)
    )
    assert torch.equal(cross_entropy(x, y, label_smoothing=0.3), F.cross_entropy(x, y, label_smoothing=0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("convention", ["torch", "seed"])
def test_other_types(dtype, convention):
    x, y = problem()
    x = x.to(dtype)
    found = cross_entropy(x, y, label_smoothing=0.1, convention=convention)
    assert found.dtype == dtype
    expected = written_out(x.double(), y, 0.1, convention, torch.ones(7), "mean")
    # a log-softmax and a loss that are each rounded to the type, of numbers up to three times the loss, plus the sum's
    torch.testing.assert_close(found.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_a_single_sample_without_a_batch():
    x, y = problem()
    for convention in ("torch", "seed"):
        given = dict(label_smoothing=0.2, convention=convention)
        torch.testing.assert_close(cross_entropy(x[0], y[0], **given), cross_entropy(x[:1], y[:1], **given))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: tn.CrossEntropyLoss(label_smoothing=1.1),
            "CrossEntropyLoss: label_smoothing=1.1 must lie in [0, 1]: it is the probability spread over the classes.",
        ),
        (
            lambda x, y: cross_entropy(x, y, label_smoothing=-0.1),
            "cross_entropy: label_smoothing=-0.1 must lie in [0, 1]",
        ),
        (
            lambda x, y: tn.CrossEntropyLoss(label_smoothing=0.1, convention="keras"),
            "CrossEntropyLoss: convention='keras' must be one of 'torch', 'seed'.",
        ),
        (
            lambda x, y: cross_entropy(x[:, :1], y * 0, label_smoothing=0.1, convention="seed"),
            "label smoothing needs at least 2 classes; the input of shape (12, 1) has one.",
        ),
        (
            lambda x, y: cross_entropy(x, y, label_smoothing=0.9, convention="seed"),
            "smoothing=0.9 leaves the true class less than each of the other 6; it must be at most 0.857143 here.",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError) as error:
        call(*problem())
    assert message in str(error.value)


# -- Keras and optax -------------------------------------------------------------------------------------------------


def their_answers() -> dict[str, torch.Tensor]:
    """What Keras and optax say, in float64: for one-hot and for soft targets."""
    import jax
    import keras
    import numpy as np
    import optax

    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    answers: dict[str, Any] = {}
    for soft in (False, True):
        x, y = problem(soft=soft)
        q = y if soft else F.one_hot(y, 7).double()
        for smoothing in SMOOTHINGS:
            theirs = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=smoothing, reduction="none", dtype="float64"
            )
            answers[f"keras {soft} {smoothing}"] = theirs(q, x)
            smoothed = optax.smooth_labels(q.numpy(), smoothing)
            answers[f"optax {soft} {smoothing}"] = np.array(optax.softmax_cross_entropy(x.numpy(), smoothed))
    return {key: torch.as_tensor(value) for key, value in answers.items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("answers")
    # the settings file of Keras goes to the folder, too, instead of the home of whoever runs this
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, __file__, str(folder / "answers.pt")], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("whose", ["keras", "optax"])
def test_keras_and_optax_have_the_convention_of_torch(whose, soft, smoothing, theirs):
    x, y = problem(soft=soft)
    expected = theirs[f"{whose} {soft} {smoothing}"]
    assert expected.dtype == torch.float64 and expected.shape == (12,)
    found = cross_entropy(x, y, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    if smoothing and not soft:  # theirs of 7/6 the strength is the seed's
        seeds = cross_entropy(x, y, reduction="none", label_smoothing=smoothing * 6 / 7, convention="seed")
        torch.testing.assert_close(seeds, expected, rtol=1e-12, atol=1e-13)


if __name__ == "__main__":
    torch.save(their_answers(), sys.argv[1])
