"""Adam and AdamW, optimizers with eps on either side of the root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.optimizer import Numbers, Optimizer, Tensors, check_shares

GROUP = "optimization"


class Adam(Optimizer):
    r"""Adam: steps along the mean gradient, divided by the root of its mean square, both corrected for their start at zero.
    Changes: both, the direction and the rate of each.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, & \hat m &= m / (1 - \beta_1^t) \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, & \hat v &= v / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta - \frac{\eta \, \hat m}{\sqrt{\hat v} + \epsilon}, &
        \text{eps\_in\_sqrt:} \quad \theta &\leftarrow \theta - \frac{\eta \, \hat m}{\sqrt{\hat v + \epsilon}}

    at the step t = 1, 2, ... of the parameter. Where eps stands matters for gradients near or below it: eps = 1e-8 inside of the
    root is as 1e-4 outside of it. Keras divides by :math:`\sqrt{v} + \hat\epsilon` before the correction, so that its eps is
    :math:`\hat\epsilon / \sqrt{1 - \beta_2^t}` here. The seed has eps inside and beta2 = 0.99. An entry that never had a gradient does not
    move, also with eps = 0.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta.
        betas: beta1 and beta2, each from 0 to below 1.
        eps: epsilon.
        weight_decay: lambda of the decay.
        amsgrad: divide by the root of the largest mean square so far (before its correction, as in torch).
        maximize: climb.
        foreach, fused: taken, as scripts for torch give them; they change nothing.
        capturable, differentiable: torch's, False: see :class:`Optimizer`.
        decoupled_weight_decay: torch's word for ``decay="decoupled"``.
        decay: "coupled" (as torch's Adam), "decoupled" (as AdamW) or "independent": see :func:`weight_decay_`.
        eps_in_sqrt: eps inside of the root.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range.

    When it helps: gradients of very unlike size (embeddings, attention, recurrent networks), sparse ones, rates that cannot be tuned.
    When it hurts: convolutional networks on images, where SGD with momentum often generalizes better; with coupled
    decay, weights with large gradients decay less: use decoupled.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; Reddi et al., "On the Convergence of Adam and Beyond",
    ICLR 2018 (amsgrad); Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019 (:class:`AdamW`).

    >>> theta = torch.tensor([1.0, -200.0], requires_grad=True)
    >>> optimizer = Adam([theta], lr=0.1)
    >>> (theta.square().sum() / 2).backward()
    >>> optimizer.step()
    >>> theta  # the first step has the size of the rate in every direction
    tensor([   0.9000, -199.9000], requires_grad=True)
    """

    kernel = "adam"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        decay: str = "coupled",
        eps_in_sqrt: bool = False,
        nonfinite: str = "mask",
    ) -> None:
        if decoupled_weight_decay:
            if decay == "independent":
                raise ValueError(
                    "Adam: decoupled_weight_decay=True is decay='decoupled'; got decay='independent' too. Give one of them."
                )
            decay = "decoupled"
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
                "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
                "fused": fused, "decoupled_weight_decay": decay != "coupled", "decay": decay, "eps_in_sqrt": eps_in_sqrt,
                "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        check_shares(type(self).__name__, "betas", group["betas"], 2)

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        beta1, beta2 = map(float, group["betas"])
        return {
            "rate": float(group["lr"]) / (1 - beta1**step), "beta1": beta1, "beta2": beta2, "eps": float(group["eps"]),
            "scale": (1 - beta2**step) ** -0.5, "inside": float(group["eps_in_sqrt"]),
        }  # fmt: skip

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        means, squares = state["exp_avg"], state["exp_avg_sq"]
        torch._foreach_lerp_(means, grads, 1 - n["beta1"])
        torch._foreach_mul_(squares, n["beta2"])
        torch._foreach_addcmul_(squares, grads, grads, 1 - n["beta2"])
        if "max_exp_avg_sq" in state:
            torch._foreach_maximum_(state["max_exp_avg_sq"], squares)
            squares = state["max_exp_avg_sq"]
        torch._foreach_addcdiv_(params, means, roots(squares, n), -n["rate"])


class AdamW(Adam):
    r"""Adam with decoupled weight decay. See :class:`Adam`.

    .. math:: \theta \leftarrow (1 - \eta \lambda) \theta - \frac{\eta \, \hat m}{\sqrt{\hat v} + \epsilon}

    >>> theta = torch.tensor([1.0], requires_grad=True)
    >>> optimizer = AdamW([theta], lr=0.1, weight_decay=0.5)
    >>> theta.sum().backward()
    >>> optimizer.step()
    >>> theta  # 1 - 0.1 * 0.5, then - 0.1
    tensor([0.8500], requires_grad=True)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decay: str = "decoupled",
        eps_in_sqrt: bool = False,
        nonfinite: str = "mask",
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad,
            maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decay=decay, eps_in_sqrt=eps_in_sqrt, nonfinite=nonfinite,
        )  # fmt: skip


def roots(squares: Tensors, n: Numbers) -> Tensors:
    """What adaptive methods divide by: the root of each mean square (times ``scale``), with eps inside or outside.

    A root of exactly 0, of an entry that never had a gradient, becomes infinite, so that its step is 0.
    """
    found = torch._foreach_mul(squares, n["scale"] ** 2) if n["scale"] != 1 else [s.clone() for s in squares]
    if n["inside"]:
        torch._foreach_add_(found, n["eps"])
    torch._foreach_sqrt_(found)
    if not n["inside"]:
        torch._foreach_add_(found, n["eps"])
    if not n["eps"]:
        for root in found:
            root[root == 0] = float("inf")
    return list(found)
