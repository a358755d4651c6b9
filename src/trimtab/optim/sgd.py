"""Gradient descent: plain, stochastic, with momentum in both forms, and Nesterov's in both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.optimizer import Numbers, Optimizer, Tensors, check_shares, checked_number

GROUP = "optimization"


class SGD(Optimizer):
    r"""Gradient descent with momentum; batch, stochastic or in mini-batches, as the gradients are that it is given. Changes: the
    direction, by momentum.

    .. math::
        \text{plain:} \quad & \theta \leftarrow \theta - \eta g \\
        \text{momentum:} \quad & v \leftarrow \rho v + (1 - d) g, \quad \theta \leftarrow \theta - \eta v \\
        \text{lr\_in\_momentum:} \quad & v \leftarrow \rho v + \eta (1 - d) g, \quad \theta \leftarrow \theta - v
                \quad (\Delta\theta = \rho \Delta\theta - \eta g) \\
        \text{nesterov:} \quad & \theta \leftarrow \theta - \eta (g + \rho v) \\
        \text{lookahead:} \quad & g = \nabla J(\theta - \eta \rho v)

    with the learning rate eta, momentum rho, dampening d (not applied at the first step, as in torch), and v = 0 at the start. With
    the rate outside the buffer (torch) a change of rate acts on the whole step at once; inside (the seed, Keras) on new
    gradients only. At a constant rate they are the same.

    ``nesterov=True`` is the usual form, with one gradient where the parameters stand: its parameters are those of the real method
    seen from the point ahead. ``lookahead=True`` really goes to the point ahead, theta + rho Delta, takes the gradient there and
    steps from theta; it needs ``step(closure)``, and parameters are the real ones at every moment.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta.
        momentum: rho, from 0 to below 1; usually 0.9.
        dampening: d.
        weight_decay: lambda of the decay.
        nesterov: the usual Nesterov form; needs momentum, and no dampening.
        maximize: climb.
        foreach, fused: taken, as scripts for torch give them; they change nothing.
        differentiable: torch's, False: see :class:`Optimizer`.
        decay: "coupled" (torch's), "decoupled" or "independent": see :func:`weight_decay_`.
        lr_in_momentum: the rate inside of the buffer.
        lookahead: Nesterov's gradient at the real point ahead.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range and for forms that exclude each other.

    When it helps: well-conditioned problems; with momentum those of condition number kappa, in about sqrt(kappa) instead of
    kappa steps; networks with normalization, where it often generalizes best. When it hurts: gradients of very unlike size
    (embeddings, attention), where :class:`Adam` needs no rate for each; a constant rate never settles, as the noise of
    mini-batches does not vanish at the minimum: let it decay.

    Source: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; Nesterov, 1983; Sutskever et al.,
    "On the importance of initialization and momentum in deep learning", ICML 2013.

    >>> theta = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([theta], lr=0.1, momentum=0.9, lookahead=True)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = theta.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(2):
    ...     _ = optimizer.step(closure)
    >>> theta  # 1 - 0.1, then 0.9 - 0.09 - 0.1 * (0.9 - 0.09)
    tensor([0.7290], requires_grad=True)
    """

    kernel = "sgd"
    counts = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        decay: str = "coupled",
        lr_in_momentum: bool = False,
        lookahead: bool = False,
        nonfinite: str = "mask",
    ) -> None:
        check_forms("SGD", momentum, nesterov, lookahead, lr_in_momentum)
        if (nesterov or lookahead) and dampening != 0:
            raise ValueError(f"SGD: Nesterov's momentum needs dampening=0; got dampening={dampening}.")
        super().__init__(
            params,
            {
                "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
                "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused,
                "decay": decay, "lr_in_momentum": lr_in_momentum, "lookahead": lookahead,
                "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        check_shares("SGD", "momentum", group["momentum"])
        if not math.isfinite(checked_number("SGD", "dampening", group["dampening"])):
            raise ValueError(f"SGD: dampening={group['dampening']} must be finite.")

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        return momentum_numbers(group, float(group["dampening"]) if step > 1 else 0.0)

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        direction = momentum_(grads, state["momentum_buffer"], n) if n["momentum"] else grads
        torch._foreach_add_(params, direction, alpha=-n["rate"])


def check_forms(name: str, momentum: float, nesterov: bool, lookahead: bool, lr_in_momentum: bool) -> None:
    """Refuse forms that exclude each other."""
    if (nesterov or lookahead) and momentum == 0:
        raise ValueError(f"{name}: Nesterov's momentum needs momentum above 0, usually 0.9; got momentum={momentum}.")
    if lr_in_momentum and momentum == 0:
        raise ValueError(
            f"{name}: lr_in_momentum=True says where the rate stands in the momentum, so it needs momentum above 0; got "
            f"momentum={momentum}."
        )
    if nesterov and lookahead:
        raise ValueError(
            f"{name}: nesterov=True and lookahead=True are two forms of the same method; choose one of them."
        )


def momentum_numbers(group: Mapping[str, Any], dampening: float = 0.0) -> Numbers:
    """The numbers of a step with momentum: where the rate stands, and how far Nesterov's form looks ahead."""
    rate = float(group["lr"])
    inside, outside = (rate, 1.0) if group["lr_in_momentum"] and group["momentum"] else (1.0, rate)
    return {
        "rate": outside, "momentum": float(group["momentum"]), "gain": inside * (1 - dampening),
        "look": inside if group["nesterov"] else 0.0,
    }  # fmt: skip


def momentum_(direction: Tensors, buffers: Tensors, n: Numbers) -> Tensors:
    """Let buffers take up a direction; gives the direction with momentum."""
    torch._foreach_mul_(buffers, n["momentum"])
    torch._foreach_add_(buffers, direction, alpha=n["gain"])
    if not n["look"]:
        return buffers
    ahead = torch._foreach_mul(buffers, n["momentum"])
    torch._foreach_add_(ahead, direction, alpha=n["look"])
    return list(ahead)
