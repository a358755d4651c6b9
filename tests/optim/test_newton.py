"""Newton's method, plain and saddle-free, against NumPy's algebra, scipy, scikit-learn and torch.func, in float64."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import trimtab.nn
from trimtab.optim import Newton, SaddleFreeNewton

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64; two ways to invert matrices with condition numbers of at most 1e4


def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def small_network(activation: type[nn.Module] = nn.Tanh, width: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, width), activation(), nn.Linear(width, 1)).double()


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor(x * 20), torch.tensor((y - y.mean()) / y.std())[:, None]


def vector(tensors) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def hessian_of(model: nn.Module, data: tuple) -> torch.Tensor:
    """By torch.func: forward mode over reverse mode, where the optimizer takes reverse mode twice."""
    params = dict(model.named_parameters())
    names, shapes = list(params), [p.shape for p in params.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return (torch.func.functional_call(model, state, (data[0],)) - data[1]).square().mean()

    return torch.func.hessian(loss)(vector(params.values()))


# -- the formula -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e8])
def test_a_quadratic_is_solved_in_one_step(kappa):
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    matrix = rotation @ np.diag(np.geomspace(1, kappa, 20)) @ rotation.T
    target = rng.normal(size=20)
    parts = [torch.zeros(3, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)]
    parts = [p.requires_grad_() for p in parts]
    optimizer = Newton(parts)

    def closure():
        away = torch.cat([p.reshape(-1) for p in parts]) - torch.tensor(target)
        return away @ torch.tensor(matrix) @ away / 2

    loss = optimizer.step(closure)
    assert not loss.requires_grad and float(loss) == pytest.approx(target @ matrix @ target / 2)
    error = np.linalg.norm(vector(parts).numpy() - target) / np.linalg.norm(target)
    assert error < 10 * kappa * np.finfo(float).eps  # what rounding does to the solution of a linear system
    last = optimizer.last
    np.testing.assert_allclose(last.eigenvalues.numpy(), np.geomspace(1, kappa, 20), rtol=kappa * 1e-14)
    assert (last.flat, last.negative, last.capped) == (0, 0, False)
    assert last.step_norm == pytest.approx(np.linalg.norm(target)) and last.loss == float(loss)
    assert last.gradient_norm == pytest.approx(np.linalg.norm(matrix @ target))


def test_the_steps_are_scipys_gradient_solved_by_its_hessian():
    x = torch.tensor([-1.2, 1.0, -0.5, 0.8, 1.1], dtype=torch.float64, requires_grad=True)
    by_hand = x.detach().numpy().copy()
    optimizer = Newton([x])
    for _ in range(6):
        optimizer.step(lambda: rosenbrock(x))
        by_hand -= np.linalg.solve(scipy.optimize.rosen_hess(by_hand), scipy.optimize.rosen_der(by_hand))
        np.testing.assert_allclose(x.detach().numpy(), by_hand, rtol=1e-8, atol=1e-10)
    while optimizer.last.gradient_norm > 1e-9:
        optimizer.step(lambda: rosenbrock(x))
    found = scipy.optimize.minimize(
        scipy.optimize.rosen, by_hand, method="newton-cg", jac=scipy.optimize.rosen_der, hess=scipy.optimize.rosen_hess,
        options={"xtol": 1e-10},
    )  # fmt: skip
    np.testing.assert_allclose(x.detach().numpy(), found.x, atol=1e-7)


def test_logistic_regression_ends_where_scikit_learns_newton_does():
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(x, y)
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = Newton([weight, bias])
    inputs, target = torch.tensor(x), torch.tensor(y, dtype=torch.float64)
    for _ in range(12):
        optimizer.step(
            lambda: (
                nn.functional.binary_cross_entropy_with_logits(inputs @ weight + bias, target, reduction="sum")
                + weight.square().sum() / 2
            )
        )
    assert optimizer.last.gradient_norm < 1e-9
    np.testing.assert_allclose(weight.detach().numpy(), theirs.coef_[0], atol=1e-7)
    np.testing.assert_allclose(float(bias.detach()), theirs.intercept_[0], atol=1e-7)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("kind", [Newton, SaddleFreeNewton])
def test_a_step_of_a_network_by_torch_func_and_scipy(kind, damping, diabetes):
    model = small_network()
    start, hessian = vector(model.parameters()), hessian_of(model, diabetes).numpy()
    assert len(start) > 2 * 64 and np.linalg.eigvalsh(hessian)[0] < -0.01  # several blocks of rows; not convex
    optimizer = kind(model.parameters(), lr=0.5, damping=damping, tolerance=0.0)
    (model(diabetes[0]) - diabetes[1]).square().mean().backward()
    gradient = vector(p.grad for p in model.parameters()).numpy()
    curvature = hessian if kind is Newton else scipy.linalg.sqrtm(hessian @ hessian).real
    expected = start.numpy() - 0.5 * np.linalg.solve(curvature + damping * np.eye(len(start)), gradient)
    optimizer.step(lambda: (model(diabetes[0]) - diabetes[1]).square().mean())
    # Without damping the smallest curvature is 1e-4 of the largest; the root of the square knows it to 1e-16 / 1e-4² of that.
    np.testing.assert_allclose(vector(model.parameters()).numpy(), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(optimizer.last.eigenvalues.numpy(), np.linalg.eigvalsh(hessian), atol=1e-12)
    assert optimizer.last.negative == (np.linalg.eigvalsh(hessian) < 0).sum()
    torch.testing.assert_close(vector(p.grad for p in model.parameters()).numpy(), gradient, **EXACT)


def test_a_singular_hessian_is_inverted_where_it_can_be(diabetes):
    x, y = diabetes[0][:6], diabetes[1][:6, 0]  # six equations for ten unknowns
    weight = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = Newton([weight])
    optimizer.step(lambda: (x @ weight - y).square().sum())
    shortest = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.detach().numpy(), shortest, **EXACT)
    assert optimizer.last.flat == 4 and optimizer.last.negative == 0
    damped = SaddleFreeNewton([weight], damping=0.1)
    damped.step(lambda: (x @ weight - y).square().sum())
    assert (damped.last.flat, damped.last.negative) == (
        0,
        0,
    )  # damping moves along them; rounding is no negative curvature


def test_the_tolerance_is_relative_to_the_largest_curvature():
    for tolerance, moved in ((1e-7, [0.0, 0.0]), (1e-5, [0.0, 1.0]), (None, [0.0, 0.0])):
        x = torch.ones(2, dtype=torch.float64, requires_grad=True)
        optimizer = Newton([x], tolerance=tolerance)
        optimizer.step(lambda x=x: 500 * x[0] ** 2 + 5e-4 * x[1] ** 2)
        assert x.tolist() == pytest.approx(moved) and optimizer.last.flat == moved.count(1.0)


def test_linear_parameters_and_a_loss_without_curvature():
    x, slope = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Newton([x, slope])
    optimizer.step(lambda: (x - 1).square().sum() + 3 * slope.sum())
    assert x.tolist() == [1.0, 1.0] and slope.tolist() == [0.0, 0.0] and optimizer.last.flat == 2
    with pytest.warns(RuntimeWarning, match="Newton: the loss has a gradient but no curvature.*damping"):
        Newton([slope]).step(lambda: 3 * slope.sum())
    assert slope.tolist() == [0.0, 0.0]
    SaddleFreeNewton([slope], damping=10.0).step(lambda: 3 * slope.sum())
    assert slope.tolist() == pytest.approx([-0.3, -0.3])  # then it is gradient descent with a rate of 1 / damping


def test_relu_networks_have_flat_directions(diabetes):
    model = small_network(nn.ReLU)
    with torch.no_grad():
        model[0].bias[3] = -1e3  # a dead unit
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = SaddleFreeNewton(model.parameters(), damping=1e-2, max_step=2.0)
    losses = [float(optimizer.step(lambda: (model(diabetes[0]) - diabetes[1]).square().mean())) for _ in range(10)]
    assert losses[-1] < 0.45 < losses[0]
    # Eigenvectors of other curvatures have entries of rounding there, and no more.
    changes = [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]
    assert max(changes[0][3].abs().max(), changes[1][3].abs(), changes[2][0, 3].abs()) < 1e-12
    assert changes[0][2].abs().max() > 1e-2
    plain = Newton(model.parameters(), max_step=0.1)
    plain.step(lambda: (model(diabetes[0]) - diabetes[1]).square().mean())
    assert plain.last.flat >= 12  # 10 weights, a bias, and the weight behind it
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_max_step_shortens_and_keeps_the_direction():
    x = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = Newton([x], max_step=1.0)
    optimizer.step(lambda: x.square().sum())
    assert x.tolist() == pytest.approx([2.4, 3.2]) and optimizer.last.capped and optimizer.last.step_norm == 1.0
    for _ in range(5):
        optimizer.step(lambda: x.square().sum())
    assert x.abs().max() < 1e-15 and not optimizer.last.capped


def test_newton_goes_up_where_saddle_free_goes_down():
    for kind, sign in ((Newton, -1), (SaddleFreeNewton, 1)):
        x = torch.tensor([0.5, 0.1], dtype=torch.float64, requires_grad=True)
        optimizer = kind([x], damping=0.0)
        optimizer.step(lambda x=x: (x[0] ** 2 - x[1] ** 2) / 2)
        assert x.tolist() == pytest.approx([0.0, 0.1 + sign * 0.1])
        assert optimizer.last.negative == 1


# -- what it is given ------------------------------------------------------------------------------------------------


def test_shared_unused_and_frozen_parameters():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            self.unused, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.frozen(self.second(self.first(x)))

    torch.manual_seed(0)
    model = Tied().double()
    x, y = torch.randn(2, 30, 2, dtype=torch.float64)
    others = copy.deepcopy([model.unused.state_dict(), model.frozen.state_dict()])
    start = model.first.weight.detach().clone()
    optimizer = SaddleFreeNewton(model.parameters(), damping=0.1)
    losses = [float(optimizer.step(lambda: (model(x) - y).square().mean())) for _ in range(20)]
    assert losses[-1] < losses[0] and len(optimizer.last.eigenvalues) == 4
    with torch.no_grad():
        model.first.weight.copy_(start)
    optimizer.step(lambda: (model(x) - y).square().mean())
    both = torch.func.hessian(lambda w: (model.frozen(x @ w.T @ w.T) - y).square().mean())(start).view(4, 4)
    torch.testing.assert_close(optimizer.last.eigenvalues, torch.linalg.eigvalsh(both), **EXACT)
    assert all(
        torch.equal(a, b)
        for old, part in zip(others, (model.unused, model.frozen), strict=True)
        for a, b in zip(old.values(), part.state_dict().values(), strict=True)
    )
    assert model.unused.weight.grad is None


def test_types_may_be_mixed():
    parts = [torch.full((2,), 2.0, dtype=t, requires_grad=True) for t in (torch.float32, torch.float64, torch.bfloat16)]
    optimizer = Newton(parts)
    optimizer.step(lambda: sum((i + 1) * (p.double() - 1).square().sum() for i, p in enumerate(parts)))
    assert [p.dtype for p in parts] == [torch.float32, torch.float64, torch.bfloat16]
    assert all(p.tolist() == [1.0, 1.0] for p in parts)


def test_float32_comes_within_its_rounding(diabetes):
    x, y = diabetes[0].float(), diabetes[1][:, 0].float()
    weight = torch.zeros(10, requires_grad=True)
    optimizer = Newton([weight])
    for _ in range(2):
        optimizer.step(lambda: (x @ weight - y).square().mean())
    exact = np.linalg.lstsq(diabetes[0].numpy(), diabetes[1][:, 0].numpy(), rcond=None)[0]
    condition = float(optimizer.last.eigenvalues[-1] / optimizer.last.eigenvalues[0])
    assert np.abs(weight.detach().numpy() - exact).max() < condition * 1e-7 * np.abs(exact).max()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(8, 4), trimtab.nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(8, 4), trimtab.nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(8, 4), trimtab.nn.RMSNorm(4), trimtab.nn.Dropout(0.1), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(9, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 4, 0.0, batch_first=True), nn.Flatten(), nn.Linear(8, 3)),
    ],
    ids=["torch LayerNorm", "LayerNorm", "BatchNorm1d", "RMSNorm and Dropout", "convolution", "attention"],
)  # fmt: skip
def test_networks_of_all_sorts(make):
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    chosen = labels < 3
    x = torch.tensor(images[chosen][:64, 26:34] / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels[chosen][:64])
    model = make()
    optimizer = SaddleFreeNewton(model.parameters(), damping=0.1, max_step=3.0)
    with sdpa_kernel(SDPBackend.MATH):
        losses = [float(optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))) for _ in range(9)]
    assert losses[-1] < 0.25 * losses[0]
    assert len(optimizer.last.eigenvalues) == sum(p.numel() for p in model.parameters())


class Cubed(torch.autograd.Function):
    """x³, whose second derivatives go through NumPy, so that vmap cannot map over them."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return Scaled.apply(g, x)


class Scaled(torch.autograd.Function):
    """3 g x²."""

    @staticmethod
    def forward(ctx, g, x):
        ctx.save_for_backward(g, x)
        return torch.from_numpy(g.detach().numpy() * 3 * x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx, h):
        g, x = ctx.saved_tensors
        h, g, x = h.numpy(), g.detach().numpy(), x.detach().numpy()
        return torch.from_numpy(h * 3 * x**2), torch.from_numpy(h * 6 * g * x)


def test_operations_that_cannot_be_batched_go_row_by_row():
    start = torch.linspace(0.5, 2, 70, dtype=torch.float64)
    ends = []
    for cube in (lambda x: x**3, Cubed.apply):
        x = start.clone().requires_grad_()
        optimizer = Newton([x])
        for _ in range(2):
            optimizer.step(lambda x=x, cube=cube: cube(x).sum() + x.sum() ** 2)
        ends.append(x.detach())
    torch.testing.assert_close(*ends, **EXACT)
    assert not optimizer._batched


class Sine(torch.autograd.Function):
    """sin(x), whose backward is computed outside of the graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return (g * ctx.saved_tensors[0].cos()).detach().clone()


def test_wrong_second_derivatives_are_warned_about():
    x, w = (torch.full((2,), 0.7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with pytest.warns(RuntimeWarning, match="Newton: the matrix of second derivatives is not symmetric"):
        Newton([x, w], damping=5.0).step(lambda: (w * Sine.apply(x)).sum() + w.square().sum())


# -- closures --------------------------------------------------------------------------------------------------------


def test_the_closure_may_call_backward_if_it_keeps_the_graph():
    ends = []
    for backward in (lambda loss: None, lambda loss: loss.backward(retain_graph=True)):
        x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        optimizer = Newton([x])

        def closure(x=x, optimizer=optimizer, backward=backward):
            optimizer.zero_grad()
            loss = rosenbrock(x)
            backward(loss)
            return loss

        for _ in range(3):
            optimizer.step(closure)
        ends.append(x.detach())
        assert x.grad.norm() == pytest.approx(optimizer.last.gradient_norm) and not x.grad.requires_grad
    assert torch.equal(*ends)


def test_what_a_closure_must_give():
    x, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = Newton([x])

    def freed():
        loss = x.pow(3).sum()
        loss.backward()
        return loss

    for closure, message in (
        (None, r"Newton takes second derivatives.*call optimizer.step\(closure\).*without calling backward"),
        (lambda: 3.0, "must return the loss, one number with its graph; got float. Return the loss itself"),
        (lambda: x.square(), r"got a tensor of shape \(2,\)\."),
        (lambda: x.square().sum().detach(), r"got a tensor of shape \(\) without a graph"),
        (freed, r"the graph of the loss is gone, since closure\(\) called backward.*retain_graph=True"),
        (lambda: other.square().sum(), "the loss depends on none of the parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.step(closure)
    assert x.tolist() == [1.0, 1.0] and optimizer.last is None
    table = nn.Embedding(3, 2, sparse=True)
    with pytest.raises(ValueError, match=r"sparse gradient for a parameter of shape \(3, 2\).*without sparse=True"):
        Newton(table.parameters()).step(lambda: table(torch.tensor([0])).square().sum())


def test_a_gradient_that_cannot_be_derived_says_so():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 2

    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable.*\n.*Newton needs second derivatives.*sdpa_kernel"):
        Newton([x]).step(lambda: Once.apply(x).square().sum())
    q = torch.ones(1, 1, 4, 8, requires_grad=True)
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        pytest.raises(RuntimeError, match=r"not implemented\n.*SDPBackend.MATH"),
    ):
        Newton([q]).step(lambda: nn.functional.scaled_dot_product_attention(q, q, q).square().sum())


@pytest.mark.parametrize(
    ("what", "loss"),
    [
        ("loss", lambda x: x.sum() / 0),
        ("gradient", lambda x: x.sqrt().sum()),
        ("Hessian", lambda x: x.abs().pow(1.5).sum() + x.sum()),
    ],
)
def test_what_is_not_finite_moves_nothing(what, loss):
    x = torch.zeros(2, dtype=torch.float64)
    x[1] = 1.0
    x.requires_grad_()
    optimizer = SaddleFreeNewton([x])
    with pytest.warns(RuntimeWarning, match=f"SaddleFreeNewton: the {what} is not finite; the step was left out") as w:
        optimizer.step(lambda: loss(x))
    assert w[0].filename == __file__ and optimizer.last is None
    with pytest.raises(FloatingPointError, match=f"Newton: the {what} is not finite; no parameter has moved"):
        Newton([x], nonfinite="raise").step(lambda: loss(x))
    assert x.tolist() == [0.0, 1.0]


# -- the optimizer ---------------------------------------------------------------------------------------------------


def test_numbers_out_of_range():
    x = torch.ones(2, requires_grad=True)
    for options, message in (
        ({"lr": -1}, "Newton: lr=-1 must be 0 or more"),
        ({"damping": float("nan")}, "damping=nan must be 0 or more"),
        ({"tolerance": -1}, "tolerance=-1 must be 0 or more"),
        ({"max_step": 0}, "max_step=0 must be more than 0, or None"),
        ({"max_parameters": 0}, "max_parameters=0 must be at least 1"),
        ({"nonfinite": "mask"}, "nonfinite='mask' must be one of 'skip', 'raise'. There is no 'mask' here"),
    ):
        with pytest.raises(ValueError, match=message):
            Newton([x], **options)
    with pytest.raises(ValueError, match=r"takes one group of parameters.*Give all parameters in one list"):
        Newton([{"params": [x]}, {"params": [torch.ones(1, requires_grad=True)]}])
    with pytest.raises(ValueError, match="takes real parameters; got complex ones"):
        Newton([torch.ones(2, dtype=torch.complex64, requires_grad=True)])


def test_too_many_parameters_are_told_what_they_would_cost():
    x = torch.zeros(20_000, requires_grad=True)
    with pytest.raises(
        ValueError,
        match=r"SaddleFreeNewton: 20000 parameters are more than max_parameters=5000. The Hessian alone would take 3 GiB.*"
        r"20000 backward passes.*LBFGS.*max_parameters=20000\) if",
    ):
        SaddleFreeNewton([x])
    frozen = [torch.zeros(20_000), torch.ones(2, requires_grad=True)]
    optimizer = Newton(frozen)
    frozen[0].requires_grad_()
    with pytest.raises(ValueError, match="20002 parameters"):
        optimizer.step(lambda: frozen[1].square().sum())


def test_state_dicts_schedulers_and_copies():
    def trained(steps: int, between=lambda x, optimizer, scheduler: (x, optimizer, scheduler)) -> torch.Tensor:
        x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        optimizer = Newton([x], lr=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for step in range(steps):
            if step == 2:
                x, optimizer, scheduler = between(x, optimizer, scheduler)
            optimizer.step(lambda x=x: rosenbrock(x))
            scheduler.step()
        return x.detach()

    def resumed(x, optimizer, scheduler):
        x = x.detach().clone().requires_grad_()
        fresh = Newton([x], lr=7.0)
        fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
        again = torch.optim.lr_scheduler.ExponentialLR(fresh, 0.9)
        again.load_state_dict(scheduler.state_dict())
        return x, fresh, again

    assert torch.equal(trained(5), trained(5, resumed))
    assert not torch.equal(trained(5), trained(4))
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    both = copy.deepcopy((x, Newton([x], lr=0.25, max_step=9.0)))
    both[1].step(lambda: both[0].square().sum())
    assert both[0].tolist() == [0.75, 0.75] and x.tolist() == [1.0, 1.0]


def test_nothing_is_random_and_nothing_is_warned_of(diabetes):
    model = small_network()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SaddleFreeNewton(model.parameters()).step(lambda: (model(diabetes[0]) - diabetes[1]).square().mean())
    assert torch.equal(torch.get_rng_state(), state)
