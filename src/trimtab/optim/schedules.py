"""Schedules of the learning rate, in closed form.

Each is a function of the step (from 0) whose value multiplies the base rate, ready for torch::

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Warmup(100, Cosine(900)))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from trimtab.values import as_number

GROUP = "optimization"
Schedule = Callable[[int], float]
Plotted = tuple[str, str, dict[str, tuple[list[float], list[float]]]]

SHAPES: dict[str, Callable[[float], float]] = {  # from 1 at 0 to 0 at 1
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x: 1 - math.sqrt(x),
}
PLOTTED_STEPS = 1000


@dataclass(frozen=True)
class InverseTime:
    r"""Inverse time: the rate falls like 1/t.

    .. math:: \alpha_t = \frac{\alpha_0}{1 + \beta t}

    with the step t and the base rate :math:`\alpha_0`. The rate is halved at :math:`t = 1 / \beta`; it falls slower and
    slower, and its sum over all steps is infinite: however far the minimum, it can still be reached.

    Args:
        beta: how fast, positive: 1 over the number of steps until the rate is halved.

    Raises:
        ValueError: if beta is not positive.

    When it helps: plain SGD, whose gradient noise does not vanish at the minimum; runs of unknown length. When it
    hurts: long runs with a large beta, which spend most of their steps at a tiny rate.

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951 (decay of this order); seed 003.

    >>> [InverseTime(0.5)(step) for step in (0, 2, 8)]
    [1.0, 0.5, 0.2]
    """

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def __call__(self, step: int) -> float:
        return 1 / (1 + self.beta * step)

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"beta={beta:g}": cls(beta) for beta in (0.002, 0.01, 0.05)})


@dataclass(frozen=True)
class Exponential:
    r"""Exponential: each step multiplies the rate by the same number.

    .. math:: \alpha_t = \alpha_0 \beta^t

    with the step t and the base rate :math:`\alpha_0`. Torch's ``ExponentialLR(gamma=beta)``, as a function of the
    step.

    Args:
        beta: what each step multiplies with, above 0 and at most 1; :math:`r^{1/n}` gets to the share r after n steps.

    Raises:
        ValueError: if beta is not in (0, 1].

    When it helps: a rate that shall pass evenly through orders of magnitude. When it hurts: the sum of all steps is
    bounded by :math:`\alpha_0 / (1 - \beta)`: with a small beta training ends before it has arrived. A beta meant for
    epochs, given to updates.

    Source: Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020; seed 003.

    >>> [Exponential(0.5)(step) for step in (0, 1, 3)]
    [1.0, 0.5, 0.125]
    """

    beta: float

    def __post_init__(self) -> None:
        if not 0 < as_number(self.beta) <= 1:
            raise ValueError(f"beta={self.beta} must be above 0 and at most 1: each step multiplies the rate by it.")

    def __call__(self, step: int) -> float:
        return float(self.beta**step)

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"beta={beta:g}": cls(beta) for beta in (0.999, 0.997, 0.99)})


@dataclass(frozen=True)
class NaturalExponential:
    r"""Natural exponential: the rate falls by the same share in every stretch of time.

    .. math:: \alpha_t = \alpha_0 \exp(-\beta t)

    with the step t and the base rate :math:`\alpha_0`. The same family as :class:`Exponential`, whose beta is
    :math:`\exp(-\beta)` of this one; here 1/beta is the number of steps until the rate is down to a share of 1/e.

    Args:
        beta: how fast, positive.

    Raises:
        ValueError: if beta is not positive.

    When it helps: a rate that shall pass evenly through orders of magnitude, thought of by its time constant. When it
    hurts: a time constant far shorter than the run: training ends before it has arrived.

    Source: seed 003; Li and Arora, "An Exponential Learning Rate Schedule for Deep Learning", ICLR 2020.

    >>> [round(NaturalExponential(0.1)(step), 4) for step in (0, 10, 20)]
    [1.0, 0.3679, 0.1353]
    """

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def __call__(self, step: int) -> float:
        return math.exp(-self.beta * step)

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"beta={beta:g}": cls(beta) for beta in (0.001, 0.003, 0.01)})


@dataclass(frozen=True)
class Cosine:
    r"""Cosine: slow at first, fast in the middle, slow at the end.

    .. math:: \alpha_t = \alpha_0 \Bigl(f + (1 - f) \frac{1 + \cos(\pi t / T)}{2}\Bigr), \quad t \le T

    with the step t, the base rate :math:`\alpha_0`, the number of steps T and the floor f. From step T on the rate
    stays at its floor, where torch's ``CosineAnnealingLR`` would climb again.

    Args:
        steps: T, over how many updates the rate falls.
        floor: f, what is left at the end, from 0 to 1.

    Raises:
        ValueError: if there are no steps, or the floor is not in [0, 1].

    When it helps: runs of known length; the usual choice. When it hurts: runs that are stopped early, whose rate has
    not come down, or go on for longer, at the floor.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    >>> [round(Cosine(100)(step), 4) for step in (0, 25, 50, 100, 1000)]
    [1.0, 0.8536, 0.5, 0.0, 0.0]
    """

    steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_share("floor", self.floor)

    def __call__(self, step: int) -> float:
        return self.floor + (1 - self.floor) * SHAPES["cosine"](min(step / self.steps, 1))

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"floor={floor:g}": cls(PLOTTED_STEPS, floor) for floor in (0.0, 0.1)})


@dataclass(frozen=True)
class Warmup:
    r"""Linear warm-up in front of another schedule, whose step 0 is the end of the warm-up.

    .. math::
        \alpha_t = \begin{aligned}
            & \alpha_0 \bigl(s + (1 - s) \frac{t}{W}\bigr), \quad t < W \\
            & \alpha_0 \, g(t - W), \quad t \ge W
        \end{aligned}

    with the step t, the base rate :math:`\alpha_0`, the W steps of the warm-up, its start s and the schedule g.

    Args:
        steps: W, how many updates it takes to reach the base rate.
        then: g, any function of the step; without one the rate stays at the base rate.
        start: s, where the rate begins, from 0 (the first update then moves nothing) to 1.

    Raises:
        ValueError: if there are no steps, or the start is not in [0, 1].
        TypeError: if ``then`` cannot be called.

    When it helps: the first steps of Adam, whose second moments rest on a few gradients; large batches; transformers
    with normalization behind the residual. When it hurts: short runs, in which it takes away steps.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017; Vaswani et al., "Attention Is All You Need", 2017.

    >>> schedule = Warmup(4, Exponential(0.5))
    >>> [schedule(step) for step in range(7)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    steps: int
    then: Schedule | None = None
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_share("start", self.start)
        if self.then is not None and not callable(self.then):
            raise TypeError(
                f"then={self.then!r} must be a schedule, such as Cosine(1000), or another function of the step."
            )

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.start + (1 - self.start) * (step / self.steps)
        return 1.0 if self.then is None else self.then(step - self.steps)

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({"steps=200": cls(200), "steps=200, then=Cosine(800)": cls(200, Cosine(PLOTTED_STEPS - 200))})


@dataclass(frozen=True)
class WarmupStableDecay:
    r"""Warm-up, stable, decay: up, long at the base rate, and down in the last part of the run.

    .. math::
        \alpha_t = \begin{aligned}
            & \alpha_0 \, t / W, \quad t < W \\
            & \alpha_0, \quad W \le t < T - D \\
            & \alpha_0 \bigl(f + (1 - f) g\bigl(\tfrac{t - (T - D)}{D}\bigr)\bigr), \quad T - D \le t \le T
        \end{aligned}

    with the step t, the base rate :math:`\alpha_0`, T steps in all, W of them up and D down, and the floor f; and with
    the shape :math:`g(x) = 1 - x` (linear), :math:`(1 + \cos \pi x) / 2` (cosine) or :math:`1 - \sqrt{x}` (sqrt: down
    fast, then slowly). From step T on the rate stays at its floor.

    Args:
        steps: T.
        warmup: W / T, from 0 to 1; W is rounded to whole steps.
        decay: D / T, from 0 to 1.
        shape: how the rate comes down: "linear", "cosine" or "sqrt".
        floor: f, what is left at the end, from 0 to 1.

    Raises:
        ValueError: if there are no steps, shares or floor are not in [0, 1], both shares are more than 1 together, or
            the shape is not known.

    When it helps: runs whose length is not settled: a checkpoint of the stable part goes on for longer, or comes down
    at any time. When it hurts: the loss stays high until the rate comes down, so that curves mislead before that.

    Source: Hu et al., "MiniCPM", 2024; Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", NeurIPS 2024 (shapes).

    >>> schedule = WarmupStableDecay(100)
    >>> [schedule(step) for step in (0, 5, 10, 79, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """

    steps: int
    warmup: float = 0.1
    decay: float = 0.2
    shape: str = "linear"
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        for name in ("warmup", "decay", "floor"):
            _check_share(name, getattr(self, name))
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup={self.warmup} and decay={self.decay} are shares of all steps and must not be more than 1 together."
            )
        _check_shape(self.shape, tuple(SHAPES))

    def __call__(self, step: int) -> float:
        up = round(self.warmup * self.steps)
        down = min(round(self.decay * self.steps), self.steps - up)
        if step < up:
            return step / up
        if step < self.steps - down:
            return 1.0
        over = min((step - (self.steps - down)) / down, 1) if down else 1
        return self.floor + (1 - self.floor) * SHAPES[self.shape](over)

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"shape='{shape}'": cls(PLOTTED_STEPS, shape=shape) for shape in SHAPES})


@dataclass(frozen=True)
class OneCycle:
    r"""One cycle: up to the peak, and down to almost nothing, once.

    .. math::
        \alpha_t = \begin{aligned}
            & \hat\alpha \bigl(1 - (1 - s) g(t / P)\bigr), \quad t \le P \\
            & \hat\alpha \bigl(e + (1 - e) g\bigl(\tfrac{t - P}{T - 1 - P}\bigr)\bigr), \quad P < t < T
        \end{aligned}

    with the step t, the peak rate :math:`\hat\alpha` (which is the optimizer's), T steps in all, the peak at step P =
    share T - 1, start s and end e as shares of the peak, and the shape :math:`g(x) = (1 + \cos \pi x) / 2` (cosine) or
    :math:`1 - x` (linear). With the defaults these are the rates of torch's ``OneCycleLR(max_lr, total_steps=T)``,
    which cycles the momentum too; this does not. After the last step the rate stays at its end.

    Args:
        steps: T.
        peak_share: which share of the steps is on the way up, between 0 and 1.
        start: s, positive and at most 1.
        end: e, from 0 to 1; the default is torch's, 1 / 25 / 10 000.
        shape: "cosine" or "linear".

    Raises:
        ValueError: if there are no steps, start, end or share are out of range, or the shape is not known.

    When it helps: short runs of known length, at a peak rate that would be too large to begin with or to stay at: take
    it from the upper end of a range test. When it hurts: runs that are stopped early or go on for longer.

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    2018.

    >>> [round(OneCycle(100)(step), 3) for step in (0, 10, 29, 60, 99)]
    [0.04, 0.295, 1.0, 0.589, 0.0]
    """

    steps: int
    peak_share: float = 0.3
    start: float = 1 / 25
    end: float = 4e-6
    shape: str = "cosine"

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if not 0 < as_number(self.peak_share) < 1:
            raise ValueError(
                f"peak_share={self.peak_share} must lie between 0 and 1: it is the share of steps on the way up."
            )
        if not 0 < as_number(self.start) <= 1:
            raise ValueError(f"start={self.start} must be above 0 and at most 1: it is a share of the peak rate.")
        _check_share("end", self.end)
        _check_shape(self.shape, ("cosine", "linear"))

    def __call__(self, step: int) -> float:
        last, peak, shape = self.steps - 1, self.peak_share * self.steps - 1, SHAPES[self.shape]
        if step >= last:
            return self.end
        if step < peak:
            return 1 - (1 - self.start) * shape(step / peak)
        return self.end + (1 - self.end) * shape((step - peak) / (last - peak))

    @classmethod
    def plotted(cls) -> Plotted:
        """Its curves for ``trimtab catalogue NAME --plot``."""
        return curves_of({f"shape='{shape}'": cls(PLOTTED_STEPS, shape=shape) for shape in ("cosine", "linear")})


# A schedule inside of another stands in the state_dict of a LambdaLR; torch.load reads only classes that it knows.
torch.serialization.add_safe_globals(
    [InverseTime, Exponential, NaturalExponential, Cosine, Warmup, WarmupStableDecay, OneCycle]
)


def curves_of(schedules: Mapping[str, Schedule]) -> Plotted:
    """Titles of both axes, and points of every schedule by its name."""
    steps = [float(step) for step in range(PLOTTED_STEPS + 1)]
    curves = {name: (steps, [schedule(int(step)) for step in steps]) for name, schedule in schedules.items()}
    return "step", "factor of the base rate", curves


def _check_steps(steps: Any) -> None:
    if not (isinstance(steps, Integral) and not isinstance(steps, bool) and int(steps) >= 1):
        raise ValueError(f"steps={steps!r} must be a whole number of updates, at least 1.")


def _check_beta(beta: float) -> None:
    if not 0 < as_number(beta) < math.inf:
        raise ValueError(f"beta={beta} must be a positive number: it is how fast the rate falls.")


def _check_share(name: str, share: float) -> None:
    if not 0 <= as_number(share) <= 1:
        raise ValueError(f"{name}={share} must lie in [0, 1].")


def _check_shape(shape: str, shapes: tuple[str, ...]) -> None:
    if shape not in shapes:
        raise ValueError(f"shape={shape!r} must be one of {', '.join(map(repr, shapes))}.")
