"""The noise of mini-batch gradients against their mean: which batch size an optimizer can make use of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from trimtab.untouched import unchanged

GROUP = "optimization"
GROUPS = 20  # at most so many sums of gradients are kept, for the standard error
LEVEL = 0.95


@dataclass(frozen=True)
class GradientNoise:
    """What :func:`gradient_noise_scale` found.

    noise_scale: in samples; infinite if no gradient can be told from the noise, NaN if there is neither. standard_error: of it. low, high: ends of a 95 % interval
    (``high`` is often infinite with few batches). signal: the squared norm of the mean gradient, which may come out below 0.
    noise: the trace of the covariance of one sample's gradient. batch_size: samples in a batch, on average. batches: how many.
    """

    noise_scale: float
    standard_error: float
    low: float
    high: float
    signal: float
    noise: float
    batch_size: float
    batches: int

    def steps(self, batch_size: float) -> float:
        """How many times as many steps this batch size takes as an endless one, each at its best rate."""
        return 1 + self.noise_scale / batch_size

    def samples(self, batch_size: float) -> float:
        """How many times as many samples this batch size takes as the smallest one, each at its best rate."""
        return 1 + batch_size / self.noise_scale if self.noise_scale else math.inf


def gradient_noise_scale(
    model: nn.Module,
    loss: Callable[[Any, Any], torch.Tensor] | None,
    batches: Iterable[Any],
    *,
    call: Callable[[nn.Module, Any], torch.Tensor] | None = None,
) -> GradientNoise:
    r"""The simple gradient noise scale: the batch size at which the noise of the gradient is as large as the gradient.

    .. math:: \mathcal{B} = \frac{\operatorname{tr} \Sigma}{|G|^2}, \qquad
              \widehat{\operatorname{tr} \Sigma} = \frac{\sum_k b_k |g_k - \bar g|^2}{K - 1}, \qquad
              \widehat{|G|^2} = |\bar g|^2 - \frac{\widehat{\operatorname{tr} \Sigma}}{n}

    with the gradients g_k of K batches of b_k samples, n samples in all, their mean :math:`\bar g` weighted by b_k, the gradient G of the whole
    distribution, and the covariance :math:`\Sigma` of one sample's gradient. Numerator and denominator are unbiased; for batches of
    one size b they are the estimates from two batch sizes, b and n. The standard error is that of a jackknife over batches.

    What it means for the batch size b: the mean of b gradients has an error of :math:`\sqrt{\operatorname{tr} \Sigma / b}`, so that samples
    give less than linear return. If all directions have about the same curvature, the best step of a batch of b gains
    :math:`1 / (1 + \mathcal{B} / b)` of what the best step along G gains. Far below :math:`\mathcal{B}` twice the batch saves half of the steps;
    far above, nothing: the batch is redundant. At :math:`b = \mathcal{B}` training takes twice the fewest steps and twice the fewest
    samples (:meth:`GradientNoise.steps`, :meth:`GradientNoise.samples`). It grows as the loss falls, often tenfold or more: measure again later.

    Model, gradients, buffers, a data loader and all generators of random numbers are left as they were. The mode is the model's own:
    in training mode dropout adds to the noise, and batch normalization makes gradients depend on the batch. Memory: up to 20 gradients.

    Args:
        model: as it is at this point of the training.
        loss: ``loss(output, target)``, a mean over the samples of a batch (not a sum).
        batches: pairs of input and target, independent of each other: shuffled, no sample twice. At least 3; 20 or more for a useful error.
        call: ``call(model, batch)`` computes the mean loss of a batch of another form; ``loss`` may then be ``None``.
            The size of a batch is the length of the first tensor in it.

    Raises:
        ValueError: for fewer than 3 batches, a loss that is a sum, and gradients that are not finite.

    When it helps: choosing the batch size, and how many devices are worth having; seeing that a loss has stalled in
    noise, where a smaller rate helps. When it hurts: curvature that differs much between directions, where it says the order of
    magnitude at best; adaptive optimizers, which do not step along g.

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 16, 4, generator=generator)
    >>> y = x.sum(-1, keepdim=True) + 3 * torch.randn(100, 16, 1, generator=generator)
    >>> model = nn.Linear(4, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> noise = gradient_noise_scale(model, nn.functional.mse_loss, zip(x, y))
    >>> noise.low < 4 + 1 + 4 * 9 / 4 < noise.high  # (d + 1) + d sigma² / |w|²
    True
    """
    if getattr(loss, "reduction", "mean") == "sum":
        raise ValueError("gradient_noise_scale needs a mean over the batch; the loss has reduction='sum'. Give 'mean'.")
    params: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise ValueError(f"gradient_noise_scale got a {type(model).__name__} without parameters that learn.")
    groups: list[_Sums] = []
    start: torch.Tensor | None = None
    with unchanged(model, *(thing for thing in (loss, batches) if isinstance(thing, (nn.Module, DataLoader)))):
        for number, batch in enumerate(batches):
            gradient = _gradient(model, loss, batch, call, params)
            if not bool(torch.isfinite(gradient).all()):
                raise ValueError(f"gradient_noise_scale: the gradient of batch {number} is not finite.")
            if not (size := _size(batch)):
                raise ValueError(
                    f"gradient_noise_scale: batch {number} has no tensor whose length says how many samples there are."
                )
            # Differences from the first gradient, so that small noise does not drown in the rounding of large sums.
            start = gradient if start is None else start
            groups.append(_Sums.of(gradient - start, size))
            if len(groups) == GROUPS:
                groups = [a + b for a, b in zip(groups[::2], groups[1::2], strict=True)]
    if start is None or (count := sum(g.batches for g in groups)) < 3:
        raise ValueError(f"gradient_noise_scale needs at least 3 batches; got {0 if start is None else count}.")
    return _estimate(start, groups)


@dataclass(frozen=True)
class _Sums:
    """Sums over batches: of size times difference, of size times squared difference, of sizes; and how many."""

    vector: torch.Tensor
    square: float
    samples: float
    batches: int

    @classmethod
    def of(cls, difference: torch.Tensor, samples: int) -> _Sums:
        return cls(difference * samples, samples * _square(difference), samples, 1)

    def __add__(self, other: _Sums) -> _Sums:
        return self._joined(other, 1)

    def __sub__(self, other: _Sums) -> _Sums:
        return self._joined(other, -1)

    def _joined(self, other: _Sums, sign: int) -> _Sums:
        return _Sums(
            self.vector + sign * other.vector,
            self.square + sign * other.square,
            self.samples + sign * other.samples,
            self.batches + sign * other.batches,
        )

    def parts(self, start: torch.Tensor) -> tuple[float, float]:
        """Unbiased signal and noise."""
        mean = self.vector / self.samples
        noise = max(self.square - self.samples * _square(mean), 0.0) / (self.batches - 1)
        return _square(start + mean) - noise / self.samples, noise


def _estimate(start: torch.Tensor, groups: list[_Sums]) -> GradientNoise:
    """The ratio, and a jackknife that leaves out one group of batches at a time (Busing et al. 1999, for unequal groups).

    It is made for signal / noise, which is well-behaved where the signal may be 0; the noise scale is its reciprocal.
    """
    from scipy import stats

    whole = groups[0]
    for group in groups[1:]:
        whole = whole + group
    signal, noise = whole.parts(start)
    if noise == 0:
        scale = 0.0 if signal else math.nan
        return GradientNoise(scale, 0.0, scale, scale, signal, noise, whole.samples / whole.batches, whole.batches)
    ratio = signal / noise
    pseudo, spread = [], []
    for group in groups:
        left_signal, left_noise = (whole - group).parts(start)
        times = whole.samples / group.samples
        left = left_signal / left_noise if left_noise else math.inf
        pseudo.append(times * ratio - (times - 1) * left)
        spread.append(times - 1)
    middle = sum(p / (s + 1) for p, s in zip(pseudo, spread, strict=True))
    error = math.sqrt(sum((p - middle) ** 2 / s for p, s in zip(pseudo, spread, strict=True)) / len(groups))
    reach = float(stats.t.isf((1 - LEVEL) / 2, len(groups) - 1)) * error
    return GradientNoise(
        noise_scale=1 / ratio if ratio > 0 else math.inf,
        standard_error=error / ratio**2 if ratio > 0 else math.inf,
        low=1 / (ratio + reach) if ratio + reach > 0 else math.inf,
        high=1 / (ratio - reach) if ratio - reach > 0 else math.inf,
        signal=signal,
        noise=noise,
        batch_size=whole.samples / whole.batches,
        batches=whole.batches,
    )


def _gradient(
    model: nn.Module,
    loss: Callable[[Any, Any], torch.Tensor] | None,
    batch: Any,
    call: Callable[[nn.Module, Any], torch.Tensor] | None,
    params: list[torch.Tensor],
) -> torch.Tensor:
    """The gradient of one batch as one vector, of at least float32."""
    with torch.enable_grad():
        if call is not None:
            value = call(model, batch)
        elif loss is None:
            raise ValueError("gradient_noise_scale: loss=None needs call=, which computes the mean loss of a batch.")
        else:
            inputs, target = batch
            device = params[0].device
            value = loss(model(_moved(inputs, device)), _moved(target, device))
        grads = torch.autograd.grad(value, params, allow_unused=True)
    wide = torch.float64 if any(p.dtype is torch.float64 for p in params) else torch.float32
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).reshape(-1).to(params[0].device, wide)
            for p, g in zip(params, grads, strict=True)
        ]
    )


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _size(batch: Any) -> int:
    """How many samples there are: the length of the first tensor in the batch."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((size for part in parts if (size := _size(part))), 0)


def _square(vector: torch.Tensor) -> float:
    """The squared norm, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64)) ** 2
