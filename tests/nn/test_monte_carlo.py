"""Monte-Carlo dropout against the exact average over all masks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import trimtab as tt
import trimtab.nn as tn
from tests.conftest import network, train
from trimtab.nn import Dropout, compare_with_weight_scaling, monte_carlo


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def small(hidden: int = 6, classes: int = 3, p: float = 0.4) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), Dropout(p), nn.Linear(hidden, classes)).double()
    return model.eval(), torch.randn(5, 4, dtype=torch.float64)


def every_mask(model: nn.Sequential, x: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs for all masks, and the probability of each, by enumeration."""
    hidden = model[1](model[0](x))
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=hidden.shape[1])), dtype=torch.float64)
    outputs = torch.stack([model[3](hidden * mask / (1 - p)) for mask in masks]).detach()
    kept = masks.sum(1)
    return outputs, (1 - p) ** kept * p ** (hidden.shape[1] - kept)


def test_mean_and_spread_are_those_of_all_masks():
    (model, x), p, samples = small(), 0.4, 4000
    outputs, weights = every_mask(model, x, p)
    exact = torch.einsum("m,mnk->nk", weights, outputs)
    variance = torch.einsum("m,mnk->nk", weights, (outputs - exact).square())
    mean, std = monte_carlo(model, x, samples=samples)
    # 15 entries: 5 standard errors of the mean; the spread's own is std / sqrt(2 S) where it is normal, and less than twice that here
    assert ((mean - exact).abs() < 5 * (variance / samples).sqrt()).all()
    assert ((std / variance.sqrt() - 1).abs() < 10 / (2 * samples) ** 0.5).all()
    torch.testing.assert_close(exact, model(x))  # linear behind the dropout: the scaled network is the mean


def test_means_of_probabilities():
    (model, x), p, samples = small(), 0.4, 4000
    outputs, weights = every_mask(model, x, p)
    exact = torch.einsum("m,mnk->nk", weights, outputs.softmax(-1))
    mean, std = monte_carlo(model, x, samples=samples, transform=lambda y: y.softmax(-1))
    assert ((mean - exact).abs() < 5 * std / samples**0.5).all()


def test_the_scaled_network_is_the_geometric_mean_behind_one_layer():
    (model, x), p, samples = small(), 0.4, 4000
    model[3].weight.data *= 8  # probabilities near 0 and 1, where the two means differ
    outputs, weights = every_mask(model, x, p)
    scaled = model(x).detach().log_softmax(-1)
    geometric = torch.einsum("m,mnk->nk", weights, outputs.log_softmax(-1)).log_softmax(-1)
    torch.testing.assert_close(geometric, scaled)
    mean = torch.einsum("m,mnk->nk", weights, outputs.softmax(-1))
    divergence = (mean * (mean.log() - scaled)).sum(-1).mean().item()
    found = compare_with_weight_scaling(model, x, samples=samples)
    variance = torch.einsum("m,mnk->nk", weights, (outputs - model(x)).square()).max().item()
    # a divergence goes with the square of the error of the logits, whose variance is that of the masks / S
    assert found.geometric < 10 * variance / samples
    # and with the error itself where it is not 0
    assert found.arithmetic == pytest.approx(divergence, abs=5 * (2 * divergence / samples) ** 0.5)
    assert divergence > 10 * found.geometric
    assert found.agreement == (mean.argmax(-1) == scaled.argmax(-1)).double().mean().item()


def test_classes_in_another_dimension():
    class Turned(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).T

    model, x = small()
    torch.manual_seed(1)
    found = compare_with_weight_scaling(model, x, samples=50)
    torch.manual_seed(1)
    turned = compare_with_weight_scaling(Turned(model), x, samples=50, dim=0)
    assert turned == pytest.approx(found)


def test_only_dropout_samples_and_every_mode_comes_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[2].eval()
    model[3].weight.requires_grad_(False)
    x, before = torch.randn(16, 4), {k: v.clone() for k, v in model.state_dict().items()}
    seen = []
    model[1].register_forward_hook(lambda m, i, y: seen.append(y.detach()))
    _, std = monte_carlo(model, x, samples=5)
    assert (std > 0).any()
    assert all(torch.equal(y, seen[0]) for y in seen)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False, True] and model.training
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.AlphaDropout(0.5)),
        lambda: tn.GaussianDropout(0.5),
        lambda: nn.Sequential(tn.DropPath(0.5)),
        lambda: nn.Sequential(tn.LayerNorm(8, dropout=0.5)),
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True)),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True), 2),
    ],
)
def test_everything_that_drops_samples(make):
    model = make().eval()
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    # that one of 120 entries is kept, or dropped, 40 times in a row has a chance of 2e-10
    assert (monte_carlo(model, x, samples=40).std > 0).all()
    assert torch.equal(model(x), model(x))


def test_recurrent_dropout_samples():
    model = nn.LSTM(3, 4, num_layers=2, dropout=0.5).eval()
    _, std = monte_carlo(model, torch.randn(5, 2, 3), samples=10, transform=lambda y: y[0])
    assert (std > 0).any()


@pytest.mark.parametrize("text", ["dropout", "dropout(scaling='original')", "gaussian_dropout"])
def test_dropout_of_a_technique_samples(text, digits):
    model = network()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)
    train(model, training.optimizers[0], digits)
    before = torch.get_rng_state()
    assert (monte_carlo(model, digits[0][:8], samples=10).std > 0).all()
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: monte_carlo(nn.Sequential(tn.BatchNorm1d(6, dropout=0.5)), torch.ones(1, 6)),
            "dropout=0.5) drops while its statistics are those of the batch, and only then. Put a Dropout of its own behind it",
        ),
        (lambda: monte_carlo(nn.Linear(2, 2), torch.ones(1, 2)), "The Linear has no dropout: all its sub-networks are the same."),
        (lambda: monte_carlo(nn.Dropout(), torch.ones(1, 2), samples=1), "samples=1 must be at least 2"),
        (
            lambda: monte_carlo(nn.LSTM(2, 2, 2, dropout=0.1), torch.ones(1, 2, 2)),
            "The LSTM gives a tuple, and a mean needs a tensor. Give transform=, which takes the tensor out of it.",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
