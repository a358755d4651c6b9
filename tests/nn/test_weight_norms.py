"""Norms of weights: formulas in float64, round trips through removal, saving and copies, and errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from trimtab.nn.weight_norms import spectral_norm, standardize_weight, weight_norm, weight_standardization

LAYERS = {
    "Linear": lambda: nn.Linear(6, 4),
    "Conv1d": lambda: nn.Conv1d(3, 4, 3),
    "Conv2d": lambda: nn.Conv2d(3, 4, 3, bias=False),
    "Conv2d(groups)": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(2, 3, 2),
}
INPUTS = {
    "Linear": (5, 6),
    "Conv1d": (2, 3, 7),
    "Conv2d": (2, 3, 6, 5),
    "Conv2d(groups)": (2, 4, 6, 5),
    "Conv3d": (1, 2, 4, 4, 4),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = LAYERS[request.param]().double()
    layer.x = torch.randn(INPUTS[request.param], dtype=torch.float64)
    return layer


def by_formula(weight, gain, eps, scaled):
    rows = weight.flatten(1)
    centered = rows - rows.mean(1, keepdim=True)
    n = rows.shape[1]
    root = ((centered**2).sum(1, keepdim=True) / n + eps).sqrt()
    return (gain.view(-1, 1) * centered / root / (n**0.5 if scaled else 1)).view(weight.shape)


@pytest.mark.parametrize("gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_standardized_is_the_formula_with_its_gradients(layer, gain, scaled):
    plain, original = copy.deepcopy(layer), layer.weight.detach().clone().requires_grad_()
    gains = torch.linspace(0.5, 2, len(original), dtype=torch.float64) if gain else torch.ones(len(original)).double()
    weight_standardization(layer, eps=1e-3, gain=gain, scaled=scaled)
    if gain:
        with torch.no_grad():
            layer.parametrizations.weight[0].gain.copy_(gains)
    gains.requires_grad_(gain)
    wanted = by_formula(original, gains, 1e-3, scaled)
    torch.testing.assert_close(layer.weight, wanted)
    torch.testing.assert_close(standardize_weight(original, gains, 1e-3, scaled=scaled), wanted)
    layer(layer.x).square().sum().backward()
    # the formula's weight in a plain layer
    output = torch.func.functional_call(plain, {"weight": wanted}, (layer.x,))
    output.square().sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, original.grad)
    if gain:
        torch.testing.assert_close(layer.parametrizations.weight[0].gain.grad, gains.grad)


def test_standardized_weights_are_standard(layer):
    weight_standardization(layer, eps=0.0)
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)).double())
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(len(rows)).double())


def test_scaled_keeps_the_variance_of_unit_inputs():
    torch.manual_seed(0)
    layer = weight_standardization(nn.Linear(400, 200, bias=False), scaled=True)
    # 64 000 outputs of variance 1, those of a unit nearly independent: a standard error of sqrt(2 / 64 000) = 0.006
    assert layer(torch.randn(320, 400)).var().item() == pytest.approx(1, abs=0.03)


def test_a_constant_row_without_eps_gives_zeros():
    layer = weight_standardization(nn.Linear(3, 2, bias=False), eps=0.0)
    layer.weight = torch.full((2, 3), 0.5)
    assert torch.equal(layer.weight, torch.zeros(2, 3))


def test_removal_leaves_the_standardized_or_the_original_weight(layer):
    other, original = copy.deepcopy(layer), layer.weight.detach().clone()
    weight_standardization(layer, gain=True)
    standardized, output = layer.weight.detach().clone(), layer(layer.x)
    parametrize.remove_parametrizations(layer, "weight")
    assert torch.equal(layer.weight, standardized) and torch.equal(layer(layer.x), output)
    weight_standardization(other, gain=True)
    parametrize.remove_parametrizations(other, "weight", leave_parametrized=False)
    assert torch.equal(other.weight, original)
    for one in (layer, other):
        assert set(one.state_dict()) <= {"weight", "bias"} and isinstance(one.weight, nn.Parameter)


def test_a_weight_can_be_assigned_and_saved(layer):
    other = weight_standardization(copy.deepcopy(layer), gain=True)
    weight_standardization(layer, gain=True)
    assert {"parametrizations.weight.original", "parametrizations.weight.0.gain"} <= set(layer.state_dict())
    new = torch.randn_like(layer.weight)
    layer.weight = new
    torch.testing.assert_close(layer.weight, standardize_weight(new))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize("dim", [0, 1, -2, -1, None])
def test_weight_norm_is_the_formula(layer, dim):
    original, original_layer = layer.weight.detach().clone(), copy.deepcopy(layer)
    weight_norm(layer, dim=dim)
    torch.testing.assert_close(layer.weight, original)  # nothing changes at first
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    with torch.no_grad():
        g.mul_(2).add_(1)
        v.mul_(3)
    whole = dim in (None, -1)  # torch's -1 is one length of the whole
    axes = [d for d in range(v.dim()) if whole or d != dim % v.dim()]
    torch.testing.assert_close(layer.weight, g * v / v.square().sum(axes, keepdim=True).sqrt())
    saved = {name: value.clone() for name, value in layer.state_dict().items()}
    weight = layer.weight.detach().clone()
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight.detach(), weight)
    weight_norm(layer, dim=dim).load_state_dict(saved)
    torch.testing.assert_close(layer.weight.detach(), weight)
    theirs = parametrizations.weight_norm(copy.deepcopy(original_layer), dim=dim)
    theirs.load_state_dict(saved)
    torch.testing.assert_close(theirs.weight.detach(), weight)
    layer.load_state_dict(theirs.state_dict())


def test_spectral_norm_is_the_formula(layer):
    torch.manual_seed(0)
    original = layer.weight.detach().clone()
    # leading singular values a few per cent apart converge slowly; 300 steps suffice for these layers
    spectral_norm(layer, n_power_iterations=300)
    sigma = torch.linalg.svdvals(original.flatten(1))[0]
    torch.testing.assert_close(layer.weight, original / sigma)
    layer.eval()
    weight = layer.weight.detach().clone()
    assert torch.equal(layer.weight, weight), "evaluation must not move the singular vectors"
    torch.testing.assert_close(layer(layer.x).isfinite().all(), torch.tensor(True))
    parametrize.remove_parametrizations(layer, "weight")
    assert torch.equal(layer.weight, weight)


def test_transposed_convolutions():
    torch.manual_seed(0)
    original = nn.ConvTranspose2d(3, 4, 3).double()
    weight = original.weight.detach().clone()
    layer = spectral_norm(copy.deepcopy(original), n_power_iterations=300)
    torch.testing.assert_close(layer.weight, weight / torch.linalg.svdvals(weight.transpose(0, 1).flatten(1))[0])
    layer = weight_norm(copy.deepcopy(original), dim=1)
    torch.testing.assert_close(
        layer.parametrizations.weight.original0, weight.square().sum((0, 2, 3), keepdim=True).sqrt()
    )


@pytest.mark.parametrize("apply", [weight_norm, weight_standardization, spectral_norm])
def test_training_lowers_the_loss(apply):
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randn(64, 1)
    model = nn.Sequential(apply(nn.Linear(6, 16)), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(50):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_another_name_than_weight():
    cell = weight_norm(nn.LSTMCell(3, 4), "weight_hh")
    h, _ = cell(torch.randn(2, 3))
    assert h.shape == (2, 4) and "parametrizations.weight_hh.original0" in cell.state_dict()


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (
            lambda: weight_norm(nn.Linear(3, 2), "kernel"),
            ValueError,
            "weight_norm(Linear, name='kernel'): the module has no parameter of this name. It has weight, bias.",
        ),
        (
            lambda: spectral_norm(nn.Sequential(nn.Linear(3, 2))),
            ValueError,
            "spectral_norm(Sequential, name='weight'): the module has no parameter of this name. It has none of its own: "
            "give the layer inside it.",
        ),
        (
            lambda: weight_norm(nn.Linear(3, 2), dim=2),
            ValueError,
            "weight_norm(Linear, dim=2): weight has shape (2, 3), so dim must lie in [-2, 1], or be None for one length of the "
            "whole.",
        ),
        (
            lambda: spectral_norm(nn.Linear(3, 2), dim=-3),
            ValueError,
            "spectral_norm(Linear, dim=-3): weight has shape (2, 3), so dim must lie in [-2, 1], or be None.",
        ),
        (
            lambda: spectral_norm(nn.Linear(3, 2), n_power_iterations=0),
            ValueError,
            "spectral_norm(n_power_iterations=0): it must be 1 or more, else the singular vectors never follow the weight.",
        ),
        (
            lambda: weight_standardization(nn.ConvTranspose2d(3, 2, 3)),
            TypeError,
            "weight_standardization takes Linear, Conv1d, Conv2d, Conv3d, not ConvTranspose2d. For a whole model apply it to "
            "each of model.modules() of these types.",
        ),
        (
            lambda: weight_standardization(nn.Linear(3, 2), "bias"),
            ValueError,
            "weight_standardization(Linear, name='bias'): this parameter has shape (2,). It must have a row of weights for each "
            "output unit: did you mean name='weight'?",
        ),
    ],
)
def test_errors_say_what_to_do(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == message
