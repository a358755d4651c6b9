"""Hard-concrete gates: an L0 penalty that gradients can follow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_number, check_sizes
from trimtab.nn.draws import OwnGenerator, check_generator, uniform

GROUP = "regularization"
Stretch = tuple[float, float]


def hard_concrete(
    log_alpha: torch.Tensor,
    training: bool = True,
    temperature: float = 2 / 3,
    stretch: Stretch = (-0.1, 1.1),
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Gates between 0 and 1, drawn while training and fixed otherwise; see :class:`HardConcrete`.

    >>> hard_concrete(torch.tensor([-5.0, 0.0, 5.0]), training=False)
    tensor([0.0000, 0.5000, 1.0000])
    """
    check_hard_concrete("hard_concrete", temperature, stretch)
    return _gates(log_alpha, ops.draw_key(generator) if training else None, temperature, stretch)


def expected_l0(log_alpha: torch.Tensor, temperature: float = 2 / 3, stretch: Stretch = (-0.1, 1.1)) -> torch.Tensor:
    """The expected number of gates that are not zero; see :class:`HardConcrete`.

    >>> expected_l0(torch.tensor([-20.0, 20.0, 20.0]))
    tensor(2.)
    """
    low, high = stretch
    return torch.sigmoid(_wide(log_alpha) - temperature * math.log(-low / high)).sum()


def check_hard_concrete(part: str, temperature: float, stretch: Sequence[float], p: float = 0.5) -> None:
    """Refuse settings with which gates would never be exactly 0 or 1."""
    check_number(part, "p", p, "(0, 1)", "is about the share of gates closed at the start")
    check_number(part, "temperature", temperature)
    if not 0 < temperature <= 1:
        raise ValueError(f"{part}(temperature={temperature}): it must lie in (0, 1], or gates would gather in between.")
    try:
        low, high = stretch
        fits = -math.inf < low < 0 and 1 < high < math.inf
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{part}(stretch={stretch}): it must be (below 0, above 1): what is beyond is cut off.")


class HardConcrete(OwnGenerator, nn.Module):
    r"""Gates that are exactly 0 or 1 with positive probability, and whose expected number of non-zeros has a gradient.

    .. math::
        \begin{aligned}
        s_i &= \operatorname{sigmoid}\left((\log u_i - \log(1 - u_i) + \log \alpha_i) / \beta\right),
               \qquad u_i \sim U(0, 1) \\
        z_i &= \min(1, \max(0, \gamma + (\zeta - \gamma) s_i)) \\
        P(z_i \ne 0) &= \operatorname{sigmoid}\left(\log \alpha_i - \beta \log(-\gamma / \zeta)\right)
        \end{aligned}

    with log alpha learned, one number for each gate, beta the temperature and (gamma, zeta) the stretch. What is multiplied with
    z is switched off where z = 0. The sum of P(z_i != 0), :meth:`expected_l0`, times a factor belongs into the loss: it is the
    expected L0 "norm", the count that L1 only stands in for. In evaluation mode nothing is drawn:
    ``z = min(1, max(0, gamma + (zeta - gamma) sigmoid(log alpha)))``.

    Called without an input, it gives gates of shape ``shape``: ``F.linear(x, weight * gates())`` for single weights,
    ``x * gates()`` with one gate for each feature.

    Args:
        shape: of the gates.
        p: ``sigmoid(log_alpha) = 1 - p`` at the start, about the share of closed gates (the authors' ``droprate_init``).
        temperature: beta, in (0, 1]; smaller gates are more often 0 or 1, with gradients of larger variance.
        stretch: gamma < 0 and zeta > 1; wider ones are more often 0 or 1.
        generator: source of the gates; torch's global generator if ``None``.
        device, dtype: of the parameters.

    Raises:
        ValueError: for settings out of these ranges.

    When it helps: networks that are to become small, weights or whole features that are to be selected while training.
    When it hurts: short trainings, since gates open and close slowly; networks that under-fit. A weight decay of the optimizer
    pulls log alpha towards 0, half-open gates: leave it out.

    Source: Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018.

    >>> gates = HardConcrete(1000, p=0.5, generator=torch.Generator().manual_seed(0))
    >>> z = gates()
    >>> 0.1 < (z == 0).float().mean() < 0.25, 0.1 < (z == 1).float().mean() < 0.25
    (tensor(True), tensor(True))
    >>> gates.eval()()[:2]
    tensor([0.5000, 0.5000], grad_fn=<SliceBackward0>)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        p: float = 0.3,
        temperature: float = 2 / 3,
        stretch: Stretch = (-0.1, 1.1),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_hard_concrete("HardConcrete", temperature, stretch, p)
        check_generator("HardConcrete", generator)
        size = check_sizes("HardConcrete", shape)
        super().__init__()
        self.p, self.temperature, self.stretch, self.generator = p, temperature, stretch, generator
        self.log_alpha = nn.Parameter(torch.full(size, math.log((1 - p) / p), device=device, dtype=dtype))

    def forward(self) -> torch.Tensor:
        return self.gates(self.training)

    def gates(self, drawn: bool) -> torch.Tensor:
        """The gates, drawn or fixed."""
        return _gates(self.log_alpha, self.draw_key() if drawn else None, self.temperature, self.stretch)

    def expected_l0(self) -> torch.Tensor:
        """The expected number of gates that are not zero."""
        return expected_l0(self.log_alpha, self.temperature, self.stretch)

    def extra_repr(self) -> str:
        return f"{tuple(self.log_alpha.shape)}, temperature={self.temperature:.3g}, stretch={self.stretch}"


def _gates(log_alpha: torch.Tensor, key: torch.Tensor | None, temperature: float, stretch: Stretch) -> torch.Tensor:
    low, high = stretch
    logits = _wide(log_alpha)
    if key is not None:
        u = uniform(logits.shape, logits.dtype, key, logits.device)  # in 16 bits u = 0 would be common
        logits = (torch.logit(u) + logits) / temperature
    return (low + (high - low) * torch.sigmoid(logits)).clamp(0, 1).to(log_alpha.dtype)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
