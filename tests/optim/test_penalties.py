"""Penalties on parameters against their formulas in float64, scikit-learn, optax, and the posterior they stand for."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn.datasets import load_diabetes

from trimtab import optim as P


@pytest.fixture
def weights() -> list[torch.Tensor]:
    """Weights of two shapes in float64, with exact zeros among them, and gradients."""
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(5, 7, generator=g, dtype=torch.float64), torch.randn(11, generator=g, dtype=torch.float64)]
    made[0][1:3, :4] = 0.0
    for w in made:
        w.requires_grad_()
        w.grad = torch.randn(w.shape, generator=g, dtype=torch.float64)
    return made


def cases():
    """Each penalty with its value and derivative in the words of the formula, for one number."""
    yield "l1", lambda ws: P.l1_penalty(ws, 0.3), lambda w: 0.3 * abs(w), lambda w: 0.3 * np.sign(w)
    yield "l2", lambda ws: P.l2_penalty(ws, 0.3), lambda w: 0.15 * w * w, lambda w: 0.3 * w
    yield (
        "elastic_net",
        lambda ws: P.elastic_net_penalty(ws, 0.3, 0.7),
        lambda w: 0.3 * abs(w) + 0.35 * w * w,
        lambda w: 0.3 * np.sign(w) + 0.7 * w,
    )
    for p in (1.0, 1.3, 2.0, 4.0):
        yield (
            f"lp {p}",
            lambda ws, p=p: P.lp_penalty(ws, 0.3, p),
            lambda w, p=p: 0.3 / p * abs(w) ** p,
            lambda w, p=p: 0.3 * np.sign(w) * abs(w) ** (p - 1),
        )


@pytest.mark.parametrize(("penalty", "value", "slope"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_value_and_gradient_are_those_of_the_formula(penalty, value, slope, weights):
    result = penalty(weights)
    entries = np.concatenate([w.detach().numpy().ravel() for w in weights])
    # float64 sums of 46 numbers: some 46 roundings of 1e-16
    assert result.item() == pytest.approx(sum(map(value, entries)), rel=1e-13)
    for gradient, w in zip(torch.autograd.grad(result, weights), weights, strict=True):
        expected = torch.from_numpy(slope(w.detach().numpy()))
        torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_lp_below_one_warns_and_is_rounded_off_at_zero(p):
    w = torch.tensor([-2.0, -1e-3, 0.0, 1e-5, 0.3], dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match=re.escape(f"p={p} is below 1: the penalty is not convex")):
        value = P.lp_penalty(w, 0.7, p, eps=1e-3)
    x = w.detach().numpy()
    assert value.item() == pytest.approx((0.7 / p * ((x**2 + 1e-6) ** (p / 2) - 1e-3**p)).sum(), rel=1e-13)
    value.backward()
    assert w.grad[2] == 0.0
    assert w.grad.abs().max() <= 0.7 * 1e-3 ** (p - 1)
    # far from zero as if it were not rounded off: (1 + (eps/w)^2)^(p/2 - 1) with eps/w = 5e-4
    assert w.grad[0].item() == pytest.approx(-0.7 * 2 ** (p - 1), rel=5e-7)
    with pytest.warns(UserWarning):
        assert torch.autograd.gradcheck(lambda w: P.lp_penalty(w, 0.7, p, eps=0.1), w)


def test_l1_and_l2_are_cases_of_lp(weights):
    torch.testing.assert_close(P.lp_penalty(weights, 0.3, 1), P.l1_penalty(weights, 0.3))
    torch.testing.assert_close(P.lp_penalty(weights, 0.3, 2), P.l2_penalty(weights, 0.3))


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.3), (0.3, 0.7), (0.0, 0.0)])
def test_gradient_in_place_is_that_of_autograd(l1, l2, weights):
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    penalty = P.elastic_net_penalty(weights, l1, l2)
    expected = [w.grad + g for w, g in zip(weights, torch.autograd.grad(penalty, weights), strict=True)]
    places = [w.grad for w in weights]
    value = P.add_penalty_gradient_([*weights, unused], l1=l1, l2=l2)
    assert all(w.grad is place for w, place in zip(weights, places, strict=True))
    assert unused.grad is None
    assert not value.requires_grad
    torch.testing.assert_close(value, penalty.detach(), rtol=1e-13, atol=0, check_dtype=False)
    for w, one in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.grad, one, rtol=1e-13, atol=1e-15)


def test_l2_gradient_is_optax_add_decayed_weights(weights):
    optax = pytest.importorskip("optax")
    params = [w.detach().float().numpy() for w in weights]
    grads = [w.grad.float().numpy() for w in weights]
    change = optax.add_decayed_weights(0.3)
    expected, _ = change.update(grads, change.init(params), params)
    small = [torch.tensor(p, requires_grad=True) for p in params]
    for w, g in zip(small, grads, strict=True):
        w.grad = torch.tensor(g)
    P.add_penalty_gradient_(small, l2=0.3)
    for w, one in zip(small, expected, strict=True):
        torch.testing.assert_close(
            w.grad, torch.tensor(np.asarray(one)), rtol=1e-6, atol=1e-6
        )  # float32, two roundings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_of_16_bit_weights_are_taken_in_32(dtype):
    w = torch.full((70_000,), 0.5, dtype=dtype, requires_grad=True)  # 35 000 is beyond what bfloat16 counts to in ones
    w.grad = torch.zeros_like(w)
    assert P.l1_penalty(w, 1.0).item() == 35_000
    assert P.l2_penalty(w, 2.0).item() == 17_500
    # a norm, squared again: 3 roundings in float32
    assert P.add_penalty_gradient_(w, l1=1.0, l2=2.0).item() == pytest.approx(52_500, rel=1e-6)
    assert torch.equal(w.grad, torch.full_like(w, 2.0))


def test_tensors_of_several_types_are_penalized_together(weights):
    mixed = [weights[0], weights[1].detach().float().requires_grad_()]
    mixed[1].grad = torch.zeros_like(mixed[1])
    assert P.l1_penalty(mixed, 1.0).item() == pytest.approx(P.l1_penalty(weights, 1.0).item(), rel=1e-6)
    expected = P.elastic_net_penalty(weights, 1.0, 1.0).item()
    assert P.add_penalty_gradient_(mixed, l1=1.0, l2=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_a_single_tensor_is_taken_whole():
    w = torch.ones(3, 2)
    assert P.l1_penalty(w, 0.5) == 3
    assert P.add_penalty_gradient_(torch.ones(2), l1=1.0) == 0  # no gradient, no penalty


# -- proximal steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("l1", "l2"), [(0.8, 0.0), (0.0, 0.6), (0.8, 0.6)])
def test_proximal_step_minimizes_its_objective(l1, l2, weights):
    rate = 0.5
    entries = [w.detach().clone() for w in weights]
    P.proximal_step_(weights, rate, l1=l1, l2=l2)
    for before, after in zip(entries, weights, strict=True):
        v = after.detach()
        # 0 is in the subdifferential: (v - w) / rate + l2 v = -l1 sign(v) off zero, within l1 at zero
        slope = (v - before) / rate + l2 * v
        torch.testing.assert_close(slope[v != 0], -l1 * v.sign()[v != 0], rtol=0, atol=1e-14)
        assert (slope[v == 0].abs() <= l1 + 1e-14).all()
        if l1:
            assert torch.equal(v == 0, before.abs() <= rate * l1)


def test_proximal_l1_is_softshrink(weights):
    expected = [torch.nn.functional.softshrink(w.detach(), 0.25) for w in weights]
    P.proximal_step_(weights, 0.5, l1=0.5)
    for w, one in zip(weights, expected, strict=True):
        torch.testing.assert_close(w.detach(), one, rtol=1e-14, atol=1e-15)


# -- the same solutions as scikit-learn -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    """442 patients: 10 features with mean 0 and variance 1, and a target with mean 0 (so that no intercept is needed)."""
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor((x - x.mean(0)) / x.std(0)), torch.tensor(y - y.mean())


def solve(data, *, l1=0.0, l2=0.0, proximal=True, steps=4000) -> torch.Tensor:
    """Descent on ``1/(2n) ||y - x w||^2`` plus the penalties, at the rate of the largest curvature."""
    x, y = data
    curvature, pull = x.T @ x / len(x), x.T @ y / len(x)
    rate = 1 / (torch.linalg.matrix_norm(curvature, 2).item() + l2)
    w = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        with torch.no_grad():
            w.grad = curvature @ w - pull
            if not proximal:
                P.add_penalty_gradient_(w, l1=l1, l2=l2)
            w -= rate * w.grad
        if proximal:
            P.proximal_step_(w, rate, l1=l1, l2=l2)
    return w.detach()


@pytest.mark.parametrize("alpha", [1.0, 5.0, 20.0])
def test_proximal_l1_solves_the_lasso(alpha, diabetes):
    peer = linear_model.Lasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(*diabetes)
    w = solve(diabetes, l1=alpha)
    np.testing.assert_allclose(w.numpy(), peer.coef_, atol=1e-4)
    assert np.array_equal(w.numpy() == 0, peer.coef_ == 0)
    assert (w == 0).any()


@pytest.mark.parametrize(("alpha", "ratio"), [(1.0, 0.5), (5.0, 0.9), (0.5, 0.1)])
def test_elastic_net_solves_scikit_learns(alpha, ratio, diabetes):
    peer = linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-12, max_iter=100_000)
    w = solve(diabetes, l1=alpha * ratio, l2=alpha * (1 - ratio))
    np.testing.assert_allclose(w.numpy(), peer.fit(*diabetes).coef_, atol=1e-4)


@pytest.mark.parametrize("alpha", [10.0, 442.0])
def test_l2_solves_ridge_and_leaves_nothing_zero(alpha, diabetes):
    # Ridge has ||y - x w||^2 + alpha ||w||^2: 2n times ours with lambda = alpha / n
    peer = linear_model.Ridge(alpha=alpha, fit_intercept=False).fit(*diabetes)
    w = solve(diabetes, l2=alpha / 442, proximal=False)
    np.testing.assert_allclose(w.numpy(), peer.coef_, atol=1e-4)
    assert (w != 0).all()


def test_l1_makes_exact_zeros_where_its_plain_gradient_and_l2_do_not(diabetes):
    zeros = {
        "l1, proximal": (solve(diabetes, l1=20.0) == 0).sum().item(),
        "l1, gradient": (solve(diabetes, l1=20.0, proximal=False) == 0).sum().item(),
        "l2, proximal": (solve(diabetes, l2=20.0) == 0).sum().item(),
    }
    assert zeros == {"l1, proximal": 7, "l1, gradient": 0, "l2, proximal": 0}


# -- priors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "factor", "penalty"),
    [(P.prior_of_l1, 0.002, {"l1": 1.0}), (P.prior_of_l2, 0.1, {"l2": 1.0})],
    ids=["Laplace", "Gaussian"],
)
def test_the_most_probable_weights_under_the_prior_are_the_penalized_ones(prior, factor, penalty, diabetes):
    """Maximum a posteriori of a linear regression with normal noise, by general-purpose minimization of minus the log of
    likelihood times prior, equals descent on the mean of half squared errors plus penalty."""
    from scipy.optimize import minimize

    x, y = diabetes[0], diabetes[1] / diabetes[1].std()
    noise = 0.7
    # half squares are noise^2 times the negative log-likelihood, so the penalty is too
    believed = prior(factor / noise**2, samples=len(y))
    scale = float(believed.stddev) / (math.sqrt(2) if "l1" in penalty else 1)  # Laplace: variance 2 b^2

    def minus_log_posterior(v: np.ndarray) -> float:  # w = a - b with a, b >= 0, so that |w| is smooth
        w = torch.tensor(v[:10] - v[10:])
        likelihood = torch.distributions.Normal(x @ w, noise).log_prob(y).sum().item()
        if "l1" in penalty:
            return -likelihood + v.sum() / scale
        return -likelihood + (w.square().sum() / (2 * scale**2)).item() + 1e-3 * (v[:10] * v[10:]).sum()

    # the prior's own log_prob, up to its constant, is what stands above
    some = torch.tensor([0.1, -0.4])
    shape = some.abs() / scale if "l1" in penalty else some.square() / (2 * scale**2)
    torch.testing.assert_close(
        believed.log_prob(some) - believed.log_prob(torch.zeros(2)), -shape, rtol=1e-5, atol=1e-6
    )

    found = minimize(
        minus_log_posterior, np.full(20, 0.1), bounds=[(0, None)] * 20, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
    )  # fmt: skip
    w = solve((x, y), **{name: factor for name in penalty})
    # derivatives by differences in float64 find the minimum to about 1e-5 in each of 10 directions
    np.testing.assert_allclose(found.x[:10] - found.x[10:], w.numpy(), atol=1e-3)
    assert w.abs().max() > 0.05


def test_priors_read_back():
    assert P.prior_of_l1(1e-3, 500).scale.item() == pytest.approx(2.0)
    assert P.prior_of_l2(1e-3, 500).variance.item() == pytest.approx(2.0)
    b = P.prior_of_l1(0.02, 300).scale.item()
    assert P.prior_of_l1(1 / (b * 300), 300).scale.item() == pytest.approx(b)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: P.l1_penalty([torch.ones(1)], -1), ValueError, "l1_penalty(factor=-1): factor must be a number of at least 0."),
        (lambda: P.l2_penalty([torch.ones(1)], math.nan), ValueError, "l2_penalty(factor=nan): factor must be a number of"),
        (lambda: P.elastic_net_penalty([torch.ones(1)], 1, -2), ValueError, "elastic_net_penalty(l2=-2): l2 must be a number of at least 0."),
        (lambda: P.lp_penalty([torch.ones(1)], 1, 0), ValueError, "p=0 must be a positive number: 1 is L1, 2 is L2"),
        (lambda: P.lp_penalty([torch.ones(1)], 1, 0.5, eps=0), ValueError, "eps=0 must be positive"),
        (lambda: P.l1_penalty([], 1), ValueError, "l1_penalty got no parameters. A generator such as model.parameters() can"),
        (lambda: P.l1_penalty([torch.nn.Linear(1, 1)], 1), TypeError, "takes tensors, such as model.parameters(); got Linear."),
        (lambda: P.proximal_step_([torch.ones(1)], -0.1, l1=1), ValueError, "proximal_step_(rate=-0.1): rate must be"),
        (lambda: P.prior_of_l1(0, 100), ValueError, "prior_of_l1(factor=0, samples=100): both must be positive"),
        (lambda: P.prior_of_l2(1, 0), ValueError, "prior_of_l2(factor=1, samples=0): both must be positive"),
    ],
)  # fmt: skip
def test_errors_say_what_must_hold(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_sparse_gradient_is_refused():
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(
        ValueError, match=re.escape("a parameter of shape (5, 2) with a sparse gradient. A penalty has a")
    ):
        P.add_penalty_gradient_(embedding.parameters(), l1=1.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_gives_what_torch_does(threads, monkeypatch):
    # odd sizes, an empty tensor, one of several pieces; zeros have no sign
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    start = [torch.randn(shape) for shape in ((7,), (33, 17), (0, 3), (40_000,))]
    start[1][0] = 0.0
    found = []
    for forced in ("", "torch"):
        monkeypatch.setattr("trimtab.optim.penalties.FORCED", forced)
        weights = [w.clone().requires_grad_() for w in start]
        for w in weights:
            w.grad = torch.ones_like(w)
        found.append((P.add_penalty_gradient_(weights, l1=0.3, l2=0.7), [w.grad for w in weights]))
    exact = sum(0.3 * w.double().abs().sum() + 0.35 * w.double().square().sum() for w in start)
    torch.testing.assert_close(found[0][0].double(), exact, rtol=1e-6, atol=0)  # one rounding to float32
    torch.testing.assert_close(found[0][1], found[1][1])
