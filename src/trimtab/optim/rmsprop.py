"""RMSProp, an optimizer: with momentum in all its forms, centered, and with eps on either side of the root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.adam import roots
from trimtab.optim.optimizer import Numbers, Optimizer, Tensors, check_shares
from trimtab.optim.sgd import check_forms, momentum_, momentum_numbers

GROUP = "optimization"


class RMSprop(Optimizer):
    r"""RMSProp: divides each entry of the gradient by the root of its running mean square. Changes: the rate of each direction; with
    momentum, the direction too.

    .. math::
        G &\leftarrow \alpha G + (1 - \alpha) g^2 \\
        d &= \frac{g}{\sqrt{G} + \epsilon}, \quad
        \text{eps\_in\_sqrt:} \quad d = \frac{g}{\sqrt{G + \epsilon}} \\
        \text{centered:} \quad & m \leftarrow \alpha m + (1 - \alpha) g, \quad G - m^2 \text{ in the place of } G \\
        \text{plain:} \quad & \theta \leftarrow \theta - \eta d \\
        \text{momentum:} \quad & v \leftarrow \rho v + d, \quad \theta \leftarrow \theta - \eta v \\
        \text{lr\_in\_momentum:} \quad & v \leftarrow \rho v + \eta d, \quad \theta \leftarrow \theta - v \\
        \text{nesterov:} \quad & \theta \leftarrow \theta - \eta (d + \rho v) \\
        \text{lookahead:} \quad & g = \nabla J(\theta - \eta \rho v)

    with learning rate eta, momentum rho, and all means 0 at the start, without correction. torch has eps outside of the root and the
    rate outside of the buffer; Keras, optax and the seed have both inside. An entry that never had a gradient does not move, also
    with eps = 0. The momentum is that of :class:`SGD`; the textbook's RMSProp with Nesterov momentum is ``lookahead=True``,
    ``lr_in_momentum=True``, ``eps=0``.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta.
        alpha: the share of the old mean square (rho in Keras and in the seed).
        eps: epsilon; may be 0.
        weight_decay: lambda of the decay.
        momentum: rho, from 0 to below 1.
        centered: divide by the deviation of the gradient instead.
        foreach: taken, as scripts for torch give it; it changes nothing.
        maximize: climb.
        capturable, differentiable: torch's, False: see :class:`Optimizer`.
        decay: "coupled" (torch's), "decoupled" or "independent": see :func:`weight_decay_`.
        nesterov: the usual Nesterov form; needs momentum.
        lookahead: Nesterov's gradient at the real point ahead; needs momentum and ``step(closure)``.
        lr_in_momentum: the rate inside of the buffer.
        eps_in_sqrt: eps inside of the root.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range and for forms that exclude each other.

    When it helps: recurrent networks and other problems whose gradients change in size along the way; reinforcement learning. When it
    hurts: the first steps are large, up to eta / sqrt(1 - alpha), ten times the rate: warm up, or take :class:`Adam`.

    Source: Tieleman & Hinton, "Lecture 6.5: RMSProp", 2012; Graves, "Generating Sequences With Recurrent Neural Networks",
    arXiv:1308.0850, 2013 (centered, momentum); Goodfellow, Bengio & Courville, "Deep Learning", 2016, algorithms 8.5 and 8.6.

    >>> theta = torch.tensor([1.0, -200.0], requires_grad=True)
    >>> optimizer = RMSprop([theta], lr=0.01)
    >>> (theta.square().sum() / 2).backward()
    >>> optimizer.step()
    >>> theta  # the mean square of one gradient among a hundred: ten times the rate
    tensor([   0.9000, -199.9000], requires_grad=True)
    """

    kernel = "rmsprop"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        decay: str = "coupled",
        nesterov: bool = False,
        lookahead: bool = False,
        lr_in_momentum: bool = False,
        eps_in_sqrt: bool = False,
        nonfinite: str = "mask",
    ) -> None:
        check_forms("RMSprop", momentum, nesterov, lookahead, lr_in_momentum)
        super().__init__(
            params,
            {
                "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "centered": centered,
                "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
                "decay": decay, "nesterov": nesterov, "lookahead": lookahead,
                "lr_in_momentum": lr_in_momentum, "eps_in_sqrt": eps_in_sqrt, "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        check_shares("RMSprop", "alpha", group["alpha"])
        check_shares("RMSprop", "momentum", group["momentum"])

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        centered = ("grad_avg",) if group["centered"] else ()
        return ("square_avg", *centered, *(("momentum_buffer",) if group["momentum"] else ()))

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        return {
            **momentum_numbers(group), "alpha": float(group["alpha"]), "eps": float(group["eps"]), "scale": 1.0,
            "inside": float(group["eps_in_sqrt"]), "centered": float(group["centered"]),
        }  # fmt: skip

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        squares = state["square_avg"]
        torch._foreach_mul_(squares, n["alpha"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - n["alpha"])
        if n["centered"]:
            means = state["grad_avg"]
            torch._foreach_lerp_(means, grads, 1 - n["alpha"])
            squares = list(torch._foreach_addcmul(squares, means, means, -1))
            torch._foreach_clamp_min_(squares, 0.0)  # a variance that rounding has made negative
        if n["momentum"]:
            direction = momentum_(list(torch._foreach_div(grads, roots(squares, n))), state["momentum_buffer"], n)
            torch._foreach_add_(params, direction, alpha=-n["rate"])
        else:
            torch._foreach_addcdiv_(params, grads, roots(squares, n), -n["rate"])
