"""Gaussian noise on inputs."""

from __future__ import annotations

import torch

from trimtab.data.augment import Augmentation, check_positive, observe
from trimtab.data.standardize import Standardize

GROUP = "augmentation"


class GaussianNoise(Augmentation):
    r"""Adds normal noise of one standard deviation to every entry.

    .. math:: y = x + \sigma z, \qquad z \sim N(0, 1)

    with x and y of any one shape. In evaluation mode ``y = x``.

    Args:
        std: sigma, in the unit of the input.
        generator: source of the noise; torch's global generator if ``None``.

    Raises:
        ValueError: if std is not positive, or the input not floating point.

    When it helps: networks that learn the training set by heart; small noise acts like a penalty on the slope of the network
    (Tikhonov regularization). When it hurts: noise as large as what tells the classes apart.

    Source: Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7, 1995.

    >>> y = GaussianNoise(0.1, generator=torch.Generator().manual_seed(0))(torch.zeros(1000))
    >>> round(y.std().item(), 2)
    0.1
    """

    def __init__(self, std: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        check_positive(self, "the standard deviation of the noise", std=std)
        self.std = std

    def change(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.std * self.normal(x, *x.shape)

    def extra_repr(self) -> str:
        return f"std={self.std}"


class FeatureNoise(Augmentation):
    r"""Adds normal noise to every feature in proportion to the feature's own standard deviation.

    .. math:: y_{ij} = x_{ij} + \sigma s_j z_{ij}, \qquad z_{ij} \sim N(0, 1)

    with x and y of shape ``(..., features)`` and ``s_j`` the standard deviation of feature j over all batches so far, as in
    :class:`Standardize`; or, with ``features=None``, x of any shape and one s of all entries. In evaluation mode ``y = x``.

    Args:
        features: their number, or ``None``.
        std: sigma, as a share of each feature's standard deviation.
        generator: source of the noise; torch's global generator if ``None``.

    Raises:
        ValueError: if std is not positive, the input is not floating point or has another number of features, or a feature is
            not finite.

    When it helps: tables whose columns have different units, few rows. When it hurts: columns that are codes of categories.

    Source: Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7, 1995.

    >>> FeatureNoise(2, 0.1)(torch.tensor([[0.0, 7.0], [100.0, 7.0]]))[:, 1]
    tensor([7., 7.])
    """

    def __init__(self, features: int | None, std: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        check_positive(self, "the standard deviation of the noise as a share of the feature's", std=std)
        self.features, self.std = features, std
        self.statistics = Standardize(1 if features is None else features, missing="raise")

    def change(self, x: torch.Tensor) -> torch.Tensor:
        observe(self.statistics, x.unsqueeze(-1) if self.features is None else x)
        return x + self.normal(x, *x.shape) * (self.std * self.statistics.variance.sqrt()).to(x.dtype)

    def extra_repr(self) -> str:
        return f"features={self.features}, std={self.std}"
