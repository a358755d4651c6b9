"""Whitening of inputs: a normalization that also takes correlations away, fitted on the batches that pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from trimtab.data.input_report import InputReport
from trimtab.data.preprocessing import Preprocessing
from trimtab.data.standardize import is_constant
from trimtab.values import as_number, is_whole

GROUP = "normalization"
KINDS = ("pca", "zca")
RENEWED = 1.1  # the growth of the data after which the map is computed anew, while learning from what passes


class Whiten(Preprocessing):
    r"""Makes the features uncorrelated and of variance 1, over all training batches seen so far.

    .. math:: y = \Lambda^{-1/2} V^\top (x - \mu) \;\text{ (PCA)}, \qquad
              y = V \Lambda^{-1/2} V^\top (x - \mu) \;\text{ (ZCA)}, \qquad
              V \Lambda V^\top = \frac1n \sum_i (x_i - \mu)(x_i - \mu)^\top

    with ``x`` of shape ``(..., features)`` (or ``(N, features, ...)`` with ``axis=1``: channels of images) and i over
    the n samples and positions. PCA rotates onto the principal axes, the largest first, and then scales each of them
    (003's order); the entry of an axis that is largest in magnitude is positive, as in scikit-learn. ZCA rotates back:
    of all whitened inputs it is the one nearest to the centred input, and it changes smoothly with the statistics,
    where axes of the PCA jump. Scikit-learn's ``PCA(whiten=True)`` divides by n - 1: its output times
    ``sqrt(n / (n - 1))`` is this one.

    Directions that have no variance of their own (constant features, features that follow from others) are dropped:
    their output is 0, in a PCA in the last places. Which these are is judged by the correlation matrix, so that the
    units of the features do not matter. Axes are computed from its factors, which keeps directions exact whose variance
    is 1e-12 of the largest.

    Mean and covariance are merged batch by batch with Chan's formula in float64. They grow while training with
    gradients; the map is computed anew whenever the rows have grown by a tenth, and before the first batch the input
    passes (its first ``components`` features). ``fit(loader)`` takes all from a whole loader in one pass and ends the
    learning. It costs a matrix of features x features.

    Args:
        features: number of features.
        kind: "pca" or "zca".
        components: how many of the principal axes to keep; all if ``None``. The output of a PCA has as many features.
        eps: directions whose eigenvalue of the correlation matrix is at most eps times the largest are dropped.
        axis: the axis that holds the features.
        missing: what becomes of rows with NaN or infinite entries, which the statistics leave out: "keep" (nothing of
            the row is finite any more), "mean" (such entries become their feature's mean before the rotation) or
            "raise".
        batches: how many batches to learn from when called in training; ``None`` for all.
        prior: the rows that a belief in uncorrelated features is worth: the covariance is
            ``(n C + prior diag C) / (n + prior)``. Few rows give directions far too little variance, and new rows then
            come out far too large.

    Raises:
        ValueError: for settings out of range, if the input has another number of features or is not floating point, or,
            with ``missing="raise"``, a row is not finite.

    When it helps: correlated features in front of a linear layer: the condition number of its problem becomes 1 (wine:
    4.6e8 raw, 46 standardized), and gradient descent needs one step size. When it hurts: directions of noise, which
    become as large as those of signal: drop them with ``components``; fewer rows than about ten times the features
    (give a ``prior``); images by pixel, whose neighbours a convolution needs.

    Source: LeCun et al., "Efficient BackProp", 1998, section 4.3; Bell and Sejnowski, "The 'independent components' of
    natural scenes are edge filters", 1997 (ZCA); Kessy, Lewin, Strimmer, "Optimal Whitening and Decorrelation", 2018;
    seed 003.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 10.0], [7.0, 2.0]])
    >>> layer = Whiten(2).fit(x)
    >>> torch.cov(layer(x).T, correction=0).round(decimals=5).abs()
    tensor([[1., 0.],
            [0., 1.]])
    >>> print(layer.report())
    Whiten of 2 features, fitted on 4 rows
    condition number of the input 307 -> 1
    """

    covariance: torch.Tensor
    incomplete: torch.Tensor
    matrix: torch.Tensor
    renewed: torch.Tensor

    def __init__(
        self,
        features: int,
        kind: str = "pca",
        components: int | None = None,
        eps: float = 1e-10,
        axis: int = -1,
        *,
        missing: str = "keep",
        batches: int | None = None,
        prior: float = 0.0,
    ) -> None:
        check_whitening("Whiten", kind)
        super().__init__(features, axis, missing=missing, batches=batches)
        if components is not None and not (is_whole(components, 1) and components <= features):
            raise ValueError(
                f"Whiten({features}, components={components}): components must be from 1 to {features}, or None for all."
            )
        if not 0 <= as_number(eps) < 1:
            raise ValueError(f"Whiten(eps={eps}): eps must lie in [0, 1): it is a share of the largest eigenvalue.")
        if not 0 <= as_number(prior) < torch.inf:
            raise ValueError(f"Whiten(prior={prior}): prior must be 0 or a positive number of rows.")
        self.kind, self.components, self.eps, self.prior = kind, components, float(eps), float(prior)
        self.statistic("covariance", torch.zeros(features, features))
        self.statistic("incomplete", torch.zeros(()))
        self.statistic("matrix", torch.eye(features)[: features if kind == "zca" else components])
        self.statistic("renewed", torch.zeros(()))  # complete rows at the time of the matrix

    @property
    def rows(self) -> torch.Tensor:
        """How many complete rows there were."""
        return self.count - self.incomplete

    def learn(self, x: torch.Tensor, finite: torch.Tensor | None) -> None:
        rows = self._last(x).reshape(-1, self.features)
        all_rows, old = len(rows), self.rows
        if finite is not None:
            rows = rows[self._last(finite).reshape(-1, self.features).all(1)]
        if len(rows):
            mean = rows.mean(0)
            apart = rows - mean
            share = len(rows) / (old + len(rows))
            step = mean - self.mean
            self.covariance.mul_(1 - share).addmm_(apart.T, apart * (share / len(rows)))
            self.covariance += torch.outer(step, step) * (share * (1 - share) * (old > 0))
            self.mean += step * share
        self.incomplete += all_rows - len(rows)

    def ready(self) -> None:
        """Compute the map from the statistics as they are."""
        if not bool(self.rows > 0):
            return
        factor, constant = self._factor()
        u, s, _ = torch.linalg.svd(factor, full_matrices=False)
        u, s = u[:, : self.components], s[: self.components]
        u[constant] = 0  # not only to rounding
        top = u.gather(0, u.abs().argmax(0, keepdim=True))
        axes = (u * torch.where(top < 0, -1.0, 1.0)).T / s[:, None]
        if self.kind == "zca":
            axes = u @ (u / s).T
        self.matrix.zero_()
        self.matrix[: len(axes)] = axes.to(self.matrix)
        self.renewed.copy_(self.rows)

    def change(self, x: torch.Tensor, finite: torch.Tensor | None) -> torch.Tensor:
        centred = x.to(self.mean.dtype) - self._view(self.mean, x)
        if finite is not None:
            centred = torch.where(finite, centred, 0)
        return (self._last(centred) @ self.matrix.T).movedim(-1, self.axis)

    def back(self, y: torch.Tensor) -> torch.Tensor:
        again = torch.linalg.pinv(self.matrix.cpu().double()).to(self.matrix)
        return (self._last(y) @ again.T + self.mean).movedim(-1, self.axis)

    def constant(self) -> torch.Tensor:
        return is_constant(self.rows.expand(self.features), self.mean, self.covariance.diagonal())

    def report(self) -> InputReport:
        """What was met so far, with the condition number of the input and of the output.

        That is the largest over the smallest eigenvalue, zeros left out, of the second moments of the features and a 1
        for the
        bias: the condition number of the squared error of a linear layer behind it (LeCun et al. 1998).
        """
        report = super().report()
        if not bool(self.rows > 0):
            return dataclasses.replace(report, incomplete=int(self.incomplete))
        factor, _ = self._factor(prior=False)
        one = torch.ones(1, 1, dtype=factor.dtype)
        mean = self.mean.cpu().double()[:, None]
        before = torch.cat([torch.cat([factor, mean], 1), torch.cat([torch.zeros(1, factor.shape[1]), one], 1)])
        after = torch.cat([torch.linalg.svdvals(self.matrix.cpu().double() @ factor), one[0]])
        after = after[after > after.max() * self.eps]
        return dataclasses.replace(
            report,
            condition=(_condition(torch.linalg.svdvals(before)), _condition(after)),
            incomplete=int(self.incomplete),
            dropped=self.features - factor.shape[1],
        )

    def settings(self) -> dict[str, Any]:
        more = {"kind": self.kind, "components": self.components, "eps": self.eps, "prior": self.prior}
        return {**super().settings(), **more}

    def _usable(self) -> torch.Tensor:
        return self.rows > 0

    def _passed(self) -> None:
        super()._passed()
        last = self.batches is not None and bool(self.learned == self.batches)
        if last or bool(self.rows >= RENEWED * self.renewed):
            self.ready()

    def _factor(self, prior: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """G with ``G G^T`` the covariance, of as many columns as there are directions; and which features are constant.

        The covariance is the correlations R scaled by deviations D, ``D R D``. Eigenvalues of R do not depend on units:
        what is near 0 among them is rounding. Singular values of ``D R^(1/2)`` are exact to the rounding of the largest
        deviation, while eigenvalues of the covariance itself would be to that of the largest variance.
        """
        covariance, constant = self.covariance.cpu().double(), self.constant().cpu()
        deviation = covariance.diagonal().sqrt()
        deviation = torch.where(constant, 0.0, deviation)
        scale = torch.where(deviation > 0, 1 / deviation, 0.0)
        correlation = covariance * scale * scale[:, None]
        if prior and self.prior:
            share = self.prior / (self.prior + float(self.rows))
            correlation = correlation * (1 - share) + torch.diag((deviation > 0).double()) * share
        values, vectors = torch.linalg.eigh(correlation)
        kept = values > self.eps * values[-1]
        return deviation[:, None] * vectors[:, kept] * values[kept].sqrt(), constant

    def _shown_settings(self) -> list[str]:
        shown = [f"kind={self.kind!r}"]
        return shown + ([f"components={self.components}"] if self.components is not None else [])

    def _shared_settings(self) -> list[str]:
        return super()._shared_settings() + ([f"prior={self.prior:g}"] if self.prior else [])


def _condition(singular: torch.Tensor) -> float:
    return float(singular.max() / singular.min()) ** 2


def check_whitening(who: str, kind: str) -> None:
    """Refuse another kind of whitening."""
    if kind not in KINDS:
        raise ValueError(f"{who}(kind={kind!r}): kind must be one of {', '.join(map(repr, KINDS))}.")
