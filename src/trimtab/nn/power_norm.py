"""Power normalization."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trimtab.nn.checks import check_count, check_eps, check_momentum, check_number, check_trailing
from trimtab.nn.ops import row_norm
from trimtab.nn.ops.common import batched

GROUP = "normalization"


def power_norm(
    input: torch.Tensor,
    running_square: torch.Tensor,
    running_gradient: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float | tuple[float, float] = 0.1,
    eps: float = 1e-5,
    *,
    warming_up: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Features divided by their running quadratic mean; see :class:`PowerNorm`.

    While training ``running_square`` is updated in place, and ``running_gradient`` during the backward pass.
    ``warming_up`` takes the quadratic mean of the batch, with its true gradient.

    >>> x = torch.randn(4, 7, 3)
    >>> y = power_norm(x, torch.ones(3), torch.zeros(3), training=True, warming_up=True)
    >>> torch.allclose(y.square().mean((0, 1)), torch.ones(3), atol=1e-3)
    True
    """
    share, share_of_gradient = momentum if isinstance(momentum, tuple) else (momentum, momentum)
    axes = list(range(input.dim() - 1))
    inside = None if mask is None else mask.unsqueeze(-1)
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    wide = wide if inside is None else torch.where(inside, wide, 0)  # whatever the padding holds, NaN too, stays out
    square = running_square
    if training:
        count = max(1, input.numel() // input.shape[-1]) if inside is None else inside.sum().clamp(min=1)
        of_batch = wide.square().sum(axes) / count
        if warming_up:
            square = of_batch
    normalized = wide * (square + eps).rsqrt()
    if training:
        with torch.no_grad():  # behind the line above: this step divides by the quadratic mean of the steps before
            running_square.lerp_(of_batch.to(running_square), share)
        if normalized.requires_grad:
            z = normalized.detach()

            def approximate(g: torch.Tensor | None) -> torch.Tensor | None:
                if g is None:  # nothing arrived
                    return None
                if torch.is_grad_enabled() and not warming_up:
                    raise RuntimeError(
                        "PowerNorm has no second derivatives: after its warm-up its gradient is an approximation, and not the "
                        "gradient of any function. Use LayerNorm or RMSNorm where create_graph=True is needed."
                    )
                with torch.no_grad():
                    projected = g - running_gradient.to(g) * z
                    if batched(g):  # many gradients at once look at the norm and do not train it
                        return None if warming_up else projected
                    running_gradient.add_(
                        ((projected * z).sum(axes) / count).to(running_gradient), alpha=share_of_gradient
                    )
                return None if warming_up else projected

            normalized.register_hook(approximate)
    y = normalized if weight is None else normalized * weight
    y = y if bias is None else y + bias
    return (y if inside is None else torch.where(inside, y, 0)).to(input.dtype)


class PowerNorm(nn.Module):
    r"""Power normalization of (N, C) or (N, L, C): each feature divided by a running quadratic mean, in training too.

    .. math::
        \hat x^{(t)} &= \frac{x^{(t)}}{\sqrt{(\psi^2)^{(t-1)} + \epsilon}}, \qquad y = \gamma \hat x + \beta, \\
        (\psi^2)^{(t)} &= (1 - m) (\psi^2)^{(t-1)} + m \, \mathrm{mean}(x^{(t)} x^{(t)})

    with :math:`\psi^2, \gamma, \beta` of shape (C,), means over the batch and all positions, and m the momentum (the paper's
    :math:`1 - \alpha`). No mean is subtracted, and evaluation computes the same as training.

    **Its gradient is not that of this formula.** The formula alone leaves out how x moves the quadratic mean, and
    diverges. The paper puts a running estimate :math:`\nu` (C,) in its place:

    .. math::
        \tilde g = \frac{\partial L}{\partial \hat x} - \nu^{(t-1)} \hat x, \qquad
        \frac{\partial L}{\partial x} = \frac{\tilde g}{\sqrt{(\psi^2)^{(t-1)} + \epsilon}}, \qquad
        \nu^{(t)} = \nu^{(t-1)} + m \, \mathrm{mean}(\tilde g \hat x)

    so ``gradcheck`` rightly fails, second derivatives are refused, and the buffer ``running_gradient`` changes in the backward
    pass. In the first ``warmup`` steps the quadratic mean of the batch itself is used, with its true gradient (the
    paper's PN-V), while both running estimates settle.

    Args:
        num_features: C, the last dimension of the input.
        eps: added to the mean square, inside the root.
        momentum: share of the new value in the running estimates; a pair gives :math:`\psi^2` and :math:`\nu` their own.
        warmup: steps with the statistics of the batch; the authors take as many as the learning rate warms up.
        affine, device, dtype, bias: as in ``torch.nn.BatchNorm1d``.
        layer_scale: number of groups of features, each of which is divided by its quadratic mean at each position first; 0 for
            none. The authors' code does so with one group per attention head.

    Forward takes ``(input, mask=None)``. The mask, of bools and of the input's shape without C, says which positions
    count: others (padding) enter no statistics and give 0. (The authors' mask marks the padding.)

    The authors' code divides the gradient by the quadratic mean of the batch; this follows the paper. Estimates are those of
    each process, as with BatchNorm.

    Raises:
        ValueError: for an input whose last dimension is not num_features, a mask of another shape, a negative warmup, and
            features that do not divide into layer_scale groups.
        RuntimeError: for second derivatives after the warm-up.

    When it helps: transformers for text where one wants batch statistics (the norm folds into the next linear layer at
    test time); BatchNorm fails there because the batch's mean and variance jump. When it hurts: short trainings, which end
    before the warm-up does; changing batch contents; where LayerNorm or RMSNorm do well, they need no state.

    Source: Shen, Yao, Gholami, Mahoney, Keutzer, "PowerNorm: Rethinking Batch Normalization in Transformers", 2020; cited
    by seed 004.

    >>> layer = PowerNorm(8, warmup=1)
    >>> x, inside = torch.randn(4, 6, 8), torch.arange(6) < torch.tensor([[6], [3], [4], [1]])
    >>> y = layer(x, mask=inside)
    >>> bool((y[~inside] == 0).all()), layer.warming_up
    (True, False)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | tuple[float, float] = 0.1,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        warmup: int = 4000,
        bias: bool = True,
        layer_scale: int = 0,
    ) -> None:
        super().__init__()
        check_count("PowerNorm", "num_features", num_features, 0, "is the last dimension of the input")
        check_eps("PowerNorm", eps)
        check_momentum("PowerNorm", momentum, none=False)
        check_count("PowerNorm", "warmup", warmup, 0, "is a number of steps")
        check_number("PowerNorm", "layer_scale", layer_scale)
        if layer_scale < 0 or (layer_scale and num_features % layer_scale):
            raise ValueError(
                f"PowerNorm({num_features}, layer_scale={layer_scale}): layer_scale is a number of groups of features, and "
                "num_features must be a multiple of it; 0 scales nothing."
            )
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        self.warmup, self.layer_scale = warmup, layer_scale

        def made(make: Any) -> torch.Tensor:
            return make(num_features, device=device, dtype=dtype)

        self.register_parameter("weight", nn.Parameter(made(torch.ones)) if affine else None)
        self.register_parameter("bias", nn.Parameter(made(torch.zeros)) if affine and bias else None)
        self.register_buffer("running_square", made(torch.ones))
        self.register_buffer("running_gradient", made(torch.zeros))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.running_square: torch.Tensor
        self.running_gradient: torch.Tensor
        self.num_batches_tracked: torch.Tensor

    @property
    def warming_up(self) -> bool:
        """Whether the next training step still takes the statistics of its batch."""
        return int(self.num_batches_tracked) < self.warmup

    def forward(self, input: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        check_trailing("PowerNorm", input, (self.num_features,))
        if mask is not None and (mask.shape != input.shape[:-1] or mask.dtype is not torch.bool):
            raise ValueError(
                f"PowerNorm got an input of shape {tuple(input.shape)} and a mask of shape {tuple(mask.shape)} and type "
                f"{str(mask.dtype).removeprefix('torch.')}. The mask says which positions count: it must have the shape "
                f"{tuple(input.shape[:-1])} and be of bools."
            )
        if self.layer_scale:
            groups, _ = row_norm(input.unflatten(-1, (self.layer_scale, -1)), eps=self.eps, centered=False)
            input = groups.flatten(-2)
        warming_up = self.training and self.warming_up
        if self.training:
            self.num_batches_tracked.add_(1)
        return power_norm(
            input, self.running_square, self.running_gradient, self.weight, self.bias, self.training, self.momentum, self.eps,
            warming_up=warming_up, mask=mask,
        )  # fmt: skip

    def extra_repr(self) -> str:
        told = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, warmup={self.warmup}"
        )
        return told + (f", layer_scale={self.layer_scale}" if self.layer_scale else "")
