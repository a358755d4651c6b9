"""Running statistics estimated anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab as tt
from tests.conftest import network, train
from trimtab import nn as tnn
from trimtab.nn.recalibrate import recalibrate


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3 + 2


def test_population_statistics_are_those_of_the_seed(data):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.2))
    assert recalibrate(model, data.split(8)) == 5
    batches = torch.stack(data.split(8))
    m = 8
    torch.testing.assert_close(model[0].running_mean, batches.mean(1).mean(0))
    torch.testing.assert_close(model[0].running_var, m / (m - 1) * batches.var(1, correction=0).mean(0))
    assert model[0].momentum == 0.2 and model[0].training and model[0].num_batches_tracked == 5


def test_ema_goes_on_from_where_it_is(data):
    model, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    recalibrate(model.eval(), data.split(8), "ema")
    for batch in data.split(8):
        other(batch)
    torch.testing.assert_close(model.running_mean, other.running_mean)
    torch.testing.assert_close(model.running_var, other.running_var)
    assert not model.training


def test_it_adapts_to_another_distribution(digits):
    model = network("normed")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = digits
    train(model, optimizer, digits, 60, 64)
    model.eval()
    shifted = 0.4 * x - 1  # darker, and with less contrast

    def accuracy() -> float:
        return (model(shifted).argmax(1) == y).float().mean().item()

    before = accuracy()
    recalibrate(model, DataLoader(TensorDataset(shifted, y), 64))
    assert accuracy() > before + 0.2


@pytest.mark.parametrize("statistics", ["population", "ema"])
def test_nothing_else_changes(statistics, digits):
    model = nn.Sequential(network("normed"), nn.Dropout(0.5), tnn.BatchNorm1d(10, frozen=True))
    model[0][2].eval()
    model[0][1].weight.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    weights = [p.clone() for p in model.parameters()]
    frozen = model[2].running_mean.clone()
    random = torch.get_rng_state()
    recalibrate(model, [digits[0]], statistics)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
    assert torch.equal(model[2].running_mean, frozen) and torch.equal(torch.get_rng_state(), random)
    assert model[0][2].running_mean.any()


def test_norms_of_the_technique_are_reached(digits):
    model = network("mlp")
    tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("batch_norm")
    with torch.no_grad():
        recalibrate(model, digits[0].split(64), batches=3)
    assert model[0].norm.num_batches_tracked == 3
    torch.testing.assert_close(
        model[0].norm.running_mean, torch.nn.functional.linear(digits[0][:192], model[0].weight, model[0].bias).mean(0)
    )


def test_batches_of_every_form(data):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.norm(values)

    expected = Named()
    recalibrate(expected, [data])
    forms = [(data, 0), [data, 0], ((data, 1), 0), {"values": data, "target": 0}]
    for form in forms:
        model = Named()
        recalibrate(model, [form])
        assert torch.equal(model.norm.running_mean, expected.norm.running_mean)
    model = Named()
    recalibrate(model, [{"rows": data}], call=lambda model, batch: model(batch["rows"]))
    assert torch.equal(model.norm.running_mean, expected.norm.running_mean)


@pytest.mark.parametrize(
    ("model", "loader", "options", "message"),
    [
        (nn.Linear(1, 1), [torch.ones(2, 1)], {}, "Linear without a BatchNorm that tracks"),
        (nn.BatchNorm1d(3), [], {}, "a loader without batches"),
        (nn.BatchNorm1d(3), [], {"statistics": "mean"}, "statistics must be 'population' or 'ema'"),
        (nn.BatchNorm1d(3), [], {"batches": 0}, "it must be at least 1, or None"),
    ],
)
def test_errors_say_what_is_wrong_and_leave_the_statistics(model, loader, options, message):
    before = [b.clone() for b in model.buffers()]
    with pytest.raises(ValueError, match=message):
        recalibrate(model, loader, **options)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_a_loader_that_breaks_leaves_everything(data):
    def breaks():
        yield data
        raise OSError("gone")

    model = nn.BatchNorm1d(3, momentum=0.3).eval()
    with pytest.raises(OSError, match="gone"):
        recalibrate(model, breaks())
    assert not model.running_mean.any() and model.momentum == 0.3 and not model.training
