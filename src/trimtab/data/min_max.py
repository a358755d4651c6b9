"""Min-max normalization of inputs, fitted on the batches that pass."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.data.preprocessing import EPS, Preprocessing
from trimtab.values import as_number

GROUP = "normalization"


class MinMax(Preprocessing):
    r"""Maps the range of each feature over all training batches seen so far to [a, b].

    .. math:: y_j = a + (b - a) \frac{x_j - \min_i x_{ij}}{\max_i x_{ij} - \min_i x_{ij}}

    with ``x`` of shape ``(..., features)`` (or ``(N, features, ...)`` with ``axis=1``) and i over samples and
    positions. The extremes come out as a and b exactly; new values beyond them lie outside of [a, b]. A constant
    feature is mapped to a: its range counts as 1. So is one whose range is at the rounding level of its values.
    Statistics grow while training with gradients and stand still otherwise; before the first batch the input passes
    unchanged. ``fit(loader)`` takes them from a whole loader in one pass and ends the learning. Scikit-learn's
    ``MinMaxScaler`` is the same, except that to it every range below 2e-15 is constant.

    Args:
        features: number of features.
        low: a.
        high: b.
        axis: the axis that holds the features.
        missing: what becomes of NaN and infinite entries, which the statistics of their feature leave out: "keep" (they
            stay), "mean" (they become what the feature's mean becomes) or "raise".
        batches: how many batches to learn from when called in training; ``None`` for all.

    Raises:
        ValueError: if low is not below high, the input has another number of features or is not floating point, or,
            with ``missing="raise"``, a feature is not finite.

    When it helps: features with natural bounds, such as pixels, ranks or percentages; layers that expect a bounded
    input. When it hurts: outliers, since the two extremes alone set the scale; a range of [0, 1] leaves the mean in,
    and the condition of the problem far worse than :class:`Standardize` does (on scikit-learn's wine 750 against 46).

    Source: Han, Kamber, Pei, "Data Mining: Concepts and Techniques", 2011, section 3.5.2; seeds 001, 003.

    >>> layer = MinMax(1, -1, 1)
    >>> layer(torch.tensor([[10.0], [15.0], [30.0]]))
    tensor([[-1.0000],
            [-0.5000],
            [ 1.0000]])
    >>> layer.inverse(torch.tensor([[0.0]]))
    tensor([[20.]])
    """

    min: torch.Tensor
    max: torch.Tensor

    def __init__(
        self,
        features: int,
        low: float = 0.0,
        high: float = 1.0,
        axis: int = -1,
        *,
        missing: str = "keep",
        batches: int | None = None,
    ) -> None:
        check_bounds("MinMax", low, high)
        super().__init__(features, axis, missing=missing, batches=batches)
        self.low, self.high = float(low), float(high)
        self.statistic("min", torch.full((features,), torch.inf))
        self.statistic("max", torch.full((features,), -torch.inf))

    def learn(self, x: torch.Tensor, finite: torch.Tensor | None) -> None:
        others = [axis for axis in range(x.ndim) if axis != self.axis % x.ndim]
        known = x if finite is None else torch.where(finite, x, 0)
        new = x.numel() // self.features if finite is None else finite.sum(others)
        share = new / (self.samples + new).clamp(min=1)
        self.mean += (known.sum(others) / (new + (new == 0)) - self.mean) * share
        low, high = (x, x) if finite is None else (torch.where(finite, x, end) for end in (torch.inf, -torch.inf))
        self.min.copy_(torch.minimum(self.min, low.amin(others)))
        self.max.copy_(torch.maximum(self.max, high.amax(others)))

    def change(self, x: torch.Tensor, finite: torch.Tensor | None) -> torch.Tensor:
        seen = self.samples > 0
        start, span = torch.where(seen, self.min, 0), self._span()
        y = self._between(self._scaled(x, start, span))
        if finite is not None:
            y = torch.where(finite, y, self._view(self._between((self.mean - start) / span).to(y.dtype), x))
        known = self._view(seen, x)
        return torch.where(known, y, x.to(y.dtype) if finite is None else torch.where(finite, x.to(y.dtype), 0))

    def back(self, y: torch.Tensor) -> torch.Tensor:
        seen = self._view(self.samples > 0, y)
        t = (y - self.low) / (self.high - self.low)
        return torch.where(seen, self._view(self.min, y) + t * self._view(self._span(), y), y)

    def constant(self) -> torch.Tensor:
        largest = torch.maximum(self.min.abs(), self.max.abs())
        return (self.max - self.min <= 10 * EPS * largest) & (self.samples > 0)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "low": self.low, "high": self.high}

    def _span(self) -> torch.Tensor:
        return torch.where(self.constant() | (self.samples == 0), 1, self.max - self.min)

    def _between(self, t: torch.Tensor) -> torch.Tensor:
        """a for t=0 and b for t=1, both exactly: ``a + (b - a) t`` would round b."""
        return self.low * (1 - t) + self.high * t

    def _shown_settings(self) -> list[str]:
        return [f"low={self.low:g}", f"high={self.high:g}"]


def check_bounds(who: str, low: float, high: float) -> None:
    """Refuse an interval without extent."""
    if not (-torch.inf < as_number(low) < as_number(high) < torch.inf):
        raise ValueError(f"{who}: low={low} and high={high} must be finite numbers with low below high.")
