"""Constraints kept by a Lagrange multiplier that is learned along with the weights."""

from __future__ import annotations

import torch
from torch import nn

GROUP = "regularization"


class Lagrangian(nn.Module):
    r"""Minimises a loss under :math:`\Omega(w) \le k`, by descent in the weights and ascent in a multiplier.

    .. math:: \min_w \max_{\mu \ge 0} J(w) + \mu (\Omega(w) - k), \qquad
              \mu \leftarrow \max(0, \mu + \eta_\mu (\Omega(w) - k))

    with :math:`\Omega(w)` of any one shape, one constraint with a multiplier of its own in each entry. While a
    constraint is broken its multiplier grows, and with it the pull towards the constraint; where it holds with room to spare the
    multiplier falls back to 0. At the end :math:`\mu` is the price of the constraint: how much lower the loss would be for a
    bound one unit larger.

    Call it on :math:`\Omega(w)` for the term that joins the loss, and :meth:`ascend` after the step. The multiplier is a
    buffer: ``state_dict`` carries it.

    Args:
        bound: k.
        lr: :math:`\eta_\mu`, the learning rate of the multiplier, positive.
        shape: of :math:`\Omega(w)`; by default one number.

    Raises:
        ValueError: if lr is not positive, or :math:`\Omega(w)` has another shape.

    When it helps: limits with a meaning of their own (a norm, a rate, a fairness gap), and those whose set is hard to project
    onto. When it hurts: limits that must hold at every step (the constraint holds in the end, and is overshot on the way):
    project instead. A large lr makes weights and multiplier swing around the solution.

    Source: Platt & Barr, "Constrained Differential Optimization", NIPS 1987.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer, constraint = torch.optim.SGD([w], lr=0.1), Lagrangian(bound=1.0, lr=0.1)
    >>> for _ in range(300):
    ...     optimizer.zero_grad()
    ...     loss = (w - torch.tensor([3.0, 4.0])).square().sum() / 2 + constraint(w.norm())
    ...     loss.backward(); optimizer.step(); constraint.ascend(w.norm())
    >>> w.detach(), constraint.multiplier
    (tensor([0.6000, 0.8000]), tensor(4.0000))
    """

    multiplier: torch.Tensor

    def __init__(self, bound: float, lr: float = 0.01, shape: tuple[int, ...] = ()) -> None:
        if not lr > 0:
            raise ValueError(f"Lagrangian: lr={lr} must be positive: it is the learning rate of the multiplier.")
        super().__init__()
        self.bound, self.lr = bound, lr
        self.register_buffer("multiplier", torch.zeros(shape))

    def forward(self, omega: torch.Tensor) -> torch.Tensor:
        """The term ``sum(multiplier * (omega - bound))`` for the loss."""
        self._check(omega)
        return (self.multiplier * (omega - self.bound)).sum()

    @torch.no_grad()
    def ascend(self, omega: torch.Tensor) -> None:
        """Move the multiplier by how much the constraint is broken."""
        self._check(omega)
        self.multiplier.add_(omega - self.bound, alpha=self.lr).clamp_(min=0)

    def _check(self, omega: torch.Tensor) -> None:
        if omega.shape != self.multiplier.shape:
            raise ValueError(
                f"Lagrangian(shape={tuple(self.multiplier.shape)}) got a value of shape {tuple(omega.shape)}. Each "
                f"constraint has a multiplier of its own: did you mean Lagrangian(shape={tuple(omega.shape)})?"
            )

    def extra_repr(self) -> str:
        return f"bound={self.bound:g}, lr={self.lr:g}"
