"""GhostBatchNorm: how batches are split, and what the running statistics become."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.nn import BatchNorm2d
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, ghost_batch_norm


@pytest.mark.parametrize(
    ("samples", "size", "parts"), [(8, 4, [4, 4]), (33, 32, [17, 16]), (7, 3, [3, 2, 2]), (5, 8, [5]), (6, 5, [3, 3])]
)
def test_the_split_is_even_and_nothing_is_left_over(samples, size, parts):
    x = torch.randn(samples, 3, 2, 2, dtype=torch.float64)
    y = GhostBatchNorm2d(3, size).double()(x)
    wanted = [nn.functional.batch_norm(part, None, None, training=True) for part in x.split(parts)]
    torch.testing.assert_close(y, torch.cat(wanted))


def test_running_statistics_are_those_of_one_batch_norm_that_saw_each_ghost_in_turn():
    x = torch.randn(12, 3, 4, 4) * 2 + 1
    ghosts, plain = GhostBatchNorm2d(3, 4), nn.BatchNorm2d(3)
    ghosts(x)
    for part in x.split(4):
        plain(part)
    torch.testing.assert_close(ghosts.state_dict(), plain.state_dict())
    assert ghosts.num_batches_tracked == 3
    # the paper: mu <- (1 - eta)^3 mu + sum_i (1 - eta)^(3 - i) eta mu_i
    wanted = sum(0.9 ** (3 - i) * 0.1 * part.mean((0, 2, 3)) for i, part in enumerate(x.split(4), 1))
    torch.testing.assert_close(ghosts.running_mean, wanted)


def test_the_mean_over_all_batches_is_over_ghosts_too():
    x = torch.randn(12, 3, 4, 4)
    layer = GhostBatchNorm2d(3, 4, statistics="population")
    layer(x)
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))


def test_evaluation_and_frozen_are_batch_norms():
    x, plain = torch.randn(12, 3, 4, 4), BatchNorm2d(3)
    plain(x)
    for layer in (GhostBatchNorm2d(3, 4).eval(), GhostBatchNorm2d(3, 4, frozen=True)):
        layer.load_state_dict(plain.state_dict())
        torch.testing.assert_close(layer(x), plain.eval()(x))
        torch.testing.assert_close(layer.state_dict(), plain.state_dict())


def test_mask_and_residual_are_split_along():
    x, residual, mask = torch.randn(6, 3, 5), torch.randn(6, 3, 5), torch.rand(6, 5) < 0.8
    y = GhostBatchNorm1d(3, 2, activation="relu")(x, residual, mask)
    plain = torch.cat(
        [
            GhostBatchNorm1d(3, 2, activation="relu")(*part)
            for part in zip(x.split(2), residual.split(2), mask.split(2), strict=True)
        ]
    )
    torch.testing.assert_close(y, plain)
    assert (y.movedim(1, -1)[~mask] == 0).all()
    functional = ghost_batch_norm(
        x, None, None, training=True, ghost_batch_size=2, residual=residual, mask=mask, activation="relu"
    )
    torch.testing.assert_close(functional, y)


def test_the_function_in_evaluation_splits_nothing():
    x, mean, variance = torch.randn(6, 3), torch.randn(3), torch.rand(3) + 1
    wanted = nn.functional.batch_norm(x, mean, variance)
    torch.testing.assert_close(ghost_batch_norm(x, mean, variance, ghost_batch_size=2), wanted)


def test_checkpoints_are_those_of_batch_norm():
    layer = GhostBatchNorm2d(3, 4)
    assert isinstance(layer, nn.BatchNorm2d)
    layer.load_state_dict(nn.BatchNorm2d(3).state_dict())
    assert "ghost_batch_size=4" in repr(layer)


def test_messages():
    with pytest.raises(ValueError) as error:
        GhostBatchNorm2d(3, 0)
    assert str(error.value) == (
        "GhostBatchNorm2d(ghost_batch_size=0): ghost_batch_size is a number of samples and must be a whole number, 1 or more."
    )
    with pytest.raises(ValueError, match=r"Did you mean GhostBatchNorm2d\(5\)\?"):
        GhostBatchNorm2d(3, 2)(torch.randn(8, 5, 2, 2))
    with pytest.raises(ValueError, match="They are added, so their shapes must be equal"):
        GhostBatchNorm2d(3, 2)(torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 1))
    with pytest.raises(ValueError, match=r"its shape must be \(8, 2, 2\)"):
        GhostBatchNorm2d(3, 2)(torch.randn(8, 3, 2, 2), mask=torch.ones(7, 2, 2) > 0)
    with pytest.raises(ValueError, match="one value per channel"):
        GhostBatchNorm1d(3, 1)(torch.randn(8, 3))
