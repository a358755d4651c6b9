"""Standardization of inputs, fitted on the batches that pass."""

from __future__ import annotations

import torch

from trimtab.data.preprocessing import EPS, Preprocessing

GROUP = "normalization"


class Standardize(Preprocessing):
    r"""Shifts and scales each feature to mean 0 and standard deviation 1 over all training batches seen so far.

    .. math:: y_j = \frac{x_j - \mu_j}{\sigma_j}, \qquad
              \mu_j = \frac1n \sum_i x_{ij}, \quad \sigma_j^2 = \frac1n \sum_i (x_{ij} - \mu_j)^2

    with ``x`` of shape ``(..., features)`` (or ``(N, features, ...)`` with ``axis=1``) and n the number of samples and
    positions seen. Mean and variance are merged batch by batch with Chan's formula, which does not cancel, in float64.
    A feature that is constant so far is only shifted; so is one whose deviation is at the rounding level of its mean.
    Statistics grow while training with gradients and stand still otherwise; before the first batch the input passes
    unchanged. ``fit(loader)`` takes them from a whole loader in one pass and ends the learning.

    Args:
        features: number of features.
        axis: the axis that holds them.
        missing: what becomes of NaN and infinite entries, which the statistics of their feature leave out: "keep" (they
            stay), "mean" (they become the feature's mean, here 0) or "raise".
        batches: how many batches to learn from when called in training; ``None`` for all.

    Raises:
        ValueError: if the input has another number of features or is not floating point, or, with ``missing="raise"``,
            a feature is not finite.

    When it helps: features of unequal scale, as in tables: the condition of the problem improves by the square of their
    ratio. When it hurts: where relative magnitudes carry meaning.

    Source: LeCun et al., "Efficient BackProp", 1998; Chan, Golub, LeVeque, "Updating formulae ... sample variances",
    1979.

    >>> layer = Standardize(1)
    >>> layer(torch.tensor([[1.0], [3.0]]))
    tensor([[-1.],
            [ 1.]])
    >>> layer.eval()(torch.tensor([[5.0]]))
    tensor([[3.]])
    """

    variance: torch.Tensor

    def __init__(self, features: int, axis: int = -1, *, missing: str = "keep", batches: int | None = None) -> None:
        super().__init__(features, axis, missing=missing, batches=batches)
        self.statistic("variance", torch.ones(features))

    def learn(self, x: torch.Tensor, finite: torch.Tensor | None) -> None:
        new, mean, variance = moments(x, self.axis, finite)
        old = self.samples
        share = new / (old + new).clamp(min=1)
        step = mean - self.mean
        grown = torch.where(old > 0, self.variance, 0) * (1 - share) + variance * share
        grown += step**2 * share * (1 - share) * (old > 0)
        self.variance.copy_(torch.where(old + new > 0, grown, self.variance))
        self.mean += step * share

    def change(self, x: torch.Tensor, finite: torch.Tensor | None) -> torch.Tensor:
        y = self._scaled(x, self.mean, self._scale())
        return y if finite is None else torch.where(finite, y, 0)

    def back(self, y: torch.Tensor) -> torch.Tensor:
        return y * self._view(self._scale(), y) + self._view(self.mean, y)

    def constant(self) -> torch.Tensor:
        return is_constant(self.samples, self.mean, self.variance)

    def _scale(self) -> torch.Tensor:
        return torch.where(self.constant(), 1, self.variance).sqrt()


def moments(x: torch.Tensor, axis: int, finite: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count, mean and variance of each feature of a batch, in two passes over its finite entries; 0 where there are none."""
    others = [other for other in range(x.ndim) if other != axis % x.ndim]
    if finite is None:
        entries = x.numel() // x.shape[axis]
        count = torch.full((x.shape[axis],), float(entries), dtype=x.dtype, device=x.device)
        mean = x.mean(others, keepdim=True)
        return count, mean.flatten(), (x - mean).square_().mean(others)
    count = finite.sum(others, keepdim=True).to(x.dtype)
    mean = torch.where(finite, x, 0).sum(others, keepdim=True) / count.clamp(min=1)
    squares = torch.where(finite, x - mean, 0).square_().sum(others)
    return count.flatten(), mean.flatten(), squares / count.flatten().clamp(min=1)


def is_constant(count: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Whether a variance is nothing but roundings of the sum of ``count`` equal numbers: scikit-learn's bound."""
    return (variance <= count * EPS * variance + (count * mean * EPS) ** 2) & (count > 0)
