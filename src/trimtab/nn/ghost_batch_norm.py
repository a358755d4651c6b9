"""Batch normalization of small parts of a large batch."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, Momentum, _BatchNorm, batch_norm
from trimtab.nn.checks import check_count, check_mask, check_residual

GROUP = "normalization"


def _check_size(part: str, ghost_batch_size: int) -> None:
    check_count(part, "ghost_batch_size", ghost_batch_size, 1, "is a number of samples")


def _parts(tensor: torch.Tensor | None, size: int, samples: int) -> list[Any]:
    # As few parts as fit, of equal size give or take one: 33 samples by 32 are 17 and 16. A rest of a single sample, as
    # torch.split leaves it, would have no variance.
    count = max(1, -(-samples // size))
    return [None] * count if tensor is None else list(tensor.tensor_split(count))


def ghost_batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float | tuple[float, float] = 0.1,
    eps: float = 1e-5,
    *,
    ghost_batch_size: int = 32,
    **options: Any,
) -> torch.Tensor:
    r""":func:`batch_norm` of each ghost batch while training; options are its keyword arguments.

    >>> x = torch.randn(6, 3)
    >>> first, second = (batch_norm(part, None, None, training=True) for part in x.split(3))
    >>> y = ghost_batch_norm(x, None, None, training=True, ghost_batch_size=4)  # 6 samples: two ghosts of 3
    >>> torch.allclose(y, torch.cat([first, second]))
    True
    """
    _check_size("ghost_batch_norm", ghost_batch_size)
    size, samples = ghost_batch_size if training else max(1, len(input)), len(input)
    along = {name: _parts(options.pop(name, None), size, samples) for name in ("residual", "mask")}
    return torch.cat(
        [
            batch_norm(
                x, running_mean, running_var, weight, bias, training, momentum, eps, residual=r, mask=m, **options
            )
            for x, r, m in zip(_parts(input, size, samples), along["residual"], along["mask"], strict=True)
        ]
    )


class _GhostBatchNorm(_BatchNorm):
    def __init__(
        self,
        num_features: int,
        ghost_batch_size: int = 32,
        eps: float = 1e-5,
        momentum: Momentum = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        _check_size(type(self).__name__, ghost_batch_size)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.ghost_batch_size = ghost_batch_size

    def forward(
        self, input: torch.Tensor, residual: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._check_input_dim(input)
        normalize = super().forward
        if not self.training or self.frozen or len(input) <= self.ghost_batch_size:
            return normalize(input, residual, mask)
        check_residual(type(self).__name__, input, residual)
        check_mask(type(self).__name__, input, mask)
        parts = (_parts(tensor, self.ghost_batch_size, len(input)) for tensor in (input, residual, mask))
        return torch.cat([normalize(*part) for part in zip(*parts, strict=True)])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"


class GhostBatchNorm1d(_GhostBatchNorm, BatchNorm1d):
    """Ghost batch normalization of (N, C) or (N, C, L). See :class:`GhostBatchNorm2d`.

    >>> GhostBatchNorm1d(5, ghost_batch_size=4)(torch.randn(16, 5)).shape
    torch.Size([16, 5])
    """


class GhostBatchNorm2d(_GhostBatchNorm, BatchNorm2d):
    r"""Ghost batch normalization of (N, C, H, W): parts of the batch are normalized each by its own statistics while training.

    .. math:: y = \gamma_c \frac{x - \mu_{gc}}{\sqrt{\sigma_{gc}^2 + \epsilon}} + \beta_c

    with mean and biased variance of channel c over ghost batch g. N samples make :math:`\lceil N/S \rceil` ghost batches of
    consecutive samples, S the ghost_batch_size, whose sizes differ by at most one: 33 by 32 are 17 and 16.

    Each ghost batch moves the running statistics in its turn, so k of them count like k batches (the paper's rule), also in
    ``num_batches_tracked``; Composer divides the momentum by k instead, which ``momentum=0.1 / k`` gives here. Evaluation and
    ``state_dict`` are those of :class:`BatchNorm2d`, of which this is an instance.

    Args:
        num_features: C.
        ghost_batch_size: S, the most samples that are normalized together.
        eps, momentum, affine, track_running_stats, device, dtype: as in :class:`BatchNorm2d`.
        options: its keyword arguments: bias, statistics, unbiased, frozen, units, activation, dropout.

    Forward takes ``(input, residual=None, mask=None)`` as there.

    Raises:
        ValueError: for a ghost_batch_size below 1, an input of wrong shape, and a ghost batch of one value per channel.

    When it helps: large batches whose test error is worse than that of small ones; the noise of small statistics
    regularizes. When it hurts: ghost batches of less than about 8, and batches sorted by class. It saves no memory. Good first
    settings: 32, and a smaller momentum for many ghosts.

    Source: Hoffer, Hubara, Soudry, "Train Longer, Generalize Better: Closing the Generalization Gap in Large Batch Training of
    Neural Networks", 2017; an answer to what seeds 001 and 004 say of batch sizes.

    >>> layer = GhostBatchNorm2d(3, ghost_batch_size=8)
    >>> x = torch.randn(32, 3, 4, 4) + torch.arange(4.0).repeat_interleave(8).view(32, 1, 1, 1)
    >>> layer(x).view(4, 8, 3, 4, 4).mean((1, 3, 4)).abs().max() < 1e-5  # the mean of each ghost batch is gone
    tensor(True)
    """


class GhostBatchNorm3d(_GhostBatchNorm, BatchNorm3d):
    """Ghost batch normalization of (N, C, D, H, W). See :class:`GhostBatchNorm2d`.

    >>> GhostBatchNorm3d(2, ghost_batch_size=2)(torch.randn(4, 2, 3, 3, 3)).shape
    torch.Size([4, 2, 3, 3, 3])
    """
