"""Our own small training loop, for Python tasks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Pair = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def batches(samples: int, size: int, generator: torch.Generator | None = None) -> tuple[torch.Tensor, ...]:
    """The places of the samples of each batch of an epoch, in a random order."""
    return torch.randperm(samples, generator=generator).split(size)


def held_out_loss(model: Callable[[torch.Tensor], torch.Tensor], held_out: Pair, loss: Loss) -> float:
    """The loss of a model on data that it is not trained on."""
    with torch.no_grad():
        return float(loss(model(held_out[0]), held_out[1]))


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Pair,
    held_out: Pair | None,
    loss: Loss,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    evaluated: Callable[[str, float], None] = lambda name, value: None,
) -> None:
    """Train on shuffled mini-batches; evaluate the loss on the held-out pair after every epoch.

    Args:
        train: inputs and targets, first axis samples.
        held_out: the same for evaluation, or ``None``.
        loss: ``loss(output, target)``, a scalar.
        evaluated: called with ``("val loss", value)`` after every epoch, for losses that nobody else measures.

    >>> model = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 64).unsqueeze(1)
    >>> fit(model, torch.optim.SGD(model.parameters(), lr=0.5), (x, 2 * x), None, nn.functional.mse_loss)
    >>> round(model.weight.item(), 2)
    2.0
    """
    inputs, targets = train
    for _ in range(epochs):
        model.train()
        for batch in batches(len(inputs), batch_size):
            optimizer.zero_grad()
            loss(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        if held_out is not None:
            model.eval()
            evaluated("val loss", held_out_loss(model, held_out, loss))
