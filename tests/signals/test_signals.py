"""Every signal against a reference in float64, computed here from the tensors of the same step."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab import signals
from trimtab.signals.signal import norms, thin, unit_axis
from trimtab.testing import check_signal
from trimtab.training import attach
from trimtab.watching import budget

# float32 sums of some thousand numbers: roundings of 6e-8 add up to about 1e-5 at worst.
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def time_to_measure(monkeypatch):
    monkeypatch.setattr(budget, "ALLOWANCE", 60.0)


def one_step(model, optimizer, x, y, loss=F.cross_entropy):
    """One watched step and, from hooks of our own, what it did: inputs, outputs, gradients, weights before and after."""
    seen: dict = {"in": {}, "out": {}}
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))

    def note(name, _, inputs, output):
        seen["in"][name], seen["out"][name] = inputs[0].detach(), output.detach()

    hooks = [module.register_forward_hook(functools.partial(note, name)) for name, module in model.named_modules()]
    optimizer.zero_grad()
    loss(model(x), y).backward()
    seen["grad"] = {n: p.grad.clone() for n, p in model.named_parameters()}
    seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer.step()
    seen["after"] = {n: p.detach().clone() for n, p in model.named_parameters()}
    for hook in hooks:
        hook.remove()
    return recorder.close().main, seen


def row(training, name):
    profile = training.profiles[name]
    return dict(zip(profile.names, profile.rows[-1], strict=True))


def test_activations(digits):
    model = network("cnn")
    x, y = digits[0][:256], digits[1][:256]  # all outputs have fewer than 65 536 entries
    training, seen = one_step(model, torch.optim.SGD(model.parameters(), 0.1), x, y)
    means, stds = row(training, "activation_mean"), row(training, "activation_std")
    assert set(means) == {"1", "2", "3", "4", "5"}
    for name, mean in means.items():
        output = seen["out"][name].double()
        assert stds[name] == pytest.approx(output.std(correction=0).item(), rel=CLOSE)
        assert mean == pytest.approx(output.mean().item(), abs=CLOSE * stds[name])


def test_activations_of_a_large_output_are_those_of_its_first_samples():
    output = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0)) + torch.arange(64.0).unsqueeze(1)
    signal = signals.Activations()
    signal.forward("a", nn.ReLU(), (), output)
    reading = signal.read()
    assert reading["activation_mean"]["a"] == pytest.approx(output[:16].double().mean().item(), rel=CLOSE)


def test_activations_that_are_not_finite_say_so():
    signal = signals.Activations()
    signal.forward("a", nn.ReLU(), (), torch.tensor([1.0, math.inf]))
    signal.forward("b", nn.ReLU(), (), torch.tensor([1.0, math.nan]))
    signal.forward(
        "half", nn.ReLU(), (), torch.full((100,), 300.0, dtype=torch.float16)
    )  # its square overflows float16
    stds = signal.read()["activation_std"]
    assert not math.isfinite(stds["a"])
    assert not math.isfinite(stds["b"])
    assert stds["half"] == 0.0
    assert signal.read() == {}


def test_large_activations_are_estimated_from_a_stride():
    torch.manual_seed(0)
    output = torch.randn(1 << 20) * 3 + 1
    signal = signals.Activations()
    signal.forward("a", nn.ReLU(), (), output)
    # 262 144 of 1 048 576 entries: a standard error of 3/512 for the mean; 5 of them.
    assert signal.read()["activation_mean"]["a"] == pytest.approx(output.double().mean().item(), abs=5 * 3 / 512)


def test_gradients(digits):
    model = network()
    training, seen = one_step(model, torch.optim.SGD(model.parameters(), 0.1), *digits)
    expected = {name: grad.double().norm().item() for name, grad in seen["grad"].items()}
    assert row(training, "grad_norms") == pytest.approx(expected, rel=CLOSE)
    assert training.get("grad_norm").last == pytest.approx(math.sqrt(sum(n**2 for n in expected.values())), rel=CLOSE)


def test_gradients_that_are_not_finite_are_nan_in_sum_and_named_in_detail():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    a.grad, b.grad = torch.tensor([1.0, math.inf]), torch.ones(2)
    signal = signals.Gradients()
    signal.gradients([("a", a), ("b", b)])
    reading = signal.read()
    assert math.isnan(reading["grad_norm"])
    assert reading["grad_norms"]["b"] == pytest.approx(math.sqrt(2))
    assert not math.isfinite(reading["grad_norms"]["a"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_in_every_dtype(dtype):
    torch.manual_seed(0)
    tensors = [(torch.randn(50, 3) * 300).to(dtype), torch.zeros(4, dtype=dtype), torch.randn((), dtype=dtype)]
    assert norms(tensors) == pytest.approx([t.double().norm().item() for t in tensors], rel=CLOSE)
    assert norms([]) == []


def test_sparse_gradients_are_measured():
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    tokens = torch.tensor([[1, 1], [2, 3]])
    F.cross_entropy(model(tokens), torch.tensor([0, 1])).backward()
    expected = model[0].weight.grad.to_dense().double().norm().item()
    optimizer.step()
    training = recorder.close().main
    assert row(training, "grad_norms")["0.weight"] == pytest.approx(expected, rel=CLOSE)
    assert recorder.guard.off == ""


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01)])  # fmt: skip
def test_updates(make, digits):
    model = network()
    training, seen = one_step(model, make(model.parameters()), *digits)
    expected = {
        name: ((seen["after"][name].double() - before.double()).norm() / before.double().norm()).item()
        for name, before in seen["before"].items()
        if before.ndim > 1
    }
    # An update of 1e-3 of a weight in float32 is known to 6e-8 / 1e-3 of itself.
    assert row(training, "update_ratio") == pytest.approx(expected, rel=1e-3)


def test_updates_leave_out_what_gets_no_gradient():
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    F.cross_entropy(model["used"](torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
    optimizer.step()
    assert recorder.close().main.profiles["update_ratio"].names == ("used.weight",)


def test_movement(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    start = {n: p.detach().double().clone() for n, p in model.named_parameters() if p.ndim > 1}
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, digits, 10)
    now = {n: p.detach().double().clone() for n, p in model.named_parameters() if p.ndim > 1}
    train(model, optimizer, digits, 1)
    series = recorder.close().main.get("movement")
    assert series.values[0] == 0.0
    # The weights of up to 1024 entries are taken whole, here all.
    assert all(p.numel() <= 1024 for p in start.values())
    far = math.sqrt(sum((now[n] - start[n]).square().sum().item() for n in start))
    assert series.values[10] == pytest.approx(
        far / math.sqrt(sum(s.square().sum().item() for s in start.values())), rel=CLOSE
    )


def test_movement_weighs_what_it_takes_a_stride_of():
    torch.manual_seed(0)
    large, small = nn.Parameter(torch.randn(400, 400)), nn.Parameter(torch.randn(10, 10))
    signal = signals.Movement()
    signal.before_step([("large", large), ("small", small)])
    with torch.no_grad():
        large.mul_(1.1)
        small.mul_(3.0)
    signal.read()
    signal.before_step([("large", large), ("small", small)])
    size = {n: (p.detach().double() / k).square().sum().item() for n, p, k in (("l", large, 1.1), ("s", small, 3.0))}
    expected = math.sqrt((0.01 * size["l"] + 4 * size["s"]) / (size["l"] + size["s"]))
    # 1024 of 160 000 entries: the sum of squares is known to sqrt(2 / 1024) = 4 %.
    assert signal.read()["movement"] == pytest.approx(expected, rel=0.1)


def test_inputs_of_a_table():
    torch.manual_seed(0)
    x = torch.randn(200, 5).double() * torch.tensor([1.0, 100.0, 0.01, 0.0, 3.0]) + torch.tensor(
        [0.0, 1000.0, 0.0, 0.0, 30.0]
    )
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    training, _ = one_step(model, torch.optim.SGD(model.parameters(), 0.01), x.float(), torch.randint(2, (200,)))
    size = x.square().mean(0).sqrt()
    size = size[size > 0]
    offset = (x.mean(0).abs() / x.std(0))[x.std(0) > 0]
    assert training.get("input_largest").last == pytest.approx(size.max().item(), rel=CLOSE)
    assert training.get("input_typical").last == pytest.approx(size.median().item(), rel=CLOSE)
    # 1000 +- 100 in float32: the standard deviation loses two digits to the mean
    assert training.get("input_offset").last == pytest.approx(offset.median().item(), rel=100 * CLOSE)


def test_inputs_of_images_are_taken_by_channel():
    torch.manual_seed(0)
    x = torch.rand(16, 3, 8, 8) * torch.tensor([1.0, 10.0, 255.0]).view(3, 1, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    training, _ = one_step(model, torch.optim.SGD(model.parameters(), 1e-6), x, torch.randint(2, (16,)))
    size = x.double().square().mean((0, 2, 3)).sqrt()
    assert training.get("input_largest").last == pytest.approx(size.max().item(), rel=CLOSE)
    assert training.get("input_typical").last == pytest.approx(size.median().item(), rel=CLOSE)


def test_tokens_have_no_scale():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 2))
    training, _ = one_step(
        model, torch.optim.SGD(model.parameters(), 0.1), torch.randint(10, (6, 2)), torch.randint(2, (6,))
    )
    assert "input_largest" not in training.series


# -- dead units ------------------------------------------------------------------------------------------------------


def dead_share(model, steps=6, batch=64, x=None, layer="0"):
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    x = torch.randn(512, 64) if x is None else x
    train(model, optimizer, (x, torch.randint(10, (len(x),))), steps, batch)
    assert recorder.guard.off == ""
    return dict(zip((p := recorder.close().main.profiles["dead_units"]).names, zip(*p.rows, strict=True), strict=True))[
        layer
    ]


def test_planted_dead_units_are_counted_once_enough_samples_have_passed():
    model = network()
    with torch.no_grad():
        model[0].bias[:5] = -100.0
    shares = dead_share(model)
    # 300 samples at 64 a step: from the fifth step on.
    assert shares == pytest.approx((0, 0, 0, 0, 5 / 16, 5 / 16))


def test_planted_dead_channels_are_counted():
    model = network("cnn")
    with torch.no_grad():
        model[1].bias[:3] = -100.0
    assert dead_share(model, layer="1")[-1] == pytest.approx(3 / 4)


def test_sparse_units_are_not_dead():
    model = network()
    x = torch.randn(512, 64)
    with torch.no_grad():
        before = model[0](x)
        model[0].bias -= torch.quantile(before, 0.95, dim=0)  # each fires on 5 % of the samples
        fires = (model[0](x) > 0).float().mean(0)
    assert 0.04 < fires.min() <= fires.max() < 0.06
    assert dead_share(model, x=x)[-1] == 0.0


def test_units_that_fire_again_are_alive_again():
    signal = signals.DeadUnits()
    layer = nn.Linear(2, 3)
    output = -torch.ones(200, 3)
    readings = []
    for step in range(4):
        layer.weight.grad = torch.zeros(3, 2)
        if step == 2:
            output[:, 1] = 1.0
            layer.weight.grad[1] = 1.0
        else:
            output[:, 1] = -1.0
        signal.forward("a", layer, (), output)
        signal.gradients([("a.weight", layer.weight)])
        readings.append(signal.read()["dead_units"]["a"])
    assert readings == pytest.approx([0, 1, 2 / 3, 2 / 3])


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.GELU])
def test_units_that_still_learn_are_not_dead(activation):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 16), activation(), nn.Linear(16, 10))
    with torch.no_grad():
        model[0].bias -= 3.0  # pre-activations below zero on every sample
        assert (model[0](torch.randn(512, 64)) <= 0).float().mean() > 0.99
    assert dead_share(model)[-1] == 0.0


def test_a_frozen_layer_is_not_called_dead():
    model = network()
    with torch.no_grad():
        model[0].bias[:] = -100.0
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, (torch.randn(512, 64), torch.randint(10, (512,))), 6, 64)
    profile = recorder.close().main.profiles["dead_units"]
    assert "0" not in profile.names


# -- what all signals owe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", signals.OWN, ids=lambda cls: cls.__name__)
def test_a_signal_holds_what_all_signals_hold(make, digits):
    check_signal(make, digits)


def test_signals_keep_no_graph_alive(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder(every=1)
    watch = recorder.watch(attach(model, optimizer))
    F.cross_entropy(model(digits[0]), digits[1]).backward()
    for signal in watch._signals:
        held = [v for value in vars(signal).values() if isinstance(value, dict) for v in value.values()]
        flat = [t for v in held for t in (v if isinstance(v, tuple) else (v,)) if isinstance(t, torch.Tensor)]
        assert not any(t.requires_grad for t in flat)
        assert sum(t.numel() for t in flat) < 10_000
    recorder.close()


def test_thin_takes_evenly_and_copies():
    x = torch.arange(10_000.0)
    taken = thin(x, 100)
    assert len(taken) <= 100
    assert torch.equal(taken, x[::100])
    taken.zero_()
    assert x[100] == 100
    assert torch.equal(thin(torch.ones(3, dtype=torch.float16)), torch.ones(3))


@pytest.mark.parametrize(
    ("module", "shape", "axis"),
    [
        (nn.Linear(2, 3), (5, 7, 3), 2),
        (nn.Conv2d(2, 3, 1), (5, 3, 4, 4), 1),
        (nn.Conv1d(2, 3, 1), (3, 4), 1),
        (nn.BatchNorm1d(3), (5, 3), 1),
        (nn.GroupNorm(1, 3), (5, 3, 4), 1),
        (nn.LayerNorm(3), (5, 4, 3), 2),
        (nn.ReLU(), (5, 3), 1),
    ],
)
def test_unit_axis(module, shape, axis):
    assert unit_axis(module, torch.zeros(shape)) == axis
