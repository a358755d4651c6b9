"""SAM against its formula in float64, and against pytorch_optimizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import network
from trimtab.optim import SAM, Adam


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor):
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("adaptive", [False, True])
def test_linear_regression_against_the_formula(adaptive):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.normal(size=20)
    w, b, v = generator.normal(size=3), np.array([0.3]), np.zeros(4)
    model = nn.Linear(3, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(w)[None])
        model.bias.copy_(torch.tensor(b))
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.5, adaptive=adaptive, lr=0.1, momentum=0.9)

    def closure():
        optimizer.zero_grad()
        loss = (model(torch.tensor(x))[:, 0] - torch.tensor(y)).square().mean()
        loss.backward()
        return loss

    def gradient(theta):
        residual = x @ theta[:3] + theta[3] - y
        return 2 * np.append(x.T @ residual, residual.sum()) / 20

    theta = np.append(w, b)
    for _ in range(5):
        expected_loss = ((x @ theta[:3] + theta[3] - y) ** 2).mean()
        g = gradient(theta)
        climb = theta**2 * g / np.linalg.norm(theta * g) if adaptive else g / np.linalg.norm(g)
        v = 0.9 * v + gradient(theta + 0.5 * climb)
        theta = theta - 0.1 * v
        np.testing.assert_allclose(optimizer.step(closure).item(), expected_loss, rtol=1e-13)
    found = np.append(model.weight.detach().numpy()[0], model.bias.detach().numpy())
    np.testing.assert_allclose(found, theta, rtol=1e-12)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, Adam])
def test_a_checkpoint_of_the_base_optimizer_goes_on(base):
    p = torch.ones(2, requires_grad=True)
    began = base([p], lr=0.5)
    p.grad = torch.ones(2)
    began.step()
    optimizer = SAM([p], base, rho=0.3, adaptive=True, lr=0.1)
    optimizer.load_state_dict(began.state_dict())
    assert optimizer.param_groups[0]["rho"] == 0.3 and optimizer.param_groups[0]["lr"] == 0.5

    def closure():
        optimizer.zero_grad()
        p.square().sum().backward()
        return 0.0

    optimizer.step(closure)
    before = optimizer.state_dict()
    optimizer.load_state_dict(copy.deepcopy(before))
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_against_pytorch_optimizer(adaptive, digits):
    from pytorch_optimizer import SAM as Theirs

    x, y = digits[0][:64], digits[1][:64]
    mine, theirs = network(), network()
    one = SAM(mine.parameters(), torch.optim.SGD, rho=0.1, adaptive=adaptive, lr=0.1, momentum=0.9)
    other = Theirs(theirs.parameters(), torch.optim.SGD, rho=0.1, adaptive=adaptive, lr=0.1, momentum=0.9)
    for _ in range(5):
        one.step(closure_of(mine, one, x, y))
        closure = closure_of(theirs, other, x, y)
        closure()
        other.step(closure)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        # ten backward passes in float32, of numbers below 1, along points that differ by the rounding of the norm
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_is_the_base_optimizer_for_schedulers_groups_and_checkpoints(digits):
    x, y = digits[0][:64], digits[1][:64]

    def begin():
        model = network()
        groups = [{"params": model[0].parameters(), "rho": 0.2}, {"params": model[2:].parameters(), "lr": 0.01}]
        optimizer = SAM(groups, torch.optim.Adam, rho=0.05, lr=0.02)
        return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    model, optimizer, scheduler = begin()
    assert isinstance(optimizer, SAM) and isinstance(optimizer, torch.optim.Adam)
    assert [group["rho"] for group in optimizer.param_groups] == [0.2, 0.05]
    optimizer.step(closure_of(model, optimizer, x, y))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.005]
    again, resumed, _ = begin()
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin = copy.deepcopy((model, optimizer))
    for m, o in ((model, optimizer), (again, resumed), twin):
        o.step(closure_of(m, o, x, y))
    for p, q, r in zip(model.parameters(), again.parameters(), twin[0].parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


def test_hooks_run_once_around_both_passes(digits):
    x, y = digits[0][:8], digits[1][:8]
    model = network()
    torch.optim.SGD(model.parameters())  # from here on torch has wrapped SGD.step
    for base in (torch.optim.SGD, Adam):
        optimizer = SAM(model.parameters(), base, lr=0.1)
        seen = []
        optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("after"))
        optimizer.step(closure_of(model, optimizer, x, y))
        assert seen == ["before", "after"]


def test_comes_back_when_the_second_pass_fails(digits):
    model = network()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=1.0, lr=0.1)
    closure, calls = closure_of(model, optimizer, digits[0][:8], digits[1][:8]), []

    def once():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("of purpose")
        return closure()

    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="of purpose"):
        optimizer.step(once)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_without_a_gradient_it_stays():
    theta = torch.ones(2, requires_grad=True)
    optimizer = SAM([theta], torch.optim.SGD, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (theta * 0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert theta.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: SAM(p, torch.optim.SGD, rho=0), "SAM: rho=0 must be a positive number: it is how far away the worst point"),
        (lambda p: SAM(p, torch.optim.SGD, lr=0.1).step(), "call optimizer.step(closure), where closure() zeroes the gradients"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError) as error:
        call([torch.ones(1, requires_grad=True)])
    assert message in str(error.value)
