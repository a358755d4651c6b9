"""Initializations of live trainings: their formulas, the gains they choose, what they do to signals through depth.

Keras is asked in a process of its own (see tests/nn/test_keras.py): this file, run as a script, is that process.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab.nn import calculate_gain
from trimtab.techniques.engines.surgery import Hung
from trimtab.watching.script import run_script


def attached(model: nn.Module, text: str = "", lr: float = 0.1) -> tt.Training:
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9))
    return training.apply(text) if text else training


def lines(model: nn.Module, text: str) -> dict[str, str]:
    """What the change says of each layer."""
    return dict(line.split(": ", 1) for line in attached(model, text).changes[0].details)


# -- formulas --------------------------------------------------------------------------------------------------------


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 5), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)
    )  # fmt: skip


RELU, LEAKY = ("relu", 0), ("leaky_relu", 0.2)


def kaiming(draw):
    def fill(weight, kind, generator, **options):
        draw(weight, a=kind[1], nonlinearity=kind[0], generator=generator, **options)

    return fill


def xavier(draw):
    return lambda weight, kind, generator: draw(weight, calculate_gain(*kind), generator=generator)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("he_init", kaiming(nn.init.kaiming_normal_)),
        ("he_init(distribution='uniform')", kaiming(nn.init.kaiming_uniform_)),
        ("he_init(mode='fan_out')", lambda *a: kaiming(nn.init.kaiming_normal_)(*a, mode="fan_out")),
        ("xavier_init", xavier(nn.init.xavier_normal_)),
        ("xavier_init(distribution='uniform')", xavier(nn.init.xavier_uniform_)),
        ("orthogonal_init", xavier(nn.init.orthogonal_)),
        ("orthogonal_init(gain=3.0)", lambda w, kind, generator: nn.init.orthogonal_(w, 3.0, generator)),
        ("xavier_init(gain=1.0)", lambda w, kind, generator: nn.init.xavier_normal_(w, generator=generator)),
    ],
)
def test_torch_gives_the_same_from_the_same_random_numbers(text, expected):
    model, twin = small(), small()
    attached(model, text)
    other = attached(twin)
    kinds = {"0": LEAKY, "2": ("linear", None), "4": RELU, "6": ("linear", None)}
    for name, kind in kinds.items():
        layer = twin.get_submodule(name)
        with torch.no_grad():
            expected(layer.weight, kind, other.generator(f"init {name}"))
            layer.bias.zero_()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        # the same standard deviation, computed in another order; for orthonormal ones QR with another sign of zero
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_formula_of_the_seed(distribution):
    """003: N(0, sqrt(2/(n_in + n_out))), the second argument the standard deviation; U[-r, r], r = sqrt(6/(n_in + n_out))."""
    model = nn.Sequential(nn.Linear(600, 200), nn.Tanh(), nn.Linear(200, 400))
    attached(model, f"xavier_init(gain=1.0, distribution={distribution!r})")
    for layer, ends in ((model[0], 800), (model[2], 600)):
        weights = layer.weight.detach().double().flatten().numpy()
        # 80 000 and more numbers: 5 standard errors of a standard deviation are 1.3 %
        assert weights.std() == pytest.approx(math.sqrt(2 / ends), rel=0.0125)
        if distribution == "uniform":
            assert math.sqrt(6 / ends) * 0.999 < np.abs(weights).max() <= math.sqrt(6 / ends) * (1 + 1e-6)
            assert np.histogram(weights, 10)[0] == pytest.approx(
                len(weights) / 10, rel=5 / math.sqrt(len(weights) / 10)
            )
        else:
            assert (weights**4).mean() / weights.var() ** 2 == pytest.approx(3, abs=5 * math.sqrt(24 / len(weights)))
        assert not layer.bias.any()


def test_groups_and_strides_count():
    """Each output of a depthwise convolution has 9 inputs; each of a transposed one with stride 2 a quarter of kernel * channels."""
    torch.manual_seed(0)
    x = torch.randn(8, 256, 12, 12)
    for layer in (nn.Conv2d(256, 256, 3, groups=256), nn.ConvTranspose2d(256, 64, 4, stride=2), nn.Conv2d(256, 64, 3)):
        attached(nn.Sequential(layer), "he_init")
        y = layer(x)[..., 4:-4, 4:-4]  # away from the borders
        assert y.square().mean().item() == pytest.approx(1, abs=0.15)  # 256 * 9 weights: 5 standard errors
    wide = nn.Conv2d(256, 512, 3, groups=256)
    attached(nn.Sequential(wide), "xavier_init")
    assert wide.weight.var().item() == pytest.approx(2 / (9 + 18), rel=0.1)


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("keras")
    environment = {
        **os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = [sys.executable, "-W", "error", __file__, str(folder / "answers.pt")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


OF_KERAS = {
    "HeNormal": "he_init", "HeUniform": "he_init(distribution='uniform')", "GlorotNormal": "xavier_init(gain=1.0)",
    "GlorotUniform": "xavier_init(gain=1.0, distribution='uniform')", "Orthogonal": "orthogonal_init(gain=1.0)",
}  # fmt: skip


@pytest.mark.parametrize("name", OF_KERAS)
def test_keras_draws_with_the_same_variance(name, keras):
    """Its normal ones are truncated at two standard deviations, and scaled so that the variance is the same."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(30, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 1)
    )
    attached(model, OF_KERAS[name])
    for layer, theirs in zip((model[0], model[3]), keras[name], strict=True):
        # 10 800 and 60 000 numbers of each: the variance of a normal sample is off by sqrt(2/n), that of a difference by sqrt(2) times that
        tolerance = 5 * 2 / math.sqrt(layer.weight.numel())
        assert layer.weight.square().mean().item() == pytest.approx(theirs.square().mean().item(), rel=tolerance)
        assert abs(layer.weight.mean().item()) < 5 * layer.weight.std().item() / math.sqrt(layer.weight.numel())


# -- the gains chosen ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """What code of today looks like: functional activations, norms between, gates, a residual branch, a log-softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.deep = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.into, self.hand, self.gate = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.value, self.branch, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        x = F.dropout(F.max_pool2d(self.deep(x), 2), 0.1, self.training)
        x = F.gelu(x, approximate="tanh").mean((2, 3)).view(x.size(0), -1)
        x = self.into(x).tanh()
        x = self.hand(x)
        x = x * torch.sigmoid(x)
        x = torch.relu(x + self.branch(torch.sigmoid(self.gate(x)) * self.value(x)))
        return F.log_softmax(self.out(x), 1)


def test_gains_are_read_from_the_code():
    found = lines(Block(), "he_init")
    silu, gelu = calculate_gain("silu"), calculate_gain(nn.GELU("tanh"))
    assert found == {
        "conv": f"gain {math.sqrt(2 / 1.04):.4g}: leaky_relu follows",
        "deep": f"gain {gelu:.4g}: gelu follows",
        "into": "gain 1.667: tanh follows",
        "hand": f"gain {silu:.4g}: x * sigmoid(x) follows",
        "gate": "gain 1: sigmoid follows as a gate",
        "value": "gain 1: Linear follows without an activation between",
        "branch": "gain 1.414: relu follows",
        "out": "gain 1: log_softmax follows without an activation between",
    }


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


class PickOne(nn.Module):
    """No function of each number by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True)


def linear(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), *between, nn.Linear(4, 4))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(torch.tanh(self.layer(x))))


@pytest.mark.parametrize(
    "model, gain, why",
    [
        (linear(nn.ReLU()), "1.414", "ReLU follows"),
        (linear(nn.Dropout(), nn.LayerNorm(4), nn.Identity(), nn.ReLU()), "1.414", "ReLU follows"),
        (linear(nn.Sigmoid()), "4", "Sigmoid follows"),
        (linear(nn.Hardsigmoid()), "6", "Hardsigmoid follows"),
        (linear(nn.SELU()), "1", "SELU follows"),
        (linear(nn.PReLU()), f"{math.sqrt(2 / (1 + 0.25**2)):.4g}", "PReLU follows"),
        (linear(nn.Mish()), f"{calculate_gain('mish'):.4g}", "Mish follows"),
        (linear(Swish()), f"{calculate_gain('silu'):.4g}", "Swish follows"),
        (linear(PickOne(), nn.Tanh()), "1.667", "Tanh follows"),
        (linear(), "1", "Linear follows without an activation between"),
        (linear(nn.Softmax(-1)), "1", "Softmax follows without an activation between"),
        (linear(nn.LSTM(4, 4)), "1", "LSTM follows without an activation between"),
        (linear(tt.nn.BatchNorm1d(4, activation="relu")), "1.414", "relu follows in the pass of its norm"),
        (Twice(), "1.667", "tanh follows where it is called first"),
    ],
    ids=str,
)
def test_what_follows_the_first_layer(model, gain, why):
    assert next(iter(lines(model, "xavier_init").values())) == f"gain {gain}: {why}"


@pytest.mark.parametrize("end", [nn.Sigmoid(), nn.Tanh(), nn.Softmax(-1), nn.ReLU()])
def test_an_activation_at_the_end_is_none_of_a_hidden_layer(end):
    found = lines(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), end), "he_init")
    assert found["0"] == "gain 1.414: ReLU follows" and found["2"].startswith("gain 1: ")


class Unreadable(nn.Module):
    """Branches on data, which torch.fx cannot follow; what is inside of it can be."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.act, self.inner = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh(), linear(nn.SiLU())
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.two(F.relu(self.one(x)) if x.sum() > 0 else self.one(x)))
        return self.out(self.inner(x))


def test_what_cannot_be_read_is_assumed_and_said():
    unknown = "what follows it could not be read from the code"
    inner = "gain 1: assumed linear: no activation follows in inner, and the code around it could not be read"
    expected = {
        "one": f"gain 1.414: assumed ReLU: {unknown}",
        "two": "gain 1.667: assumed, since Tanh is defined next",
        "inner.0": f"gain {calculate_gain('silu'):.4g}: SiLU follows",
        "inner.2": inner,
        "out": "gain 1: the last layer by the order of definition",
    }
    assert lines(Unreadable(), "he_init") == expected
    for text in ("xavier_init", "orthogonal_init"):
        assert lines(Unreadable(), text) == {**expected, "one": f"gain 1: assumed linear: {unknown}"}
    assert set(lines(Unreadable(), "xavier_init(gain=2.0)").values()) == {"gain 2: as given"}


def test_transformer_blocks_of_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), 1)
    found = lines(nn.Sequential(nn.Linear(4, 8), block, nn.Linear(8, 2)), "he_init")
    assert found["1.layers.0.linear1"] == f"gain {calculate_gain('gelu'):.4g}: gelu follows"
    assert found["1.layers.0.linear2"] == "gain 1: it ends a residual branch"


def test_norms_put_in_before_do_not_hide_the_activation():
    assert lines(network("mlp"), "he_init") == lines_of("batch_norm, he_init") == lines_of("batch_norm, fuse, he_init")


def lines_of(text: str) -> dict[str, str]:
    changes = attached(network("mlp"), text).changes
    change = next(one for one in changes if "_init of" in one.summary)
    return dict(line.replace("relu", "ReLU").split(": ", 1) for line in change.details)


# -- through depth: claim E21, as existing signals show it -----------------------------------------------------------

DEPTH, WIDTH = 20, 256
# log of the standard deviation takes a random step of about sqrt(5/n)/2 with each layer; the slope of a line through 20 such steps is off by
# sqrt(6/5/20) of one. Three of these.
NOISE = 3 * math.sqrt(5 / WIDTH) / 2 * math.sqrt(6 / 5 / DEPTH)


def through_depth(text: str, activation=nn.ReLU) -> tuple[float, np.ndarray]:
    """Slope of log standard deviation against depth, and the gradient norms of the weights: both from the signals of a watch."""
    torch.manual_seed(0)
    stack = [part for _ in range(DEPTH) for part in (nn.Linear(WIDTH, WIDTH), activation())]
    model = nn.Sequential(*stack, nn.Linear(WIDTH, 1))
    training = attached(model, text)
    with training.watch() as recorder:
        x = torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(1))
        model(x).mean().backward()
        training.optimizers[0].step()
    profiles = recorder.record().main.profiles
    std, grads = (
        np.array([profile.rows[0][profile.names.index(f"{2 * layer}{end}")] for layer in range(DEPTH)])
        for profile, end in ((profiles["activation_std"], ""), (profiles["grad_norms"], ".weight"))
    )
    return float(np.polyfit(range(DEPTH), np.log(std), 1)[0]), grads


def test_the_variance_of_weights_sets_activations_and_gradients_through_depth():
    one, one_gradient = through_depth("xavier_init(gain=1.0)")  # 2 / (n + n) = 1 / n
    two, two_gradient = through_depth("he_init")
    three, three_gradient = through_depth(f"xavier_init(gain={math.sqrt(3)})")
    assert one == pytest.approx(0.5 * math.log(1 / 2), abs=NOISE)
    assert two == pytest.approx(0, abs=NOISE)
    assert three == pytest.approx(0.5 * math.log(3 / 2), abs=NOISE)
    # The gradient of each weight is proportional to all others on the way: 19 of the hidden layers, and that of the output, whose variance is
    # 2 / 257 times 1 and 3, and 1 / 256.
    for gradient, variance, last in ((one_gradient, 1, 512 / 257), (three_gradient, 3, 3 * 512 / 257)):
        expected = math.sqrt((variance / 2) ** (DEPTH - 1) * last)
        assert gradient / two_gradient == pytest.approx(
            np.full(DEPTH, expected), rel=1e-3
        )  # the same draws, in float32


@pytest.mark.parametrize(
    "text, activation",
    [
        ("he_init(distribution='uniform')", nn.ReLU), ("orthogonal_init", nn.ReLU), ("he_init", lambda: nn.LeakyReLU(0.5)),
        ("xavier_init", nn.Tanh), ("xavier_init(distribution='uniform')", nn.Tanh), ("orthogonal_init", nn.Tanh),
        ("xavier_init", nn.ELU), ("xavier_init", nn.SELU), ("lsuv_init", nn.ReLU), ("lsuv_init", nn.SiLU), ("lsuv_init", nn.Tanh),
    ],
)  # fmt: skip
def test_activations_keep_their_size(text, activation):
    assert through_depth(text, activation)[0] == pytest.approx(0, abs=NOISE)


@pytest.mark.parametrize(
    "activation, shrinks, grows", [(nn.GELU, -0.65, 0.1), (nn.SiLU, -0.65, 0.2), (nn.Mish, -0.45, 0.1)]
)
def test_others_nearly_do(activation, shrinks, grows):
    """Large inputs pass these whole, small ones halved: where the variance is off, it moves away. LSUV holds it (above)."""
    assert through_depth("xavier_init(gain=1.0)", activation)[0] < shrinks
    assert abs(through_depth("he_init", activation)[0]) < grows


def test_sigmoids_pass_the_gradient_with_a_gain_of_4():
    _, vanishing = through_depth("xavier_init(gain=1.0)", nn.Sigmoid)
    _, passed = through_depth("xavier_init", nn.Sigmoid)
    slopes = [np.polyfit(range(DEPTH), np.log(grads), 1)[0] for grads in (vanishing, passed)]
    assert slopes[0] == pytest.approx(math.log(4), abs=0.1)  # a fourth remains with every layer on the way to the input
    assert slopes[1] < 0.5 * slopes[0]


# -- orthogonal ------------------------------------------------------------------------------------------------------


def test_orthogonal_weights_keep_lengths_through_any_depth():
    model = nn.Sequential(*[nn.Linear(32, 32) for _ in range(50)])
    attached(model, "orthogonal_init")
    x = torch.randn(16, 32)
    torch.testing.assert_close(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-4, atol=0)  # 50 roundings of float32
    jacobian = torch.eye(32)
    for layer in model:
        jacobian = layer.weight.detach() @ jacobian
    assert torch.linalg.svdvals(jacobian) == pytest.approx(np.ones(32), abs=1e-4)
    attached(model, "xavier_init")
    jacobian = torch.eye(32)
    for layer in model:
        jacobian = layer.weight.detach() @ jacobian
    assert torch.linalg.svdvals(jacobian).min() < 1e-6 * torch.linalg.svdvals(jacobian).max()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.LSTMCell])
def test_recurrent_weights_become_orthogonal_gate_by_gate(kind):
    rnn = kind(4, 8)
    before = {name: p.detach().clone() for name, p in rnn.named_parameters()}
    training = attached(rnn, "orthogonal_init")
    for name, parameter in rnn.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.detach().split(8):
                torch.testing.assert_close(gate @ gate.T, torch.eye(8), rtol=0, atol=1e-5)
        else:
            assert torch.equal(parameter, before[name])
    assert "recurrent weight" in training.changes[0].summary
    training.undo()
    assert all(torch.equal(p, before[name]) for name, p in rnn.named_parameters())


@pytest.mark.parametrize("text", ["he_init", "xavier_init", "orthogonal_init", "lsuv_init"])
def test_half_precision(text):
    model = network("mlp").bfloat16()
    training = attached(model, text)
    loss = model(torch.randn(64, 64, dtype=torch.bfloat16)).square().mean()
    assert model[0].weight.dtype == torch.bfloat16 and torch.isfinite(loss)
    assert all(change.acted() for change in training.changes)


# -- LSUV on a live training -----------------------------------------------------------------------------------------


def seen_in_training(model: nn.Module, data: tuple, steps: int = 1) -> dict[str, torch.Tensor]:
    """What layers give in the first training forward."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name):
        def hook(module, args, y):
            if y.requires_grad:
                seen.setdefault(name, y.detach().clone())

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), data, steps)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", ["mlp", "cnn", "normed", "dropout"])
def test_the_first_training_batch_has_unit_variance_everywhere(kind, digits):
    model = network(kind)
    training = attached(model, "lsuv_init")
    (change,) = training.changes
    assert change.outcome() == "waits for the first batch in training mode" and not change.acted()
    seen = seen_in_training(model, digits)
    assert len(seen) >= 3
    for name, y in seen.items():
        assert abs(y.var(correction=0).item() - 1) < 0.1, name
    assert change.acted() and " weights scaled by " in change.outcome()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 1


def test_a_plain_twin_sees_the_same_numbers(digits):
    """The measuring pass leaves no trace: dropout masks, running statistics, data, Python's and NumPy's random numbers."""
    results = []
    for text in ("", "lsuv_init(tolerance=1e9)"):  # so wide that nothing is scaled
        torch.manual_seed(3)
        model = network("normed")
        model.append(nn.Dropout(0.5))
        training = attached(model, "orthogonal_init(gain=1.0)")
        with torch.no_grad():
            start = [p.clone() for p in model.parameters()]
        if text:
            training.undo().apply(text)
            with torch.no_grad():
                for p, value in zip(model.parameters(), start, strict=True):
                    p.data.copy_(value)  # no trace that the technique could see
        torch.manual_seed(4)
        losses = train(model, training.optimizers[0], digits, 3)
        results.append((losses, torch.rand(1).item(), [b.clone() for b in model.buffers()]))
    (plain, mark, buffers), (measured, same_mark, same_buffers) = results
    assert measured == plain and mark == same_mark
    assert all(torch.equal(a, b) for a, b in zip(buffers, same_buffers, strict=True))


def test_evaluation_before_training_does_not_count(digits):
    model = network("mlp")
    training = attached(model, "lsuv_init")
    with torch.no_grad():
        model(digits[0][:32])
    model.eval()(digits[0][:32])
    assert not training.changes[0].acted()
    model.train()(digits[0][:32])
    assert training.changes[0].acted()


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_keeps_its_weights(whole, digits):
    model, other = network("mlp"), network("mlp")
    training = attached(model, "lsuv_init")
    (model if whole else model[2]).load_state_dict((other if whole else other[2]).state_dict())
    model(digits[0][:32])
    assert torch.equal(model[2].weight, other[2].weight)
    assert "its weight was changed since, and is kept" in training.changes[0].outcome()
    assert training.changes[0].acted() is not whole


def test_undo_brings_everything_back_before_and_after(digits, no_other_training):
    for steps in (0, 3):
        model = network("cnn")
        training = attached(model)
        train(model, training.optimizers[0], digits, 2)
        before = copy.deepcopy((model.state_dict(), training.optimizers[0].state_dict()["state"]))
        training.apply("lsuv_init")
        train(model, training.optimizers[0], digits, steps)
        training.undo()
        assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
        state = training.optimizers[0].state_dict()["state"]
        assert all(torch.equal(state[k]["momentum_buffer"], v["momentum_buffer"]) for k, v in before[1].items())
        assert not model._forward_pre_hooks


def test_inputs_are_changed_once_and_written_by_nobody(digits):
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor, *, more: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.layer(x.add_(more["x"].mul_(2)))

    model = InPlace()
    training = attached(model, "lsuv_init(tolerance=1e-3)")
    calls = []

    def doubled(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.clone())
        return 2 * x

    training.change_input(doubled)
    x, more = digits[0][:32].clone(), torch.ones(32, 64)
    y = model(x, more={"x": more})
    assert len(calls) == 1 and torch.equal(more, torch.full((32, 64), 2.0))
    torch.testing.assert_close(y, model.layer(2 * digits[0][:32] + 2))
    assert y.var(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_hooks_of_the_script_see_the_batch_once(digits):
    model = network("mlp")
    training = attached(model, "lsuv_init")
    seen: list[torch.Tensor] = []
    model[1].register_forward_hook(lambda module, args, y: seen.append(y))
    model[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(digits[0][:32])
    assert training.changes and len(seen) == 2 and seen[0] is seen[1]


def test_copies_and_failures_do_not_disturb(digits):
    class Fussy(nn.Module):
        """Fails whenever it is a copy, as models that hold files or locks do."""

        def __init__(self) -> None:
            super().__init__()
            self.net = network("mlp")

        def __deepcopy__(self, memo: dict) -> nn.Module:
            raise TypeError("cannot copy this")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    model = Fussy()
    training = attached(model, "lsuv_init")
    with pytest.warns(UserWarning, match="lsuv_init: the weights are what they were: the model could not be measured"):
        losses = train(model, training.optimizers[0], digits, 3)
    assert all(map(math.isfinite, losses)) and not training.changes[0].acted()
    assert "(TypeError: cannot copy this)" in training.changes[0].outcome()

    model = network("mlp")
    training = attached(model, "lsuv_init")
    twin = copy.deepcopy(model)
    before = twin[0].weight.detach().clone()
    twin(digits[0][:32])
    assert torch.equal(twin[0].weight, before) and not training.changes[0].acted()
    model(digits[0][:32])
    assert training.changes[0].acted()


def test_closures_two_models_and_compiled_ones(digits):
    x, y = digits[0][:64], digits[1][:64]
    model = network("mlp")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    training = tt.attach(model, optimizer).apply("lsuv_init")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert training.changes[0].acted()

    one, two = nn.Linear(64, 8), nn.Linear(8, 10)
    both = tt.attach([one, two], torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)).apply("lsuv_init")
    assert two(one(x)).var(correction=0).item() == pytest.approx(1, abs=0.1)
    assert both.changes[0].outcome().startswith("2 weights scaled by ")

    model = network("mlp")
    training = attached(model, "lsuv_init")
    compiled = torch.compile(model, backend="eager")
    assert compiled(x).var(correction=0).item() == pytest.approx(1, abs=0.1)
    scaled = model[0].weight.detach().clone()
    compiled(2 * x)
    assert torch.equal(model[0].weight, scaled) and training.changes[0].acted()
    torch._dynamo.reset()


def test_it_measures_in_front_of_norms_that_are_put_in(digits):
    model = network("mlp")
    training = attached(model, "lsuv_init, batch_norm(identity=True), identity_init")
    plain = network("mlp")
    train_free = attached(plain, "lsuv_init")
    y, same = model(digits[0][:64]), plain(digits[0][:64])
    torch.testing.assert_close(y, same, rtol=1e-4, atol=1e-4)  # norms start as the identity
    assert training.changes[1].outcome() == train_free.changes[0].outcome()
    training.undo()
    assert not any(p.ndim == 1 and "norm" in name for name, p in model.named_parameters())


def test_it_measures_layers_and_not_the_norms_and_dropouts_hung_on_them(digits):
    model = network("cnn")
    training = attached(model, "batch_norm, dropout(p=0.5), lsuv_init(tolerance=1e-3)")
    raw: dict[nn.Module, torch.Tensor] = {}
    for module in [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]:
        module.register_forward_hook(lambda m, args, y: raw.update({m: y.detach().clone()}), prepend=True)
    model(digits[0][:32])
    assert training.changes and len(raw) == 3
    for y in raw.values():  # behind the same masks of dropout, which acts in training alone
        assert y.var(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_what_hangs_on_the_models_input_acts_once(digits):
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x + 1

    model = nn.Linear(64, 10)
    Hung(model, "double", Double(), lambda part, x: part(x), before=True)
    training = attached(model, "lsuv_init(tolerance=1e-3)")
    assert model(digits[0][:32]).var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert training.changes


def test_norms_that_set_themselves_are_undone_to_what_they_were(digits):
    model = network("normed")
    with torch.no_grad():
        model[2].weight.uniform_(0.5, 2)
    before = copy.deepcopy(dict(model.named_parameters()))
    training = attached(model, "identity_init, lsuv_init")
    model(digits[0][:32])
    assert not torch.equal(model[2].weight, before["2.weight"])
    training.undo()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_unmodified_script(script, capsys):
    path = script("""
        import torch
        from torch import nn
        import torch.nn.functional as F
        torch.manual_seed(0)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two, self.three = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)
            def forward(self, x):
                self.stds = []
                for layer in (self.one, self.two):
                    z = layer(x)
                    self.stds.append(z.std().item())
                    x = F.silu(z)
                return self.three(x)
        net, x, y = Net(), 100 * torch.randn(64, 6), torch.randint(3, (64,))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            print(*net.stds, torch.rand(1).item(), sep="|")
            loss.backward()
            optimizer.step()
    """)
    outcome = run_script(path, on_training=lambda training, code: training.apply("lsuv_init") and None)
    treated = capsys.readouterr().out.splitlines()
    run_script(path, on_training=lambda training, code: None)
    plain = capsys.readouterr().out.splitlines()
    assert outcome.exit_code == 0
    assert [float(std) for std in treated[0].split("|")[:2]] == pytest.approx([1, 1], abs=0.06)
    assert float(plain[0].split("|")[0]) > 10
    assert [line.split("|")[-1] for line in treated] == [
        line.split("|")[-1] for line in plain
    ]  # the script's random numbers


@pytest.fixture
def two_processes():
    """Begins to be one of two processes: torch's process group for tests, which needs no other to be there."""
    store = pytest.importorskip("torch.testing._internal.distributed.fake_pg").FakeStore()
    yield lambda: torch.distributed.init_process_group("fake", store=store, rank=0, world_size=2)
    torch.distributed.destroy_process_group()


def test_several_processes_are_refused(two_processes, digits):
    early = network("mlp")
    before = early[0].weight.detach().clone()
    training = attached(early, "lsuv_init")
    two_processes()
    with pytest.raises(tt.NothingToDo, match="several processes train, and each would measure on a batch of its own"):
        attached(network("mlp"), "lsuv_init")
    early(digits[0][:32])
    assert torch.equal(early[0].weight, before) and not training.changes[0].acted()
    assert "several processes train" in training.changes[0].outcome()


# -- norms that start as the identity --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["identity_init", "batch_norm, identity_init", "lsuv_init, identity_init"])
def test_norms_of_the_model_and_of_recipes_start_as_the_identity(text, digits):
    model = network("normed")
    training = attached(model, text)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert len(norms) == (4 if "batch_norm" in text else 2)
    seen: dict[str, float] = {}

    def look(norm: nn.Module, args: tuple, y: torch.Tensor) -> None:
        name = next(name for name, one in norms.items() if one is norm)
        seen.setdefault(name, ((y - args[0]).abs().max() / args[0].abs().max()).item())

    for norm in norms.values():
        norm.register_forward_hook(look)
    model(digits[0][:64])
    assert len(seen) == len(norms) and max(seen.values()) < 1e-5
    change = training.changes[-1]
    assert change.acted() and change.outcome().startswith("on the first training batch outputs differ from inputs by ")
    with torch.no_grad():
        before = {name: norm.weight.clone() for name, norm in norms.items()}
        model(2 * digits[0][:64])
    assert all(torch.equal(norm.weight, before[name]) for name, norm in norms.items())  # once


def test_identity_init_is_undone_bit_for_bit(digits, no_other_training):
    model = network("normed")
    training = attached(model)
    train(model, training.optimizers[0], digits, 2)
    training.apply("identity_init")
    hooks = [m for m in model.modules() if m._load_state_dict_post_hooks]
    assert len(hooks) == 2
    before = copy.deepcopy((model.state_dict(), training.optimizers[0].state_dict()["state"]))
    model(digits[0][:64])
    assert not torch.equal(model[2].weight, before[0]["2.weight"]) and "momentum_buffer" not in training.optimizers[
        0
    ].state.get(model[2].weight, {})
    training.undo()
    tracked = {name for name in before[0] if "num_batches" in name}  # the script's own forward counted
    assert all(torch.equal(v, before[0][n]) for n, v in model.state_dict().items() if n not in tracked)
    state = training.optimizers[0].state_dict()["state"]
    assert all(torch.equal(state[k]["momentum_buffer"], v["momentum_buffer"]) for k, v in before[1].items())
    assert not any(m._forward_pre_hooks or m._load_state_dict_post_hooks for m in model.modules())


def test_identity_init_tells_what_it_leaves_and_keeps_checkpoints(digits):
    model = nn.Sequential(
        nn.Linear(64, 8), nn.LayerNorm(8), nn.ReLU(), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 10)
    )
    training = attached(model, "identity_init")
    assert training.changes[0].details == ("3: left alone: BatchNorm1d has no gain",)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model(digits[0][:64])
    assert torch.equal(model[1].weight, torch.ones(8)) and not training.changes[0].acted()
    training.undo().apply("identity_init(only='1')")
    model(digits[0][:64])
    assert training.changes[0].acted()
    with pytest.raises(tt.NothingToDo, match="the model has no normalization with a gain"):
        attached(network("mlp"), "identity_init")
    assert len(attached(network("mlp"), "identity_init, batch_norm").changes) == 2  # the norms are put in first
    model = nn.Sequential(nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10))
    training = attached(model, "identity_init")
    model(torch.full((4, 64), math.nan))  # no error of ours
    assert "is left alone: identity_init(LayerNorm) got a batch" in training.changes[0].outcome()


# -- branches that start at zero -------------------------------------------------------------------------------------


class Fixup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.two(F.relu(self.one(x))))


class ReZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.alpha = nn.Linear(8, 8), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.alpha * F.relu(self.one(x))


def test_branches_without_a_norm_can_start_at_zero():
    model, x = nn.Sequential(Fixup(), Fixup(), nn.Linear(8, 8)), torch.randn(4, 8)
    with pytest.raises(tt.NothingToDo, match=r"in a layer scale, and that is trained\."):
        attached(model, "zero_init_residual")
    training = attached(model, "zero_init_residual(weights=True)")
    assert training.changes[0].details == ("0.two.weight: 0, and its bias", "1.two.weight: 0, and its bias")
    assert torch.equal(model[:2](x), x)
    model(x).square().sum().backward()
    assert model[0].two.weight.grad.any()  # and it learns
    only = attached(nn.Sequential(Fixup(), Fixup()), "zero_init_residual(weights=True, only='1.*')")
    assert only.changes[0].details == ("1.two.weight: 0, and its bias",)
    with pytest.raises(tt.NothingToDo, match="in a layer scale, or in a layer"):
        attached(network("mlp"), "zero_init_residual(weights=True)")


def test_rezero_has_its_one_number_set():
    model, x = nn.Sequential(ReZero(), ReZero()), torch.randn(4, 8)
    training = attached(model, "zero_init_residual")
    assert torch.equal(model(x), x) and training.changes[0].details == ("0.alpha: 0", "1.alpha: 0")
    training.undo()
    assert model[0].alpha.item() == pytest.approx(0.7)


def test_transformer_blocks_of_torch_start_as_the_identity():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, dropout=0.0)
    model, x = nn.Sequential(block), torch.randn(4, 5, 8)
    training = attached(model, "zero_init_residual(weights=True)")
    assert torch.equal(model(x), x)
    assert [line.split(":")[0] for line in training.changes[0].details] == [
        "0.self_attn.out_proj.weight",
        "0.linear2.weight",
    ]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("he_init(distribution='cauchy')", "distribution='cauchy' must be 'normal' or 'uniform'"),
        ("he_init(mode='fan')", "mode='fan' must be 'fan_in' (activations) or 'fan_out' (gradients)"),
        ("xavier_init(gain=-1)", "gain=-1 must be positive"),
        ("orthogonal_init(gain=0)", "None takes it from the activation that follows each layer"),
        ("lsuv_init(tolerance=0)", "tolerance=0 and std=1.0 must be positive"),
        ("lsuv_init(iterations=0)", "iterations=0 must be at least 1"),
        ("lsuv_init, he_init", "he_init cannot be combined with lsuv_init: both would draw the same weights"),
    ],
)
def test_bad_settings_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        attached(network("mlp"), text)
    assert message in str(error.value)


if __name__ == "__main__":
    import keras as real

    assert real.backend.backend() == "torch" and "tensorflow" not in sys.modules
    answers = {}
    for name in OF_KERAS:
        draw = getattr(real.initializers, name)
        shapes = (3, 3, 30, 40), (300, 200)  # kernels: height, width, in, out
        answers[name] = [draw(seed=1)(shape).detach().cpu().clone() for shape in shapes]
    torch.save(answers, sys.argv[1])


# -- what is not trained ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["he_init", "xavier_init", "orthogonal_init", "lsuv_init", "identity_init"])
@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_not_trained_is_left_alone(text, frozen, digits):
    """Frozen features, and layers that no optimizer holds."""
    model = nn.Sequential(
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight)
    if frozen:
        model[:3].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    training = tt.attach(model, torch.optim.SGD(model[3:].parameters(), lr=0.0)).apply(text)
    model(digits[0][:32]).sum().backward()
    changed = {
        name for name, value in model.state_dict().items() if "weight" in name and not torch.equal(value, before[name])
    }
    assert changed and changed <= {"3.weight", "4.weight", "6.weight"}
    assert any("not trained" in line or "frozen" in line for line in training.changes[0].details)
