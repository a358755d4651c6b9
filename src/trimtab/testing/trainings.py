"""Small trainings that members meet: networks of the usual shapes, data that they can learn, some steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import trimtab.nn as tnn

Data = tuple[torch.Tensor, torch.Tensor]


def clusters(samples: int = 512) -> Data:
    """Points of 64 numbers in about -1..1, around one of ten places each, and which: inputs (samples, 64) and classes.

    >>> x, y = clusters()
    >>> x.shape, y.unique().numel()
    (torch.Size([512, 64]), 10)
    """
    draw = torch.Generator().manual_seed(0)
    classes = torch.randint(10, (samples,), generator=draw)
    places = torch.randn(10, 64, generator=draw)
    return (places[classes] + 0.5 * torch.randn(samples, 64, generator=draw)).clamp(-2, 2) / 2, classes


def network(kind: str = "mlp") -> nn.Module:
    """A network for inputs (N, 64) and ten classes; ``"images"`` takes (N, 1, 8, 8).

    The kinds are those of :class:`trimtab.recipe.Suite`, and ``"mlp"`` and ``"cnn"``. Weights are the same every time.
    """
    torch.manual_seed(1)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    if kind == "cnn":
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    if kind == "images":
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    if kind == "normed":  # norms, a residual branch that ends in one, and layers without
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))),
            nn.Conv2d(8, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )
    if kind == "dropout":  # with generators of its own, to tell what a technique draws from the global one
        drops = [tnn.Dropout(0.2, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
        return nn.Sequential(
            nn.Linear(64, 16), nn.ReLU(), drops[0], nn.Linear(16, 16), nn.ReLU(), drops[1], nn.Linear(16, 10)
        )
    if kind == "recurrent":
        return nn.Sequential(
            nn.Unflatten(1, (8, 8)), LastStep(nn.LSTM(8, 16, batch_first=True)), nn.ReLU(), nn.Linear(16, 10)
        )
    raise ValueError(f"There is no network of the kind {kind!r}.")


class LastStep(nn.Module):
    """What a recurrent layer says at its last time step."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output at the last step."""
        return self.rnn(x)[0][:, -1]


class Residual(nn.Module):
    """An input and what a branch makes of it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both."""
        return x + self.branch(x)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, steps: int = 5, batch: int = 32
) -> list[float]:
    """Some steps of ordinary training; gives the losses."""
    x, y = data
    losses = []
    for step in range(steps):
        rows = slice(step * batch % len(x), step * batch % len(x) + batch)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and numbers are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    """Everything a training has, to compare bit for bit."""
    numbers = [model.state_dict(), optimizer.state_dict()["param_groups"], len(optimizer.param_groups[0]["params"])]
    moments = [optimizer.state.get(p, {}) for p in model.parameters()]
    return copy.deepcopy([*numbers, moments])
