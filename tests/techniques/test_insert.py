"""Where norms are put, and with which gains they start."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import train

KINDS = ["batch_norm", "layer_norm", "group_norm", "rms_norm"]


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 10))


def cnn() -> nn.Sequential:
    torch.manual_seed(1)
    act = nn.ReLU()  # one module at several places, as in torchvision
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), act, nn.Conv2d(8, 8, 3), act, nn.Flatten(), nn.Linear(128, 10)
    )


class Functional(nn.Module):
    """Activations that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(torch.tanh(self.two(F.relu(self.one(x)))))


def applied(model: nn.Module, text: str) -> tuple[tt.Training, list[str]]:
    before = {name for name, _ in model.named_modules()}
    training = tt.attach(model, torch.optim.Adam(model.parameters(), lr=0.01)).apply(text)
    return training, [name for name, _ in model.named_modules() if name not in before]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "arguments", "places"),
    [
        (mlp, "", ["0.norm", "2.norm"]),
        (mlp, "after='conv'", None),
        (mlp, "before='linear'", ["2.input_norm", "4.input_norm"]),
        (mlp, "only='2'", ["2.norm"]),
        (mlp, "before='all', only='[34]'", ["4.input_norm"]),
        (mlp, "after='activation'", ["1.norm", "3.norm"]),
        (mlp, "before='activation'", ["0.norm", "2.norm"]),
        (cnn, "after='conv'", ["1.norm", "3.norm"]),
        (cnn, "before='conv'", ["3.input_norm"]),
        (cnn, "before='linear'", ["6.input_norm"]),
        (cnn, "after='activation'", ["3.input_norm"]),  # behind the second stands Flatten
        (cnn, "before='activation'", ["1.norm", "3.norm"]),
        (Functional, "after='activation'", ["two.input_norm", "three.input_norm"]),
        (Functional, "before='activation', only='t*'", ["two.norm"]),
    ],
)
def test_norms_stand_where_they_were_asked_for(kind, make, arguments, places, digits):
    torch.manual_seed(1)
    model = make()
    before = copy.deepcopy(model.state_dict())
    if places is None:
        with pytest.raises(tt.NothingToDo, match="no hidden linear or convolution layer"):
            applied(model, f"{kind}({arguments})")
        return
    training, added = applied(model, f"{kind}({arguments})")
    assert added == places
    assert len(training.changes[0].details) >= len(places)
    assert all(torch.isfinite(torch.tensor(train(model, training.optimizers[0], digits, 3))))
    assert all("exp_avg" in training.optimizers[0].state[p] for p in model.parameters())
    assert training.changes[0].acted()
    with pytest.raises(tt.NothingToDo):
        training.apply(f"{kind}({arguments})")  # there is one everywhere now
    training.undo()
    assert model.state_dict().keys() == before.keys()


def test_what_could_not_be_done_is_told():
    training, _ = applied(cnn(), "batch_norm(after='activation')")
    assert str(training.changes[0]) == (
        "batch normalization behind 1 activation: 3\n"
        "  3: BatchNorm2d(8)\n"
        "  3: left alone: its activation is no module of its own, and what follows it is no layer either."
    )


def test_a_norm_in_front_is_not_taken_for_one_behind():
    training, added = applied(mlp(), "layer_norm(before='linear', only='2')")
    assert added == ["2.input_norm"]
    training.apply("layer_norm(after='linear')")
    assert isinstance(training.models[0][2].norm, nn.LayerNorm)


def test_values_are_those_of_the_norm_at_that_place(digits):
    x = digits[0][:32]
    for text, expected in [
        ("layer_norm(before='linear', only='2')", lambda m: m[4](m[3](m[2](F.layer_norm(m[1](m[0](x)), (16,)))))),
        ("layer_norm(after='activation', only='3')", lambda m: m[4](F.layer_norm(m[3](m[2](m[1](m[0](x)))), (16,)))),
        ("rms_norm(only='2')", lambda m: m[4](m[3](F.rms_norm(m[2](m[1](m[0](x))), (16,), eps=1e-6)))),
    ]:
        model = mlp()
        applied(model, text)
        torch.testing.assert_close(model(x), expected(mlp()))


@pytest.mark.parametrize("make", [mlp, cnn])
def test_batch_norm_can_start_as_the_identity(make, digits):
    model, plain = make(), make()
    x = digits[0][:64]
    training, _ = applied(model, "batch_norm(identity=True)")
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    model.eval()  # the forward above moved the running variance a tenth of the way to the unbiased one, m / (m - 1)
    torch.testing.assert_close(model(x), plain(x), rtol=5e-3, atol=5e-3)
    assert not any(module._forward_pre_hooks for module in list(model.modules())[1:])
    training.undo()
    assert torch.equal(model.train()(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_others_start_near_it(kind, digits):
    errors = []
    for identity in (False, True):
        model, plain = cnn(), cnn()
        applied(model, f"{kind}(identity={identity})")
        errors.append((model(digits[0][:64]) - plain(digits[0][:64])).norm().item())
    assert errors[1] < 0.7 * errors[0]


def test_a_checkpoint_that_is_loaded_keeps_its_gains(digits):
    model, other = mlp(), mlp()
    training, _ = applied(model, "batch_norm(identity=True)")
    train(model, training.optimizers[0], digits, 3)
    applied(other, "batch_norm(identity=True)")
    other.load_state_dict(model.state_dict())
    gain = other[0].norm.weight.detach().clone()
    other(digits[0][:32] * 7)
    assert torch.equal(other[0].norm.weight, gain)


def test_an_optimizer_that_refuses_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    training = tt.attach(model, torch.optim.Muon(model.parameters(), lr=0.01))
    with pytest.raises(tt.NothingToDo, match="Muon"):
        training.apply("batch_norm")
    assert [name for name, _ in model.named_modules()] == ["", "0", "1", "2"]
    assert not model[0]._forward_hooks


def test_norms_that_were_put_in_can_be_converted(digits):
    for make, to in ((mlp, "group_norm"), (mlp, "layer_norm"), (cnn, "rms_norm"), (cnn, "frozen_batch_norm")):
        training, _ = applied(make(), "batch_norm")
        training.apply(f"convert_norm(to={to!r})")
        assert all(torch.isfinite(torch.tensor(train(training.models[0], training.optimizers[0], digits, 3))))
        training.undo()
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in training.models[0].modules())


def test_a_norm_of_another_library_counts_as_one():
    class Rms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.ones(16)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    model = nn.Sequential(nn.Linear(64, 16), Rms(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    assert applied(model, "layer_norm")[1] == ["2.norm"]
