"""Weight decay in its three kinds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

GROUP = "regularization"
DECAYS = ("coupled", "decoupled", "independent")


def check_decay(what: str, kind: str, argument: str = "kind") -> None:
    """Refuse a kind that there is not."""
    if kind not in DECAYS:
        raise ValueError(f"{what}: {argument}={kind!r} must be one of {', '.join(map(repr, DECAYS))}.")


@torch.no_grad()
def weight_decay_(
    optimizer: torch.optim.Optimizer,
    weights: Iterable[torch.Tensor],
    factor: float,
    kind: str = "decoupled",
    *,
    base_lr: float | Sequence[float] | None = None,
) -> None:
    r"""Decays weights by one step; call it between ``loss.backward()`` and ``optimizer.step()``.

    .. math::
        \text{coupled:} \quad & g \leftarrow g + \lambda w \\
        \text{decoupled:} \quad & w \leftarrow (1 - \eta_t \lambda) w \\
        \text{independent:} \quad & w \leftarrow (1 - \lambda \eta_t / \eta_0) w

    with :math:`\eta_t` the learning rate of this step and :math:`\eta_0` the base rate, from which the schedule starts or which
    it has at its peak. *Coupled* is the gradient of :math:`\lambda / 2 \|w\|^2` (``weight_decay`` of torch's SGD and Adam):
    an adaptive optimizer divides it by its second moments, so that weights with large gradients decay less. *Decoupled* is
    AdamW's. *Independent* of the base rate, so that the two can be tuned one at a time: the seed's
    :math:`w - \lambda w - \eta g`, and fades out with the schedule. For plain SGD coupled and decoupled are the same.

    Weights that have no gradient, or do not belong to the optimizer, are left alone. To be like torch's own, call it after
    accumulating, unscaling and clipping gradients.

    Args:
        optimizer: whose learning rates count.
        weights: what decays; leave out biases and scales of normalizations.
        factor: :math:`\lambda`.
        kind: "coupled", "decoupled" or "independent".
        base_lr: :math:`\eta_0` for the independent kind, one for all groups of the optimizer or one for each; by default what
            a scheduler left in the group (``max_lr`` of a one-cycle schedule, else ``initial_lr``).

    Raises:
        ValueError: for an unknown kind, and if the base rate is not known.

    When it helps: networks that fit their training set and generalize worse; the independent kind where the rate is
    tuned too. When it hurts: under-fitting networks; in front of a normalization it only changes the effective learning rate.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019 (decoupled, and in its appendix the independent form).

    >>> w = torch.tensor([2.0], requires_grad=True)
    >>> optimizer = torch.optim.SGD([w], lr=0.1)
    >>> for kind in ("coupled", "decoupled", "independent"):
    ...     _ = w.detach().fill_(2.0)
    ...     w.grad = torch.zeros(1)
    ...     weight_decay_(optimizer, [w], 0.01, kind, base_lr=0.1)
    ...     optimizer.step()
    ...     print(f"{kind}: {w.item():.4f}")
    coupled: 1.9980
    decoupled: 1.9980
    independent: 1.9800
    """
    check_decay("weight_decay_", kind)
    wanted = {id(w) for w in weights}
    for number, group in enumerate(optimizer.param_groups):
        decayed = [w for w in group["params"] if id(w) in wanted and w.grad is not None]
        if not decayed:
            continue
        if kind == "coupled":
            scale = getattr(optimizer, "grad_scale", None)  # of gradients that a fused optimizer unscales itself
            alpha = (-factor if group.get("maximize") else factor) * (1.0 if scale is None else float(scale))
            torch._foreach_add_([w.grad for w in decayed], decayed, alpha=alpha)
        elif "lr" in group:
            rate = float(group["lr"])
            if kind == "independent":
                rate /= _base_lr(group, base_lr[number] if isinstance(base_lr, Sequence) else base_lr)
            torch._foreach_mul_(decayed, 1 - rate * factor)


def scheduled_base_lr(group: dict[str, Any]) -> float | None:
    """The base rate that a scheduler left in a group: its peak if the schedule has a set one, else where it started."""
    rate = group.get("max_lr", group.get("initial_lr"))
    return None if rate is None else float(rate)


def _base_lr(group: dict[str, Any], given: float | None) -> float:
    rate = scheduled_base_lr(group) if given is None else given
    if rate is None:
        raise ValueError(
            "weight_decay_(kind='independent'): the base learning rate is not known, since the optimizer has no scheduler. "
            "Give it: base_lr=optimizer.defaults['lr']."
        )
    return rate
