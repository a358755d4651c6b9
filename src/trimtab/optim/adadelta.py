"""AdaDelta, an optimizer: its running means, and its first idea, means over an exact window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.optimizer import Numbers, Optimizer, Tensors, checked_number

GROUP = "optimization"


class Adadelta(Optimizer):
    r"""AdaDelta: steps whose size is that of the last steps, so that they have the unit of the parameters. Changes: the rate of each direction.

    .. math::
        G &\leftarrow \rho G + (1 - \rho) g^2 \\
        \Delta &= \frac{\sqrt{X + \epsilon}}{\sqrt{G + \epsilon}} \, g, \quad \theta \leftarrow \theta - \eta \Delta \\
        X &\leftarrow \rho_X X + (1 - \rho_X) \Delta^2

    with both means 0 at the start. The mean square of the steps takes up :math:`\Delta` before the rate, as in torch and Keras; at
    the seed's rate of 1 that is the step. The seed has one rho for each mean: ``rho=(0.9, 0.95)``.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta; 1 is the paper's (Keras: 0.001).
        rho: the share of the old means; one number, or a pair: of the gradients', of the steps'. torch's takes one number.
        eps: epsilon, above 0: the first steps grow out of it.
        weight_decay: lambda of the decay.
        foreach: taken, as scripts for torch give it; it changes nothing.
        maximize: climb.
        capturable, differentiable: torch's, False: see :class:`Optimizer`.
        decay: "coupled" (torch's), "decoupled" or "independent": see :func:`weight_decay_`.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range.

    When it helps: no rate to tune, also where gradients are of very unlike size. When it hurts: steps begin near sqrt(eps) and
    need long to grow; it is often behind :class:`Adam` and a tuned :class:`SGD`.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv:1212.5701, 2012.

    >>> theta = torch.tensor([1.0, -200.0], requires_grad=True)
    >>> optimizer = Adadelta([theta], eps=1e-2)
    >>> (theta.square().sum() / 2).backward()
    >>> optimizer.step()
    >>> theta  # sqrt(0.01) / sqrt(0.1 + 0.01) * 1; sqrt(0.01) / sqrt(4000 + 0.01) * 200
    tensor([   0.6985, -199.6838], requires_grad=True)
    """

    kernel = "adadelta"

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float | tuple[float, float] = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        decay: str = "coupled",
        nonfinite: str = "mask",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "decay": decay,
                "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        rho = _pair(group["rho"])
        if len(rho) != 2 or not all(0 <= checked_number("Adadelta", "rho", one) < 1 for one in rho):
            raise ValueError(f"Adadelta: rho={group['rho']} must be at least 0 and below 1, each of a pair too.")
        _check_eps("Adadelta", group["eps"])

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        rho, rho_steps = map(float, _pair(group["rho"]))
        return {"rate": float(group["lr"]), "rho": rho, "rho_steps": rho_steps, "eps": float(group["eps"])}

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        squares, squared_steps = state["square_avg"], state["acc_delta"]
        torch._foreach_mul_(squares, n["rho"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - n["rho"])
        steps = _steps(grads, squares, squared_steps, n["eps"])
        torch._foreach_mul_(squared_steps, n["rho_steps"])
        torch._foreach_addcmul_(squared_steps, steps, steps, 1 - n["rho_steps"])
        torch._foreach_add_(params, steps, alpha=-n["rate"])


class WindowAdadelta(Optimizer):
    r"""AdaDelta over an exact window: means of the last squares, all alike, and nothing older. Changes: the rate of each direction.

    .. math::
        G_t &= \frac{1}{\min(t, n)} \sum_{\tau = \max(1, t - n + 1)}^{t} g_\tau^2 \\
        X_{t-1} &= \frac{1}{\min(t - 1, n)} \sum_{\tau = \max(1, t - n)}^{t - 1} \Delta_\tau^2 \\
        \Delta_t &= \frac{\sqrt{X_{t-1} + \epsilon}}{\sqrt{G_t + \epsilon}} \, g_t, \quad
        \theta \leftarrow \theta - \eta \Delta_t

    with the window n, and X = 0 at the first step. This is what AdaDelta's running means stand for: they forget slowly, and never
    wholly; here a large gradient counts for n steps and then no more. A running mean with :math:`\rho` is about as long as a window
    of :math:`(1 + \rho) / (1 - \rho)`: 19 for 0.9.

    The last n squares are kept and added up anew at every step, so that no rounding is carried along. That takes the memory of
    2 n + 2 copies of the parameters, and the time to read them. Where an entry of the gradient is not finite (``nonfinite="mask"``), the
    place of that step in its window keeps the square that it had.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta.
        window: n, the number of steps; that of a parameter is fixed when it makes its first step.
        eps: epsilon, above 0: the first steps grow out of it.
        weight_decay: lambda of the decay.
        foreach: taken, as scripts for torch give it; it changes nothing.
        maximize: climb.
        capturable, differentiable: torch's, False: see :class:`Optimizer`.
        decay: "coupled", "decoupled" or "independent": see :func:`weight_decay_`.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range.

    When it helps: gradients whose size changes abruptly (a new task, rare outliers), on small models; to see what the window does.
    When it hurts: memory: 40 times the parameters for a window of 20; a step of the rate when a large gradient leaves
    the window.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", arXiv:1212.5701, 2012 (section 3.1, the window before its approximation).

    >>> theta = torch.tensor([0.0], requires_grad=True)
    >>> optimizer = WindowAdadelta([theta], window=2, eps=1e-4)
    >>> for g in (100.0, 1.0, 1.0, 1.0):
    ...     theta.grad = torch.tensor([g])
    ...     before = theta.item()
    ...     optimizer.step()
    ...     print(f"{before - theta.item():.4f}")  # from the third step on the first gradient is forgotten
    0.0100
    0.0002
    0.0122
    0.0132
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        window: int = 20,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        decay: str = "coupled",
        nonfinite: str = "mask",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "window": window, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                "foreach": foreach, "capturable": capturable, "differentiable": differentiable, "decay": decay,
                "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        window = checked_number("WindowAdadelta", "window", group["window"])
        if not (window.is_integer() and window >= 1):
            raise ValueError(f"WindowAdadelta: window={group['window']} must be a number of steps, 1 or more.")
        _check_eps("WindowAdadelta", group["eps"])

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("square_window", "delta_window")

    def begin(self, group: Mapping[str, Any], slot: str, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.new_zeros((int(group["window"]), *parameter.shape))

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        return {"rate": float(group["lr"]), "eps": float(group["eps"]), "step": step}

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        step = int(n["step"])
        squares, squared_steps = state["square_window"], state["delta_window"]
        for window, g in zip(squares, grads, strict=True):
            torch.mul(g, g, out=window[(step - 1) % len(window)])
        steps = _steps(grads, _means(squares, step), _means(squared_steps, step - 1), n["eps"])
        for window, delta in zip(squared_steps, steps, strict=True):
            torch.mul(delta, delta, out=window[(step - 1) % len(window)])
        torch._foreach_add_(params, steps, alpha=-n["rate"])


def _pair(rho: float | tuple[float, float]) -> tuple[float, ...]:
    return tuple(rho) if isinstance(rho, (tuple, list)) else (rho, rho)


def _check_eps(name: str, eps: float) -> None:
    if eps == 0:
        raise ValueError(f"{name}: eps=0 must be above 0: the first step is as large as its root.")


def _means(windows: Tensors, steps: int) -> Tensors:
    """The means over the windows, of which this many places are filled."""
    return [window.sum(0) / max(1, min(steps, len(window))) for window in windows]


def _steps(grads: Tensors, squares: Tensors, squared_steps: Tensors, eps: float) -> Tensors:
    steps = torch._foreach_add(squared_steps, eps)
    torch._foreach_sqrt_(steps)
    roots = torch._foreach_add(squares, eps)
    torch._foreach_sqrt_(roots)
    torch._foreach_div_(steps, roots)
    torch._foreach_mul_(steps, grads)
    return list(steps)
