"""Keras, optax and ONNX give the same numbers where they mean the same; where they do not, the difference is shown.

Keras chooses its backend for good when it is imported, so it works in a process of its own: this file, run as a script, is
that process.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab import optim
from trimtab.optim import optimizer as base

STEPS = 25
SHAPES = [(3, 4), (7,), ()]
EXACT = 1e-13  # float64 on both sides: 25 steps of some ten roundings of 1.1e-16, relative to the largest entry

INSIDE = {"eps_in_sqrt": True}
PUSHED = {"momentum": 0.9, "lr_in_momentum": True}


@dataclass(frozen=True)
class Pair:
    """One optimizer of both. theirs: what makes it out of their module and a rate. differs: what ours is when it does not."""

    name: str
    theirs: Callable[[Any, Any], Any]
    make: type[optim.Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.05
    differs: dict[str, Any] | None = None


def rates(lr: float) -> list[float]:
    return [lr * (1 + 0.5 * math.sin(step)) for step in range(STEPS)]


def problem() -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """Parameters, and gradients of which some are so small that the place of eps matters, and one is always 0."""
    g = torch.Generator().manual_seed(0)

    def draw() -> list[torch.Tensor]:
        return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in SHAPES]

    start, gradients = draw(), [draw() for _ in range(STEPS)]
    for one in gradients:
        one[0][1] *= 1e-4
        one[1][2:4] *= 1e-7
        one[1][5] = 0
    return start, gradients


def ours(pair: Pair, **others: Any) -> list[torch.Tensor]:
    """All parameters after each step. ``eps_hat`` stands where Keras has its eps: before the correction."""
    start, gradients = problem()
    settings = {**pair.settings, **others}
    eps_hat = settings.pop("eps_hat", None)
    params = [p.clone().requires_grad_() for p in start]
    optimizer = pair.make(params, lr=pair.lr, **settings)
    (group,) = optimizer.param_groups
    rows = []
    for step, (rate, grads) in enumerate(zip(rates(pair.lr), gradients, strict=True), 1):
        group["lr"] = rate
        if eps_hat is not None:
            group["eps"] = eps_hat / math.sqrt(1 - group["betas"][1] ** step)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        rows.append(torch.cat([p.detach().flatten() for p in params]))
    return rows


def compare(pair: Pair, theirs: torch.Tensor) -> None:
    error = (torch.stack(ours(pair)) - theirs).abs().max() / theirs.abs().max()
    assert error < EXACT, f"off by {error:.1e}"
    if pair.differs is not None:
        assert (torch.stack(ours(pair, **pair.differs)) - theirs).abs().max() > 1e-4


# -- Keras: eps inside of the root, the rate inside of the buffer, decoupled decay -------------------------------------

OF_KERAS = (
    Pair("sgd", lambda k, lr: k.SGD(lr), optim.SGD),
    Pair("sgd, decay", lambda k, lr: k.SGD(lr, weight_decay=0.1), optim.SGD, {"weight_decay": 0.1, "decay": "decoupled"}),
    Pair("momentum", lambda k, lr: k.SGD(lr, momentum=0.9), optim.SGD, PUSHED, differs={"lr_in_momentum": False}),
    Pair(
        "nesterov", lambda k, lr: k.SGD(lr, momentum=0.9, nesterov=True), optim.SGD, {**PUSHED, "nesterov": True},
        differs={"lr_in_momentum": False},
    ),
    Pair(
        "adagrad", lambda k, lr: k.Adagrad(lr), optim.Adagrad, {**INSIDE, "eps": 1e-7, "initial_accumulator_value": 0.1},
        differs={"initial_accumulator_value": 0},
    ),
    Pair(
        "adagrad from 0", lambda k, lr: k.Adagrad(lr, initial_accumulator_value=0.0, epsilon=1e-6), optim.Adagrad,
        {**INSIDE, "eps": 1e-6}, differs={"eps_in_sqrt": False},
    ),
    Pair("adadelta", lambda k, lr: k.Adadelta(lr, weight_decay=0.01), optim.Adadelta, {"rho": 0.95, "eps": 1e-7, "weight_decay": 0.01, "decay": "decoupled"}, lr=1.0),
    Pair("rmsprop", lambda k, lr: k.RMSprop(lr), optim.RMSprop, {"alpha": 0.9, "eps": 1e-7, **INSIDE}, differs={"eps_in_sqrt": False}),
    Pair(
        "rmsprop, centered, momentum", lambda k, lr: k.RMSprop(lr, momentum=0.9, centered=True, epsilon=1e-5), optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-5, "centered": True, **INSIDE, **PUSHED}, lr=0.01, differs={"lr_in_momentum": False},
    ),
    Pair("adam", lambda k, lr: k.Adam(lr), optim.Adam, {"eps_hat": 1e-7}, differs={"eps_hat": None, "eps": 1e-7}),
    Pair("adam, amsgrad", lambda k, lr: k.Adam(lr, amsgrad=True, beta_2=0.9), optim.Adam, {"eps_hat": 1e-7, "amsgrad": True, "betas": (0.9, 0.9)}, differs={"amsgrad": False}),
    Pair("adamw", lambda k, lr: k.AdamW(lr, weight_decay=0.1), optim.AdamW, {"eps_hat": 1e-7, "weight_decay": 0.1}, differs={"decay": "coupled"}),
)  # fmt: skip


def answers_of_keras(pair: Pair, keras: Any) -> torch.Tensor:
    start, gradients = problem()
    variables = [keras.Variable(p.numpy(), dtype="float64") for p in start]
    optimizer = pair.theirs(keras.optimizers, pair.lr)
    rows = []
    for rate, grads in zip(rates(pair.lr), gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply(grads, variables)
        rows.append(torch.cat([v.value.detach().flatten() for v in variables]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What Keras answers to every pair."""
    folder: Path = tmp_path_factory.mktemp("keras")
    # its settings file goes to the folder, too, instead of the home of whoever runs this
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder / "answers.pt")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


@pytest.mark.parametrize("pair", OF_KERAS, ids=lambda pair: pair.name)
def test_keras(pair, keras):
    assert keras[pair.name].dtype == torch.float64
    compare(pair, keras[pair.name])


# -- optax: eps on both sides of the root, chains that put the rate before or behind the buffer ----------------------

OF_OPTAX = (
    Pair("sgd", lambda o, lr: o.sgd(lr), optim.SGD),
    Pair("momentum", lambda o, lr: o.sgd(lr, momentum=0.9), optim.SGD, {"momentum": 0.9}),
    Pair("nesterov", lambda o, lr: o.sgd(lr, momentum=0.9, nesterov=True), optim.SGD, {"momentum": 0.9, "nesterov": True}),
    Pair(
        "nesterov, rate inside", lambda o, lr: o.chain(o.scale_by_learning_rate(lr), o.trace(0.9, nesterov=True)), optim.SGD,
        {**PUSHED, "nesterov": True}, differs={"lr_in_momentum": False},
    ),
    Pair("coupled", lambda o, lr: o.chain(o.add_decayed_weights(0.1), o.sgd(lr, momentum=0.9)), optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    Pair(
        "adagrad", lambda o, lr: o.adagrad(lr), optim.Adagrad, {**INSIDE, "eps": 1e-7, "initial_accumulator_value": 0.1},
        differs={"initial_accumulator_value": 0},
    ),
    Pair("adagrad, eps 0", lambda o, lr: o.adagrad(lr, initial_accumulator_value=0.0, eps=0.0), optim.Adagrad, {"eps": 0.0}),
    Pair(
        "adadelta", lambda o, lr: o.adadelta(lr, rho=0.8, eps=1e-4, weight_decay=0.01), optim.Adadelta,
        {"rho": 0.8, "eps": 1e-4, "weight_decay": 0.01}, lr=1.0, differs={"decay": "decoupled"},
    ),
    Pair("rmsprop", lambda o, lr: o.rmsprop(lr), optim.RMSprop, {"alpha": 0.9, **INSIDE}, differs={"eps_in_sqrt": False}),
    Pair("rmsprop, eps outside", lambda o, lr: o.rmsprop(lr, eps_in_sqrt=False), optim.RMSprop, {"alpha": 0.9}),
    Pair(
        "rmsprop, momentum", lambda o, lr: o.rmsprop(lr, momentum=0.9), optim.RMSprop, {"alpha": 0.9, **INSIDE, **PUSHED},
        lr=0.01, differs={"lr_in_momentum": False},
    ),
    Pair(
        "rmsprop, centered, nesterov", lambda o, lr: o.rmsprop(lr, centered=True, momentum=0.9, nesterov=True), optim.RMSprop,
        {"alpha": 0.9, "centered": True, "nesterov": True, **INSIDE, **PUSHED}, lr=0.01,
    ),
    Pair("adam", lambda o, lr: o.adam(lr), optim.Adam),
    Pair(
        "adam, eps inside", lambda o, lr: o.adam(lr, b2=0.99, eps=0.0, eps_root=1e-8), optim.Adam, {"betas": (0.9, 0.99), **INSIDE},
        differs={"eps_in_sqrt": False},
    ),
    Pair("adam, eps 0", lambda o, lr: o.chain(o.scale_by_adam(eps=1e-300), o.scale_by_learning_rate(lr)), optim.Adam, {"eps": 0.0}),
    Pair("adamw", lambda o, lr: o.adamw(lr, weight_decay=0.1), optim.AdamW, {"weight_decay": 0.1}),
)  # fmt: skip


def answers_of_optax(pair: Pair) -> torch.Tensor:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = problem()
    with jax.enable_x64(True):
        schedule = jax.numpy.array(rates(pair.lr))
        params = [jax.numpy.array(p.numpy()) for p in start]
        optimizer = pair.theirs(optax, lambda count: schedule[count])
        state, update, rows = optimizer.init(params), jax.jit(optimizer.update), []
        for grads in gradients:
            updates, state = update([jax.numpy.array(g.numpy()) for g in grads], state, params)
            params = optax.apply_updates(params, updates)
            rows.append(np.concatenate([np.ravel(p) for p in params]))
    return torch.tensor(np.array(rows))


@pytest.mark.parametrize("pair", OF_OPTAX, ids=lambda pair: pair.name)
def test_optax(pair):
    theirs = answers_of_optax(pair)
    assert theirs.dtype == torch.float64
    compare(pair, theirs)


def test_amsgrad_of_optax_corrects_before_it_takes_the_largest():
    """torch, Keras and we take the largest mean square first, and correct it by the factor of today."""
    pair = Pair("amsgrad", lambda o, lr: o.amsgrad(lr), optim.Adam, {"amsgrad": True})
    theirs = answers_of_optax(pair)
    assert (torch.stack(ours(pair)) - theirs)[0].abs().max() < EXACT  # at the first step they are the same
    assert (torch.stack(ours(pair)) - theirs)[-1].abs().max() > 1e-3


# -- ONNX ------------------------------------------------------------------------------------------------------------


def momentum_of_onnx(r, t, params, state, *, alpha, beta, mode, norm_coefficient):
    # At T = 0 the gradient comes in whole, also into a V that is already there
    dampening = 1 - beta if t > 0 else 0
    optimizer = optim.SGD(
        params, r, momentum=alpha, dampening=dampening, weight_decay=norm_coefficient, nesterov=mode == b"nesterov"
    )
    return optimizer, ("momentum_buffer",)


def adagrad_of_onnx(r, t, params, state, *, norm_coefficient=0.0, epsilon=1e-6, decay_factor=0.0):
    return optim.Adagrad(params, r, decay_factor, norm_coefficient, eps=epsilon), ("sum",)


def adam_of_onnx(r, t, params, state, *, alpha=0.9, beta=0.999, norm_coefficient=0.0, epsilon=1e-6):
    # Its eps stands before the correction, as Keras' does. At T = 0 there is no correction: ours has become 1 after so many steps.
    eps = epsilon / math.sqrt(1 - beta**t) if t > 0 else epsilon
    state["step"] = t - 1 if t > 0 else 1_000_000
    return optim.Adam(params, r, (alpha, beta), eps, norm_coefficient), ("exp_avg", "exp_avg_sq")


RUN = {"Momentum": momentum_of_onnx, "Adagrad": adagrad_of_onnx, "Adam": adam_of_onnx}
CASES = {"Momentum": 3, "Adagrad": 2, "Adam": 2}  # in onnx 1.23; a newer one may have more: then run those too


@pytest.fixture(scope="module")
def onnx_cases() -> dict[str, list[Any]]:
    """What ``load_model_tests(kind="node")`` has for these operators, without making the data of all others, which takes long."""
    from onnx.backend.test.case import node

    for name in RUN:
        importlib.import_module(f"{node.__name__}.{name.lower()}")
    cases = [(case.model.graph.node, case) for case in node._NodeTestCases]
    return {name: [case for nodes, case in cases if len(nodes) == 1 and nodes[0].op_type == name] for name in RUN}


@pytest.mark.parametrize("path", ["kernel", "foreach"])
@pytest.mark.parametrize("operator", RUN)
def test_onnx(operator, path, onnx_cases, subtests, monkeypatch):
    from onnx import helper

    monkeypatch.setattr(base, "FORCED", "" if path == "kernel" else "torch")
    assert len(onnx_cases[operator]) == CASES[operator]
    for case in onnx_cases[operator]:
        with subtests.test(case.name):
            (node,) = case.model.graph.node
            options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            (inputs, wanted), *_ = case.data_sets
            (rate, step), tensors = map(float, inputs[:2]), [torch.tensor(np.array(one)) for one in inputs[2:]]
            count = len(tensors) - len(wanted)  # of parameters, which are followed by their gradients and their state
            params, grads = [p.requires_grad_() for p in tensors[:count]], tensors[count : 2 * count]
            state: dict[str, Any] = {"step": step}
            optimizer, slots = RUN[operator](rate, step, params, state, **options)
            for number, (p, g) in enumerate(zip(params, grads, strict=True)):
                p.grad = g
                held = dict(zip(slots, tensors[2 * count + number :: count], strict=True))
                optimizer.state[p] = {"step": torch.tensor(float(state["step"])), **held}
            optimizer.step()
            found = [*params, *(optimizer.state[p][slot] for slot in slots for p in params)]
            for one, theirs in zip(found, wanted, strict=True):
                np.testing.assert_allclose(one.detach().numpy(), theirs, rtol=case.rtol, atol=case.atol)


if __name__ == "__main__":
    import keras as real

    assert real.backend.backend() == "torch" and "tensorflow" not in sys.modules
    real.config.set_floatx("float64")
    torch.save({pair.name: answers_of_keras(pair, real) for pair in OF_KERAS}, sys.argv[1])
