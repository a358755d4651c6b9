"""Explicit constraints on weights: projections onto sets, in place, to be called after every step of the optimizer.

A projection replaces a weight by the nearest point of a set, ``argmin_v ||v - w||_2``. With ``dim`` every unit is projected by
itself, a unit being an index of that dimension: 0 for the weights of linear layers and convolutions, 1 for transposed
convolutions, several dimensions for units that have several indices. With ``dim=None`` the tensor is one point.
Tensors of 16-bit types are projected in float32 and rounded. Each function returns the tensor it was given.

:class:`trimtab.optim.Lagrangian` solves the same problems by a penalty that grows until the constraint holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from trimtab.values import as_number, is_whole

GROUP = "regularization"
Dim = int | tuple[int, ...] | None


def max_norm_(weight: torch.Tensor, radius: float = 3.0, dim: Dim = 0) -> torch.Tensor:
    r"""Shortens the incoming weights of every unit to a length of at most radius: :func:`l2_ball_` for each unit.

    .. math:: w_i \leftarrow w_i \min(1, r / \|w_i\|_2)

    Keras' ``MaxNorm``, without its 1e-7 beside the length.

    ``radius`` is r. A unit is an index of ``dim``; ``None`` takes the whole tensor as one.

    When it helps: networks with dropout and large learning rates. When it hurts: in front of a normalization, where lengths have
    no effect on the output. Good first settings: 3 to 4.

    Source: Srebro, Rennie, Jaakkola, "Maximum-Margin Matrix Factorization", NIPS 2004; Srivastava et al., "Dropout", JMLR 15, 2014.

    >>> max_norm_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), radius=1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    return _shorten("max_norm_", weight, radius, dim)


def unit_norm_(weight: torch.Tensor, dim: Dim = 0) -> torch.Tensor:
    r"""Gives the incoming weights of every unit the length 1: ``w_i / ||w_i||``. A unit whose weights are all 0 stays so.

    Keras' ``UnitNorm``, without its 1e-7 beside the length.

    >>> unit_norm_(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """

    def onto(rows: torch.Tensor) -> torch.Tensor:
        length = _length(rows)
        return rows / torch.where(length == 0, 1, length)

    return _project("unit_norm_", weight, dim, onto)


def non_negative_(weight: torch.Tensor) -> torch.Tensor:
    """Sets negative entries to 0.

    >>> non_negative_(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    with torch.no_grad():
        return weight.clamp_(min=0)


def l1_ball_(weight: torch.Tensor, radius: float = 1.0, dim: Dim = None) -> torch.Tensor:
    r"""Projects onto :math:`\|w\|_1 \le r`: shrinks all magnitudes by one number, which sets small ones to exactly 0.

    .. math:: w_i \leftarrow \mathrm{sign}(w_i) \max(0, |w_i| - \theta), \qquad
              \theta = \max(0, \max_j \frac{1}{j} (\sum_{i \le j} |w|_{(i)} - r))

    with :math:`|w|_{(1)} \ge |w|_{(2)} \ge \dots` the sorted magnitudes.

    ``radius`` is r. With ``dim`` every index of it is projected by itself, with ``None`` the whole tensor.

    When it helps: sparse weights with a bound that is known beforehand. When it hurts: where the radius is far below what the task needs:
    most weights are then 0 for good.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball", ICML 2008.

    >>> l1_ball_(torch.tensor([3.0, -2.0, 0.5]), radius=2.0)
    tensor([ 1.5000, -0.5000,  0.0000])
    """
    _check_radius("l1_ball_", radius)

    def onto(rows: torch.Tensor) -> torch.Tensor:
        return rows.sign() * (rows.abs() - _threshold(rows.abs(), radius).clamp(min=0)).clamp(min=0)

    return _project("l1_ball_", weight, dim, onto)


def l2_ball_(weight: torch.Tensor, radius: float = 1.0, dim: Dim = None) -> torch.Tensor:
    r"""Projects onto :math:`\|w\|_2 \le r`: shortens what is longer, and keeps the direction.

    >>> l2_ball_(torch.tensor([3.0, 4.0]), radius=1.0)
    tensor([0.6000, 0.8000])
    """
    return _shorten("l2_ball_", weight, radius, dim)


def linf_ball_(weight: torch.Tensor, radius: float = 1.0) -> torch.Tensor:
    r"""Projects onto :math:`\max_i |w_i| \le r`: clips every entry.

    >>> linf_ball_(torch.tensor([3.0, -0.5, -4.0]), radius=1.0)
    tensor([ 1.0000, -0.5000, -1.0000])
    """
    _check_radius("linf_ball_", radius)
    with torch.no_grad():
        return weight.clamp_(-radius, radius)


def simplex_(weight: torch.Tensor, radius: float = 1.0, dim: Dim = None) -> torch.Tensor:
    r"""Projects onto :math:`w \ge 0, \sum_i w_i = r`: subtracts one number from all entries, and cuts off at 0.

    .. math:: w_i \leftarrow \max(0, w_i - \theta), \qquad \theta = \max_j \frac{1}{j} (\sum_{i \le j} w_{(i)} - r)

    with :math:`w_{(1)} \ge w_{(2)} \ge \dots` the sorted entries.

    ``radius`` is r, and ``dim`` as for :func:`l1_ball_`.

    When it helps: weights that mean shares: mixtures, attention over experts, portfolios. When it hurts: weights that must be able to
    change sign.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient Projections onto the l1-Ball", ICML 2008.

    >>> simplex_(torch.tensor([0.9, 0.5, -1.0]))
    tensor([0.7000, 0.3000, 0.0000])
    """
    _check_radius("simplex_", radius)
    return _project("simplex_", weight, dim, lambda rows: (rows - _threshold(rows, radius)).clamp(min=0))


def _threshold(rows: torch.Tensor, radius: float) -> torch.Tensor:
    """What to subtract from each row so that its positive part sums to radius.

    Over the j largest entries the number would be (their sum - radius) / j. It grows with j as long as the next entry is
    larger than it, and falls from there on: the largest one is right.
    """
    ordered = rows.sort(dim=1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    return ((ordered.cumsum(1) - radius) / counts).amax(1, keepdim=True)


def _shorten(what: str, weight: torch.Tensor, radius: float, dim: Dim) -> torch.Tensor:
    _check_radius(what, radius)
    return _project(what, weight, dim, lambda rows: rows * (radius / _length(rows)).clamp(max=1))


def _length(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True)


@torch.no_grad()
def _project(what: str, weight: torch.Tensor, dim: Dim, onto: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Write ``onto(rows)`` into the weight, which is taken as one row of entries for each unit."""
    dims = () if dim is None else tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if not all(is_whole(d, -weight.ndim) and d < weight.ndim for d in dims):
        raise ValueError(
            f"{what}: dim={dim} must name dimensions of the weight, whose shape is {tuple(weight.shape)}; None takes all of it "
            "as one unit."
        )
    if weight.numel():
        units = weight.movedim(dims, tuple(range(len(dims))))
        rows = units.reshape(math.prod(units.shape[: len(dims)]), -1)
        exact = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        units.copy_(onto(exact).view(units.shape))
    return weight


def _check_radius(what: str, radius: float) -> None:
    if not as_number(radius) > 0:
        raise ValueError(f"{what}: radius={radius} must be positive: it is the size of the set.")
