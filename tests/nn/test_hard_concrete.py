"""Hard-concrete gates against the distribution that their formula says, and against what an L0 penalty is for."""

from __future__ import annotations

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab.nn import HardConcrete
from trimtab.nn.functional import expected_l0, hard_concrete

DRAWS = 200_000
SETTINGS = [(2 / 3, (-0.1, 1.1)), (0.5, (-0.2, 1.4))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def concrete_cdf(s: float, log_alpha: float, temperature: float) -> float:
    """P(S <= s) of the binary concrete distribution (Maddison et al. 2017; Louizos et al. 2018, eq. 10)."""
    return 1 / (1 + math.exp(-((math.log(s) - math.log(1 - s)) * temperature - log_alpha)))


@pytest.mark.parametrize(("temperature", "stretch"), SETTINGS)
@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.5])
def test_gates_follow_the_stretched_concrete_distribution(log_alpha, temperature, stretch):
    low, high = stretch
    z = hard_concrete(torch.full((DRAWS,), log_alpha), True, temperature, stretch, generator=generator())
    assert z.min() == 0 and z.max() == 1
    # a share of n draws is within 5 standard errors of at most sqrt(1/4 / n)
    close = 5 * math.sqrt(0.25 / DRAWS)
    for point in (0.0, 0.1, 0.5, 0.9):
        expected = concrete_cdf((point - low) / (high - low), log_alpha, temperature)
        assert (z <= point).double().mean().item() == pytest.approx(expected, abs=close)
    closed = concrete_cdf(-low / (high - low), log_alpha, temperature)
    counted = expected_l0(torch.tensor([log_alpha]), temperature, stretch)
    assert counted.item() == pytest.approx(1 - closed, abs=1e-6)
    assert (z == 1).double().mean().item() == pytest.approx(
        1 - concrete_cdf((1 - low) / (high - low), log_alpha, temperature), abs=close
    )


def test_gates_in_evaluation_draw_nothing():
    log_alpha = torch.tensor([-9.0, -1.0, 0.0, 0.7, 9.0], dtype=torch.float64)
    before = torch.get_rng_state()
    z = hard_concrete(log_alpha, training=False)
    assert torch.equal(torch.get_rng_state(), before)
    expected = [min(1.0, max(0.0, 1.2 / (1 + math.exp(-a)) - 0.1)) for a in log_alpha.tolist()]
    torch.testing.assert_close(z, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-15)
    assert z[0] == 0 and z[-1] == 1


def test_gradients_against_float64_formula():
    log_alpha = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: hard_concrete(a, generator=generator(3)), log_alpha)
    assert torch.autograd.gradcheck(lambda a: hard_concrete(a, training=False), log_alpha)
    mine = torch.autograd.grad(expected_l0(log_alpha), log_alpha)[0]
    open_ = 1 / (1 + (-log_alpha.detach()).exp() * (0.1 / 1.1) ** (2 / 3))
    torch.testing.assert_close(mine, open_ * (1 - open_), rtol=1e-12, atol=1e-14)


def test_gradients_are_finite_at_the_ends():
    log_alpha = torch.tensor([-60.0, 60.0], requires_grad=True)
    for training in (True, False):
        z = hard_concrete(log_alpha, training, generator=generator())
        assert z.tolist() == [0.0, 1.0]
        (gradient,) = torch.autograd.grad(z.sum() + expected_l0(log_alpha), log_alpha)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_the_start(p):
    gates = HardConcrete((3, 4), p)
    assert gates.log_alpha.shape == (3, 4)
    torch.testing.assert_close(torch.sigmoid(gates.log_alpha.detach()), torch.full((3, 4), 1 - p))
    assert gates.eval()().mean().item() == pytest.approx(min(1, 1.2 * (1 - p) - 0.1), abs=1e-6)
    assert gates.expected_l0().item() == pytest.approx(
        12 / (1 + p / (1 - p) * (0.1 / 1.1) ** (2 / 3)), rel=1e-6
    )  # float32


def test_own_generator_leaves_the_global_one_and_goes_on_in_copies():
    gates = HardConcrete(100, generator=generator(5))
    before = torch.get_rng_state()
    gates()
    for again in (copy.deepcopy(gates), pickle.loads(pickle.dumps(gates))):
        twin = copy.deepcopy(gates)
        assert torch.equal(again(), twin())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(gates(), gates())


def test_the_global_seed_decides_without_a_generator():
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(HardConcrete(50)())
    assert torch.equal(*drawn)


def test_activation_checkpointing_draws_the_same_gates_again():
    gradients = []
    for wrap in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        gates = HardConcrete(20, generator=generator(2))
        x = torch.ones(20, requires_grad=True)
        wrap(lambda x, gates=gates: (x * gates()).square().sum(), x).backward()
        gradients.append((x.grad, gates.log_alpha.grad))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_gates_follow_the_same_distribution(dtype):
    gates = HardConcrete(DRAWS, 0.3, generator=generator(), dtype=dtype)
    z = gates()
    assert z.dtype == dtype
    assert (z == 0).double().mean().item() == pytest.approx(
        1 - gates.expected_l0().item() / DRAWS, abs=5 * math.sqrt(0.25 / DRAWS)
    )


def test_compiles():
    gates = HardConcrete(30, generator=generator(1))
    twin = copy.deepcopy(gates)
    assert torch.equal(torch.compile(gates, backend="eager")(), twin())


def test_selects_the_features_that_matter():
    """Ten features, three of which make the target: the gates of the others close, those three stay open."""
    torch.manual_seed(0)
    x = torch.randn(512, 10)
    y = x[:, :3] @ torch.tensor([2.0, -3.0, 1.5]) + 0.1 * torch.randn(512)
    layer, gates = nn.Linear(10, 1), HardConcrete(10, 0.3, generator=generator())
    optimizer = torch.optim.Adam([*layer.parameters(), *gates.parameters()], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        error = (layer(x * gates()).squeeze(1) - y).square().mean()
        (error + 0.1 * gates.expected_l0()).backward()
        optimizer.step()
    z = gates.eval()()
    assert (z[:3] > 0.9).all()
    assert (z[3:] == 0).all()
    assert (layer(x * z).squeeze(1) - y).square().mean() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 0.0}, "HardConcrete(p=0.0): p is about the share of gates closed at the start and must lie in (0, 1)."),
        ({"temperature": 1.5}, "HardConcrete(temperature=1.5): it must lie in (0, 1]"),
        ({"stretch": (0.0, 1.1)}, "HardConcrete(stretch=(0.0, 1.1)): it must be (below 0, above 1)"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HardConcrete(3, **settings)
    if "p" not in settings:
        with pytest.raises(ValueError, match="hard_concrete"):
            hard_concrete(torch.zeros(3), **settings)
