"""Batch normalization with the statistics of all processes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable

from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, Momentum, _BatchNorm, batch_norm
from trimtab.nn.checks import check_after, check_has_channels, check_mask, check_residual
from trimtab.nn.ops import draw_key
from trimtab.nn.ops.common import after

GROUP = "normalization"


def _world_size(process_group: Any) -> int:
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(process_group)
    if size < 1:
        raise ValueError(
            "SyncBatchNorm: this process is not in process_group. Every process must give the group that it belongs to."
        )
    return size


class _Normalize(torch.autograd.Function):
    """(x - mean) / deviation over the batches of all processes: one exchange of 2C + 1 numbers forward, one of 2C backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, inside: torch.Tensor | None, eps: float, process_group: Any
    ) -> tuple[torch.Tensor, ...]:
        axes, shape = [d for d in range(x.dim()) if d != 1], [1, -1] + [1] * (x.dim() - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))

        def only(t: torch.Tensor) -> torch.Tensor:
            return t if inside is None else torch.where(inside, t, 0)

        own_count = wide.new_ones(()).expand(x.shape) if inside is None else inside.expand(x.shape)
        count = own_count[:, 0].sum(dtype=torch.float64)
        mean = only(wide).sum(axes) / count.clamp(min=1)  # an empty batch: 0, with weight 0
        squares = only(wide - mean.to(wide).view(shape)).square().sum(axes)

        # Sums of x and x^2 would cancel where the mean is large against the deviation. (mean, squares about it, count) do
        # not (Chan et al., 1979). In float64, where counts above 2^24 are exact too.
        own = torch.cat([mean.double(), squares.double(), count.view(1)])
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(process_group))]
        dist.all_gather(everyone, own, process_group)
        means, squares, counts = torch.stack(everyone).split([len(mean), len(mean), 1], 1)
        total = counts.sum()
        if total <= 1:
            raise ValueError(
                f"SyncBatchNorm got {int(total)} value(s) per channel in all processes together, whose variance is 0. While "
                "training it needs more than one: use larger batches."
            )
        mean = (counts * means).sum(0) / total
        variance = (squares + counts * (means - mean).square()).sum(0) / total
        rstd = (variance + eps).rsqrt()
        z = only((wide - mean.to(wide).view(shape)) * rstd.to(wide).view(shape))
        ctx.save_for_backward(z, rstd, total, inside)
        ctx.process_group, ctx.dtype = process_group, x.dtype
        ctx.mark_non_differentiable(mean, variance, total)
        return z, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        # rstd (g - mean(g) - z mean(g z)), see batch_norm_backward_collected, with means over all processes. A process with
        # an empty batch must come here too, or the others wait for ever.
        z, rstd, total, inside = ctx.saved_tensors
        axes, shape = [d for d in range(z.dim()) if d != 1], [1, -1] + [1] * (z.dim() - 2)
        sums = torch.cat([g.sum(axes, dtype=torch.float64), (g * z).sum(axes, dtype=torch.float64)])
        dist.all_reduce(sums, group=ctx.process_group)
        by_mean, by_deviation = (sums / total).to(z).chunk(2)
        dx = rstd.to(z).view(shape) * (g - by_mean.view(shape) - z * by_deviation.view(shape))
        return (dx if inside is None else torch.where(inside, dx, 0)).to(ctx.dtype), None, None, None


def sync_batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float | tuple[float, float] = 0.1,
    eps: float = 1e-5,
    *,
    process_group: Any = None,
    unbiased: bool = True,
    mask: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
) -> torch.Tensor:
    r""":func:`batch_norm` with the statistics of all processes of ``process_group`` while training.

    Without ``torch.distributed``, and in a group of one, it *is* ``batch_norm``.

    >>> x = torch.randn(8, 3, 4, 4)
    >>> torch.equal(sync_batch_norm(x, None, None, training=True), batch_norm(x, None, None, training=True))
    True
    """
    check_has_channels("sync_batch_norm", input)
    check_after("sync_batch_norm", activation, dropout)
    if not training or _world_size(process_group) == 1:
        return batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps,
            unbiased=unbiased, mask=mask, residual=residual, activation=activation, dropout=dropout,
        )  # fmt: skip
    inside = None if mask is None else mask.unsqueeze(1)
    z, mean, variance, count = _Normalize.apply(input, inside, eps, process_group)
    shape = [1, -1] + [1] * (input.dim() - 2)
    z = z if weight is None else z * weight.view(shape)
    z = z if bias is None else z + bias.view(shape)
    y = after(z, residual, activation, dropout, draw_key() if dropout > 0 else None, input)
    if running_mean is not None and running_var is not None:
        share, share_of_variance = momentum if isinstance(momentum, tuple) else (momentum, momentum)
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), share)
            variance = variance * (count / (count - 1)) if unbiased else variance
            running_var.lerp_(variance.to(running_var), share_of_variance)
    return (y if inside is None else torch.where(inside, y, 0)).to(input.dtype)


class SyncBatchNorm(_BatchNorm):
    r"""Batch normalization over the batches of all processes, also on the CPU and also when their sizes differ.

    .. math::
        n = \sum_k n_k, \quad \mu_c = \sum_k \frac{n_k}{n} \mu_{kc}, \quad
        \sigma_c^2 = \frac1n \sum_k \bigl(M_{kc} + n_k (\mu_{kc} - \mu_c)^2\bigr), \quad
        y = \mathrm{dropout}(f(\gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c + r))

    for an input (N, C, ...), with :math:`n_k` values per channel in process k, their mean :math:`\mu_{kc}` and their sum of
    squares about it :math:`M_{kc}`. Output, gradients and running statistics are those of :class:`BatchNorm2d` on all
    batches in one; gradients of weight and bias are each process's share, which DistributedDataParallel averages.

    Same arguments and ``state_dict`` as ``torch.nn.SyncBatchNorm``, but not an instance of it: DistributedDataParallel refuses
    to wrap those on the CPU (torch 2.13), whatever they do. Remove this line and subclass it once that check is gone.

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats, device, dtype: as in :class:`BatchNorm2d`.
        process_group: whose statistics are merged; None for all processes. Without ``torch.distributed``, or in a group of
            one, this is plain batch normalization.
        options: the keyword arguments of :class:`BatchNorm2d`: bias, statistics, unbiased, frozen, units, activation, dropout.

    Forward takes ``(input, residual=None, mask=None)`` as there. While training every process of the group must call it,
    and its backward, equally often. One that has no samples left goes along with an empty batch (0, C, ...).

    Raises:
        ValueError: for an input of wrong shape, for one value per channel in all processes together, and in a process that is
            not in the group.
        RuntimeError: for second derivatives across processes.

    When it helps: detection, segmentation and other training with few samples per process. When it hurts: two exchanges per
    layer and step slow down fast networks; with 32 or more samples per process plain BatchNorm does as well, and its
    noise regularizes (see :class:`GhostBatchNorm2d` for more of it).

    Source: Zhang et al., "Context Encoding for Semantic Segmentation", 2018, and Peng et al., "MegDet", 2018; merging as in
    Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979; seed 001.

    >>> model = SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    >>> type(model[1]).__name__, model(torch.randn(2, 3, 8, 8)).shape
    ('SyncBatchNorm', torch.Size([2, 8, 6, 6]))
    """

    _dims = (2, 3, 4, 5)
    _converted = (
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d,
    )  # fmt: skip

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Momentum = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.process_group = process_group

    def forward(
        self, input: torch.Tensor, residual: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not self.training or self.frozen or _world_size(self.process_group) == 1:
            return super().forward(input, residual, mask)
        self._check_input_dim(input)
        check_residual("SyncBatchNorm", input, residual)
        check_mask("SyncBatchNorm", input, mask)
        momentum: Any = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        alone = self.units is None  # then what follows the norm goes along with it
        y = sync_batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, True, momentum or 0.0, self.eps,
            process_group=self.process_group, unbiased=self.unbiased, mask=mask, residual=residual if alone else None,
            activation=self.activation if alone else "none", dropout=self.dropout if alone else 0.0,
        )  # fmt: skip
        return y if alone else self._only_units(input, y, residual)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """The module with every BatchNorm in it, torch's or ours, replaced by a SyncBatchNorm.

        Parameters and buffers stay the same objects, so an optimizer made before keeps working, and so do our options
        (activation, frozen, ...). Other subclasses of BatchNorm may mean something else (timm's have an activation, ghost
        batches are small on purpose): they are left alone, with a warning. A module that is itself a BatchNorm is not changed but
        replaced: use what is returned.
        """
        if type(module) in cls._converted:
            return cls._from(module, process_group)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, cls):
            warnings.warn(
                f"convert_sync_batchnorm left a {type(module).__name__} alone: it knows BatchNorm1d, 2d, 3d and "
                "SyncBatchNorm, and a subclass may mean something else. Replace it by a SyncBatchNorm yourself.",
                stacklevel=2,
            )
        for name, child in module._modules.items():  # not named_children, which names a module used twice only once
            if child is not None:
                module._modules[name] = cls.convert_sync_batchnorm(child, process_group)
        return module

    @classmethod
    def _from(cls, module: Any, process_group: Any) -> SyncBatchNorm:
        names = ("unbiased", "frozen", "units", "activation", "dropout")
        options = {name: getattr(module, name) for name in names if hasattr(module, name)}
        sync = cls(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats, process_group,
            "meta", bias=module.bias is not None, **options,
        )  # fmt: skip
        sync._parameters.update(module._parameters)
        sync._buffers.update(module._buffers)
        return sync.train(module.training)
