"""The optimizers from their formulas, in NumPy and float64.

Nothing is updated in place here: each step is computed from all gradients so far, with the sums that running means stand for
written out. All parameters are one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab import optim

Vector = np.ndarray
Options = Mapping[str, Any]


@dataclass
class Past:
    """What a training has seen up to this step: gradients, rates, and the directions of its steps (before any rate)."""

    gradients: list[Vector] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    directions: list[Vector] = field(default_factory=list)

    @property
    def t(self) -> int:
        return len(self.gradients)


def trajectory(
    rule: Callable[[Past, Options], Vector],
    start: Vector,
    gradient: Callable[[Vector, int], Vector],
    rates: Sequence[float],
    options: Options,
) -> Vector:
    """The parameters after each step, one row a step. ``gradient`` is that of the loss, at a point and a step (from 1).

    With ``maximize`` the optimizer is given the other sign, of which this knows nothing: it always goes down.
    """
    theta, past, rows = start.astype(np.float64), Past(), []
    decay, kind = options["weight_decay"], options["decay"]
    for rate in rates:
        past.rates.append(rate)
        ahead = theta - back_in_units(past, options) if options.get("lookahead") else theta
        past.gradients.append(gradient(ahead, past.t + 1) + (decay * ahead if kind == "coupled" else 0))
        shrink = {"coupled": 0.0, "decoupled": rate * decay, "independent": rate / rates[0] * decay}[kind]
        theta = (1 - shrink) * theta - rule(past, options)
        rows.append(theta)
    return np.array(rows)


def weighted(terms: Sequence[Vector], share: float, gains: Vector | None = None) -> Vector:
    """``sum_tau share^(t - tau) gains_tau terms_tau``."""
    t = len(terms)
    weights = share ** np.arange(t - 1, -1, -1.0) * (1 if gains is None else gains)
    return weights @ np.array(terms)


def mean(terms: Sequence[Vector], share: float) -> Vector:
    """The running mean that starts at zero: 003's ``(1 - beta) sum_tau beta^(t - tau) g_tau``."""
    return (1 - share) * weighted(terms, share)


def divided(numerator: Vector, square: Vector, options: Options) -> Vector:
    """By the root, with eps on its side of it; 0 where there is nothing to divide by."""
    eps = options["eps"]
    root = np.sqrt(square + eps) if options["eps_in_sqrt"] else np.sqrt(square) + eps
    return np.divide(numerator, root, out=np.zeros_like(numerator), where=root != 0)


def buffer(past: Past, options: Options, dampening: float = 0.0) -> Vector:
    """``v_t = sum_tau rho^(t - tau) d_tau``, with rates inside where they shall be."""
    gains = np.full(len(past.directions), 1 - dampening)
    gains[:1] = 1
    if options["lr_in_momentum"]:
        gains = gains * past.rates[: len(gains)]
    return weighted(past.directions, options["momentum"], gains)


def back_in_units(past: Past, options: Options) -> Vector | float:
    """How far the point ahead is from here, along what momentum has gathered before this step."""
    if not past.directions:
        return 0.0
    return options["momentum"] * buffer(past, options) * (1.0 if options["lr_in_momentum"] else past.rates[-1])


def with_momentum(past: Past, options: Options, direction: Vector, dampening: float = 0.0) -> Vector:
    past.directions.append(direction)
    rate, rho = past.rates[-1], options["momentum"]
    if not rho:
        return rate * direction
    v = buffer(past, options, dampening)
    outside = 1.0 if options["lr_in_momentum"] else rate
    if options["nesterov"]:
        return rate * direction + outside * rho * v
    return outside * v


def sgd(past: Past, options: Options) -> Vector:
    return with_momentum(past, options, past.gradients[-1], options["dampening"])


def adagrad(past: Past, options: Options) -> Vector:
    total = options["initial_accumulator_value"] + np.sum(np.square(past.gradients), axis=0)
    rate = past.rates[-1] / (1 + (past.t - 1) * options["lr_decay"])
    return rate * divided(past.gradients[-1], total, options)


def adadelta(past: Past, options: Options) -> Vector:
    rho = options["rho"]
    beta, beta_1 = rho if isinstance(rho, tuple) else (rho, rho)
    squares = mean(np.square(past.gradients), beta)
    squared_steps = mean(np.square(past.directions), beta_1) if past.directions else 0.0
    return delta(past, options, squares, squared_steps)


def window_adadelta(past: Past, options: Options) -> Vector:
    n = options["window"]
    squared_steps = np.mean(np.square(past.directions[-n:]), axis=0) if past.directions else 0.0
    return delta(past, options, np.mean(np.square(past.gradients[-n:]), axis=0), squared_steps)


def delta(past: Past, options: Options, squares: Vector, squared_steps: Vector | float) -> Vector:
    step = np.sqrt(squared_steps + options["eps"]) / np.sqrt(squares + options["eps"]) * past.gradients[-1]
    past.directions.append(step)
    return past.rates[-1] * step


def rmsprop(past: Past, options: Options) -> Vector:
    square = mean(np.square(past.gradients), options["alpha"])
    if options["centered"]:
        square = square - mean(past.gradients, options["alpha"]) ** 2
    return with_momentum(past, options, divided(past.gradients[-1], square, options))


def adam(past: Past, options: Options) -> Vector:
    beta_1, beta_2 = options["betas"]
    first = mean(past.gradients, beta_1) / (1 - beta_1**past.t)
    square = mean(np.square(past.gradients), beta_2)
    if options["amsgrad"]:  # the largest so far, corrected for the start by today's factor
        past.directions.append(square)
        square = np.max(past.directions, axis=0)
    return past.rates[-1] * divided(first, square / (1 - beta_2**past.t), options)


OF: dict[type, Callable[[Past, Options], Vector]] = {
    optim.SGD: sgd,
    optim.Adagrad: adagrad,
    optim.Adadelta: adadelta,
    optim.WindowAdadelta: window_adadelta,
    optim.RMSprop: rmsprop,
    optim.Adam: adam,
    optim.AdamW: adam,
}
