"""Residual blocks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import trimtab.nn as tn
from trimtab.graph import follow
from trimtab.nn import Residual


def block(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))


def test_adds_its_input_to_what_the_block_gives():
    torch.manual_seed(0)
    part, x = block(), torch.randn(5, 6)
    assert torch.equal(Residual(part)(x), x + part(x))
    assert list(Residual(part).state_dict()) == [f"block.{name}" for name in part.state_dict()]


def test_gradient_passes_beside_the_block():
    x = torch.randn(5, 6, requires_grad=True)
    Residual(block(), zero_init=True)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(5, 6))


@pytest.mark.parametrize(
    "make",
    [
        block,
        lambda: nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6)),
        lambda: nn.Sequential(nn.Conv1d(6, 6, 1), nn.ReLU(), nn.Conv1d(6, 6, 1, bias=False)),
        lambda: nn.Sequential(nn.LayerNorm(4), tn.RMSNorm(4), nn.Dropout(0.1)),
    ],
)
def test_zero_init_starts_as_the_identity_and_learns(make):
    torch.manual_seed(0)
    model, x = Residual(make(), zero_init=True), torch.randn(8, 6, 4) if make is not block else torch.randn(8, 6)
    assert torch.equal(model(x), x)
    model(x).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_depth_is_no_obstacle(digits):
    """The degradation problem: thirty layers have a worse training loss than four, but for the residual form."""
    x, y = digits[0][:256], digits[1][:256]

    def trained(depth: int, wrap) -> float:
        torch.manual_seed(0)
        layers = [wrap(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))) for _ in range(depth // 2)]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    plain = [trained(depth, nn.Sequential) for depth in (4, 30)]
    residual = [trained(depth, lambda b: Residual(b, zero_init=True)) for depth in (4, 30)]
    assert plain[1] > plain[0] + 1  # 0.18 and 2.30: it has learnt nothing
    assert residual[1] < residual[0] + 0.1


def test_paths_are_dropped_for_each_sample():
    torch.manual_seed(0)
    model = Residual(block(), drop_path=0.4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2000, 6)
    branch = model.block(x)
    y = model(x)
    dropped = (y == x).all(1)
    assert abs(dropped.double().mean().item() - 0.4) < 5 * (0.24 / 2000) ** 0.5  # 5 standard errors
    torch.testing.assert_close(y[~dropped], (x + branch / 0.6)[~dropped])
    torch.testing.assert_close(model.eval()(x), x + branch)
    assert torch.equal(copy.deepcopy(model)(x), pickle.loads(pickle.dumps(model))(x))


def test_its_code_can_be_followed():
    model = nn.Sequential(Residual(block()), Residual(block()))
    (scope,) = follow(model).scopes
    assert scope.name == ""


def test_errors_say_what_to_do():
    with pytest.raises(
        ValueError,
        match=r"an input of shape \(3, 6\), and its Linear gave \(3, 5\). They are added, so the block must keep",
    ):
        Residual(nn.Linear(6, 5))(torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"Residual\(drop_path=1.5\): drop_path is the probability of dropping"):
        Residual(block(), drop_path=1.5)
    with pytest.raises(
        ValueError, match=r"Residual\(zero_init=True\): the ReLU has no layer with a weight to set to 0"
    ):
        Residual(nn.ReLU(), zero_init=True)
