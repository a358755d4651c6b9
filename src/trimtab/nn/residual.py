"""Residual connections."""

from __future__ import annotations

import torch
from torch import fx, nn

from trimtab.nn.checks import check_p
from trimtab.nn.draws import check_generator
from trimtab.nn.drop_path import DropPath

GROUP = "regularization"


class Residual(nn.Module):
    r"""Adds what a block computes to what it is given, so that the block only has to learn the difference.

    .. math:: y = x + f(x)

    with ``x``, ``f(x)`` and ``y`` of one shape. A block that gives 0 is the identity, which a plain stack of layers finds hard to learn
    (004: :math:`a^l = a^{l-1} + f(a^{l-1})`).

    Args:
        block: f, any module that keeps the shape.
        zero_init: set weight and bias of the block's last layer (in the order of definition) to 0, so that y = x at the start. The block
            should end in that layer: a ReLU behind it has no gradient at 0 and would never wake up.
        drop_path: probability of leaving f(x) out while training, for each sample by itself (:class:`DropPath`); rates that rise with
            depth come from :func:`rates_by_depth`.
        generator: source of the masks; torch's global generator if ``None``.

    Raises:
        ValueError: if drop_path is outside [0, 1], if there is no layer with a weight to set to 0, or if f(x) has not the shape of x.

    When it helps: networks of many layers, whose gradient otherwise has to pass all of them. When it hurts: shallow ones hardly at
    all; without a norm or ``zero_init`` the signal grows with the number of blocks.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Goyal et al., "Accurate, Large Minibatch
    SGD", 2017, for zero_init; seed 004.

    >>> block = Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), zero_init=True)
    >>> block(torch.ones(1, 4))
    tensor([[1., 1., 1., 1.]], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        block: nn.Module,
        zero_init: bool = False,
        drop_path: float = 0.0,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(block, nn.Module):
            raise ValueError(f"Residual({block!r}): block must be a module, such as nn.Sequential(...).")
        check_p("Residual", "drop_path", drop_path)
        check_generator("Residual", generator)
        self.block = block
        self.drop_path = DropPath(drop_path, generator=generator) if drop_path else nn.Identity()
        if zero_init:
            _zero_last_layer(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.block(x)
        if (
            not isinstance(x, fx.Proxy) and branch.shape != x.shape
        ):  # torch.fx follows this code with stand-ins without a shape
            raise ValueError(
                f"Residual got an input of shape {tuple(x.shape)}, and its {type(self.block).__name__} gave {tuple(branch.shape)}. They "
                "are added, so the block must keep the shape; where it cannot, write x = shortcut(x) + block(x) with a shortcut "
                "such as a linear layer or a convolution of size 1."
            )
        return x + self.drop_path(branch)


def _zero_last_layer(block: nn.Module) -> None:
    last = [m for m in block.modules() if isinstance(getattr(m, "weight", None), torch.Tensor)][-1:]
    if not last:
        raise ValueError(
            f"Residual(zero_init=True): the {type(block).__name__} has no layer with a weight to set to 0."
        )
    with torch.no_grad():
        for parameter in last[0].parameters(recurse=False):
            parameter.zero_()
