"""Sharpness-aware minimization, around any of the optimizers."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from trimtab.values import as_number

GROUP = "optimization"
TINY = 1e-12  # in the place of the norm of a gradient that is 0


class SAM(torch.optim.Optimizer):
    r"""Sharpness-aware minimization: steps with the gradient at the worst point nearby. Changes: the direction, to flat minima.

    .. math::
        \hat\epsilon &= \rho \, \frac{g(\theta)}{\|g(\theta)\|}, \qquad
        \text{adaptive:} \quad \hat\epsilon = \rho \, \frac{\theta^2 \odot g(\theta)}{\| \theta \odot g(\theta) \|} \\
        \theta &\leftarrow \text{step of the base optimizer at } \theta \text{ with } g(\theta + \hat\epsilon)

    with g the gradient of the loss on one and the same batch, and norms over all parameters. It is an instance of the base optimizer's
    class too: groups, state, state_dict and schedulers are those of the base optimizer.

    The closure is called twice. Draws of random numbers (dropout) and BatchNorm's running statistics are those of two calls; the technique
    ``sam`` has the same masks in both passes, and one update of the statistics, as the authors' code.

    Args:
        params: parameters, parameter groups, or named parameters, as in torch.
        base_optimizer: the class of the optimizer that makes the step.
        rho: how far away the worst point is sought; a group may have its own.
        adaptive: scale the neighborhood with the weights, so that scaling a layer up and the next one down changes nothing; rho is
            then ten times larger or more.
        **kwargs: for the base optimizer.

    Raises:
        ValueError: if rho is not positive, and by ``step()`` without a closure.

    When it helps: networks that fit their training set and generalize worse, noisy labels, vision transformers. When it hurts: time, twice that
    of the base optimizer; networks that do not fit; large batches, unless each part of one seeks its own worst point.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021; Kwon et al., "ASAM: Adaptive
    Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks", ICML 2021.

    >>> theta = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = SAM([theta], torch.optim.SGD, rho=0.5, lr=0.1)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = theta.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure)  # the loss at theta
    tensor(12.5000, grad_fn=<DivBackward0>)
    >>> theta  # 0.9 theta less 0.1 times (0.3, 0.4), which is 0.5 along the gradient
    tensor([2.6700, 3.5600], requires_grad=True)
    """

    _base: ClassVar[type[torch.optim.Optimizer]]

    def __new__(cls, params: Any = None, base_optimizer: type | None = None, *args: Any, **kwargs: Any) -> SAM:
        if base_optimizer is None or hasattr(cls, "_base"):  # a copy is being made
            return super().__new__(cls)
        both = types.new_class(f"SAM{base_optimizer.__name__}", (cls, base_optimizer))
        both._base = base_optimizer  # type: ignore[attr-defined]
        return super().__new__(both)

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        **kwargs: Any,
    ) -> None:
        check_rho("SAM", rho)
        super().__init__(params, **kwargs)
        self.defaults.update(rho=rho, adaptive=adaptive)
        for group in self.param_groups:
            group.setdefault("rho", rho)
            group.setdefault("adaptive", adaptive)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a checkpoint of the base optimizer has no radius
            for key in ("rho", "adaptive"):
                if key in self.defaults:
                    group.setdefault(key, self.defaults[key])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: zeroes the gradients, computes the loss, calls backward and returns the loss. Called at the point, and
                at the worst one nearby.

        Raises:
            ValueError: without a closure.
        """
        if closure is None:
            raise ValueError(
                "SAM takes a second gradient nearby, so it computes the loss itself: call optimizer.step(closure), where closure() "
                "zeroes the gradients, computes the loss, calls backward and returns it."
            )
        with torch.enable_grad():
            loss = closure()
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        there = [p for _, params in groups for p in params]
        kept = [p.clone() for p in there]
        climb_(there, [p.grad for p in there], [(g["rho"], g["adaptive"]) for g, params in groups for _ in params])
        try:
            with torch.enable_grad():
                closure()
        finally:
            for p, value in zip(there, kept, strict=True):
                p.copy_(value)
        base: Any = self._base.step
        hooked = getattr(base, "hooked", False)  # by torch; the hooks of this object run around all of this
        (base.__wrapped__ if hooked else base)(self)
        return loss


def check_rho(what: str, rho: float) -> None:
    """Refuse a radius that is no positive number."""
    if not 0 < as_number(rho) < float("inf"):
        raise ValueError(f"{what}: rho={rho} must be a positive number: it is how far away the worst point is sought.")


def climb_(params: Sequence[torch.Tensor], grads: Sequence[torch.Tensor], how: Sequence[tuple[float, bool]]) -> None:
    """Go to the worst point nearby, in place: ``how`` is (rho, adaptive) of every parameter; the norm is over all."""
    if not params:
        return
    measured = [p.abs() * g if adaptive else g for p, g, (_, adaptive) in zip(params, grads, how, strict=True)]
    norm = torch.nn.utils.get_total_norm(measured).clamp_min(TINY)
    for p, g, (rho, adaptive) in zip(params, grads, how, strict=True):
        scale = (rho / norm).to(p)
        p.add_(p.square() * g * scale if adaptive else g * scale)
