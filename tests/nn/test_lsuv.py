"""Layer-sequential unit variance: what it reaches, what it leaves alone, and what it says."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab.nn as tn
from trimtab.nn import lsuv_
from trimtab.nn.lsuv import LsuvLayer


def mlp(depth: int = 6, width: int = 32, activation=nn.GELU, **options) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width, **options), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, 10, **options))


class Conv(nn.Module):
    """Convolutions with batch norms, functional activations, dropout, a residual branch, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep, self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(4, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = x + self.drop(self.wide(torch.tanh(self.deep(x))))
        return self.out(self.up(x).mean((2, 3)))


def outputs(model: nn.Module, call) -> dict[str, torch.Tensor]:
    """What every linear and convolution layer gives in one more forward."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda m, args, y, name=name: seen.setdefault(name, y.detach().clone()))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    call(model)
    for handle in handles:
        handle.remove()
    return seen


def classical(model: nn.Sequential, x: torch.Tensor) -> None:
    """The paper's algorithm 1: a pass through the whole network for each measurement. Weights are orthonormal already."""
    for layer in [module for module in model if isinstance(module, nn.Linear)]:
        for _ in range(10):
            with torch.no_grad():
                z, variance = x, None
                for module in model:
                    z = module(z)
                    if module is layer:
                        variance = z.var(correction=0)
                assert variance is not None
                if abs(variance - 1) < 0.1:
                    break
                layer.weight /= variance.sqrt()


def test_one_pass_gives_what_the_papers_loop_gives():
    model, x = mlp().double(), torch.randn(64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    twin = copy.deepcopy(model)
    found = lsuv_(model, x, generator=torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(2)
    for layer in [module for module in twin if isinstance(module, nn.Linear)]:
        wide = torch.empty(layer.weight.shape, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(nn.init.orthogonal_(wide, generator=draw))
            layer.bias.zero_()
    classical(twin, x)
    assert len(found) == 7 and any(one.iterations for one in found)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, lambda: nn.Hardshrink(1.0)])
def test_every_layer_has_unit_variance_however_deep(activation):
    model, x = mlp(20, activation=activation), torch.randn(256, 32)
    found = lsuv_(model, x)
    seen = outputs(model, lambda m: m(x))
    assert [one.name for one in found] == list(seen)
    for one in found:
        assert one.why_not == "" and abs(seen[one.name].var(correction=0) - 1) < 0.1
        assert one.std == pytest.approx(seen[one.name].std(correction=0).item(), rel=1e-5)
        assert one.scale == pytest.approx(one.std / one.before, rel=1e-4)


@pytest.mark.parametrize("mode", [True, False])
def test_convolutions_batch_norms_and_branches(mode):
    torch.manual_seed(0)
    model, x = Conv().train(mode), torch.randn(32, 1, 8, 8)
    buffers = copy.deepcopy(dict(model.named_buffers()))
    found = lsuv_(model, x, std=0.5, tolerance=0.01)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    # dropout draws the masks now that the measuring pass had drawn and given back
    for one, y in zip(found, outputs(model, lambda m: m(x)).items(), strict=True):
        assert one.name == y[0]
        assert y[1].std(correction=0).item() == pytest.approx(0.5, rel=0.005)
    assert model.training is mode and not any(m._forward_hooks for m in model.modules())


def test_nothing_else_is_disturbed():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.drop = tn.Dropout(0.5, generator=torch.Generator().manual_seed(1))
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            noise = random.random() + np.random.rand() + torch.rand(())
            return self.frozen(self.drop(self.norm(self.layer(x + noise))))

    model = Noisy()
    own = model.drop.generator.get_state()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    draw = torch.Generator().manual_seed(0)
    lsuv_(model, torch.randn(8, 4, generator=draw), generator=draw)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all() and torch.equal(model.drop.generator.get_state(), own)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert model.calls == 0
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"frozen.weight", "frozen.bias"}
    assert all(p.grad is None for p in model.parameters())


def test_a_bias_takes_several_rounds():
    """With an offset of its own, the output is not proportional to the weight."""
    model, x = mlp(2).double(), torch.randn(64, 32, dtype=torch.float64)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                module.bias.uniform_(-1.5, 1.5)
    biases = [module.bias.clone() for module in model if isinstance(module, nn.Linear)]
    found = lsuv_(model, x, orthonormal=False, tolerance=1e-3, iterations=50)
    assert max(one.iterations for one in found) > 2 and not any(one.why_not for one in found)
    assert all(
        torch.equal(m.bias, b) for m, b in zip((m for m in model if isinstance(m, nn.Linear)), biases, strict=True)
    )
    for y in outputs(model, lambda m: m(x)).values():
        assert y.var(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_layers_that_cannot_be_scaled_are_told_and_keep_their_weights():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zeros, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
            self.scaled = tn.weight_standardization(nn.Linear(4, 4))
            self.twice = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.zeros(0 * x) + self.scaled(9 * x) + self.twice(torch.relu(self.twice(3 * x)))

    torch.manual_seed(0)
    model = Odd()
    started = model.scaled.parametrizations.weight.original
    found = {one.name: one for one in lsuv_(model, torch.randn(64, 4), generator=torch.Generator().manual_seed(0))}
    assert found["zeros"] == LsuvLayer("zeros", 0.0, 0.0, 1.0, 0, "its output is constant")
    assert found["unused"][3:] == (1.0, 0, "it was not called") and math.isnan(found["unused"].std)
    assert found["scaled"].why_not == "its output does not follow the length of its weight"
    assert found["scaled"].scale == 1 and found["scaled"].std == found["scaled"].before > 2
    gram = started.detach() @ started.detach().T
    torch.testing.assert_close(gram, torch.eye(4), rtol=0, atol=1e-5)  # orthonormal, as it began
    assert found["twice"].why_not == "" and list(found) == ["zeros", "scaled", "twice", "unused"]
    seen = outputs(model, lambda m: m(torch.randn(64, 4)))
    assert set(seen) == {"zeros", "scaled", "twice"}


def test_too_few_rounds_are_told():
    model, x = mlp(1).double(), torch.randn(64, 32, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias.uniform_(-1.5, 1.5)
        model[0].weight.mul_(3)
    first = lsuv_(model, x, orthonormal=False, tolerance=1e-6, iterations=2)[0]
    assert first.why_not == "2 scalings led no nearer" and first.iterations == 2
    assert first.std == pytest.approx(model[0](x).std(correction=0).item(), rel=1e-12)
    assert abs(first.std - 1) < 0.5 * abs(first.before - 1)
    tight = lsuv_(mlp(1), x.float(), tolerance=1e-30)[0]  # finer than float32 can tell
    assert tight.std == pytest.approx(1, abs=1e-6) and tight.iterations < 10


def test_numbers_that_are_not_finite_are_told():
    model = mlp(1)
    (one, two) = lsuv_(model, torch.full((4, 32), math.nan))
    assert one.why_not == two.why_not == "its output is not finite"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_keywords_half_precision_and_attention():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
            return self.out(scale * self.attention(x, x, x)[0])

    model = Named().bfloat16()
    before = copy.deepcopy(model.attention.state_dict())
    (one,) = lsuv_(model, torch.randn(64, 5, 8).bfloat16(), keywords={"scale": 3.0})
    assert one.name == "out" and one.std == pytest.approx(1, abs=0.05)
    # torch's attention uses its projections without calling them
    assert all(torch.equal(value, before[name]) for name, value in model.attention.state_dict().items())


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
def test_weights_that_a_hook_computes_are_left_alone():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 4))
    before = model[0].weight_v.detach().clone()
    assert [one.name for one in lsuv_(model, torch.randn(16, 4))] == ["2"]
    assert torch.equal(model[0].weight_v, before)


def test_in_eval_mode_it_measures_evaluation():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.9), nn.Linear(8, 8)).eval()
    x = torch.randn(256, 8)
    lsuv_(model, x, tolerance=1e-3)
    assert model(x).var(correction=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m, x: lsuv_(m, x, std=0.0), "lsuv_ got std=0.0 and tolerance=0.1. Both must be positive."),
        (lambda m, x: lsuv_(m, x, tolerance=-1), "lsuv_ got std=1.0 and tolerance=-1. Both must be positive."),
        (lambda m, x: lsuv_(m, x, iterations=0), "lsuv_ got iterations=0. It must be at least 1."),
        (lambda m, x: lsuv_(nn.ReLU(), x), "lsuv_ got a ReLU without a linear or convolution layer."),
    ],
)
def test_errors_say_what_must_hold(make, message):
    model = mlp(1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError) as error:
        make(model, torch.randn(4, 32))
    assert str(error.value) == message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
