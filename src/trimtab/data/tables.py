"""Augmentation of tables and sequences: scaling and masking of features, masking of time."""

from __future__ import annotations

import torch

from trimtab.data.augment import Augmentation, check_fill, check_positive, check_setting, observe
from trimtab.data.standardize import Standardize
from trimtab.values import as_number, is_whole

GROUP = "augmentation"
FILLS = ("mean", "zero")


class FeatureScaling(Augmentation):
    r"""Multiplies every feature of every row by a factor near 1.

    .. math:: y_{ij} = x_{ij} (1 + \sigma z_{ij}), \qquad z_{ij} \sim N(0, 1)

    with x and y of shape ``(N, features)``. In evaluation mode ``y = x``. (Not standardization, which is also called feature
    scaling: that is :class:`Standardize`.)

    Args:
        std: sigma, the standard deviation of the factors.
        generator: source of the factors; torch's global generator if ``None``.

    Raises:
        ValueError: if std is not positive, or the input is no floating-point tensor of shape (N, features).

    When it helps: measurements whose gain varies: sensors, concentrations, counts. When it hurts: features with a large offset
    (years, temperatures in kelvin), which it moves by much more than they vary: standardize these first.

    Source: Um et al., "Data Augmentation of Wearable Sensor Data", ICMI 2017 ("scaling").

    >>> FeatureScaling(0.1)(torch.tensor([[0.0, 1.0]]))[:, 0]
    tensor([0.])
    """

    def __init__(self, std: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        check_positive(self, "the standard deviation of the factors", std=std)
        self.std = std

    def check(self, x: torch.Tensor) -> None:
        _check_table(self, x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + self.std * self.normal(x, *x.shape))

    def extra_repr(self) -> str:
        return f"std={self.std}"


class FeatureMasking(Augmentation):
    r"""Hides entries of a table at random behind the mean of their feature, or behind 0.

    .. math:: y_{ij} = m_{ij} \mu_j + (1 - m_{ij}) x_{ij}, \qquad m_{ij} \sim \mathrm{Bernoulli}(p)

    with x and y of shape ``(N, features)`` and ``mu_j`` the mean of feature j over all batches so far, as in
    :class:`Standardize`. In evaluation mode ``y = x``. Unlike dropout, the other entries are not scaled up.

    Args:
        features: their number.
        p: the probability of hiding an entry.
        fill: "mean" or "zero".
        generator: source of the masks; torch's global generator if ``None``.

    Raises:
        ValueError: if p is outside (0, 1], the input is no floating-point tensor of shape (N, features), or a feature is not
            finite.

    When it helps: tables whose features repeat each other, and where values will be missing. When it hurts: answers that hang on
    one feature.

    Source: Yoon et al., "VIME: Extending the Success of Self- and Semi-supervised Learning to Tabular Domain", NeurIPS 2020.

    >>> FeatureMasking(1, p=1.0)(torch.tensor([[1.0], [3.0]]))
    tensor([[2.],
            [2.]])
    """

    def __init__(
        self, features: int, p: float, fill: str = "mean", *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(generator)
        check_positive(self, "the probability of hiding an entry", 1, p=p)
        check_setting(self, FILLS, fill=fill)
        self.p, self.fill = p, fill
        self.statistics = Standardize(features, missing="raise")

    def check(self, x: torch.Tensor) -> None:
        _check_table(self, x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.uniform(x, *x.shape) < self.p
        if self.fill == "zero":
            return x.masked_fill(hidden, 0)
        observe(self.statistics, x)
        return torch.where(hidden, self.statistics.mean.to(x.dtype), x)

    def extra_repr(self) -> str:
        return f"p={self.p}, fill={self.fill!r}"


class TimeMasking(Augmentation):
    r"""Hides stretches of consecutive time steps of each sequence.

    .. math:: y_{nt} = \begin{cases} v & t_n \le t < t_n + \tau_n \\ x_{nt} & \text{else} \end{cases}, \qquad
              \tau_n \sim U\{0, \dots, \lfloor s T \rfloor\}, \quad t_n \sim U\{0, \dots, T - \tau_n\}

    with x and y of shape ``(N, T, C)`` or ``(N, T)``; with ``axis=2``, ``(N, C, T)``. Each of ``masks`` stretches is drawn anew for
    each sequence, and covers all channels. In evaluation mode ``y = x``.

    Args:
        share: s, the longest stretch as a share of the sequence.
        masks: how many stretches; they may overlap.
        fill: the value v; 0 is the mean of standardized sequences.
        axis: the axis of time.
        generator: source of the random numbers; torch's global generator if ``None``.

    Raises:
        ValueError: for settings out of range, if the input is no floating-point tensor of 2 or 3 dimensions that has such an
            axis, or if the longest stretch is less than one step.

    When it helps: speech, sensors, long sequences. When it hurts: short sequences, and classes told apart by one moment.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech 2019.

    >>> y = TimeMasking(0.25)(torch.ones(4, 8, 2))
    >>> int((y == 0).sum(dim=1).max()) <= 2
    True
    """

    def __init__(
        self,
        share: float,
        masks: int = 1,
        fill: float = 0.0,
        axis: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        check_positive(self, "the longest stretch as a share of the sequence", 1, share=share)
        if not is_whole(masks, 1):
            raise ValueError(f"TimeMasking(masks={masks}): masks must be a whole number of stretches, 1 or more.")
        if as_number(axis) not in (1, 2):
            raise ValueError(f"TimeMasking(axis={axis}): axis must be 1 for (N, T, C) or 2 for (N, C, T).")
        check_fill(self, fill)
        self.share, self.masks, self.fill, self.axis = share, masks, fill, axis

    def check(self, x: torch.Tensor) -> None:
        if not (self.axis < x.ndim <= 3):
            shapes = "(N, T, C) or (N, T)" if self.axis == 1 else "(N, C, T)"
            raise ValueError(
                f"TimeMasking(axis={self.axis}) got an input of shape {tuple(x.shape)}. Sequences must have the shape {shapes}; "
                "axis tells where time is."
            )
        if self._longest(x) < 1:
            raise ValueError(
                f"TimeMasking(share={self.share}) got sequences of {x.shape[self.axis]} steps, of which that share is less than "
                f"one. Give a share of {1 / max(1, x.shape[self.axis]):g} or more."
            )

    def change(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.shape[self.axis]
        # Each integer of 0..k is as likely as another: the floor of a uniform number times k + 1.
        numbers = self.uniform(x, 2, len(x), self.masks).double()
        length = (numbers[0] * (self._longest(x) + 1)).long()
        first = (numbers[1] * (steps - length + 1)).long()
        way = torch.arange(steps, device=x.device) - first.unsqueeze(-1)
        hidden = ((way >= 0) & (way < length.unsqueeze(-1))).any(1)
        shape = [len(x), *[1] * (x.ndim - 1)]
        shape[self.axis] = steps
        return x.masked_fill(hidden.view(shape), self.fill)

    def _longest(self, x: torch.Tensor) -> int:
        return int(self.share * x.shape[self.axis] + 1e-9)  # 0.29 of 100 are 29, though the product is 28.999...

    def extra_repr(self) -> str:
        return f"share={self.share}, masks={self.masks}, fill={self.fill}, axis={self.axis}"


def _check_table(part: Augmentation, x: torch.Tensor) -> None:
    if x.ndim != 2:
        other = " For sequences there is TimeMasking." if x.ndim == 3 else " It acts on tables only."
        raise ValueError(
            f"{type(part).__name__} got an input of shape {tuple(x.shape)}. Tables must have the shape (N, features).{other}"
        )
