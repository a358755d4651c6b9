"""Weight decay of the three kinds, against torch's optimizers and loops by hand, with a schedule, in float64."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_diabetes

from trimtab.optim import weight_decay_

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64, twenty steps of some ten roundings each
BASE = 0.05


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor(x * 20), torch.tensor((y - y.mean()) / y.std())


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((10, 4), (4,))]


def loss_of(weights: list[torch.Tensor], data: tuple) -> torch.Tensor:
    x, y = data
    return (torch.tanh(x @ weights[0]) @ weights[1] - y).square().mean()


def cosine(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)


def trained(make, data, decay=lambda optimizer, weights: None, schedule=cosine, steps: int = 20) -> list[torch.Tensor]:
    weights = start()
    optimizer = make(weights)
    scheduler = schedule(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(weights, data).backward()
        decay(optimizer, weights)
        optimizer.step()
        scheduler.step()
    return [w.detach() for w in weights]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("coupled", lambda w, d: torch.optim.SGD(w, BASE, momentum=0.9, weight_decay=d)),
        ("coupled", lambda w, d: torch.optim.Adam(w, BASE, weight_decay=d)),
        ("coupled", lambda w, d: torch.optim.SGD(w, 1e-3, weight_decay=d, maximize=True)),
        ("decoupled", lambda w, d: torch.optim.AdamW(w, BASE, weight_decay=d)),
        ("decoupled", lambda w, d: torch.optim.Adam(w, BASE, weight_decay=d, decoupled_weight_decay=True)),
        ("decoupled", lambda w, d: torch.optim.AdamW(w, torch.tensor(BASE).double(), weight_decay=d, foreach=False)),
    ],
)
def test_torch_has_the_same(kind, make, diabetes):
    theirs = trained(lambda w: make(w, 0.1), diabetes)
    ours = trained(lambda w: make(w, 0.0), diabetes, lambda o, w: weight_decay_(o, w, 0.1, kind))
    assert (theirs[0] - trained(lambda w: make(w, 0.0), diabetes)[0]).abs().max() > 1e-4
    same(ours, theirs)


def test_coupled_under_a_scaler_that_leaves_unscaling_to_the_optimizer(diabetes):
    x, y = (t.float() for t in diabetes)
    found = []
    for own in (0.1, 0.0):
        w = torch.ones(10, requires_grad=True)
        optimizer = torch.optim.SGD([w], 0.1, weight_decay=own, fused=True)
        if not own:
            optimizer.register_step_pre_hook(
                lambda o, *_: weight_decay_(o, o.param_groups[0]["params"], 0.1, "coupled")
            )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale((x @ w - y).square().mean()).backward()
        scaler.step(optimizer)
        found.append(w.detach())
    torch.testing.assert_close(*found)


def test_sgd_does_not_tell_coupled_from_decoupled(diabetes):
    def sgd(w):
        return torch.optim.SGD(w, BASE)

    coupled = trained(sgd, diabetes, lambda o, w: weight_decay_(o, w, 0.1, "coupled"))
    same(trained(sgd, diabetes, lambda o, w: weight_decay_(o, w, 0.1, "decoupled")), coupled)


def independent_by_hand(data, rates: list[float], factor: float) -> list[torch.Tensor]:
    """The seed's w - lambda w - eta g with momentum, lambda following the schedule."""
    weights = start()
    buffers = [torch.zeros_like(w) for w in weights]
    for rate in rates:
        gradients = torch.autograd.grad(loss_of(weights, data), weights)
        buffers = [0.9 * b + g for b, g in zip(buffers, gradients, strict=True)]
        weights = [
            (w - factor * rate / BASE * w - rate * b).detach().requires_grad_()
            for w, b in zip(weights, buffers, strict=True)
        ]
    return [w.detach() for w in weights]


def rates_of(schedule, steps: int = 20) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], BASE, momentum=0.9)
    scheduler = schedule(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    "schedule",
    [
        cosine,
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=BASE, total_steps=30, cycle_momentum=False),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    ],
)
def test_independent_follows_the_schedule_by_hand(schedule, diabetes):
    rates = rates_of(schedule)
    assert len(set(rates)) > 5
    ours = trained(
        lambda w: torch.optim.SGD(w, BASE, momentum=0.9), diabetes,
        lambda o, w: weight_decay_(o, w, 0.01, "independent"), schedule,
    )  # fmt: skip
    same(ours, independent_by_hand(diabetes, rates, 0.01))


@pytest.mark.parametrize(("kind", "depends"), [("independent", False), ("decoupled", True)])
def test_independent_of_the_base_rate(kind, depends):
    left = []
    for base in (0.001, 0.5):
        w = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w], base)
        scheduler = cosine(optimizer)
        for _ in range(20):
            w.grad = torch.zeros_like(w)
            weight_decay_(optimizer, [w], 0.01, kind)
            optimizer.step()
            scheduler.step()
        left.append(w.detach())
    assert torch.allclose(*left, **EXACT) != depends


def test_each_group_has_its_base_rate():
    a, b, c = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b, c], "lr": 0.4}])
    for w in (a, b, c):
        w.grad = torch.zeros_like(w)
    weight_decay_(optimizer, [a, b], 0.5, "independent", base_lr=[0.1, 0.8])
    assert (a.item(), b.item(), c.item()) == (0.5, 0.75, 1.0)  # c was not chosen


def test_weights_without_gradient_stay():
    w = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([w], 0.1)
    for kind in ("coupled", "decoupled", "independent"):
        weight_decay_(optimizer, [w], 0.5, kind)
    assert w.tolist() == [1, 1] and w.grad is None


def test_errors_say_what_to_do():
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.ones(2)
    optimizer = torch.optim.SGD([w], 0.1)
    with pytest.raises(ValueError, match=r"kind='l2' must be one of 'coupled', 'decoupled', 'independent'\."):
        weight_decay_(optimizer, [w], 0.1, "l2")
    with pytest.raises(ValueError, match=r"has no scheduler\. Give it: base_lr=optimizer\.defaults\['lr'\]\."):
        weight_decay_(optimizer, [w], 0.1, "independent")
    assert w.tolist() == [1, 1]
