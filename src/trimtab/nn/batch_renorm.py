"""Batch renormalization."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, Momentum, _BatchNorm, batch_norm
from trimtab.nn.checks import check_number, check_residual

GROUP = "normalization"


def batch_renorm(
    input: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float | tuple[float, float] = 0.01,
    eps: float = 1e-5,
    *,
    r_max: float | torch.Tensor = 3.0,
    d_max: float | torch.Tensor = 5.0,
    unbiased: bool = True,
    residual: torch.Tensor | None = None,
    activation: str = "none",
    dropout: float = 0.0,
) -> torch.Tensor:
    r""":func:`batch_norm` whose training output is corrected toward its evaluation output; see :class:`BatchRenorm2d`.

    Unclipped it normalizes by the running statistics, in training too:

    >>> x, mean, var = torch.randn(8, 3), torch.full((3,), 0.5), torch.full((3,), 2.0)
    >>> y = batch_renorm(x, mean.clone(), var.clone(), training=True, r_max=1e6, d_max=1e6)
    >>> torch.allclose(y, batch_norm(x, mean, var), atol=1e-5)
    True
    """
    if training:
        with torch.no_grad():  # r and d are constants for the gradient
            axes = [d for d in range(input.dim()) if d != 1]
            wide = input.detach().to(torch.promote_types(input.dtype, torch.float32))
            variance, mean = torch.var_mean(wide, axes, correction=0)
            running = torch.sqrt(running_var.to(variance) + eps)
            r = (torch.sqrt(variance + eps) / running).clamp(1 / r_max, r_max)  # type: ignore[arg-type]
            d = ((mean - running_mean.to(mean)) / running).clamp(-d_max, d_max)  # type: ignore[arg-type]
        # gamma (z r + d) + beta is a batch norm with another scale and shift, so that one pass does it all
        shift = d if weight is None else weight * d
        weight = r if weight is None else weight * r
        bias = shift if bias is None else bias + shift
    return batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps,
        unbiased=unbiased, residual=residual, activation=activation, dropout=dropout,
    )  # fmt: skip


class _BatchRenorm(_BatchNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Momentum = 0.01,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_steps: tuple[int, int] = (5_000, 40_000),
        d_steps: tuple[int, int] = (5_000, 25_000),
        bias: bool = True,
        unbiased: bool = True,
        activation: str = "none",
        dropout: float = 0.0,
    ) -> None:
        name = type(self).__name__
        check_number(name, "r_max", r_max)
        check_number(name, "d_max", d_max)
        if not 1 <= r_max < math.inf or not 0 <= d_max < math.inf:
            raise ValueError(
                f"{name}(r_max={r_max}, d_max={d_max}): r_max must be finite and at least 1, d_max finite and at least 0. "
                "r_max=1, d_max=0 is BatchNorm; large numbers clip nothing."
            )
        for option, steps in (("r_steps", r_steps), ("d_steps", d_steps)):
            try:
                first, last = (operator.index(step) for step in steps)
                fits = 0 <= first <= last
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise ValueError(
                    f"{name}({option}={steps}): {option} must be two numbers of steps, the first not above the second, between "
                    "which the limit grows. (0, 0) grows it at once."
                )
        if not track_running_stats:
            raise ValueError(f"{name}(track_running_stats=False): renormalization is toward the running statistics.")
        super().__init__(
            num_features, eps, momentum, affine, True, device, dtype,
            bias=bias, unbiased=unbiased, activation=activation, dropout=dropout,
        )  # fmt: skip
        self.r_max, self.d_max, self.r_steps, self.d_steps = r_max, d_max, r_steps, d_steps

    def _grown(self, limit: float, least: float, steps: tuple[int, int]) -> torch.Tensor:
        # a tensor: reading the count would stop a GPU's queue at every layer
        first, last = steps
        count: Any = self.num_batches_tracked
        share = ((count - first).to(self.running_mean) / max(1, last - first)).clamp(0, 1)
        return least + (limit - least) * share

    def limits(self) -> tuple[float, float]:
        """r_max and d_max of the coming training step.

        >>> layer = BatchRenorm1d(3, r_steps=(0, 100), d_steps=(50, 60))
        >>> _ = layer.num_batches_tracked.fill_(50)
        >>> layer.limits()
        (2.0, 0.0)
        """
        return float(self._grown(self.r_max, 1, self.r_steps)), float(self._grown(self.d_max, 0, self.d_steps))

    def forward(self, input: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        if not self.training or self.frozen:
            return super().forward(input, residual)
        self._check_input_dim(input)
        check_residual(type(self).__name__, input, residual)
        r_max, d_max = self._grown(self.r_max, 1, self.r_steps), self._grown(self.d_max, 0, self.d_steps)
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        momentum: Any = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)  # type: ignore[arg-type]
        return batch_renorm(
            input, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps,  # type: ignore[arg-type]
            r_max=r_max, d_max=d_max, unbiased=self.unbiased,
            residual=residual, activation=self.activation, dropout=self.dropout,
        )  # fmt: skip

    def extra_repr(self) -> str:
        told = f"r_max={self.r_max}, d_max={self.d_max}, r_steps={self.r_steps}, d_steps={self.d_steps}"
        return f"{super().extra_repr()}, {told}"


class BatchRenorm1d(_BatchRenorm, BatchNorm1d):
    """Batch renormalization of (N, C) or (N, C, L). See :class:`BatchRenorm2d`.

    >>> BatchRenorm1d(5)(torch.randn(4, 5)).shape
    torch.Size([4, 5])
    """


class BatchRenorm2d(_BatchRenorm, BatchNorm2d):
    r"""Batch renormalization of (N, C, H, W): batch normalization that in training, too, nearly gives what evaluation gives.

    .. math::
        r_c = \mathrm{clip}_{[1/r_{max}, r_{max}]} \frac{\sigma_{Bc}}{\sigma_c}, \quad
        d_c = \mathrm{clip}_{[-d_{max}, d_{max}]} \frac{\mu_{Bc} - \mu_c}{\sigma_c}, \quad
        y = \mathrm{dropout}(f(\gamma_c \Bigl(\frac{x - \mu_{Bc}}{\sigma_{Bc}} r_c + d_c\Bigr) + \beta_c + s))

    with :math:`\mu_B, \sigma_B^2 - \epsilon` the mean and biased variance of the batch, :math:`\mu, \sigma^2 - \epsilon` the running
    ones before this batch, and s the residual where given. r and d are constants for the gradient. Unclipped, y is what
    evaluation would give. The limits start at 1 and 0, which is batch normalization, and grow linearly: Keras's
    ``renorm_clipping`` (rmax, rmin = 1/rmax, dmax), with the paper's schedule.

    Running variances are averaged as torch does, where the paper averages deviations: so evaluation and ``state_dict`` are
    those of :class:`BatchNorm2d`, of which this is an instance.

    Args:
        num_features: C.
        eps, affine, device, dtype, bias, unbiased, activation, dropout: as in :class:`BatchNorm2d`.
        momentum: as there, but 0.01, the paper's: what one trains toward should move slowly.
        track_running_stats: must be True; here for torch's order of arguments.
        r_max, d_max: the limits once grown; the paper's 3 and 5.
        r_steps, d_steps: first and last step of their growth, the paper's. ``num_batches_tracked`` counts.
            **A training of less than 5000 steps never leaves batch normalization with these**: give about a thirtieth and a
            quarter of its steps. ``limits()`` says where they stand.

    Forward takes ``(input, residual=None)``.

    Raises:
        ValueError: for limits or steps that make no sense, an input of wrong shape, and a batch of one value per channel.

    When it helps: batches of about 4 to 16, and batches whose samples are not independent (few classes in each). When it hurts:
    too early or with too large limits, before the running statistics have settled, it can diverge; a large batch gains nothing.

    Source: Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models", 2017; an
    answer to what seeds 001 and 004 say of small batches.

    >>> layer = BatchRenorm2d(3, r_steps=(0, 0), d_steps=(0, 0))
    >>> x = torch.randn(4, 3, 8, 8)
    >>> _ = layer(x)  # the first step is batch normalization
    >>> wanted = layer.eval()(x)
    >>> torch.allclose(layer.train()(x), wanted, atol=1e-5)
    True
    """


class BatchRenorm3d(_BatchRenorm, BatchNorm3d):
    """Batch renormalization of (N, C, D, H, W). See :class:`BatchRenorm2d`.

    >>> BatchRenorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """
