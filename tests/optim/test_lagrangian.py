"""The Lagrangian reaches constrained optima that are known otherwise, and its multiplier the price of the constraint."""

from __future__ import annotations

import copy

import pytest
import scipy.optimize
import torch

from trimtab.optim import Lagrangian


def minimised(loss, omega, constraint: Lagrangian, w: torch.Tensor, lr: float, steps: int) -> torch.Tensor:
    optimizer = torch.optim.SGD([w.requires_grad_()], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(w) + constraint(omega(w))).backward()
        optimizer.step()
        constraint.ascend(omega(w))
    return w.detach()


CURVATURE = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
CENTRE = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)


def quadratic(w: torch.Tensor) -> torch.Tensor:
    return (CURVATURE * (w - CENTRE).square()).sum() / 2


def test_a_quadratic_on_a_ball():
    """min sum a (w - c)^2 / 2 with ||w||^2 <= 1: w = a c / (a + 2 mu), with the mu that makes its length 1."""

    def solution(mu: float) -> torch.Tensor:
        return CURVATURE * CENTRE / (CURVATURE + 2 * mu)

    mu = scipy.optimize.brentq(lambda mu: float(solution(mu).square().sum()) - 1, 0, 100, xtol=1e-14)
    constraint = Lagrangian(bound=1.0, lr=0.1).double()
    w = minimised(quadratic, lambda w: w.square().sum(), constraint, torch.zeros_like(CENTRE), 0.05, 2000)
    torch.testing.assert_close(w, solution(mu), rtol=1e-9, atol=1e-9)
    assert constraint.multiplier.item() == pytest.approx(mu, rel=1e-9)
    # its price: the derivative of the least loss by the bound
    step = 1e-4
    least = [
        quadratic(solution(scipy.optimize.brentq(lambda mu, k=k: float(solution(mu).square().sum()) - k, 0, 100)))
        for k in (1 - step, 1 + step)
    ]
    assert (least[0] - least[1]).item() / (2 * step) == pytest.approx(mu, rel=1e-4)


def test_each_constraint_has_its_multiplier_and_idle_ones_have_none():
    bounds = 1.0
    constraint = Lagrangian(bounds, lr=0.1, shape=(3,)).double()
    w = minimised(quadratic, torch.abs, constraint, torch.zeros_like(CENTRE), 0.05, 2000)
    torch.testing.assert_close(w, torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64), rtol=1e-7, atol=1e-7)
    # at the bound the multiplier balances the slope of the loss: a |c - w|
    torch.testing.assert_close(
        constraint.multiplier, torch.tensor([2.0, 0, 0], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_one_step_by_hand():
    constraint = Lagrangian(bound=2.0, lr=0.5)
    w = torch.tensor([3.0], requires_grad=True)
    assert constraint(w.abs().sum()).item() == 0
    constraint.ascend(w.abs().sum())
    assert constraint.multiplier.item() == 0.5  # 0 + 0.5 (3 - 2)
    constraint(w.abs().sum()).backward()
    assert w.grad.item() == 0.5
    constraint.ascend(torch.tensor(0.5))
    assert constraint.multiplier.item() == 0.0  # max(0, 0.5 - 0.75)


def test_the_multiplier_is_saved():
    constraint = Lagrangian(bound=1.0, lr=0.5, shape=(2,))
    constraint.ascend(torch.tensor([3.0, 0.0]))
    other = Lagrangian(bound=1.0, lr=0.5, shape=(2,))
    other.load_state_dict(constraint.state_dict())
    assert other.multiplier.tolist() == copy.deepcopy(constraint).multiplier.tolist() == [1.0, 0.0]
    assert list(constraint.parameters()) == []  # no optimizer must descend in it


def test_errors_say_what_to_do():
    with pytest.raises(
        ValueError, match=r"Lagrangian: lr=0 must be positive: it is the learning rate of the multiplier\."
    ):
        Lagrangian(1.0, lr=0)
    constraint = Lagrangian(1.0)
    for call in (constraint, constraint.ascend):
        with pytest.raises(
            ValueError, match=r"Lagrangian\(shape=\(\)\) got a value of shape \(3,\).*mean Lagrangian\(shape=\(3,\)\)\?"
        ):
            call(torch.ones(3))
    assert repr(constraint) == "Lagrangian(bound=1, lr=0.01)"
