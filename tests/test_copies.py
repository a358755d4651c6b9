"""Copies of modules that hold tensors which are computed."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from trimtab import nn as tn
from trimtab.copies import copied_module


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "bias", 0.3)
    return layer


class Keeps(nn.Module):
    """A model that remembers what it computed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.kept = layer, {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        self.kept["all"] = [(self.last, self.last.exp())]
        return self.last


COMPUTED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "pruned": pruned,
    "keeps": Keeps,
    "new weight_norm": parametrizations.weight_norm,
    "new spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
x = torch.linspace(-1, 1, 20).view(4, 5)


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_copy_computes_with_numbers_of_its_own(kind):
    model = nn.Sequential(COMPUTED[kind](nn.Linear(5, 3)), nn.Tanh(), nn.Linear(3, 2))
    model(x).sum().backward()
    model.eval()
    twin, before = copied_module(model), model(x)
    assert torch.equal(twin(x), before)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    twin.train()(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(twin.eval()(x), before) and torch.equal(model(x), before)


def test_what_cannot_be_copied_is_said():
    model = nn.Linear(5, 3)
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"^a copy of this Linear cannot be made .*lock"):
        copied_module(model)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("kind", COMPUTED)
def test_an_ensemble_of_them(kind):
    members = [nn.Sequential(COMPUTED[kind](nn.Linear(5, 3)), nn.Tanh(), nn.Linear(3, 2)) for _ in range(3)]
    for member in members:
        member(x).sum().backward()
        member.eval()
    ensemble = tn.Ensemble(members).eval()
    wanted = torch.stack([member(x) for member in members])
    torch.testing.assert_close(ensemble(x), wanted)  # sums in another order: float32's roundings
    torch.testing.assert_close(torch.stack([member(x) for member in ensemble.members()]), wanted)
    if kind != "keeps":
        torch.testing.assert_close(copy.deepcopy(ensemble)(x), wanted)


def test_an_activation_that_keeps_what_it_computed_has_a_gain():
    function = Keeps(nn.ReLU())
    function(torch.ones(1, requires_grad=True))
    assert tn.calculate_gain(function) == pytest.approx(2**0.5, rel=1e-5)
