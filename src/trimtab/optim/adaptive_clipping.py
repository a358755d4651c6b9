"""Clipping of gradients by what is usual: by the size of the weights (AGC), and by the norms of the steps before (ZClip)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trimtab.optim.clip_stats import ClipStats, report_clipping
from trimtab.optim.clipping import shorten_
from trimtab.optim.gradients import Parameters, norms_of, numbers_of, whole, with_gradients
from trimtab.values import as_number, is_whole

GROUP = "optimization"
Unit = tuple[torch.Tensor, torch.Tensor, list[int]]  # a weight, its gradient, and the dimensions that make up a unit


@torch.no_grad()
def clip_grad_adaptive_(
    parameters: Parameters,
    factor: float = 0.01,
    eps: float = 1e-3,
    *,
    transposed: Mapping[torch.Tensor, int] | None = None,
    stats: ClipStats | None = None,
) -> torch.Tensor:
    r"""Adaptive gradient clipping (AGC): a gradient is clipped where it is large beside the weight that it moves.

    .. math:: g_i \leftarrow \lambda \frac{\max(\|w_i\|, \epsilon)}{\|g_i\|} g_i
              \quad \text{if } \frac{\|g_i\|}{\max(\|w_i\|, \epsilon)} > \lambda

    for the weights :math:`w_i` of each output unit: an index of the first dimension for linear layers, convolutions, recurrent
    layers and embeddings. A vector (a bias, a scale) or a single number is taken as a whole. No unit moves by more than
    :math:`\eta \lambda` of its size in a step of plain gradient descent with rate :math:`\eta`.

    Leave out the last linear layer, as the paper does.

    Args:
        parameters: whose gradients to clip; those without are left out.
        factor: :math:`\lambda`, positive.
        eps: the least size of a weight, positive: those that are 0 could not move otherwise.
        transposed: weights of transposed convolutions, whose units lie in the second dimension, with their numbers of ``groups``.
        stats: takes in how hard it acted.

    Returns:
        the norm over all parameters before, a number in float64.

    Raises:
        ValueError: if factor or eps is not positive.

    When it helps: deep networks without normalization, large batches, large learning rates, gradients that explode in time. When it
    hurts: the last layer, whose weights are small at first and have to grow (left out, it is not safe from a bad batch either); a
    factor that is too small for small batches. Good first settings: 0.01, and more,
    up to 0.16, for batches below 1024.

    Source: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021.

    >>> w = torch.tensor([[3.0, 4.0], [0.3, 0.4]], requires_grad=True)
    >>> w.grad = torch.tensor([[0.3, 0.4], [0.3, 0.4]])
    >>> _ = clip_grad_adaptive_(w, factor=0.1)
    >>> w.grad
    tensor([[0.3000, 0.4000],
            [0.0300, 0.0400]])
    """
    for name, value in (("factor", factor), ("eps", eps)):
        if not as_number(value) > 0:
            raise ValueError(f"clip_grad_adaptive_: {name}={value} must be positive.")
    units = [
        _units(parameter, grad, (transposed or {}).get(parameter)) for parameter, grad in with_gradients(parameters)
    ]
    if not units:
        return torch.zeros((), dtype=torch.float64)

    def measured(unit: Unit, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        weight, grad, dims = unit
        lengths = torch.linalg.vector_norm(grad, dim=dims, keepdim=True, dtype=kind)
        bound = torch.linalg.vector_norm(weight, dim=dims, keepdim=True, dtype=kind).clamp(min=eps) * factor
        scale = torch.where(lengths.isfinite() & (lengths > bound), bound / lengths, 1.0)
        return scale, torch.stack([whole(scale.min()), whole(torch.linalg.vector_norm(lengths))])

    found = [measured(unit, torch.promote_types(unit[1].dtype, torch.float32)) for unit in units]
    numbers = _fetched([numbers for _, numbers in found])
    for place in (
        (~numbers[:, 1].isfinite()).nonzero().flatten().tolist()
    ):  # squares may have been too large for float32
        found[place] = measured(units[place], torch.float64)
        numbers[place] = found[place][1].cpu()
    strongest = float(numbers[:, 0].min())
    if strongest < 1:
        touched = [place for place, smallest in enumerate(numbers[:, 0].tolist()) if smallest < 1]
        torch._foreach_mul_([units[place][1] for place in touched], [found[place][0] for place in touched])
    report_clipping(len(units) - int(numbers[:, 1].isfinite().sum()), len(units), stats, strongest)
    return torch.linalg.vector_norm(numbers[:, 1])


def _units(weight: torch.Tensor, grad: torch.Tensor, groups: int | None) -> Unit:
    """A weight and its gradient, in tensors that share memory with them."""
    inside = list(range(1, weight.ndim)) if weight.ndim > 1 else list(range(weight.ndim))
    if grad.is_sparse:  # the rows that it has
        weight, grad = weight.index_select(0, grad.indices()[0]), grad.values()
    elif groups is not None:  # (in, out / groups, ...)
        weight, grad = weight.unflatten(0, (groups, -1)), grad.unflatten(0, (groups, -1))
        inside = [1, *range(3, weight.ndim)]
    if grad.is_complex():
        weight, grad, inside = torch.view_as_real(weight), torch.view_as_real(grad), [*inside, weight.ndim]
    return weight, grad, inside


def _fetched(rows: list[torch.Tensor]) -> torch.Tensor:
    """Small tensors of any devices and types on the processor, with one transfer if they are of one."""
    if len({(row.device, row.dtype) for row in rows}) == 1:
        return torch.stack(rows).to("cpu", torch.float64)
    return torch.stack([row.to("cpu", torch.float64) for row in rows])


class ZClip:
    r"""Clips the norm of the gradient when it is unusual among the norms of the steps before.

    With a running mean :math:`\mu` and variance :math:`\sigma^2` of the norm,

    .. math::
        \|g\|^* &= \mu + \frac{z_{\max}^2}{z} \sigma \quad \text{if } z = \frac{\|g\| - \mu}{\sigma} > z_{\max},
        \quad \text{else } \|g\| \\
        g &\leftarrow \frac{\|g\|^*}{\|g\|} g, \qquad
        \mu \leftarrow \alpha \mu + (1 - \alpha) \|g\|^*, \qquad
        \sigma^2 \leftarrow \alpha \sigma^2 + (1 - \alpha) (\|g\|^* - \mu)^2

    so that the further out a norm lies, the nearer to the mean it is clipped; a clipped norm enters the statistics as clipped. The
    first ``warmup_steps`` norms are not clipped: they give the first mean and variance. A norm that is not finite is passed on with
    a warning, and enters nothing.

    Call it with the parameters between ``loss.backward()`` and ``optimizer.step()``; it gives the norm before.

    Args:
        alpha: the share of the old statistics that stays in every step, 0 < alpha < 1.
        z_threshold: how many deviations above the mean are usual, positive.
        warmup_steps: at least 2.

    Attributes:
        mean, var: the statistics; NaN before the end of the warm-up.
        stats: how often and how hard it acted.

    Raises:
        ValueError: if an argument is outside its range.

    When it helps: long runs whose usual norm changes slowly in their course (a fixed bound is too high or too low most of the time),
    rare bad batches. When it hurts: a run that begins with a spike, which makes the first statistics too wide; norms that rise for good,
    since clipped norms narrow the statistics, and it goes on clipping (nine steps in ten of a small recurrent network on digits).
    Good first settings: the default, of the paper.

    Source: Kumar, Owen, Chowdhury, Güra, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", arXiv 2504.02507, 2025.

    >>> w, zclip = torch.zeros(1, requires_grad=True), ZClip(warmup_steps=4)
    >>> for norm in (1.0, 1.2, 1.0, 1.2, 101.1):
    ...     w.grad = torch.tensor([norm])
    ...     _ = zclip(w)
    >>> w.grad  # 1.1 + 2.5**2 / 1000 * 0.1
    tensor([1.1006])
    >>> print(zclip.stats)
    acted in 1 of 5 steps (20 %), mean factor 0.011, strongest 0.011
    """

    def __init__(self, alpha: float = 0.97, z_threshold: float = 2.5, warmup_steps: int = 25) -> None:
        if not 0 < as_number(alpha) < 1:
            raise ValueError(
                f"ZClip: alpha={alpha} must lie strictly between 0 and 1: it is the share of the old that stays."
            )
        if not as_number(z_threshold) > 0:
            raise ValueError(f"ZClip: z_threshold={z_threshold} must be positive: it counts standard deviations.")
        if not is_whole(warmup_steps, 2):
            raise ValueError(
                f"ZClip: warmup_steps={warmup_steps!r} must be a whole number of at least 2, for a variance."
            )
        self.alpha, self.z_threshold, self.warmup_steps = alpha, z_threshold, warmup_steps
        self.mean = self.var = math.nan
        self.stats = ClipStats()
        self._first: list[float] = []  # the norms of the warm-up

    @torch.no_grad()
    def __call__(self, parameters: Parameters, *, grad_scale: float = 1.0) -> torch.Tensor:
        """Clip the gradients in place and give their norm before.

        Args:
            parameters: whose gradients to clip.
            grad_scale: what a ``GradScaler`` multiplied the gradients with, where they are not unscaled yet.
        """
        groups = numbers_of(parameters)
        if not groups:
            return torch.zeros((), dtype=torch.float64)
        norms = norms_of(groups) / grad_scale
        norm = torch.linalg.vector_norm(norms)
        bound = self._bound(float(norm))
        shorten_(groups, norms, norm, bound, self.stats)
        if norm.isfinite():
            self._update(min(float(norm), bound))
        return norm

    def _bound(self, norm: float) -> float:
        above = norm - self.mean
        usual = not above > self.z_threshold * math.sqrt(self.var)  # NaN in the warm-up
        return math.inf if usual or not self.mean else self.mean + self.z_threshold**2 * self.var / above

    def _update(self, norm: float) -> None:
        if len(self._first) < self.warmup_steps:
            self._first.append(norm)
            if len(self._first) == self.warmup_steps:
                self.mean = sum(self._first) / self.warmup_steps
                self.var = sum((x - self.mean) ** 2 for x in self._first) / self.warmup_steps
            return
        self.mean += (1 - self.alpha) * (norm - self.mean)
        self.var += (1 - self.alpha) * ((norm - self.mean) ** 2 - self.var)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, to go on later."""
        return {"mean": self.mean, "var": self.var, "first": list(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.mean, self.var, self._first = float(state["mean"]), float(state["var"]), list(state["first"])
