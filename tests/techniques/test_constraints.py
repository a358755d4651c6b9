"""Constraints, weight decay and penalties on what a network computes, in live trainings."""

from __future__ import annotations

import copy
import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso, Ridge
from torch import nn

import trimtab as tt
from tests.conftest import network, train

pytestmark = pytest.mark.usefixtures("trained_values")


def attached(text: str, model: nn.Module | None = None, lr: float = 0.1, **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options)
    return model, optimizer, tt.attach(model, optimizer).apply(text)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, loss) -> list[torch.Tensor]:
    """How far one step with a learning rate of 1 and no momentum moves each parameter: the gradient that it used."""
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def exact_digits(digits, count: int = 16):
    return digits[0][:count].double(), digits[1][:count]


EXACT = {"rtol": 1e-9, "atol": 1e-14}  # float64; a difference of parameters loses a few digits of a small step


# -- constraints by projection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "outside"),
    [
        ("to='max_norm', radius=0.4", lambda w: w.norm(dim=1) - 0.4),
        ("to='unit_norm'", lambda w: (w.norm(dim=1) - 1).abs()),
        ("to='non_negative'", lambda w: -w),
        ("to='l1_ball', radius=2.0", lambda w: w.abs().sum() - 2),
        ("to='l2_ball', radius=1.0", lambda w: w.norm() - 1),
        ("to='linf_ball', radius=0.05", lambda w: w.abs() - 0.05),
        ("to='simplex', radius=2.0", lambda w: torch.stack([(w.sum() - 2).abs(), -w.min()])),
    ],
)
def test_weights_are_in_the_set_after_every_step(setting, outside, digits):
    model, optimizer, training = attached(f"constrain({setting})")
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    assert max(outside(w.detach()).max() for w in weights) > 0.01
    biases = [p.detach().clone() for name, p in model.named_parameters() if name.endswith("bias")]
    losses = []
    for _ in range(30):
        losses += train(model, optimizer, digits, 1, 256)
        assert max(outside(w.detach()).max() for w in weights) < 2e-6  # float32, sums of up to 1024 entries
    assert losses[-1] < losses[0]  # it learns nevertheless
    assert all(not torch.equal(b, p) for b, p in zip(biases, (model[i].bias for i in (0, 2, 4)), strict=True))
    training.undo()
    train(model, optimizer, digits, 5, 256)
    assert max(outside(w.detach()).max() for w in weights) > 1e-4


def test_units_of_transposed_convolutions(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )
    unit = model[1].weight  # (in, out / groups, 3, 3): output 3 g + o sees inputs 2 g and 2 g + 1
    model, optimizer, _ = attached("constrain(to='max_norm', radius=0.3, only='ConvTranspose2d')", model)
    train(model, optimizer, digits, 1)
    lengths = torch.stack([unit[2 * g : 2 * g + 2, o].norm() for g in (0, 1) for o in range(3)])
    torch.testing.assert_close(lengths, torch.full((6,), 0.3))
    assert model[1].bias.abs().max() <= 0.3 and model[4].weight.norm(dim=1).max() > 0.3


def test_frozen_weights_are_left_alone(digits):
    model = network()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    model, optimizer, _ = attached("constrain(to='max_norm', radius=0.1)", model)
    train(model, optimizer, digits, 2)
    assert torch.equal(model[0].weight, frozen) and model[2].weight.norm(dim=1).max() < 0.1001


# -- constraints by a Lagrangian -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    """Disease progression of 442 patients; columns (those that are not nearly collinear) and target of mean 0 and deviation 1."""
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor(x[:, [0, 1, 2, 3, 6, 8]] * np.sqrt(len(x))), torch.tensor((y - y.mean()) / y.std()).unsqueeze(1)


def multiplier(change) -> float:
    """The largest, as it is reported."""
    return float(re.search(r"the largest is (\S+) ", str(change))[1])


def regression(text: str, data: tuple, steps: int = 400, lr: float = 0.3):
    x, y = data
    torch.manual_seed(0)
    model, optimizer, training = attached(text, nn.Linear(6, 1, bias=False).double(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (F.mse_loss(model(x), y) / 2).backward()
        optimizer.step()
    return model.weight.detach().flatten(), training.changes[0]


def test_the_multiplier_of_the_l2_ball_is_ridge_regression(diabetes):
    x, y = diabetes
    radius = 0.4
    w, change = regression(
        f"constrain(to='l2_ball', radius={radius}, method='lagrangian', multiplier_lr=0.2)", diabetes, 800
    )
    assert w.norm().item() == pytest.approx(radius, rel=1e-8)
    mu = multiplier(change)
    assert mu > 0.01
    slope = x.T @ (x @ w - y.flatten()) / len(x)
    assert mu == pytest.approx(slope.norm().item(), rel=1e-3)  # told with four digits
    mu = slope.norm().item()  # mu ||w|| has the slope of (mu / ||w||) / 2 ||w||^2, and scikit-learn sums over samples
    ridge = Ridge(alpha=len(x) * mu / radius, fit_intercept=False, solver="cholesky").fit(x.numpy(), y.numpy().ravel())
    np.testing.assert_allclose(w.numpy(), ridge.coef_, rtol=1e-6, atol=1e-9)
    projected, _ = regression(f"constrain(to='l2_ball', radius={radius})", diabetes)
    np.testing.assert_allclose(projected.numpy(), w.numpy(), rtol=1e-6, atol=1e-9)


def test_the_multiplier_of_the_l1_ball_is_the_lasso(diabetes):
    x, y = diabetes
    projected, _ = regression("constrain(to='l1_ball', radius=0.6)", diabetes)
    slope = x.T @ (x @ projected - y.flatten()) / len(x)
    mu = slope.abs().max().item()  # at the optimum: the slope of the loss, wherever a coefficient is not 0
    lasso = Lasso(alpha=mu, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy().ravel())
    np.testing.assert_allclose(projected.numpy(), lasso.coef_, atol=1e-7)
    assert 2 <= (projected == 0).sum() <= 8
    w, change = regression(
        "constrain(to='l1_ball', radius=0.6, method='lagrangian', multiplier_lr=0.01)", diabetes, 2000, lr=0.02
    )
    # sign(w) has no zeros: coefficients swing around 0 by lr mu, and the multiplier with them
    assert multiplier(change) == pytest.approx(mu, rel=0.1)
    np.testing.assert_allclose(w.numpy(), lasso.coef_, atol=2 * 0.02 * mu)


@pytest.mark.parametrize(
    ("to", "size"),
    [("max_norm", lambda w: w.norm(dim=1)), ("linf_ball", lambda w: w.abs())],
    ids=["max_norm", "linf_ball"],
)
def test_multipliers_of_units_and_entries(to, size, digits):
    radius = {"max_norm": 0.5, "linf_ball": 0.1}[to]
    lr = {"max_norm": 0.05, "linf_ball": 0.5}[to]
    model, optimizer, training = attached(
        f"constrain(to={to!r}, radius={radius}, method='lagrangian', multiplier_lr={lr})"
    )
    plain, plain_optimizer, _ = attached("", network())
    for _ in range(2):
        train(plain, plain_optimizer, digits, 200, 512)
        train(model, optimizer, digits, 200, 512)
    assert f" of {sum(size(model[i].weight).numel() for i in (0, 2, 4))} multipliers" in training.changes[0].outcome()
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            free = size(dict(plain.named_parameters())[name].detach()) - radius
            over = size(weight.detach()) - radius
            assert free.max() > 0.05 and over.max() < 0.2 * free.max()


def test_the_report_tells_the_multipliers(digits):
    model, optimizer, training = attached("constrain(to='l2_ball', radius=2.33, method='lagrangian', only='*.weight')")
    summary = "3 weights constrained to l2_ball of radius 2.33 by lagrangian"
    assert str(training.changes[0]) == f"{summary}: 0 of 3 multipliers are above 0, the largest is 0 (0.weight)"
    train(model, optimizer, digits, 1)
    mu = 0.01 * (model[2].weight.norm().item() - 2.33)
    assert str(training.changes[0]) == f"{summary}: 1 of 3 multipliers are above 0, the largest is {mu:.4g} (2.weight)"


def test_a_weight_of_zeros_stays_finite(digits):
    model = network()
    nn.init.zeros_(model[4].weight)
    model, optimizer, _ = attached("constrain(radius=0.5, method='lagrangian')", model)
    train(model, optimizer, digits, 3)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_closure_gets_the_term_every_time_and_ascends_once(diabetes):
    x, y = diabetes
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False).double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=5)
    text = "constrain(to='l2_ball', radius=0.4, method='lagrangian', multiplier_lr=0.2)"
    training = tt.attach(model, optimizer).apply(text)
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y) / 2
        loss.backward()
        return loss

    lengths = []
    for _ in range(60):
        optimizer.step(closure)
        lengths.append(model.weight.norm().item())
    assert calls > 60
    assert lengths[-1] == pytest.approx(0.4, rel=1e-3) and lengths[0] > 0.5
    mu = 0.0
    for length in lengths:
        mu = max(0.0, mu + 0.2 * (length - 0.4))
    assert multiplier(training.changes[0]) == pytest.approx(mu, rel=1e-3)


def test_a_line_search_is_refused():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    training = tt.attach(model, optimizer)
    with pytest.raises(tt.NothingToDo, match="LBFGS searches along a line"):
        training.apply("constrain(radius=0.1, method='lagrangian')")
    training.apply("constrain(radius=0.1)")  # a projection does not ask for the loss


# -- weight decay ----------------------------------------------------------------------------------------------------


def by_hand(digits, decay, rates: list[float]) -> list[torch.Tensor]:
    """SGD without momentum; ``decay(w, gradient, rate)`` gives the new weight, biases take a plain step."""
    model = network().double()
    x, y = exact_digits(digits, 64)
    for rate in rates:
        slopes = gradients(model, F.cross_entropy(model(x), y))
        with torch.no_grad():
            for p, g in zip(model.parameters(), slopes, strict=True):
                p.copy_(decay(p, g, rate) if p.ndim > 1 else p - rate * g)
    return list(model.parameters())


@pytest.mark.parametrize(
    ("setting", "decay"),
    [
        ("factor=0.1", lambda w, g, rate: (1 - rate * 0.1) * w - rate * g),
        ("factor=0.1, kind='coupled'", lambda w, g, rate: w - rate * (g + 0.1 * w)),
        ("factor=0.1, kind='independent'", lambda w, g, rate: (1 - 0.1 * rate / 0.5) * w - rate * g),
    ],
)
@pytest.mark.parametrize("scheduled", ["by torch", "by hand"])
def test_decay_by_hand(setting, decay, scheduled, digits):
    rates = [0.5, 0.4, 0.3, 0.2, 0.1]
    model, optimizer, _ = attached(f"weight_decay({setting})", network().double(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [*rates, 0][step] / 0.5)
    if scheduled == "by hand":
        del optimizer.param_groups[0]["initial_lr"]
    x, y = exact_digits(digits, 64)
    for rate in rates:
        if scheduled == "by hand":
            optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(list(model.parameters()), by_hand(digits, decay, rates), rtol=1e-12, atol=1e-14)


def test_only_what_is_named_decays(digits):
    model, optimizer, training = attached("weight_decay(factor=0.5, only='*.bias')", lr=1.0)
    x, y = digits[0][:16], digits[1][:16]
    slopes = gradients(model, F.cross_entropy(model(x), y))
    moved = steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y))
    for p, g, step in zip(model.parameters(), slopes, moved, strict=True):
        before = p.detach() + step
        torch.testing.assert_close(step, g + 0.5 * before if p.ndim == 1 else g)
    assert training.changes[0].summary == "decoupled weight decay of 0.5 on 3 weights"


# -- penalties on what a network computes ----------------------------------------------------------------------------


def test_orthogonal_penalty_adds_its_gradient(digits):
    x, y = exact_digits(digits)
    model, optimizer, _ = attached("orthogonal_penalty(factor=0.1)", network("cnn").double(), lr=1.0)
    wanted = gradients(model, F.cross_entropy(model(x), y))
    for number, p in enumerate(model.parameters()):
        if p.ndim > 1:
            rows = p.detach().flatten(1)
            slope = 4 * (rows @ rows.T - torch.eye(len(rows))) @ rows
            wanted[number] = wanted[number] + 0.1 * slope.view(p.shape)
    torch.testing.assert_close(steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y)), wanted, **EXACT)


@pytest.mark.parametrize(("p", "size"), [(1, lambda h: h.abs()), (2, lambda h: h.square() / 2)])
def test_activity_penalty_adds_its_gradient(p, size, digits):
    x, y = exact_digits(digits)
    model, optimizer, training = attached(f"activity_penalty(factor=0.1, p={p})", network().double(), lr=1.0)
    twin = network().double()
    first = twin[1](twin[0](x))
    second = twin[3](twin[2](first))
    loss = F.cross_entropy(twin[4](second), y) + 0.1 * (size(first).sum() + size(second).sum()) / len(x)
    wanted = gradients(twin, loss)
    assert training.changes[0].summary == f"L{p} penalty of 0.1 on the outputs of 2 modules: 1, 3"
    torch.testing.assert_close(steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y)), wanted, **EXACT)
    training.undo()
    wanted = gradients(model, F.cross_entropy(model(x), y))
    torch.testing.assert_close(steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y)), wanted, **EXACT)


def test_activity_survives_changes_in_place(digits):
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(inplace=True), nn.Linear(16, 10)).double()

    x, y = exact_digits(digits)
    model, optimizer, _ = attached("activity_penalty(factor=0.1, only='0')", net(), lr=1.0)
    twin = net()
    h = twin[0](x)
    wanted = gradients(twin, F.cross_entropy(twin[2](h.relu()), y) + 0.1 * h.abs().sum() / len(x))
    torch.testing.assert_close(steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y)), wanted, **EXACT)


class Reader(nn.Module):
    """Reads the rows of an image one after the other."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(8, 6, batch_first=batch_first)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.view(-1, 8, 8)
        _, (last, _) = self.lstm(rows if self.lstm.batch_first else rows.transpose(0, 1))
        return self.head(last[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_activity_of_recurrent_layers(batch_first, digits):
    x, y = exact_digits(digits)
    model, optimizer, training = attached("activity_penalty(factor=0.1, p=2)", Reader(batch_first).double(), lr=1.0)
    twin = Reader(True).double()
    h, (last, _) = twin.lstm(x.view(-1, 8, 8))
    wanted = gradients(twin, F.cross_entropy(twin.head(last[0]), y) + 0.1 * h.square().sum() / 2 / len(x))
    torch.testing.assert_close(steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y)), wanted, **EXACT)
    assert training.changes[0].acted()


def test_activity_counts_each_part_of_an_accumulated_gradient(digits):
    x, y = exact_digits(digits, 32)
    model, optimizer, _ = attached("activity_penalty(factor=0.1)", network().double(), lr=1.0)
    twin, twin_optimizer, _ = attached("activity_penalty(factor=0.1)", network().double(), lr=1.0)
    whole = steps_of(model, optimizer, lambda: F.cross_entropy(model(x), y))
    before = [p.detach().clone() for p in twin.parameters()]
    twin(x)  # a call that no backward follows counts nowhere
    for rows in (slice(0, 16), slice(16, 32)):
        (F.cross_entropy(twin(x[rows]), y[rows]) / 2).backward()
    twin_optimizer.step()
    parts = [b - p.detach() for b, p in zip(before, twin.parameters(), strict=True)]
    # the loss is halved by the script, terms beside it are not (see add_loss): two halves of the data, each with its whole mean
    plain = network().double()
    own = gradients(plain, F.cross_entropy(plain(x), y))
    for both, one, without in zip(parts, whole, own, strict=True):
        torch.testing.assert_close(both - without, 2 * (one - without), rtol=1e-7, atol=1e-13)


def test_activity_of_a_model_in_files_copies_and_compiled(digits):
    x, y = digits[0][:16], digits[1][:16]
    model, optimizer, training = attached("activity_penalty(factor=0.1)", lr=1.0)
    model(x)  # leaves terms with a graph, which no copy may take along
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    read, copied = torch.load(file, weights_only=False), copy.deepcopy(model)
    for other in (read, copied):
        assert torch.equal(other(x), model(x))
        assert all(part.terms is None for part in other.modules() if hasattr(part, "terms"))
    assert list(model.state_dict()) == list(network().state_dict())
    reference = copy.deepcopy(copied)
    compiled = torch.compile(model, backend="eager")
    moved = steps_of(model, optimizer, lambda: F.cross_entropy(compiled(x), y))
    hidden = reference[1](reference[0](x)), reference[:4](x)
    loss = F.cross_entropy(reference(x), y) + 0.1 * sum(h.sum() for h in hidden) / len(x)
    torch.testing.assert_close(moved, gradients(reference, loss), rtol=1e-4, atol=1e-6)
    assert training.changes[0].acted()


def test_activity_is_not_collected_in_evaluation(digits):
    model, _, training = attached("activity_penalty")
    parts = [part for part in model.modules() if hasattr(part, "terms")]
    assert len(parts) == 2
    with torch.no_grad():
        model(digits[0][:4])
    model.eval()(digits[0][:4])
    assert all(part.terms == [] for part in parts)
    assert not training.changes[0].acted()


def test_activity_places(digits):
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(x).relu()).relu())

    def summary(text: str, model: nn.Module) -> str:
        return attached(text, model)[2].changes[0].summary

    assert summary("activity_penalty", Functional()).endswith("2 modules: first, second")
    assert summary("activity_penalty", network("normed")).endswith("3 modules: 3, 6, 9")
    sigmoid = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    assert summary("activity_penalty", sigmoid).endswith("1 modules: 1")  # the last one is the answer
    assert summary("activity_penalty(only='Linear')", network()).endswith("3 modules: 0, 2, 4")
    with pytest.raises(tt.NothingToDo, match=r"no module is called 'Lineal' or of that class\. Did you mean Linear\?"):
        attached("activity_penalty(only='Lineal')")
    with pytest.raises(tt.NothingToDo, match="the model has no activation or layer in front of another layer"):
        attached("activity_penalty", nn.Linear(4, 2))


def test_jacobian_penalty_adds_its_gradient(digits):
    """With one output a random direction is the only one, up to its sign: no luck involved."""

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    x, y = exact_digits(digits)
    target = (y == 3).double().unsqueeze(1)
    model, optimizer, training = attached("jacobian_penalty(factor=0.5)", net(), lr=1.0)
    twin = net()
    slope = (1 - twin[:2](x).square()) * twin[2].weight  # d out / d hidden before tanh
    jacobian = slope @ twin[0].weight
    loss = F.binary_cross_entropy_with_logits(twin(x), target) + 0.5 * jacobian.square().sum() / (2 * len(x))
    wanted = gradients(twin, loss)
    moved = steps_of(model, optimizer, lambda: F.binary_cross_entropy_with_logits(model(x), target))
    torch.testing.assert_close(moved, wanted, **EXACT)
    assert training.changes[0].acted() and not x.requires_grad
    training.undo()
    wanted = gradients(model, F.binary_cross_entropy_with_logits(model(x), target))
    moved = steps_of(model, optimizer, lambda: F.binary_cross_entropy_with_logits(model(x), target))
    torch.testing.assert_close(moved, wanted, **EXACT)


def test_jacobian_penalty_makes_the_model_less_sensitive(digits):
    def sensitivity(text: str) -> tuple[float, list[float]]:
        torch.manual_seed(0)
        model, optimizer, _ = attached(text)
        losses = train(model, optimizer, digits, 150, 128)
        x = digits[0].clone().requires_grad_()
        with torch.enable_grad():
            model.eval()
            return tt_jacobian(x, model(x)), losses

    def tt_jacobian(x: torch.Tensor, y: torch.Tensor) -> float:
        rows = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in range(y.shape[1])]
        return sum(row.square().sum() for row in rows).item() / len(x)

    (plain, losses), (treated, other) = sensitivity(""), sensitivity("jacobian_penalty(factor=0.1, projections=2)")
    assert treated < 0.7 * plain
    assert other[-1] < 0.7 * other[0] and losses[-1] < 0.7 * losses[0]


def test_jacobian_penalty_of_a_model_that_changes_its_input_in_place(digits):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 10))
    model, optimizer, training = attached("jacobian_penalty", model)
    x = digits[0][:8].clone()
    F.cross_entropy(model(x), digits[1][:8]).backward()
    optimizer.step()
    assert training.changes[0].acted()
    assert torch.equal(x, digits[0][:8])


def test_jacobian_penalty_without_an_input_to_derive_by():
    model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 2))
    model, optimizer, training = attached("jacobian_penalty", model)
    F.cross_entropy(model(torch.arange(4)), torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()
    assert not training.changes[0].acted()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_confidence_penalty_by_hand(reduction, name, digits):
    x, y = exact_digits(digits)
    y = torch.where(torch.arange(16) < 4, -100, y)  # four targets that count nowhere
    model, optimizer, training = attached("confidence_penalty(factor=0.5)", network().double(), lr=1.0)

    def loss(model: nn.Module) -> torch.Tensor:
        y_hat = model(x)
        values = getattr(F, name)(y_hat if name == "cross_entropy" else y_hat.log_softmax(1), y, reduction=reduction)
        return values.sum() if reduction == "none" else values

    twin = network().double()
    p = twin(x)[4:].softmax(1)
    entropy = -(p * p.log()).sum(1)
    reduced = entropy.mean() if reduction == "mean" else entropy.sum()
    with torch.no_grad():
        plain = loss(twin)
    wanted = gradients(twin, loss(twin) - 0.5 * reduced)  # the twin belongs to no training
    value = loss(model)
    torch.testing.assert_close(value, plain - 0.5 * reduced)
    torch.testing.assert_close(steps_of(model, optimizer, lambda: loss(model)), wanted, **EXACT)
    with torch.no_grad():
        before = [p.clone() for p in model.parameters()]
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.copy_(q)
        assert torch.equal(loss(model), plain)  # evaluations stay plain
        for p, q in zip(model.parameters(), before, strict=True):
            p.copy_(q)
    assert training.changes[0].acted()
    training.undo()  # what follows may not be taken for losses of this training


def test_confidence_penalty_of_soft_targets_and_positions(digits):
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model, _, training = attached("confidence_penalty(factor=0.5)", nn.Conv1d(5, 6, 1).double())
    soft = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(1)
    found = F.cross_entropy(model(x), soft)
    logs = model(x).log_softmax(1)
    wanted = -(soft * logs).sum(1).mean() + 0.5 * (logs.exp() * logs).sum(1).mean()
    torch.testing.assert_close(found, wanted)
    training.undo()


def test_confidence_penalty_raises_the_entropy(digits):
    def entropy(text: str) -> float:
        model, optimizer, training = attached(text)
        train(model, optimizer, digits, 300, 128)
        training.undo()
        with torch.no_grad():
            return torch.distributions.Categorical(logits=model(digits[0])).entropy().mean().item()

    assert entropy("confidence_penalty(factor=0.5)") > 3 * entropy("")


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("constrain(to='ball')", "to='ball' with method='projection' must be one of 'max_norm', 'unit_norm'"),
        (
            "constrain(to='simplex', method='lagrangian')",
            "to='simplex' with method='lagrangian' must be one of 'max_norm', 'l1_ball', 'l2_ball', 'linf_ball'.",
        ),
        ("constrain(method='penalty')", "method='penalty' must be one of 'projection', 'lagrangian'."),
        ("constrain(radius=0)", "radius=0 must be positive"),
        ("constrain(multiplier_lr=-1.0)", "multiplier_lr=-1.0 must be positive"),
        ("weight_decay(kind='l2')", "weight_decay: kind='l2' must be one of 'coupled', 'decoupled', 'independent'."),
        ("orthogonal_penalty(factor=0)", "factor=0 must be"),
        ("confidence_penalty(factor=-1)", "factor=-1 must be"),
        ("jacobian_penalty(factor=0)", "factor=0 must be"),
        ("jacobian_penalty(projections=0)", "projections=0 must be at least 1: each is a random direction"),
        ("activity_penalty(p=0)", "p=0 must be 1 (sum of magnitudes) or 2 (half the sum of squares)."),
        ("activity_penalty(factor=0)", "factor=0 must be"),
    ],
)
def test_bad_settings_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse(text)
    assert message in str(error.value)


def test_nothing_to_make_orthogonal():
    with pytest.raises(tt.NothingToDo, match=r"no parameter that '\*\.bias' names has two dimensions or more"):
        attached("orthogonal_penalty(only='*.bias')")
