"""Norms for inputs whose features stand elsewhere than the class of that name expects.

``...Last`` take features in the last dimension, (N, ..., C), as LayerNorm does; ``...First`` take them in the second, (N, C, ...),
as BatchNorm does; ``...Nd`` take any number of positions. Gain, bias and buffers are named as in the class they derive from.
"""

from __future__ import annotations

import torch

from trimtab.nn.batch_norm import BatchNorm1d, _BatchNorm
from trimtab.nn.checks import check_channels, check_residual
from trimtab.nn.group_norm import GroupNorm
from trimtab.nn.instance_norm import _InstanceNorm, instance_norm
from trimtab.nn.ops.common import laid_out_like
from trimtab.nn.rms_norm import RMSNorm


def _rows(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.reshape(-1, x.shape[-1])


class BatchNormNd(_BatchNorm):
    """Batch normalization of (N, C) or (N, C, ...) with any number of positions. See :class:`~trimtab.nn.BatchNorm2d`.

    >>> BatchNormNd(5)(torch.randn(4, 5, 3, 3)).shape
    torch.Size([4, 5, 3, 3])
    """

    _dims = (2, 3, 4, 5)


class BatchNormLast(BatchNorm1d):
    """Batch normalization of (N, ..., C): each feature over the batch and all positions. See :class:`~trimtab.nn.BatchNorm2d`.

    >>> BatchNormLast(5)(torch.randn(4, 3, 5)).shape
    torch.Size([4, 3, 5])
    """

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        check_residual(type(self).__name__, input, residual)
        return super().forward(_rows(input), _rows(residual)).reshape(input.shape)  # type: ignore[arg-type]


class InstanceNormNd(_InstanceNorm):
    """Instance normalization of (N, C, ...) with any number of positions. See :class:`~trimtab.nn.InstanceNorm2d`.

    >>> InstanceNormNd(5)(torch.randn(4, 5, 3, 3)).shape
    torch.Size([4, 5, 3, 3])
    """

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        check_channels(type(self).__name__, input, self.num_features, (3, 4, 5))
        check_residual(type(self).__name__, input, residual)
        return instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats, self.momentum or 0.0, self.eps,
            residual=residual, activation=self.activation, dropout=self.dropout, training=self.training,
        )  # fmt: skip

    def _check_input_dim(self, input: torch.Tensor) -> None:
        check_channels(type(self).__name__, input, self.num_features, (3, 4, 5))


class InstanceNormLast(InstanceNormNd):
    """Instance normalization of (N, ..., C): each feature of each sample over its positions. See :class:`~trimtab.nn.InstanceNorm2d`.

    >>> InstanceNormLast(5)(torch.randn(4, 3, 5)).mean(1).abs().max() < 1e-6
    tensor(True)
    """

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        moved = None if residual is None else residual.movedim(-1, 1)
        return laid_out_like(super().forward(input.movedim(-1, 1), moved).movedim(1, -1), input)


class GroupNormLast(GroupNorm):
    """Group normalization of (N, ..., C): each position by itself, over groups of its features. See :class:`~trimtab.nn.GroupNorm`.

    Other positions are not looked at, so a causal model stays causal.

    >>> GroupNormLast(2, 6)(torch.randn(4, 3, 6)).shape
    torch.Size([4, 3, 6])
    """

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        check_residual(type(self).__name__, input, residual)
        return super().forward(_rows(input), _rows(residual)).reshape(input.shape)  # type: ignore[arg-type]


class RMSNormFirst(RMSNorm):
    """RMS normalization of (N, C, ...): each position by itself, over its channels. See :class:`~trimtab.nn.RMSNorm`.

    >>> RMSNormFirst(6)(torch.randn(4, 6, 3, 3)).shape
    torch.Size([4, 6, 3, 3])
    """

    channels_first = True

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        check_residual(type(self).__name__, input, residual)
        moved = None if residual is None else residual.movedim(1, -1)
        return laid_out_like(super().forward(input.movedim(1, -1), moved).movedim(-1, 1), input)
