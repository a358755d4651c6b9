"""Adaptive gradient clipping by the size of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.optim.adaptive_clipping import clip_grad_adaptive_
from trimtab.optim.clip_stats import ClipStats
from trimtab.reading.order import answers, layers
from trimtab.reading.weights import trained, weight_of
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.clips import clipping
from trimtab.techniques.engines.surgery import nothing_for


@dataclass(frozen=True)
class Agc(Technique):
    """Adaptive gradient clipping: a gradient is clipped where it is large beside the weights that it moves.

    ``g_i -> g_i * min(1, factor * max(||w_i||, eps) / ||g_i||)`` for the weights ``w_i`` of each output unit; biases and other vectors
    as a whole. The last linear or convolution layer of each model is left out, as in the paper: its weights are small at first
    and have to grow.

    It acts on the gradients with all penalties of the recipe, and before the recipe's weight decay.

    Helps: deep networks without normalization, large batches, large learning rates, gradients that explode in time. Hurts: a factor that
    is too small for small batches. It is no guard against single bad batches, which reach the last layer. Good first settings: 0.01, and more, up to 0.16, for batches below 1024.

    Args:
        factor: the largest gradient of a unit, in units of its weight, positive.
        eps: the least size of a weight, positive: those that are 0 could not move otherwise.
        last: clip the last layers too.

    Source: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021;
    :func:`trimtab.optim.clip_grad_adaptive_`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("agc(factor=0.1)")
    >>> before = model[0].weight.item()
    >>> model(torch.full((1, 1), 100.0)).sum().backward(); optimizer.step()
    >>> round(abs(model[0].weight.item() / before - 1), 4)
    0.1
    """

    acts_on = "update"
    moment = "clip"
    group = "optimization"
    suite = Suite(always=True)

    factor: float = 0.01
    eps: float = 1e-3
    last: bool = False

    def __post_init__(self) -> None:
        for field in ("factor", "eps"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}={getattr(self, field)} must be positive.")

    def apply(self, training: TrainingLike) -> Change:
        ends = set() if self.last else answers(training)
        left_out = {id(p) for _, module in layers(training) if id(module) in ends for p in module.parameters()}
        clipped = [p for _, p in trained(training, training.named_parameters()) if id(p) not in left_out]
        if not clipped:
            raise nothing_for(self, "only the last layer is trained, which is left out. Clip it too with last=True.")
        transposed: dict[torch.Tensor, int] = {
            weight: module.groups
            for _, module in layers(training, "conv")
            if isinstance(module, nn.modules.conv._ConvTransposeNd) and (weight := weight_of(module)) is not None
        }
        stats = ClipStats()
        return clipping(
            training,
            f"gradients of {len(clipped)} parameters clipped at {self.factor:g} of the size of their weights",
            lambda: stats,
            lambda parameters, scale, _: clip_grad_adaptive_(
                [p for p in parameters if id(p) not in left_out],
                self.factor * scale,
                self.eps,
                transposed=transposed,
                stats=stats,
            ),
            tuple(
                f"{name or '(model)'}: left out, the last layer"
                for name, m in training.named_modules()
                if id(m) in ends
            ),
        )
