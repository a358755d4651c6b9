"""Layer-sequential unit-variance initialization."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from trimtab.copies import copied_module
from trimtab.untouched import Draws, beside_training

GROUP = "optimization"


class LsuvLayer(NamedTuple):
    """What :func:`lsuv_` did to one layer.

    name: of the layer. before: the standard deviation of its output with the weight it began with. std: the one reached. scale: by what the
    weight was multiplied. iterations: how often. why_not: why std is not what was asked for; empty if it is.
    """

    name: str
    before: float
    std: float
    scale: float
    iterations: int
    why_not: str


@torch.no_grad()
def lsuv_(
    model: nn.Module,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
    std: float = 1.0,
    tolerance: float = 0.1,
    iterations: int = 10,
    orthonormal: bool = True,
    generator: torch.Generator | None = None,
) -> list[LsuvLayer]:
    r"""Initializes a network so that on a batch every linear and convolution layer's output has unit variance.

    .. math:: W_l \leftarrow W_l \, \frac{s}{\sqrt{\operatorname{Var}(z_l)}} \quad\text{until}\quad \left| \frac{\operatorname{Var}(z_l)}{s^2} - 1 \right| < \text{tolerance}

    layer by layer in the order of execution, from orthonormal weights, with :math:`z_l` the layer's output (before norms and activations) and
    the variance over all of its entries: samples, units and positions. What activations, norms, dropout and additions do to the variance is
    measured and not computed, so that it works for any of them.

    One pass is enough, since a layer is measured and scaled when it is called, and hands on what it then gives. The pass is made in the
    model's own mode, on a copy that shares the weights alone: running statistics and other buffers, random numbers and whatever else the
    model changes when it is called stay as they were. A layer that is called several times is scaled at its first call.

    Args:
        model: changed in place.
        inputs: the batch, as the model takes it. It should be a usual one: large enough, and in the usual order.
        keywords: more arguments of the model, by name.
        std: s, the standard deviation wanted.
        tolerance: of the variance, relative to s².
        iterations: how often a weight is scaled at most. Once is enough, unless a bias or a parametrization has a share in the output.
        orthonormal: begin from orthonormal weights and biases of 0. If not, from those that are there, and only weights are scaled.
        generator: source of the orthonormal weights, on their device; torch's global generator if ``None``.

    Returns:
        What was done, a :class:`~trimtab.nn.lsuv.LsuvLayer` for each layer in the order of execution; layers that were not called come last. A
        layer for which no scale was found (an output that is constant, or does not follow the length of the weight) keeps the weight that it
        began with.

    Raises:
        ValueError: for std or tolerance that is not positive, fewer than one iteration, and a model without such layers.

    When it helps: deep networks without normalization, with activations or structures that no formula for the gain knows. When it hurts:
    pretrained weights, which it throws away; sigmoid networks, whose variance comes from the offsets of units and carries no signal.

    Source: Mishkin & Matas, "All you need is a good init", ICLR 2016.

    >>> model = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))
    >>> x = torch.randn(32, 8)
    >>> [layer.name for layer in lsuv_(model, x)]
    ['0', '2', '4']
    >>> abs(model(x).std() - 1) < 0.1
    tensor(True)
    """
    if not (std > 0 and tolerance > 0):
        raise ValueError(f"lsuv_ got std={std} and tolerance={tolerance}. Both must be positive.")
    if iterations < 1:
        raise ValueError(f"lsuv_ got iterations={iterations}. It must be at least 1.")
    attention = {id(p) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for p in m.modules()}
    found = [
        (name, layer, weight)
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and id(layer) not in attention
        if (weight := _own_weight(layer)) is not None
    ]
    if not found:
        raise ValueError(f"lsuv_ got a {type(model).__name__} without a linear or convolution layer.")
    if orthonormal:
        for _, layer, weight in found:
            orthogonal_(weight, 1.0, generator)
            if layer.bias is not None:
                layer.bias.zero_()
    return scale_in_order(model, found, lambda twin: twin(*inputs, **(keywords or {})), std, tolerance, iterations)


def orthogonal_(weight: torch.Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Fills a weight as ``torch.nn.init.orthogonal_`` does, in types too that have no QR decomposition."""
    wide = torch.empty(weight.shape, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
    nn.init.orthogonal_(wide, gain, generator)
    with torch.no_grad():
        weight.copy_(wide)


def _own_weight(layer: Any) -> nn.Parameter | None:
    """The parameter that the weight is, or is computed from in its shape."""
    weight = layer.weight
    if parametrize.is_parametrized(layer, "weight"):
        weight = getattr(layer.parametrizations.weight, "original", None)
    fits = isinstance(weight, nn.Parameter) and not isinstance(weight, nn.UninitializedParameter)
    return weight if fits and weight.shape == layer.weight.shape else None


def scale_in_order(
    model: nn.Module,
    found: Iterable[tuple[str, nn.Module, torch.Tensor]],
    call: Callable[[nn.Module], Any],
    std: float,
    tolerance: float,
    iterations: int,
) -> list[LsuvLayer]:
    """Scale the weights of ``(name, layer, weight)`` in the order in which ``call(copy of the model)`` runs the layers."""
    done: dict[str, LsuvLayer] = {}
    found = list(found)
    with _undisturbed(model) as (twin, twin_of):
        for name, layer, weight in found:
            scaler = _Scaler(name, weight, std, tolerance, iterations, done)
            twin_of[id(layer)].register_forward_hook(scaler, prepend=True, with_kwargs=True)
        call(twin)
    not_called = [LsuvLayer(name, math.nan, math.nan, 1.0, 0, "it was not called") for name, _, _ in found]
    return [*done.values(), *(one for one in not_called if one.name not in done)]


class _Scaler:
    """The hook of one layer: measures its output, scales its weight, and hands the new output on."""

    def __init__(
        self, name: str, weight: torch.Tensor, std: float, tolerance: float, iterations: int, done: dict[str, LsuvLayer]
    ) -> None:
        self.name, self.weight, self.done = name, weight, done
        self.std, self.tolerance, self.iterations = std, tolerance, iterations

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if self.name in self.done or not isinstance(output, torch.Tensor):
            return None
        began, start = _deviation(output), self.weight.clone()
        given, now, rounds, scale, why_not = output, began, 0, 1.0, ""
        while not self._fits(now) and 0 < now < math.inf and rounds < self.iterations:
            wanted = self.std / now
            self.weight.mul_(wanted)
            given, rounds, scale, last = layer.forward(*args, **kwargs), rounds + 1, scale * wanted, now
            now = _deviation(given)
            if now == 0 or abs(math.log(now / last)) < 0.01 * abs(math.log(wanted)):
                break  # more of the same leads nowhere
        if not self._fits(now):
            if not 0 < began < math.inf:
                why_not = "its output is constant" if began == 0 else "its output is not finite"
            elif 0 < now < math.inf and abs(math.log(now / self.std)) < 0.5 * abs(math.log(began / self.std)):
                why_not = f"{rounds} scalings led no nearer"
            else:
                why_not = "its output does not follow the length of its weight"
                self.weight.copy_(start)
                given, now, scale = output, began, 1.0
        self.done[self.name] = LsuvLayer(self.name, began, now, scale, rounds, why_not)
        return given

    def _fits(self, deviation: float) -> bool:
        return abs((deviation / self.std) ** 2 - 1) < self.tolerance


def _deviation(output: torch.Tensor) -> float:
    wide = output.detach().to(torch.promote_types(output.dtype, torch.float32))
    return wide.std(correction=0).item()


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[tuple[nn.Module, Mapping[int, Any]]]:
    """A copy that shares the model's weights, and its modules by the ``id`` of the model's; no random number is used up.

    Gains and shifts are the copy's own: there are hooks that set them when a norm is called first.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters() if parameter.ndim > 1}
    with Draws(), beside_training(model):
        yield copied_module(model, memo), memo
