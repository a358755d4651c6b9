"""Decoupled weight decay of the weights proper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import CONV, LINEAR, nothing

DECAYED = (*LINEAR, *CONV, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)


@dataclass(frozen=True)
class WeightDecay(Technique):
    """Shrinks the weights a little before every step, apart from the gradient.

    ``w -> w - lr * factor * w`` with the step's learning rate (Loshchilov & Hutter's decoupled decay; for plain SGD the same
    as an L2 penalty of ``factor / 2 ||w||^2``). Only weights of linear, convolution, recurrent and attention layers decay;
    biases, scales of normalizations and embeddings are left out, by the type of their module. Comes on top of any
    decay that the optimizer has of its own.

    Helps: networks that fit their training set and generalize worse. Hurts: under-fitting ones; in front of a
    normalization it only changes the effective learning rate (van Laarhoven 2017).
    Good first settings: 0.01 to 0.1 with SGD, 0.1 to 1 with Adam at a rate of 0.001.

    Args:
        factor: the share that decays per unit of learning rate, positive.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    >>> import trimtab as tt
    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("weight_decay(factor=0.5)")
    >>> before = model.weight.item()
    >>> (model(torch.ones(1, 1)) * 0).sum().backward(); optimizer.step()
    >>> round(model.weight.item() / before, 4)
    0.95
    """

    acts_on = "update"

    factor: float = 0.01

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor={self.factor} must be positive: it is the strength of the decay.")

    def apply(self, training: TrainingLike) -> Change:
        decayed = {
            id(p)
            for _, module in training.named_modules()
            if isinstance(module, DECAYED)
            for p in module.parameters(recurse=False)
            if p.ndim > 1
        }
        if not decayed:
            raise nothing(self, "the model has no linear, convolution, recurrent or attention weights.")

        @torch.no_grad()
        def decay(optimizer: torch.optim.Optimizer) -> None:
            for group in optimizer.param_groups:
                weights = [p for p in group["params"] if id(p) in decayed and p.grad is not None]
                if weights and "lr" in group:
                    torch._foreach_mul_(weights, 1 - float(group["lr"]) * self.factor)

        stop = training.on("before_step", decay)
        return Change(f"decoupled weight decay of {self.factor:g} on {len(decayed)} weights", stop)
