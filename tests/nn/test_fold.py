"""BatchNorm folded into the layer before it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import trimtab as tt
from tests.conftest import Residual, network, train
from trimtab import nn as tnn
from trimtab.nn.fold import fold_batch_norm


def lived(model: nn.Module, *shape: int) -> nn.Module:
    """With running statistics, gains and shifts that are not those of the start."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.rand_like(parameter))
    for _ in range(3):
        model.train()(torch.randn(16, *shape) * 2 + 1)
    return model


CASES = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), (4, 8, 8)),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (4, 8, 8)),
    "no gain": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)), (4, 8, 8)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)), (4, 8, 8)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (4, 8)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 4, 4, 4)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)), (4,)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)), (4, 8, 8)),
    "grouped transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (4, 8, 8),
    ),
    "residual": (
        lambda: nn.Sequential(Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))),
        (4, 8, 8),
    ),
    "ours": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), tnn.BatchNorm2d(6, activation="silu")), (4, 8, 8)),
    "frozen": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), tnn.BatchNorm2d(6, frozen=True)), (4, 8, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_folded_model_computes_the_same(case):
    make, shape = CASES[case]
    model = lived(make(), *shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not folded.training and model.training
    x = torch.randn(5, *shape)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_that_a_technique_put_in_goes_away_altogether(digits):
    for kind in ("mlp", "cnn"):
        plain, model = network(kind), network(kind)
        training = tt.attach(model, torch.optim.Adam(model.parameters(), lr=0.01)).apply("batch_norm")
        train(model, training.optimizers[0], digits, 5)
        folded = fold_batch_norm(model)
        assert folded.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(folded(digits[0]), model.eval()(digits[0]), rtol=1e-4, atol=1e-4)
        plain.load_state_dict(folded.state_dict())
        assert torch.equal(plain(digits[0]), folded(digits[0]))


def test_parametrizations_are_baked_in():
    model = lived(
        nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6)), 4, 8, 8
    )
    folded, x = fold_batch_norm(model), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    assert list(folded.state_dict()) == ["0.bias", "0.weight"]


def test_transformers_resnet():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="bottleneck")
    model = lived(transformers.ResNetModel(config), 3, 32, 32)
    folded, x = fold_batch_norm(model), torch.randn(2, 3, 32, 32)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(x).pooler_output, model.eval()(x).pooler_output, rtol=1e-3, atol=1e-3)


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv(x)
        return z + self.norm(z)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Linear(2, 2), "found nothing to fold. The model has no BatchNorm."),
        (Elsewhere(), "norm: the layer before it is used elsewhere too."),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), "1: what comes before it is no linear or convolution layer."),
        (
            nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            "1: it has no running statistics.",
        ),
        (nn.Sequential(nn.Linear(2, 3), tnn.BatchNorm1d(3, units=[0])), "1: it normalizes only some of its channels."),
    ],
)
def test_what_cannot_be_folded_is_told(model, why):
    with pytest.raises(ValueError) as error:
        fold_batch_norm(model)
    assert why in str(error.value)


def test_norms_that_stay_are_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match="left 1 norms in the model. 3: what comes before it is no linear"):
        folded = fold_batch_norm(model)
    assert isinstance(folded[3], nn.BatchNorm2d)


def test_hooks_stand_in_the_way():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ValueError, match="the layer before it has forward hooks"), warnings.catch_warnings():
        fold_batch_norm(model)
