"""Every form of every optimizer, and the training that they are compared on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes

from trimtab import optim

MEMBERS = [optim.SGD, optim.Adagrad, optim.Adadelta, optim.WindowAdadelta, optim.RMSprop, optim.Adam, optim.AdamW]
WIDTH = 4


@dataclass(frozen=True)
class Case:
    """One form. theirs: what torch's optimizer of this name is given for the same, or None where it has no such form."""

    name: str
    make: type[optim.Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] | None = None

    def __call__(self, params: Any, **others: Any) -> optim.Optimizer:
        return self.make(params, **{**self.settings, **others})

    def torchs(self, params: Any, **others: Any) -> torch.optim.Optimizer:
        return getattr(torch.optim, self.make.__name__)(params, **{**self.theirs, **others})


def as_torch(name: str, make: type, **settings: Any) -> Case:
    """A form that torch has, too, under the same names."""
    return Case(name, make, settings, settings)


def own(name: str, make: type, **settings: Any) -> Case:
    return Case(name, make, settings)


PUSH = {"lr": 0.02, "momentum": 0.9}
RMS = {"lr": 0.003, "alpha": 0.9, "momentum": 0.8}
CASES = (
    as_torch("sgd", optim.SGD, lr=0.1),
    as_torch("sgd, coupled", optim.SGD, lr=0.1, weight_decay=0.01),
    own("sgd, decoupled", optim.SGD, lr=0.1, weight_decay=0.01, decay="decoupled"),
    as_torch("momentum", optim.SGD, **PUSH),
    as_torch("momentum, dampening, coupled", optim.SGD, **PUSH, dampening=0.3, weight_decay=0.01),
    as_torch("momentum, maximize", optim.SGD, **PUSH, weight_decay=0.01, maximize=True),
    own("momentum, independent", optim.SGD, **PUSH, weight_decay=0.003, decay="independent"),
    own("momentum, rate inside", optim.SGD, **PUSH, lr_in_momentum=True),
    own("momentum, rate inside, dampening, decoupled", optim.SGD, **PUSH, lr_in_momentum=True, dampening=0.3, weight_decay=0.1, decay="decoupled"),
    as_torch("nesterov", optim.SGD, **PUSH, nesterov=True, weight_decay=0.01),
    own("nesterov, rate inside", optim.SGD, **PUSH, nesterov=True, lr_in_momentum=True),
    own("lookahead", optim.SGD, **PUSH, lookahead=True),
    own("lookahead, coupled, maximize", optim.SGD, **PUSH, lookahead=True, weight_decay=0.01, maximize=True),
    own("lookahead, rate inside, decoupled", optim.SGD, **PUSH, lookahead=True, lr_in_momentum=True, weight_decay=0.1, decay="decoupled"),
    as_torch("adagrad", optim.Adagrad, lr=0.1),
    as_torch("adagrad, lr_decay, start, coupled", optim.Adagrad, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1, weight_decay=0.01),
    as_torch("adagrad, maximize", optim.Adagrad, lr=0.1, maximize=True),
    own("adagrad, eps 0", optim.Adagrad, lr=0.1, eps=0.0),
    own("adagrad, eps inside, decoupled", optim.Adagrad, lr=0.1, eps=1e-3, eps_in_sqrt=True, weight_decay=0.1, decay="decoupled"),
    own("adagrad, independent", optim.Adagrad, lr=0.1, weight_decay=0.003, decay="independent"),
    as_torch("adadelta", optim.Adadelta, lr=1.0),
    as_torch("adadelta, coupled, maximize", optim.Adadelta, lr=0.7, rho=0.8, eps=1e-4, weight_decay=0.01, maximize=True),
    own("adadelta, a rho for each mean", optim.Adadelta, lr=1.0, rho=(0.8, 0.95), eps=1e-4, weight_decay=0.01, decay="decoupled"),
    own("adadelta, independent", optim.Adadelta, lr=1.0, eps=1e-4, weight_decay=0.003, decay="independent"),
    own("window adadelta", optim.WindowAdadelta, lr=1.0, window=7, eps=1e-4),
    own("window adadelta, three steps", optim.WindowAdadelta, lr=1.0, window=3, eps=1e-4, weight_decay=0.01, maximize=True),
    own("window adadelta, decoupled", optim.WindowAdadelta, lr=1.0, eps=1e-4, weight_decay=0.01, decay="decoupled"),
    as_torch("rmsprop", optim.RMSprop, lr=0.003),
    as_torch("rmsprop, momentum, coupled", optim.RMSprop, **RMS, weight_decay=0.01),
    as_torch("rmsprop, centered", optim.RMSprop, lr=0.003, alpha=0.9, centered=True, maximize=True),
    as_torch("rmsprop, centered, momentum", optim.RMSprop, **RMS, eps=1e-3, centered=True),
    own("rmsprop, eps inside, decoupled", optim.RMSprop, lr=0.003, eps=1e-4, eps_in_sqrt=True, weight_decay=0.1, decay="decoupled"),
    own("rmsprop, eps 0", optim.RMSprop, lr=0.003, eps=0.0),
    own("rmsprop, centered, eps inside, rate inside", optim.RMSprop, **RMS, eps=1e-4, centered=True, eps_in_sqrt=True, lr_in_momentum=True),
    own("rmsprop, nesterov, independent", optim.RMSprop, **RMS, nesterov=True, weight_decay=0.003, decay="independent"),
    own("rmsprop, lookahead", optim.RMSprop, **RMS, lookahead=True),
    own("rmsprop of the textbook", optim.RMSprop, **RMS, eps=0.0, lookahead=True, lr_in_momentum=True),
    as_torch("adam", optim.Adam, lr=0.01),
    as_torch("adam, amsgrad, coupled", optim.Adam, lr=0.01, betas=(0.8, 0.95), amsgrad=True, weight_decay=0.01),
    as_torch("adam, maximize", optim.Adam, lr=0.01, eps=1e-3, maximize=True),
    own("adam of the seed", optim.Adam, lr=0.01, betas=(0.9, 0.99), eps_in_sqrt=True),
    own("adam, eps 0", optim.Adam, lr=0.01, eps=0.0),
    own("adam, eps inside, amsgrad, independent", optim.Adam, lr=0.01, eps=1e-4, eps_in_sqrt=True, amsgrad=True, weight_decay=0.003, decay="independent"),
    as_torch("adamw", optim.AdamW, lr=0.01),
    as_torch("adamw, amsgrad, maximize", optim.AdamW, lr=0.01, weight_decay=0.1, amsgrad=True, maximize=True),
)  # fmt: skip


diabetes = functools.cache(lambda: load_diabetes(return_X_y=True))


class Fit:
    """A small network on real data, in mini-batches. Of its eleven inputs one is always 0, so those weights have no gradient."""

    def __init__(self) -> None:
        x, y = diabetes()
        self.x = np.concatenate([x * 20, np.zeros((len(x), 1))], axis=1)
        self.y = (y - y.mean()) / y.std()
        self.shapes = [(self.x.shape[1], WIDTH), (WIDTH,), (WIDTH,), ()]
        self.start = np.random.default_rng(0).normal(size=sum(int(np.prod(shape)) for shape in self.shapes)) * 0.5

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(64 * step, 64 * (step + 1)) % len(self.x)
        return self.x[rows], self.y[rows]

    def parameters(self, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        parts = torch.tensor(self.start, dtype=dtype).split(sizes)
        return [part.reshape(shape).clone().requires_grad_() for part, shape in zip(parts, self.shapes, strict=True)]

    def gradient(self, theta: np.ndarray, step: int) -> np.ndarray:
        """By hand, in NumPy."""
        x, y = self.batch(step)
        w, c, v, d = unpacked(theta, self.shapes)
        h = np.tanh(x @ w + c)
        slope = 2 * (h @ v + d - y) / len(y)
        inner = np.outer(slope, v) * (1 - h**2)
        return np.concatenate([(x.T @ inner).ravel(), inner.sum(0), h.T @ slope, [slope.sum()]])

    def give(self, params: Sequence[torch.Tensor], step: int, sign: float = 1.0) -> None:
        """Puts the gradient at these parameters into them."""
        flat = sign * self.gradient(packed(params), step)
        for p, g in zip(params, unpacked(flat, self.shapes), strict=True):
            p.grad = torch.tensor(g, dtype=p.dtype)


def unpacked(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def packed(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.concatenate([t.detach().double().reshape(-1).numpy() for t in tensors])


def rates_from(lr: float, steps: int) -> list[float]:
    """A rate that changes along the way, up and down."""
    return [lr * (1 + 0.5 * math.sin(step / 7)) for step in range(steps)]


def fitted(
    make: Callable[[Any], torch.optim.Optimizer],
    steps: int = 200,
    begin: int = 0,
    params: Any = None,
    optimizer: Any = None,
) -> tuple[np.ndarray, Any, Any]:
    """A training with rates that change; gives its parameters after each step, the optimizer, and the parameters."""
    fit = Fit()
    params = fit.parameters() if params is None else params
    optimizer = make(params) if optimizer is None else optimizer
    (group,) = optimizer.param_groups
    rates, rows = rates_from(optimizer.defaults["lr"], begin + steps), []
    for step in range(begin, begin + steps):
        group["lr"] = rates[step]

        optimizer.step(lambda step=step + 1: fit.give(params, step, -1.0 if group["maximize"] else 1.0))
        rows.append(packed(params))
    return np.array(rows), optimizer, params
