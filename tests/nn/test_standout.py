"""Standout: masks with the probability of the gate while training, their expectation in evaluation."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimtab.nn import Standout

MASKS = 10_000


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(activation="relu", *args, seed=0, **options):
    torch.manual_seed(seed)
    linear = nn.Linear(6, 5, dtype=torch.float64)
    return Standout(linear, activation, *args, generator=torch.Generator().manual_seed(seed), **options)


def parts(layer, x, f=F.relu):
    """The activation and the gate's probability, by their formulas."""
    z = x @ layer.linear.weight.T + layer.linear.bias
    gate = z if layer.gate is None else x @ layer.gate.weight.T + layer.gate.bias
    return f(z), 1 / (1 + torch.exp(-(layer.mask.alpha * gate + layer.mask.beta)))


@pytest.mark.parametrize("options", [{}, {"alpha": -2.0, "beta": 1.0}, {"shared": False}, {"alpha": 0.0, "beta": -1.0}])
def test_units_are_kept_with_the_probability_of_the_gate(options):
    layer, x = made(torch.exp, **options), random(3, 6)
    with torch.no_grad():
        y = layer(x.expand(MASKS, 3, 6))
        f, g = parts(layer, x, torch.exp)
        kept = y != 0
        torch.testing.assert_close(y, kept * f)  # nothing is rescaled
        # 15 independent shares, each nearly normal with variance g (1 - g) / n
        fit = ((kept.double().mean(0) - g) ** 2 * MASKS / (g * (1 - g))).sum().item()
        assert 1e-4 < stats.chi2.sf(fit, 15) < 1 - 1e-4
        masks = kept.flatten(1).double()
        assert (torch.corrcoef(masks.T) - torch.eye(15)).abs().max() < 5 / math.sqrt(MASKS)
        following = (masks[1:] - masks.mean(0)) * (masks[:-1] - masks.mean(0)) / masks.var(0)
        assert following.mean(0).abs().max() < 5 / math.sqrt(MASKS)


@pytest.mark.parametrize("shared", [True, False])
def test_evaluation_is_the_expectation(shared):
    layer, x = made("gelu", alpha=2.0, beta=0.5, shared=shared), random(4, 6)
    with torch.no_grad():
        average = layer(x.expand(MASKS, 4, 6)).mean(0)
        found = layer.eval()(x)
        f, g = parts(layer, x, F.gelu)
        torch.testing.assert_close(found, f * g)
        error = (f.square() * g * (1 - g) / MASKS).sqrt()
        assert ((average - found).abs() <= 5 * error).all()


def test_the_mask_is_a_constant_for_the_gradient():
    layer, x = made(torch.tanh), random(4, 6).requires_grad_()
    y = layer(x)
    mask = (y != 0).double()
    w, b = (p.detach().clone().requires_grad_() for p in layer.linear.parameters())
    wanted = mask * torch.tanh(F.linear(x, w, b))
    torch.testing.assert_close(y, wanted)
    found = torch.autograd.grad(y.sin().sum(), [*layer.linear.parameters(), x])
    for a, c in zip(found, torch.autograd.grad(wanted.sin().sum(), [w, b, x]), strict=True):
        torch.testing.assert_close(a, c)


def test_a_gate_of_its_own_learns_through_its_probability():
    layer, x = made(torch.tanh, alpha=1.5, shared=False), random(4, 6)
    y = layer(x)
    f, g = parts(layer, x, torch.tanh)
    torch.testing.assert_close(y, (y != 0) * f)
    y.sum().backward()
    wanted = torch.autograd.grad((f.detach() * g).sum(), list(layer.gate.parameters()))
    torch.testing.assert_close([p.grad for p in layer.gate.parameters()], list(wanted))
    mask = (y.detach() != 0).double()
    wanted = torch.autograd.grad((mask * torch.tanh(layer.linear(x))).sum(), layer.linear.weight)
    torch.testing.assert_close(layer.linear.weight.grad, *wanted)


def test_gradient_of_evaluation():
    layer = made(torch.tanh, alpha=1.5).eval()
    assert torch.autograd.gradcheck(layer, random(3, 6).requires_grad_())


def test_any_module_may_compute_the_summed_inputs():
    layer, x = Standout(nn.Conv2d(1, 2, 3), "relu").eval(), torch.randn(2, 1, 5, 5)
    z = layer.linear(x)
    torch.testing.assert_close(layer(x), z.relu() * z.sigmoid())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_go_on_with_the_same_masks(how):
    layer, x = made(torch.exp), random(4, 6)
    first, twin = layer(x), how(layer)
    second = layer(x)
    assert torch.equal(second, twin(x))
    assert not torch.equal(first, second)


def test_draws_from_the_global_generator_only_without_one_of_its_own():
    layer, x = made(torch.exp), random(4, 6)
    before = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), before)
    layer.mask.generator = None
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(x))
    assert torch.equal(*results) and not torch.equal(results[0], layer(x))


def test_checkpointing_meets_the_same_masks_again():
    layer, x, gradients = made(torch.exp), random(4, 6), []
    for run in (layer, copy.deepcopy(layer)):
        (run(x) if run is layer else checkpoint(run, x, use_reentrant=False)).sin().sum().backward()
        gradients.append([p.grad for p in run.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it behind the break for the generator
def test_compiles():
    torch._dynamo.reset()
    layer, x = made(), random(4, 6)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="eager")
    for mode in (True, False):
        torch.testing.assert_close(compiled.train(mode)(x), twin.train(mode)(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": math.inf}, "Standout(alpha=inf): alpha must be a finite number."),
        ({"beta": math.nan}, "Standout(beta=nan): beta must be a finite number."),
        ({"activation": "tanh"}, "activation must be one of none, relu"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert message in str(error.value)


def test_a_gate_of_its_own_needs_a_linear_layer():
    with pytest.raises(ValueError, match=r"got a Conv2d. Give an nn.Linear, or leave shared=True."):
        Standout(nn.Conv2d(1, 2, 3), shared=False)


def test_says_what_it_is():
    assert "activation=relu" in repr(made()) and "StandoutMask(alpha=1.0, beta=0.0)" in repr(made())
