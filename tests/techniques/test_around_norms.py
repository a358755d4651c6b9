"""Techniques that change what stands around a norm: redundant biases, residual scales, standardized weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import trimtab as tt
from tests.conftest import Residual, network, train

transformers = pytest.importorskip("transformers")


def attached(model: nn.Module) -> tt.Training:
    return tt.attach(model, torch.optim.Adam(model.parameters(), lr=0.01))


class PreActivation(nn.Module):
    """Defined conv, norm, conv, norm; called norm, conv, norm, conv, add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


class TestRemoveRedundantBias:
    def test_the_code_decides_not_the_order_of_definition(self):
        model = nn.Sequential(PreActivation(), PreActivation())
        training = attached(model).apply("remove_redundant_bias")
        assert [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is None] == [
            "0.conv1",
            "1.conv1",
        ]
        assert training.changes[0].summary == "2 redundant biases removed: 0.conv1, 1.conv1"

    @pytest.mark.parametrize("mode", [True, False])
    def test_outputs_stay(self, mode):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8, track_running_stats=True),
            nn.ConvTranspose2d(8, 4, 3), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(256, 5), nn.Identity(), nn.BatchNorm1d(5),
        )  # fmt: skip
        x = torch.randn(4, 3, 10, 10)
        model(x)
        model.train(mode)
        before = [b.clone() for b in model.buffers()]
        expected = model(x)
        for new, old in zip(model.buffers(), before, strict=True):
            new.copy_(old)
        training = attached(model).apply("remove_redundant_bias")
        assert len(training.changes[0].details) == 4
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)

    def test_undo_after_training_keeps_what_evaluation_gives(self, digits):
        model = network("normed")
        training = attached(model)
        train(model, training.optimizers[0], digits, 3)
        training.apply("remove_redundant_bias")
        train(model, training.optimizers[0], digits, 3)
        model.eval()
        expected = model(digits[0])
        training.undo()
        torch.testing.assert_close(model(digits[0]), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("norm", "why"),
        [
            (nn.LayerNorm(6), "LayerNorm subtracts a mean over several channels, which the bias of each shifts"),
            (nn.RMSNorm(6), "RMSNorm subtracts no mean"),
            (nn.GroupNorm(2, 6), "GroupNorm subtracts a mean over several channels"),
            (tt.nn.BatchNorm1d(6, frozen=True), "BatchNorm1d subtracts means that do not follow it"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    def test_other_norms_need_the_bias(self, norm, why):
        with pytest.raises(tt.NothingToDo, match=why):
            attached(nn.Sequential(nn.Linear(4, 6), norm)).apply("remove_redundant_bias")

    def test_an_output_that_is_used_elsewhere_keeps_its_bias(self):
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                z = self.layer(x)
                return z + self.norm(z)

        with pytest.raises(tt.NothingToDo, match="no layer with a bias goes straight into a normalization"):
            attached(Two()).apply("remove_redundant_bias")

    def test_norms_of_techniques_count_too(self, digits):
        model = network("mlp")
        training = attached(model).apply("batch_norm, remove_redundant_bias")
        assert [m.bias is None for m in model if isinstance(m, nn.Linear)] == [True, True, False]
        train(model, training.optimizers[0], digits, 2)
        training.undo()
        assert [m.bias is None for m in model if isinstance(m, nn.Linear)] == [False, False, False]


class Downsample(nn.Module):
    """torchvision's basic block with a projection: both sides of the addition end in a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.downsample = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class TestZeroInitResidual:
    def zeros(self, model: nn.Module) -> list[str]:
        return [name for name, p in model.named_parameters() if p.ndim == 1 and "bias" not in name and not p.any()]

    def test_the_branch_and_not_the_shortcut(self):
        model = Downsample()
        attached(model).apply("zero_init_residual")
        assert self.zeros(model) == ["bn2.weight"]

    def test_transformers_resnet_and_convnext(self):
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="bottleneck"
        )
        model = transformers.ResNetModel(config)
        attached(model).apply("zero_init_residual")
        assert self.zeros(model) == [
            f"encoder.stages.{stage}.layers.{layer}.layer.2.normalization.weight"
            for stage in (0, 1)
            for layer in (0, 1)
        ]
        convnext = transformers.ConvNextModel(
            transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1])
        )
        attached(convnext).apply("zero_init_residual(only='*.stages.1.*')")
        assert self.zeros(convnext) == ["encoder.stages.1.layers.0.layer_scale_parameter"]

    def test_post_norm_and_plain_branches_are_left_alone(self):
        config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        for model in (transformers.BertModel(config), PreActivation(), network("mlp")):
            with pytest.raises(tt.NothingToDo, match="no residual branch that ends in a norm"):
                attached(model).apply("zero_init_residual")

    def test_a_live_block_becomes_the_identity_and_comes_back(self, digits):
        model = network("normed")
        training = attached(model)
        train(model, training.optimizers[0], digits, 3)
        block = next(m for m in model if isinstance(m, Residual))
        x = torch.randn(4, 8, 6, 6)
        gain = block.branch[1].weight.detach().clone()
        training.apply("zero_init_residual")
        assert torch.equal(block(x), x)
        assert training.changes[0].details == ("4.branch.1.weight: 0, and its shift",)
        training.undo()
        assert torch.equal(block.branch[1].weight, gain)
        assert "exp_avg" in training.optimizers[0].state[block.branch[1].weight]


class TestGnWs:
    def test_norms_and_weights(self, digits):
        model = network("normed")
        training = attached(model)
        train(model, training.optimizers[0], digits, 2)
        training.apply("gn_ws(groups=4)")
        assert training.changes[0].summary == (
            "weights of 2 convolutions standardized: 1, 4.branch.0; 2 norms made group_norm: 2, 4.branch.1"
        )
        weight = model[1].weight.flatten(1)
        torch.testing.assert_close(weight.var(1, correction=0), torch.ones(8), rtol=1e-3, atol=1e-3)
        kernel = model[1].parametrizations.weight.original
        assert training.optimizers[0].state[kernel]["step"] == 2
        train(model, training.optimizers[0], digits, 2)
        twin = copy.deepcopy(model)
        training.undo()
        assert twin[1].weight.shape == kernel.shape  # a copy made before is not touched
        assert model[1].weight is kernel and type(model[1]) is nn.Conv2d
        assert training.optimizers[0].state[kernel]["step"] == 4

    def test_group_norms_that_are_there_already(self):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        training = attached(model).apply("gn_ws")
        assert [name for name, m in model.named_modules() if hasattr(m, "parametrizations")] == ["0"]
        training.undo()
        with pytest.raises(tt.NothingToDo, match="no convolution with a batch or group norm behind it"):
            attached(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).apply("gn_ws")

    def test_initialization_reaches_the_weight_below(self):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        before = model[0].weight.detach().clone()
        attached(model).apply("gn_ws, he_init")
        assert not torch.equal(model[0].parametrizations.weight.original, before)
