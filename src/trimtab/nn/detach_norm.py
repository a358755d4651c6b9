"""Layer normalization that takes its statistics for constants in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from trimtab.nn.checks import check_eps, check_shape, check_trailing

GROUP = "normalization"
DETACH = ("both", "mean", "variance")


def detach_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], eps: float = 1e-5, detach: str = "both"
) -> torch.Tensor:
    r"""Normalization with detached statistics as a function. See :class:`DetachNorm`.

    >>> x = torch.randn(2, 5, requires_grad=True)
    >>> detach_norm(x, (5,)).sum().backward()  # a layer norm's gradient would be 0 here
    >>> torch.allclose(x.grad, (x.var(1, correction=0, keepdim=True) + 1e-5).rsqrt().expand(2, 5))
    True
    """
    if detach not in DETACH:
        raise ValueError(f"detach_norm(detach={detach!r}): detach must be one of {', '.join(DETACH)}.")
    check_trailing("detach_norm", input, tuple(normalized_shape))
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    variance, mean = torch.var_mean(x, tuple(range(-len(normalized_shape), 0)), correction=0, keepdim=True)
    mean = mean if detach == "variance" else mean.detach()
    variance = variance if detach == "mean" else variance.detach()
    square = variance + eps
    return ((x - mean) / torch.where(square > 0, square, 1).sqrt()).to(input.dtype)


class DetachNorm(nn.Module):
    r"""Layer normalization in the forward pass alone: the backward pass takes mean, variance or both for constants.

    .. math:: y = \frac{x - \hat\mu}{\sqrt{\hat\sigma^2 + \epsilon}}

    with x and y of shape (..., *normalized_shape), and mean and biased variance of shape (..., 1) over those last
    dimensions. Output is LayerNormSimple's; a hat marks what has no gradient. With g the gradient of y and H the number
    of entries,

    .. math::
        \frac{\partial L}{\partial x} = \frac{1}{\sqrt{\sigma^2 + \epsilon}} \Bigl(g
            - \underbrace{\tfrac1H \textstyle\sum g}_{\text{of the mean}}
            - \underbrace{y \tfrac1H \textstyle\sum g y}_{\text{of the variance}}\Bigr)

    and detaching leaves out the term of its name. An instrument rather than a layer to ship: compare it with
    LayerNormSimple to see what the gradients of the statistics do for a model. Nothing is learned.

    Args:
        normalized_shape: the last dimensions of the input, an int for one.
        eps: added to the variance, inside the root; 0 is allowed, and a constant row then gives zeros.
        detach: ``"both"``, ``"mean"`` or ``"variance"``: what the backward pass takes for a constant.

    Raises:
        ValueError: for another ``detach``, and for an input whose last dimensions are not normalized_shape.

    When it helps: to find out why a norm helps. The paper found models with detached statistics to train worse, the
    variance's gradient being the more important one, and concludes that LayerNorm helps by re-centering and re-scaling
    gradients. When it hurts: training, for that reason. Its gradient is not the derivative of its output, so
    ``torch.autograd.gradcheck`` and forward-mode derivatives disagree with it.

    Source: Xu, Sun, Zhang, Zhao, Lin, "Understanding and Improving Layer Normalization", 2019 (DetachNorm), cited by
    seed 004.

    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    >>> y = DetachNorm(4)(x)
    >>> y
    tensor([[-1.3416, -0.4472,  0.4472,  1.3416]], grad_fn=...)
    >>> y.sum().backward()
    >>> x.grad
    tensor([[0.8944, 0.8944, 0.8944, 0.8944]])
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, detach: str = "both") -> None:
        super().__init__()
        self.normalized_shape = check_shape("DetachNorm", normalized_shape)
        check_eps("DetachNorm", eps)
        if detach not in DETACH:
            raise ValueError(f"DetachNorm(detach={detach!r}): detach must be one of {', '.join(DETACH)}.")
        self.eps, self.detach = eps, detach

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        check_trailing("DetachNorm", input, self.normalized_shape)
        return detach_norm(input, self.normalized_shape, self.eps, self.detach)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, detach={self.detach}"
