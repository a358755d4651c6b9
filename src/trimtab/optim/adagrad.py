"""AdaGrad, an optimizer, with eps on either side of the root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.adam import roots
from trimtab.optim.optimizer import Numbers, Optimizer, Tensors

GROUP = "optimization"


class Adagrad(Optimizer):
    r"""AdaGrad: divides each entry of the gradient by the root of the sum of all its squares so far. Changes: the rate of each direction.

    .. math::
        G &\leftarrow G + g^2, \quad \eta_t = \frac{\eta}{1 + (t - 1) \gamma} \\
        \theta &\leftarrow \theta - \frac{\eta_t}{\sqrt{G} + \epsilon} \, g, \quad
        \text{eps\_in\_sqrt:} \quad \theta \leftarrow \theta - \frac{\eta_t}{\sqrt{G + \epsilon}} \, g

    at the step t = 1, 2, ... of the parameter, with lr_decay gamma. The seed has two forms: :math:`\eta / \sqrt{G}`, which is ``eps=0``
    here and safe (an entry that never had a gradient does not move), and :math:`\eta / \sqrt{G + \epsilon}`, which is Keras' and
    optax' too; those begin at G = 0.1.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        lr: eta.
        lr_decay: gamma.
        weight_decay: lambda of the decay.
        initial_accumulator_value: G before the first step.
        eps: epsilon; may be 0.
        foreach, fused: taken, as scripts for torch give them; they change nothing.
        maximize: climb.
        differentiable: torch's, False: see :class:`Optimizer`.
        decay: "coupled" (torch's), "decoupled" or "independent": see :func:`weight_decay_`.
        eps_in_sqrt: eps inside of the root.
        nonfinite: "mask", "skip" or "raise": see :class:`Optimizer`.

    Raises:
        ValueError: for numbers out of range.

    When it helps: sparse features and embeddings, where rare entries need larger steps; convex problems, where its sum of
    squares is the right schedule: no decay of the rate has to be chosen. When it hurts: long trainings of deep networks: the sum
    only grows, so the steps die out, at once if the first gradients were large; :class:`RMSprop` and :class:`Adadelta` forget.

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011.

    >>> theta = torch.tensor([1.0, -200.0], requires_grad=True)
    >>> optimizer = Adagrad([theta], lr=0.1, eps=0)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (theta * torch.tensor([1.0, 50.0])).sum().backward()
    ...     optimizer.step()
    >>> theta  # - 0.1, then - 0.1 / sqrt(2), in every direction
    tensor([   0.8293, -200.1707], requires_grad=True)
    """

    kernel = "adagrad"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decay: str = "coupled",
        eps_in_sqrt: bool = False,
        nonfinite: str = "mask",
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value, "eps": eps, "maximize": maximize,
                "foreach": foreach, "differentiable": differentiable, "fused": fused, "decay": decay, "eps_in_sqrt": eps_in_sqrt, "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def slots(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def begin(self, group: Mapping[str, Any], slot: str, parameter: torch.Tensor) -> torch.Tensor:
        value = group["initial_accumulator_value"]
        return torch.full_like(parameter, complex(value, value) if parameter.is_complex() else value)

    def numbers(self, group: Mapping[str, Any], step: int) -> Numbers:
        return {
            "rate": float(group["lr"]) / (1 + (step - 1) * group["lr_decay"]), "eps": float(group["eps"]), "scale": 1.0,
            "inside": float(group["eps_in_sqrt"]),
        }  # fmt: skip

    def move(self, params: Tensors, grads: Tensors, state: dict[str, Tensors], n: Numbers) -> None:
        torch._foreach_addcmul_(state["sum"], grads, grads)
        torch._foreach_addcdiv_(params, grads, roots(state["sum"], n), -n["rate"])
