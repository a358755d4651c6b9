"""The norms that look at the batch and are not BatchNorm: more of the list in ``norms.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.nn.norms import Norm, by_channel
from trimtab.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from trimtab.nn.power_norm import PowerNorm
from trimtab.nn.sync_batch_norm import SyncBatchNorm


def by_ghost(module: Any, x: torch.Tensor) -> torch.Tensor:
    count = -(-len(x) // module.ghost_batch_size)
    return torch.cat([by_channel(module, part) for part in x.tensor_split(count)])


def by_channel_corrected(module: Any, x: torch.Tensor) -> torch.Tensor:
    axes, shape = [d for d in range(x.dim()) if d != 1], [1, -1] + [1] * (x.dim() - 2)
    mean, sigma = x.mean(axes), (x.var(axes, correction=0) + module.eps).sqrt()
    running = (module.running_var + module.eps).sqrt()
    r = (sigma / running).clamp(1 / module.r_max, module.r_max).detach()
    d = ((mean - module.running_mean) / running).clamp(-module.d_max, module.d_max).detach()
    z = (x - mean.view(shape)) / sigma.view(shape) * r.view(shape) + d.view(shape)
    return z * module.weight.view(shape) + module.bias.view(shape)


def correcting(**options: Any) -> BatchRenorm2d:
    """A batch renorm whose statistics stay where they are, at such values that some channels are clipped and some are not."""
    module = BatchRenorm2d(5, momentum=0.0, r_max=1.5, d_max=1.0, r_steps=(0, 0), d_steps=(0, 0), **options)
    module.num_batches_tracked.fill_(1)
    module.running_mean.copy_(torch.tensor([3.0, 2.0, 0.0, -1.0, 4.0]))
    module.running_var.copy_(torch.tensor([4.0, 3.0, 0.5, 40.0, 6.0]))
    return module


def by_quadratic_mean(module: Any, x: torch.Tensor) -> torch.Tensor:
    square = x.square().mean(list(range(x.dim() - 1)))
    return x / (square + module.eps).sqrt() * module.weight + module.bias


REWRITTEN = (
    "a hook on the backward pass moves its running gradient, which is a graph break; test_power_norm.py compiles it"
)

NORMS_BATCH = (
    Norm("SyncBatchNorm", lambda: SyncBatchNorm(5), ((7, 5), (4, 5, 9), (3, 5, 4, 7), (2, 5, 3, 2, 4)), by_channel),
    # not 3: the gradient of two values that are normalized together is all cancellation
    Norm("GhostBatchNorm1d", lambda: GhostBatchNorm1d(5, 6), ((11, 5), (8, 5, 9)), by_ghost),
    Norm("GhostBatchNorm2d", lambda: GhostBatchNorm2d(6, 2), ((5, 6, 7, 5),), by_ghost),
    Norm("GhostBatchNorm3d", lambda: GhostBatchNorm3d(3, 1), ((2, 3, 4, 3, 5),), by_ghost),
    Norm("GhostBatchNorm2d(one ghost)", lambda: GhostBatchNorm2d(6), ((5, 6, 7, 5),), by_ghost, lambda: nn.BatchNorm2d(6)),
    Norm("BatchRenorm1d", lambda: BatchRenorm1d(5), ((7, 5), (4, 5, 9)), by_channel, lambda: nn.BatchNorm1d(5, momentum=0.01)),
    Norm("BatchRenorm3d", lambda: BatchRenorm3d(3), ((2, 3, 4, 3, 5),), by_channel, lambda: nn.BatchNorm3d(3, momentum=0.01)),
    Norm(
        "BatchRenorm2d(correcting)", correcting, ((3, 5, 7, 5),), by_channel_corrected,
        skip={"gradcheck": "r and d are constants for the gradient (Ioffe 2017), but move with x for a difference"},
    ),
    Norm("PowerNorm", lambda: PowerNorm(9), ((7, 9), (3, 5, 9)), by_quadratic_mean, residual=False, skip={"compile": REWRITTEN}),
)  # fmt: skip
