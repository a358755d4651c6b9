"""Skips around the layers of plain networks, and residual branches that are dropped."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import Residual, network, train


def attached(model: nn.Module, text: str) -> tt.Training:
    return tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)


def deep(depth: int = 6, activation=nn.Sigmoid) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(16, 16), activation())]
    return nn.Sequential(nn.Linear(64, 16), activation(), *layers, nn.Linear(16, 10))


class Functional(nn.Module):
    """Activations and dropout that are functions; one layer without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.c, self.last = (
            nn.Linear(64, 16),
            *[nn.Linear(16, 16) for _ in range(3)],
            nn.Linear(16, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = F.dropout(torch.tanh(self.a(x)), 0.0, self.training)
        x = torch.tanh(self.b(x))
        return self.last(self.c(x))


class Convolutions(nn.Module):
    """Of its convolutions one keeps shape and channels; its activation is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.norm, self.act = nn.Conv2d(1, 1, 3, padding="same"), nn.BatchNorm2d(1), nn.ReLU()
        self.smaller, self.wider, self.strided = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, 2, 1)
        self.head = nn.Linear(18, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.same(x.view(-1, 1, 8, 8))))
        x = self.smaller(x).tanh()
        return self.head(self.strided(self.wider(x).tanh()).tanh().flatten(1))


class TestAddSkips:
    def test_every_layer_adds_to_its_input(self, digits):
        model = deep()
        plain = copy.deepcopy(model)
        training = attached(model, "add_skips")
        x = plain[1](plain[0](digits[0]))
        for layer in range(2, 14, 2):
            x = x + plain[layer + 1](plain[layer](x))
        assert torch.equal(model(digits[0]), plain[14](x))
        assert torch.equal(model.eval()(digits[0]), plain[14](x))
        assert training.changes[0].summary == "identity skips around 6 hidden layers: 2, 4, 6, 8 and 2 more"
        assert training.changes[0].acted()
        training.undo()
        assert torch.equal(model(digits[0]), plain(digits[0]))

    def test_activations_that_are_functions(self, digits):
        """The sum is made where the next layer takes it, which there is the input of the next skip too."""
        torch.manual_seed(0)
        model = Functional()
        plain = copy.deepcopy(model)
        training = attached(model, "add_skips")
        x = torch.tanh(plain.first(digits[0]))
        x = x + torch.tanh(plain.a(x))
        x = x + torch.tanh(plain.b(x))
        assert torch.equal(model(digits[0]), plain.last(plain.c(x)))
        assert training.changes[0].details == (
            "a: to the input of b",
            "b: to the input of c",
            "c: left alone: no activation follows it.",
        )

    def test_norms_belong_to_the_layer_and_shapes_decide(self, digits):
        torch.manual_seed(0)
        model = Convolutions()
        plain = copy.deepcopy(model)
        training = attached(model, "add_skips")
        (detail,) = training.changes[0].details
        assert detail == "same: to the output of act"
        images = digits[0].view(-1, 1, 8, 8)
        x = plain.smaller(images + plain.act(plain.norm(plain.same(images)))).tanh()
        expected = plain.head(plain.strided(plain.wider(x).tanh()).tanh().flatten(1))
        torch.testing.assert_close(model(digits[0]), expected)

    def test_dropout_before_a_layer_stays_inside_the_branch(self, digits):
        model = deep(1)
        attached(model, "dropout(p=0.999), add_skips")
        plain = copy.deepcopy(model.eval())
        model.train()
        with torch.no_grad():
            bypass = plain[1](plain[0](digits[0]))
        y = []
        model[3].register_forward_hook(lambda *call: y.append(call[2]))
        model(digits[0])
        same = torch.isclose(y[0] - bypass, model[2].bias.sigmoid(), atol=1e-6).all(1)
        assert same.double().mean() > 0.9  # the branch sees zeros for all but a few samples, the skip is whole

    def test_residual_branches_are_left_alone(self):
        model = nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(), Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), nn.Linear(4, 4), nn.ReLU(),
            nn.Linear(4, 2),
        )  # fmt: skip
        details = attached(model, "add_skips").changes[0].details
        assert details == (
            "0: to the output of 1",
            "3: to the output of 4",
            "2.branch.0: left alone: it stands in a residual branch.",
            "2.branch.2: left alone: it stands in a residual branch.",
        )

    def test_gradient_reaches_the_first_layer(self, digits):
        """A sigmoid lets at most a quarter of the gradient through; eight of them 4^-8 at best."""
        norms = []
        for text in ("", "add_skips"):
            model = deep(8)
            attached(model, text)
            F.cross_entropy(model(digits[0]), digits[1]).backward()
            norms.append((model[0].weight.grad.norm() / model[18].weight.grad.norm()).item())
        assert norms[0] < 4.0**-8
        assert norms[1] > 1000 * norms[0]

    def test_a_stack_of_sigmoids_learns(self, digits):
        losses = {}
        for text in ("", "add_skips"):
            model = deep(8)
            training = attached(model, text)
            losses[text] = train(model, training.optimizers[0], digits, 200)[-1]
        assert losses[""] > 0.9 * math.log(10)  # about 2.3: guessing
        assert losses["add_skips"] < 0.75 * math.log(10)

    def test_files_and_copies_keep_their_skips(self, digits):
        model = deep()
        keys = list(model.state_dict())
        attached(model, "add_skips")
        model(digits[0])
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for again in (copy.deepcopy(model), torch.load(file, weights_only=False)):
            assert torch.equal(again(digits[0]), model(digits[0]))
        assert list(model.state_dict()) == keys
        assert torch.equal(torch.compile(model, backend="eager")(digits[0]), model(digits[0]))

    def test_says_so_when_a_shape_does_not_fit_after_all(self, digits):
        model = deep(1)
        training = attached(model, "add_skips")
        model[3].register_forward_hook(lambda layer, args, output: output[:, :8], prepend=True)
        model[4] = nn.Linear(8, 10)
        with pytest.warns(
            UserWarning,
            match=r"add_skips: no skip around 2: shape \(512, 16\) goes in, and shape \(512, 8\) comes out.",
        ):
            model(digits[0])
        assert not training.changes[0].acted()

    def test_refusals_say_why(self):
        with pytest.raises(
            tt.NothingToDo, match="no hidden layer with an activation whose output has the shape of its input"
        ):
            attached(network("cnn"), "add_skips")


class Bottleneck(nn.Module):
    """As in torchvision: an addition in place behind the last norm; with a projection at the start."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer)
        self.down = nn.Conv2d(inner, outer, 1) if inner != outer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.down is None else self.down(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += shortcut
        return F.relu(out)


class LayerScale(nn.Module):
    """As in ConvNeXt: the branch ends in a product and a permutation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(width, width), nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.linear(x.permute(0, 2, 1)) * self.scale).permute(0, 2, 1)


class TestDropPath:
    def test_rates_rise_with_depth_at_the_ends_of_branches(self):
        model = nn.Sequential(*[Bottleneck(a, b) for a, b in ((3, 4), (4, 4), (4, 8), (8, 8))])
        change = attached(model, "drop_path(p=0.2)").changes[0]
        assert change.summary == "stochastic depth with p up to 0.2 on 4 residual branches: 0.bn2, 1.bn2, 2.bn2, 3.bn2"
        assert change.details == ("0.bn2: p=0.05", "1.bn2: p=0.1", "2.bn2: p=0.15", "3.bn2: p=0.2")

    @pytest.mark.parametrize(
        ("model", "shape"),
        [
            (lambda: Bottleneck(3, 3), (3, 4, 4)),
            (lambda: tt.nn.Residual(nn.Linear(4, 4)), (4,)),
            (lambda: Residual(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0))), (4,)),
            (lambda: LayerScale(5), (5, 7)),
        ],
        ids=["torchvision", "ours", "dropout", "layer scale"],
    )
    def test_samples_skip_the_branch_and_the_mean_stays(self, model, shape):
        torch.manual_seed(0)
        model = model()
        x = torch.randn(3000, *shape)
        shortcut, whole = F.relu(x) if isinstance(model, Bottleneck) else x, copy.deepcopy(model)(x)
        training = attached(model, "drop_path(p=0.3)")
        y = model(x)
        assert training.changes[0].acted()
        skipped = (y == shortcut).flatten(1).all(1)
        assert abs(skipped.double().mean().item() - 0.3) < 5 * (0.21 / 3000) ** 0.5  # 5 standard errors
        if not isinstance(model, Bottleneck):
            torch.testing.assert_close(y[~skipped], (x + (whole - x) / 0.7)[~skipped], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            assert torch.equal(model(x), whole)
        assert torch.equal(model.eval()(x), whole) or isinstance(
            model, Bottleneck
        )  # whose norms have other statistics there

    def test_both_branches_of_torch_s_transformer_layer(self):
        def layer(first: bool) -> nn.Module:
            return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=first, norm_first=True)

        model = nn.TransformerEncoder(layer(True), 2, enable_nested_tensor=False)
        training = attached(model, "drop_path(p=0.5)")
        assert training.changes[0].details == (
            "layers.0.dropout1: p=0.125",
            "layers.0.dropout2: p=0.25",
            "layers.1.dropout1: p=0.375",
            "layers.1.dropout2: p=0.5",
        )
        x = torch.randn(4000, 3, 8)
        skipped = (model(x) == x).flatten(1).all(1).double().mean().item()
        share = 0.125 * 0.25 * 0.375 * 0.5
        assert abs(skipped - share) < 5 * (share / 4000) ** 0.5
        with pytest.raises(
            tt.NothingToDo, match=r"self_attn|its samples stand along the second dimension \(batch_first=False\)"
        ):
            attached(layer(False), "drop_path")

    def test_what_drops_already_is_left_alone(self):
        model = nn.Sequential(tt.nn.Residual(nn.Linear(4, 4), drop_path=0.1), tt.nn.Residual(nn.Linear(4, 4)))
        change = attached(model, "drop_path").changes[0]
        assert change.details == ("1.drop_path: p=0.1", "0.drop_path: left alone: it is dropped at random already.")

    def test_refusals_and_bad_settings_say_why(self):
        with pytest.raises(tt.NothingToDo, match="no residual branch can be read from the code of the model"):
            attached(network(), "drop_path")
        with pytest.raises(tt.RecipeError, match="p=1 must lie strictly between 0 and 1"):
            attached(network("normed"), "drop_path(p=1)")
