"""Weights of a treated model go into a new one of its class, and weights from elsewhere into a treated one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from trimtab.training.stage import stage

NEW_NAMES = ["batch_norm", "layer_norm", "standardize_inputs", "l0", "bagging(members=2)", "batch_norm, dropout"]
NO_NAMES = ["standout", "dropout(scaling='original')", "logit_soft_cap(cap=0.1)"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def treated(text: str, steps: int = 4) -> tuple[Net, tt.Training]:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    training = tt.attach(net, optimizer).apply(text)
    for _ in range(steps):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        F.cross_entropy(net(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
    return net, training


def answer(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(torch.linspace(-1, 1, 24).view(4, 6))


@pytest.mark.parametrize("text", NEW_NAMES)
def test_a_new_model_computes_what_was_saved(text):
    net, training = treated(text)
    new = Net()
    new.load_state_dict(copy.deepcopy(net.state_dict()))
    assert torch.equal(answer(new), answer(net))
    wrapped = nn.Sequential(Net())  # a part of another model
    wrapped[0].load_state_dict(net.state_dict())
    assert torch.equal(answer(wrapped), answer(net))
    for p in new.parameters():
        p.data.zero_()
    assert not torch.equal(answer(new), answer(net))  # its parts are its own
    training.undo()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Net().load_state_dict(copy.deepcopy(new.state_dict()))


@pytest.mark.parametrize("text", [*NEW_NAMES, *NO_NAMES])
def test_where_one_script_runs_alone_every_model_that_gets_the_weights_is_treated(text):
    before = hasattr(nn.Module.load_state_dict, "__wrapped__")  # other models may be treated
    with stage.treated.alone():
        net, _training = treated(text)
        new = Net()
        new.load_state_dict(net.state_dict())
        assert torch.equal(answer(new), answer(net))
    assert hasattr(nn.Module.load_state_dict, "__wrapped__") == before


def test_elsewhere_a_model_without_new_names_may_be_meant_to_be_without():
    net, _training = treated("logit_soft_cap(cap=0.1)")
    new = Net()
    new.load_state_dict(net.state_dict())
    assert answer(new).abs().max() > answer(net).abs().max()


def test_weights_from_elsewhere_go_into_a_treated_model():
    torch.manual_seed(1)
    pretrained = Net().state_dict()
    net, _training = treated("batch_norm, weight_decay")
    mean = net.body[0].norm.running_mean.clone()
    net.load_state_dict(pretrained)
    assert torch.equal(net.head.weight, pretrained["head.weight"])
    assert torch.equal(net.body[0].norm.running_mean, mean)  # of which they know nothing
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({"head.weight": pretrained["head.weight"]})


def test_a_twin_that_is_treated_itself_is_treated_once():
    net, _training = treated("batch_norm")
    new = Net()
    new.load_state_dict(net.state_dict())
    again = tt.attach(new, torch.optim.SGD(new.parameters(), lr=0.1)).apply("batch_norm")
    assert set(new.state_dict()) == set(net.state_dict())
    assert torch.equal(answer(new), answer(net))
    again.undo()
    assert set(new.state_dict()) == set(Net().state_dict())


def test_a_target_network_that_was_made_before():
    torch.manual_seed(0)
    online, target = Net(), Net()
    target.load_state_dict(online.state_dict())
    tt.attach(online, torch.optim.SGD(online.parameters(), lr=0.1)).apply("batch_norm")
    online(torch.randn(16, 6))
    target.load_state_dict(online.state_dict())
    assert torch.equal(answer(target), answer(online))


def test_loading_is_torchs_own_again_when_nothing_is_treated():
    with stage.treated.alone():
        before = nn.Module.load_state_dict
        _net, training = treated("batch_norm")
        assert nn.Module.load_state_dict is not before
        training.undo()
        assert nn.Module.load_state_dict is before
