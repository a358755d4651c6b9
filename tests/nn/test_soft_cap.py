"""The soft cap and the z-loss against their formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import trimtab.nn as tn
from trimtab.nn.functional import soft_cap, z_loss

# -- soft cap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [0.5, 30.0, 50])
def test_soft_cap_is_its_formula(cap):
    x = torch.tensor([-1e4, -60.0, -30, -1, -1e-3, 0, 0.2, 5, 30, 100, 1e30], dtype=torch.float64)
    expected = [cap * math.tanh(v / cap) for v in x.tolist()]
    torch.testing.assert_close(soft_cap(x, cap).tolist(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(tn.SoftCap(cap)(x), soft_cap(x, cap), rtol=0, atol=0)


def test_soft_cap_gradient():
    x = torch.linspace(-80, 80, 33, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_cap, x)
    assert torch.autograd.gradgradcheck(soft_cap, x)
    y = soft_cap(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, 1 - (y / 30) ** 2)


def test_soft_cap_keeps_the_order_and_bounds(digits):
    x = digits[0] * 40  # to about -40..40
    y = soft_cap(x, 30.0)
    assert y.abs().max() <= 30
    small = soft_cap(digits[0] * 0.3)
    # x - x³ / (3 cap²): at 0.3 a relative 3e-5
    torch.testing.assert_close(small, digits[0] * 0.3, rtol=4e-5, atol=0)
    values = x.unique()
    assert (soft_cap(values).diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_soft_cap_of_half_precision_is_rounded_once(dtype):
    x = torch.linspace(-200, 200, 4001).to(dtype)
    y = soft_cap(x)
    assert y.dtype == dtype
    exact = 30 * torch.tanh(x.double() / 30)
    # half a step of the type (tiny numbers: half of float16's smallest step), plus float32's rounding before it
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=3e-8)


def test_soft_cap_beyond_the_numbers():
    x = torch.tensor([torch.inf, -torch.inf, 3e38], requires_grad=True)
    y = soft_cap(x)
    assert y.tolist() == [30, -30, 30]
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(3))
    assert soft_cap(torch.tensor([torch.nan])).isnan().all()


def test_soft_cap_compiles_and_copies():
    x = torch.randn(5, 4) * 50
    module = tn.SoftCap(20)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert torch.equal(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
    assert repr(module) == "SoftCap(20)" and module.state_dict() == {}


@pytest.mark.parametrize("cap", [0, -1.0, math.inf, math.nan])
def test_soft_cap_wants_a_positive_cap(cap):
    for make, name in ((lambda: tn.SoftCap(cap), "SoftCap"), (lambda: soft_cap(torch.zeros(1), cap), "soft_cap")):
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value) == f"{name}: cap={cap} must be positive: it is the bound of the logits. Try 30."


# -- z-loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [False, True])
def test_z_loss_is_its_formula(reduction, ignored, digits):
    x = digits[0][:10].double().view(4, 10, 16).movedim(1, 2)  # (N, K, d1)
    y = torch.randint(16, (4, 10), generator=torch.Generator().manual_seed(0))
    if ignored:
        y[:, ::3] = -7
    terms = torch.tensor(
        [
            [0.3 * math.log(sum(math.exp(v) for v in x[n, :, d].tolist())) ** 2 * (y[n, d] != -7) for d in range(10)]
            for n in range(4)
        ],
        dtype=torch.float64,
    )
    expected = {"mean": terms.sum() / (y != -7).sum(), "sum": terms.sum(), "none": terms}[reduction]
    torch.testing.assert_close(z_loss(x, y, 0.3, -7, reduction), expected)
    torch.testing.assert_close(tn.ZLoss(0.3, -7, reduction)(x, y), expected)
    if not ignored:
        torch.testing.assert_close(z_loss(x, factor=0.3, reduction=reduction), expected)
        torch.testing.assert_close(z_loss(x, torch.ones_like(x), 0.3, reduction=reduction), expected)


def test_z_loss_gradient_is_the_one_in_its_docstring():
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: z_loss(x, factor=0.5), x)
    (gradient,) = torch.autograd.grad(z_loss(x, factor=0.5, reduction="sum"), x)
    torch.testing.assert_close(gradient, 2 * 0.5 * x.logsumexp(1, keepdim=True) * x.softmax(1))


def test_z_loss_holds_what_cross_entropy_lets_drift():
    """Descending on logits alone, whose common shift cross entropy does not see."""
    y = torch.tensor([0, 1, 2])
    found = {}
    for factor in (None, 0.1):
        x = (torch.eye(3, 4, dtype=torch.float64) + 5).requires_grad_()
        for _ in range(300):
            loss = F.cross_entropy(x, y) + (0 if factor is None else z_loss(x, factor=factor))
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x - gradient).detach().requires_grad_()
        found[factor] = (x.mean().item(), x.logsumexp(1).abs().max().item())
    assert found[None][0] == pytest.approx(5.25)  # the sum of the gradients of a row is 0
    assert found[0.1][1] < 0.5 and found[None][1] > 6  # log Z, 6.2 to begin with


def test_z_loss_of_half_precision_is_summed_in_float32():
    x = torch.full((2, 50_000), 6.0, dtype=torch.float16)
    log_z = 6 + math.log(50_000)
    # float32 sums 50000 equal terms pairwise: some 16 roundings of 6e-8 each, twice in the square
    assert z_loss(x, factor=1.0).item() == pytest.approx(log_z**2, rel=2e-6)


def test_z_loss_of_large_logits_does_not_overflow():
    assert z_loss(torch.tensor([[1000.0, -1000.0]]), factor=1e-4).item() == pytest.approx(100, rel=1e-6)


def test_what_is_ignored_may_be_infinite():
    x = torch.tensor([[torch.inf, 0.0], [1.0, 0.0]], requires_grad=True)
    assert z_loss(x, torch.tensor([-100, 0]), 1.0) == z_loss(x[1:], factor=1.0)
    assert z_loss(x[1], torch.tensor(0), 1.0) == z_loss(x[1:], factor=1.0)  # without a batch


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tn.ZLoss(0), "ZLoss: factor=0 must be positive: it is the strength of the penalty. Try 1e-4."),
        (lambda: z_loss(torch.zeros(1, 2), factor=-1), "z_loss: factor=-1 must be positive"),
        (lambda: z_loss(torch.zeros(1, 2), reduction="all"), "z_loss(reduction='all'): reduction must be mean, sum or none."),
    ],
)  # fmt: skip
def test_z_loss_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
