"""Norms for features that stand elsewhere: the norm of that name on a moved input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.nn import layouts

C = 6
LAST = {
    layouts.BatchNormLast: lambda x: nn.BatchNorm1d(C)(x.reshape(-1, C)).view(x.shape),
    layouts.InstanceNormLast: lambda x: nn.InstanceNorm2d(C)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
    layouts.GroupNormLast: lambda x: nn.GroupNorm(2, C)(x.reshape(-1, C)).view(x.shape),
}
FIRST = {
    layouts.BatchNormNd: nn.BatchNorm2d(C),
    layouts.InstanceNormNd: nn.InstanceNorm2d(C),
    layouts.RMSNormFirst: lambda x: nn.RMSNorm(C, eps=1e-5)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("cls", [*LAST, *FIRST])
def test_each_is_the_norm_of_its_name_on_a_moved_input(cls):
    torch.manual_seed(0)
    shape = (4, 3, 2, C) if cls in LAST else (4, C, 3, 2)
    x, residual = torch.randn(2, *shape) * 2 + 1
    arguments = (2, C) if cls is layouts.GroupNormLast else (C,)
    norm = cls(*arguments, eps=1e-5)
    torch.testing.assert_close(norm(x), (LAST | FIRST)[cls](x))
    torch.testing.assert_close(cls(*arguments, eps=1e-5, activation="relu")(x, residual), (norm(x) + residual).relu())
    assert norm(x).shape == x.shape
    with pytest.raises(ValueError, match=cls.__name__):
        norm(x[:, :2], residual)


@pytest.mark.parametrize("cls", [layouts.BatchNormNd, layouts.InstanceNormNd])
@pytest.mark.parametrize("positions", [(5,), (2, 3), (2, 2, 3)])
def test_any_number_of_positions(cls, positions):
    assert cls(C)(torch.randn(3, C, *positions)).shape == (3, C, *positions)
