"""Standardization of inputs, fitted on the batches that pass."""

from __future__ import annotations

import torch
from torch import nn


class Standardize(nn.Module):
    r"""Shifts and scales each feature to mean 0 and standard deviation 1 over all training batches seen so far.

    .. math:: y_j = \frac{x_j - \mu_j}{\sigma_j}, \qquad
              \mu_j = \frac1n \sum_i x_{ij}, \quad \sigma_j^2 = \frac1n \sum_i (x_{ij} - \mu_j)^2

    with ``x`` of shape ``(..., features)`` (or ``(N, features, ...)`` with ``axis=1``) and n the number of samples and
    positions seen. Mean and variance are merged batch by batch with Chan's formula, which does not cancel. A feature that is
    constant so far is only shifted. Statistics grow while training with gradients and stand still otherwise; before the
    first batch the input passes unchanged.

    Args:
        features: number of features.
        axis: the axis that holds them.

    Raises:
        ValueError: if the input has another number of features, or a feature is not finite.

    When it helps: features of unequal scale, as in tables: the condition of the problem improves by the square of their ratio. When it hurts:
    where relative magnitudes carry meaning.

    Source: LeCun et al., "Efficient BackProp", 1998; Chan, Golub, LeVeque, "Updating formulae ... sample variances", 1979.

    >>> layer = Standardize(1)
    >>> layer(torch.tensor([[1.0], [3.0]]))
    tensor([[-1.],
            [ 1.]])
    >>> layer.eval()(torch.tensor([[5.0]]))
    tensor([[3.]])
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, features: int, axis: int = -1) -> None:
        super().__init__()
        self.features, self.axis = features, axis
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[self.axis] != self.features:
            raise ValueError(
                f"Standardize({self.features}) got input of shape {tuple(x.shape)} with {x.shape[self.axis]} features on "
                f"axis {self.axis}. Both must agree."
            )
        if self.training and torch.is_grad_enabled():
            self._fit(x.detach().movedim(self.axis, -1).reshape(-1, self.features))
        scale = torch.where(self.variance > 0, self.variance, torch.ones_like(self.variance)).rsqrt()
        shape = [1] * x.ndim
        shape[self.axis] = self.features
        return ((x - self.mean.view(shape)) * scale.view(shape)).to(x.dtype)

    def _fit(self, rows: torch.Tensor) -> None:
        if not len(rows):
            return
        rows = rows.to(self.mean.dtype)
        variance, mean = torch.var_mean(rows, 0, correction=0)
        if not bool(torch.isfinite(mean).all()):
            bad = torch.nonzero(~torch.isfinite(mean)).flatten().tolist()
            raise ValueError(f"Standardize: features {bad[:10]} hold NaN or infinity; clean or drop them first.")
        old, new = self.count, self.count + len(rows)
        share = len(rows) / new
        step = mean - self.mean
        self.variance.copy_(
            torch.where(old > 0, self.variance, 0) * (1 - share)
            + variance * share
            + step**2 * share * (1 - share) * (old > 0)
        )
        self.mean.add_(step * share)
        self.count.copy_(new)

    def extra_repr(self) -> str:
        return f"{self.features}, axis={self.axis}"
