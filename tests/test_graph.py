"""Reading which module's output goes where."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.graph import follow


class Branches(nn.Module):
    """Cannot be followed as a whole: what it does depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.block(x) if x.sum() > 0 else x


def test_containers_are_followed_where_the_whole_cannot_be():
    model = nn.Sequential(Branches(), nn.Linear(3, 3), nn.ReLU())
    flow = follow(model)
    assert [scope.name for scope in flow.scopes] == ["0.block"]
    call = flow.call(model[0].block[0])
    assert call is not None and call.scope.module(call.only_user()) is model[0].block[1]
    assert flow.call(model[1]) is None


def test_following_changes_nothing():
    model = Branches()
    model.block[0].register_forward_hook(lambda *_: pytest.fail("a hook was called"))
    before = torch.get_rng_state()
    follow(model)
    assert model.calls == 0 and torch.equal(torch.get_rng_state(), before)
    assert len(model.block[0]._forward_hooks) == 1


def test_a_module_that_is_called_twice_has_no_single_call():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert follow(model).call(shared) is None and len(follow(model).calls[id(shared)]) == 2


def test_a_value_that_is_handed_out_has_no_only_user():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    call = follow(model).call(model[1])
    assert call is not None and call.only_user() is None
