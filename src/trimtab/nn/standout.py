"""Standout: dropout whose probability each unit computes from the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_activation, check_number
from trimtab.nn.draws import OwnGenerator, check_generator, uniform

GROUP = "regularization"


def check_standout(part: str, alpha: float, beta: float) -> None:
    """Refuse numbers that are none."""
    for name, given in (("alpha", alpha), ("beta", beta)):
        check_number(part, name, given, "(-inf, inf)")


class StandoutMask(OwnGenerator, nn.Module):
    """Multiplies x by a mask whose entries are 1 with probability ``sigmoid(alpha z + beta)``; else by that probability."""

    def __init__(self, alpha: float = 1.0, beta: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.alpha, self.beta, self.generator = alpha, beta, generator

    def forward(self, x: torch.Tensor, z: torch.Tensor, sampling: bool, learns: bool = False) -> torch.Tensor:
        keep = torch.sigmoid(self.alpha * z + self.beta)
        if not sampling:
            return x * keep
        mask = (uniform(keep.shape, torch.float32, self.draw_key(), keep.device) < keep).to(x.dtype)
        # straight through: the value is the mask's, the gradient the probability's
        return x * (mask + keep - keep.detach() if learns else mask)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}"


class Standout(nn.Module):
    r"""A linear layer and its activation, with units dropped by a probability that each computes from the input.

    .. math::
        \text{train:} \quad y_i &= m_i f(z_i), \qquad m_i \sim \mathrm{Bernoulli}(g_i), \qquad z = W x + b \\
        \text{evaluation:} \quad y_i &= g_i f(z_i), \qquad g = \sigma(\alpha W_s x + \beta)

    with x of shape (..., in_features), W and W_s of shape (out_features, in_features), and y, m and g of shape
    (..., out_features). g is the probability of *keeping* a unit, and evaluation takes the expectation over masks. By default
    the gate shares the layer's weights and bias, :math:`\alpha (W x + b) + \beta`, and the mask is a constant for the
    gradient, as in dropout; with ``shared=False`` W_s is a matrix with bias of its own, which learns through the probability (a
    straight-through gradient). For ``alpha=0`` it is dropout with p = 1 - sigmoid(beta), scaled in evaluation.

    003 writes the mask inside of f, where it makes a difference if f(0) is not 0, and 1 - g in evaluation, which would
    hold for a g that drops. Here, as in the paper, the mask multiplies the activation.

    Args:
        linear: the layer; any module with an output of the shape of its activation will do while ``shared``.
        activation: f: "none", "relu", "gelu", "gelu_tanh", "silu", or a function.
        alpha: how sharply the gate follows the summed input.
        beta: its offset: a larger one keeps more.
        shared: whether the gate computes with the layer's own weights.
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: for an alpha or beta that is not finite, an unknown activation, and a gate of its own for a module
            that is not an ``nn.Linear``.

    When it helps: fully connected networks that fit their training set and generalize worse; it drops less of what speaks up. When
    it hurts: networks that do not even fit it; in front of a batch normalization. Good first settings: alpha 1, beta 0
    (the paper finds results to depend little on them).

    Source: Ba & Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013; seed 003.

    >>> layer = Standout(torch.nn.Linear(4, 3), "relu", generator=torch.Generator().manual_seed(0))
    >>> layer(torch.ones(2, 4)).shape, list(layer.state_dict())
    (torch.Size([2, 3]), ['linear.weight', 'linear.bias'])
    """

    def __init__(
        self,
        linear: nn.Module,
        activation: str | Callable[[torch.Tensor], torch.Tensor] = "relu",
        alpha: float = 1.0,
        beta: float = 0.0,
        shared: bool = True,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_standout("Standout", alpha, beta)
        check_activation("Standout", activation, or_function=True)
        check_generator("Standout", generator)
        if not isinstance(linear, nn.Module):
            raise ValueError(f"Standout({linear!r}): linear must be a layer, such as nn.Linear(256, 128).")
        self.linear, self.activation = linear, activation
        self.mask = StandoutMask(alpha, beta, generator)
        self.gate: nn.Linear | None = None
        if not shared:
            if not isinstance(linear, nn.Linear):
                raise ValueError(
                    f"Standout(shared=False) makes a second nn.Linear of the layer's size and got a {type(linear).__name__}. "
                    "Give an nn.Linear, or leave shared=True."
                )
            w = linear.weight
            self.gate = nn.Linear(linear.in_features, linear.out_features, device=w.device, dtype=w.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        f = ops.ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        z = self.linear(input)
        gate = z if self.gate is None else self.gate(input)
        return self.mask(f(z), gate, self.mask.training, learns=self.gate is not None)

    def extra_repr(self) -> str:
        return f"activation={self.activation if isinstance(self.activation, str) else type(self.activation).__name__}"
