"""The range test: it leaves training as it was, bit for bit, and what it suggests trains well."""

from __future__ import annotations

import copy
import itertools
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab as tt
from trimtab.optim import RangeTest, lr_range_test
from trimtab.optim.range_test import suggest

cross_entropy = nn.functional.cross_entropy


def network(dropout: float = 0.2) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))


def loader_of(data: tuple, size: int = 32, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*data), size, shuffle=True, **options)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, epochs: int, after: Any = None
) -> list[float]:
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if after is not None:
            after()
    return losses


class Straight(nn.Module):
    """Loss without noise: one weight on a parabola."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight.square() + 0 * x.sum()


def on_a_parabola(optimizer: Any = torch.optim.SGD, **options: Any) -> RangeTest:
    model = Straight()
    return lr_range_test(
        model, optimizer(model.parameters(), 0.1), lambda out, _: out, [(torch.zeros(1), None)], **options
    )


# -- nothing is left of it -------------------------------------------------------------------------------------------


class Broken(Exception): ...


@pytest.mark.parametrize("end", ["finished", "exploded", Broken, KeyboardInterrupt])
def test_training_goes_on_as_if_there_had_been_no_test(end, digits):
    def run(test: bool) -> tuple:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        model = network()
        model[1].eval()
        model[0].bias.requires_grad_(False)
        groups = [{"params": model[0].parameters(), "lr": 0.003}, {"params": model[1:].parameters()}]
        optimizer = torch.optim.Adam(groups, lr=0.001)
        loader = loader_of(digits, generator=torch.Generator().manual_seed(5))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        losses = train(model, optimizer, loader, 1, scheduler.step)
        if test:
            calls = itertools.count()

            def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                if next(calls) == {Broken: 42, KeyboardInterrupt: 85}.get(
                    end
                ):  # with the untouched network; in the test
                    raise end
                return cross_entropy(output, target) + random.random() + np.random.rand()

            high = 0.1 if end == "finished" else 1e4
            try:
                found = lr_range_test(model, optimizer, loss, loader, steps=60, low=1e-6, high=high)
                assert (len(found.losses) < 60) == (end == "exploded")
            except (Broken, KeyboardInterrupt) as error:
                assert isinstance(error, end)
        losses += train(model, optimizer, loader, 2, scheduler.step)
        modes = [module.training for module in model.modules()]
        return losses, model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), modes, torch.get_rng_state()

    with_test, without = run(True), run(False)
    assert with_test[0] == without[0] and with_test[4] == without[4]
    torch.testing.assert_close(with_test, without, rtol=0, atol=0)


def test_gradients_and_hooks_stay(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    cross_entropy(model(digits[0]), digits[1]).backward()
    before = [(p.grad, p.grad.clone()) for p in model.parameters()]
    stepped = []
    optimizer.register_step_pre_hook(lambda *_: stepped.append(1))
    optimizer.register_step_post_hook(lambda *_: stepped.append(2))
    lr_range_test(model, optimizer, cross_entropy, loader_of(digits), steps=20)
    assert not stepped
    assert all(
        p.grad is kept and torch.equal(kept, value) for p, (kept, value) in zip(model.parameters(), before, strict=True)
    )
    optimizer.step()
    assert stepped == [1, 2]


def test_a_scheduler_does_not_take_the_test_for_training():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    lr_range_test(model, optimizer, cross_entropy, [(torch.randn(8, 64), torch.arange(8))], steps=20)
    with pytest.warns(
        UserWarning, match="Detected call of .lr_scheduler.step... before .optimizer.step"
    ):  # it still knows
        scheduler.step()


def test_a_criterion_with_numbers_of_its_own_is_put_back():
    model, criterion = nn.Linear(4, 2), nn.Sequential(nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], 0.1)
    before = copy.deepcopy(criterion.state_dict())

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = criterion

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return (self.inner(output) - target).square().mean()

    lr_range_test(model, optimizer, Loss(), [(torch.randn(8, 4), torch.randn(8, 2))], steps=20)
    torch.testing.assert_close(criterion.state_dict(), before, rtol=0, atol=0)


def test_a_live_training_does_not_see_it(digits):
    """A watch, schedules and averages are where they were; what techniques do to the model is part of the test."""

    def run(test: bool) -> tuple:
        torch.manual_seed(0)
        model = network(0.0)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        training = tt.attach(model, optimizer).apply(
            "dropout(p=0.3), ema, exponential_decay(beta=0.9), clip_norm(max_norm=1.0)"
        )
        recorder = training.watch()
        loader = loader_of(digits, generator=torch.Generator().manual_seed(5))
        losses = train(model, optimizer, loader, 1)
        optimizer.zero_grad(set_to_none=False)
        if test:
            found = tt.lr_range_test(model, optimizer, cross_entropy, loader, steps=30)
            assert found.losses[0] != found.losses[1]
            assert any("dropout" in name for name, _ in model.named_modules())

        def train_on() -> None:  # some clear the gradients at the end: those of the test must not count as theirs
            for x, y in loader:
                loss = cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                losses.append(loss.item())

        train_on()
        assert training.step == 32
        record = recorder.close().trainings[0]
        assert record.steps == 32 and not [name for name in record.series if name.startswith("val")]
        model.eval()
        with torch.no_grad():  # the average answers
            return losses, record.series["loss"], record.series["lr"], model(digits[0][:4]).tolist()

    assert run(True) == run(False)


# -- what it does ----------------------------------------------------------------------------------------------------


def test_rates_rise_geometrically_and_keep_the_ratios_of_groups():
    model = nn.ModuleList([Straight(), Straight(), Straight()])
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[1].parameters(), "lr": 0.05}]
    optimizer = torch.optim.SGD([*groups, {"params": model[2].parameters(), "lr": torch.tensor(0.4)}])
    shared = optimizer.param_groups[2]["lr"]
    seen = []

    def call(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        assert optimizer.param_groups[2]["lr"] is shared
        return sum(part(batch) for part in model)

    found = lr_range_test(
        model, optimizer, None, [torch.zeros(1)], low=1e-5, high=1e-2, steps=31, call=call, paired=False
    )
    wanted = np.exp(np.linspace(np.log(1e-5), np.log(1e-2), 31))
    np.testing.assert_allclose(found.rates, wanted, rtol=1e-12)
    np.testing.assert_allclose(np.array(seen), wanted[:, None] * np.array([1, 0.25, 2]), rtol=1e-6)  # one is a float32
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.2, 0.05, pytest.approx(0.4)]


def test_losses_are_those_of_gradient_descent_and_smoothed_by_the_formula():
    found = on_a_parabola(low=1e-4, high=0.9, steps=50, smoothing=0.8, paired=False)
    weight, losses = 3.0, []
    for rate in found.rates:
        losses.append(weight**2)
        weight -= rate * 2 * weight
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)  # float32, over 50 products
    places = np.arange(50)
    powers = np.tril(0.8 ** np.maximum(places[:, None] - places[None, :], 0))
    smoothed = powers @ np.array(found.losses) / powers.sum(1)  # bias correction makes it a mean with these weights
    np.testing.assert_allclose(found.smoothed, smoothed, rtol=1e-12)


def test_goes_on_in_the_rate_where_a_scheduler_has_set_none():
    model = Straight()
    optimizer = torch.optim.SGD(
        [{"params": model.parameters()}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.05}], 0.1
    )
    torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / 10
    )  # starts at 0: ratios are those of the base rates
    seen = []

    def call(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return model(batch)

    found = lr_range_test(model, optimizer, None, [torch.zeros(1)], steps=20, call=call, paired=False)
    np.testing.assert_allclose(np.array(seen)[:, 1] / found.rates[: len(seen)], 0.5)


def test_stops_when_the_loss_explodes_or_is_not_finite():
    found = on_a_parabola(high=1e5)
    assert found.smoothed[-1] > 4 * 9 >= max(found.smoothed[:-1])
    assert len(on_a_parabola(high=1e5, stop_above=1e6).losses) > len(found.losses)
    broken = on_a_parabola(high=1e30, stop_above=1e300)
    assert len(broken.losses) < 100 and np.isfinite(broken.losses).all()

    model = Straight()
    nothing = lr_range_test(
        model, torch.optim.SGD(model.parameters(), 0.1), lambda out, _: out * math.nan, [(torch.zeros(1), None)]
    )
    assert nothing.losses == () and nothing.suggestion is None
    assert str(nothing) == "no suggestion: the loss was not finite at 1e-07"


def test_a_negative_loss_can_explode_too():
    model = Straight()
    found = lr_range_test(
        model, torch.optim.SGD(model.parameters(), 0.1), lambda out, _: out - 20, [(torch.zeros(1), None)], high=1e5
    )
    assert 40 < len(found.losses) < 100 and max(found.smoothed[:-1]) <= -11 + 3 * 11


def test_batches_start_over_and_may_be_of_any_form(digits):
    data = [(digits[0][:16], digits[1][:16]), (digits[0][16:32], digits[1][16:32])]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(target)
        return cross_entropy(output, target)

    lr_range_test(model, optimizer, loss, data, steps=20, high=0.1, paired=False)
    assert [target is data[k % 2][1] for k, target in enumerate(seen)] == [True] * 20

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> Any:
            logits = self.net(pixels)
            return SimpleNamespace(logits=logits, loss=cross_entropy(logits, labels))

    named = [{"pixels": x, "labels": y} for x, y in data]
    own = lr_range_test(WithLoss(), optimizer, None, named, steps=20)
    plain = lr_range_test(model, optimizer, cross_entropy, data, steps=20)
    called = lr_range_test(
        model,
        optimizer,
        None,
        named,
        steps=20,
        call=lambda model, batch: cross_entropy(model(batch["pixels"]), batch["labels"]),
    )
    assert own == plain == called


def test_an_evaluating_model_trains_in_the_test_and_evaluates_again():
    model = network()
    model.eval()
    seen = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    with torch.no_grad():
        lr_range_test(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            cross_entropy,
            [(torch.randn(8, 64), torch.arange(8))],
            steps=20,
        )
    assert set(seen) == {(True, True)} and not model.training


def test_hard_batches_are_no_steps_of_the_paired_curve(digits):
    """With batches of one class each, losses jump by what the batch is; their comparison with the untouched network does not."""
    data = [(digits[0][digits[1] == k][:8], digits[1][digits[1] == k][:8]) for k in (3, 1, 8, 0, 9, 2, 7, 5)]
    model = network(0.0)
    with torch.no_grad():
        model[4].bias.copy_(torch.linspace(-3, 3, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    paired = lr_range_test(model, optimizer, cross_entropy, data, smoothing=0.0)
    plain = lr_range_test(model, optimizer, cross_entropy, data, smoothing=0.0, paired=False)
    assert plain.losses[: len(paired.losses)] == paired.losses[: len(plain.losses)]
    assert np.std(plain.smoothed[:30]) > 1
    assert np.std(paired.smoothed[:30]) < 1e-3  # rates of 1e-7 to 2e-5: nothing has happened yet


def test_batches_that_do_not_come_again_are_not_compared(digits):
    class Fresh:
        """Other batches at each pass, from a state that nobody can find."""

        def __iter__(self) -> Any:
            rows = np.random.default_rng().permutation(512)
            return iter([tuple(part[rows[k : k + 32]] for part in digits) for k in range(0, 512, 32)])

    model = network(0.0)
    found = lr_range_test(
        model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, Fresh(), steps=40, smoothing=0.0
    )
    assert found.smoothed == pytest.approx(found.losses, rel=1e-12)  # not paired


@pytest.mark.parametrize("wrong", [3e-5, 30.0])
def test_the_suggested_rate_trains_well(wrong, digits):
    def fresh(rate: float) -> tuple[nn.Module, torch.optim.Optimizer, DataLoader]:
        torch.manual_seed(3)
        model = network()
        return model, torch.optim.SGD(model.parameters(), rate), loader_of(digits)

    assert not train(*fresh(wrong), 6)[-1] < 1.0
    found = lr_range_test(*fresh(wrong)[:2], cross_entropy, loader_of(digits))
    assert found.suggestion is not None
    assert found.rates[0] == pytest.approx(1e-7) and wrong not in found.rates
    losses = train(*fresh(found.suggestion), 6)
    best = min(np.mean(train(*fresh(rate), 6)[-16:]) for rate in (0.01, 0.03, 0.1, 0.3, 1.0))
    assert np.mean(losses[-16:]) < best + 0.15 * (2.3 - best)


# -- what it says ----------------------------------------------------------------------------------------------------


def curve(points: list[tuple[float, float]], noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Rates, and losses that go through these points on a logarithmic axis."""
    rates = np.geomspace(1e-7, 10, 100)
    where, losses = np.array(points).T
    return rates, np.interp(np.log10(rates), where, losses) + noise * np.random.default_rng(0).standard_normal(100)


def test_the_suggestion_is_a_quarter_of_the_rate_of_the_lowest_loss():
    for noise in (0.0, 0.03):
        suggestion, reason = suggest(*curve([(-7, 2.3), (-4, 2.3), (-1, 0.8), (1, 1.8)], noise), True, 10)
        assert suggestion == pytest.approx(0.1 / 4, rel=0.35)  # rates lie a fifth apart
        assert reason.startswith("a quarter of the rate of the lowest loss (") and "to which it fell by 6" in reason


def test_an_explosion_beside_the_lowest_loss_makes_the_suggestion_smaller_not_larger():
    suggestion, _ = suggest(*curve([(-7, 2.3), (-4, 2.3), (-1, 0.8), (-0.8, 900)]), True, 10)
    assert suggestion is not None and 0.1 / 16 < suggestion < 0.1 / 4


@pytest.mark.parametrize(
    ("points", "noise", "reason"),
    [
        (
            [(-7, 2.3), (1, 2.3)],
            0.0,
            "the loss fell by 0.0% before it rose again; give the test more steps, or larger batches",
        ),
        ([(-7, 2.3), (-1, 2.28), (1, 9)], 0.0, "the loss fell by 0.6% before it rose again"),
        ([(-7, 2.3), (1, 2.3)], 0.5, "the loss fell by no more than noise before it rose again"),
        (
            [(-7, 2.3), (-2, 2.3), (1, 0.4)],
            0.0,
            "the loss still falls at the highest rate, 10; test with a larger high",
        ),
    ],
)
def test_no_suggestion_without_a_fall_and_a_rise(points, noise, reason):
    for paired in (True, False):
        suggestion, said = suggest(*curve(points, noise), paired, 10)
        assert suggestion is None and said.startswith(reason)


def test_few_batches_before_the_explosion():
    rates, losses = curve([(-7, 2.3), (1, 2.3)])
    assert suggest(rates[60:68], losses[60:68], True, 10) == (
        None,
        "the loss exploded after 8 batches, at 0.026; begin lower: low=7e-06",
    )


def test_a_weak_suggestion_says_so():
    suggestion, reason = suggest(*curve([(-7, 2.3), (-4, 2.3), (-1, 2.2), (0.5, 9)]), True, 10)
    assert suggestion is not None and reason.endswith(
        "which is little: take it as a guess, or give the test more steps"
    )
    assert str(RangeTest((1.0,), (1.0,), (1.0,), 0.025, reason)).startswith(
        "suggested learning rate 0.025: a quarter of"
    )


def test_a_plot(tmp_path, digits):
    model = network()
    found = lr_range_test(model, torch.optim.Adam(model.parameters()), cross_entropy, loader_of(digits))
    axes = found.plot()
    assert axes.get_xscale() == "log" and len(axes.lines) == 3
    axes.figure.savefig(tmp_path / "curve.png")
    assert len(RangeTest((1.0,), (2.0,), (2.0,), None, "").plot(axes).lines) == 5


@pytest.mark.parametrize("wanted", [True, False, None])
@pytest.mark.parametrize("terminal", ["1", "0"])
def test_the_bar(wanted, terminal, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    on_a_parabola(progress=wanted, high=0.1)  # no two seconds
    assert ("\x1b[?25l" in capsys.readouterr().out) == (bool(wanted) and terminal == "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 0}, "low=0 must be above 0 and below high=10.0."),
        ({"low": 1, "high": 0.1}, "low=1 must be above 0 and below high=0.1."),
        ({"steps": 5}, "steps=5 must be at least 20; fewer show no curve."),
        ({"stop_above": 1}, "stop_above=1 must be above 1: it is a multiple of the loss at the start."),
        ({"smoothing": 1.0}, "smoothing=1.0 must be at least 0 and below 1."),
        ({"batches": []}, "got no batches."),
        ({"batches": [torch.zeros(2, 4)]}, "takes batches (input, target) for loss(model(input), target); got a Tensor. Give call=: call(model, batch) computes the loss."),
        ({"batches": [(1, 2, 3)]}, "got a tuple of 3. Give call="),
        ({"loss": None}, "without a loss takes batches that are dicts of the model's arguments; got a tuple. Give loss=, or call="),
    ],
)  # fmt: skip
def test_bad_arguments_say_what_to_do(change, message):
    model = nn.Linear(4, 2)
    given = {"loss": cross_entropy, "batches": [(torch.zeros(2, 4), torch.tensor([0, 1]))], **change}
    with pytest.raises(ValueError) as error:
        lr_range_test(model, torch.optim.SGD(model.parameters(), 0.1), **given)
    assert str(error.value).startswith("lr_range_test") and message in str(error.value)


def test_batches_that_would_be_used_up_are_refused():
    model = nn.Linear(4, 2)
    batches = iter([(torch.zeros(2, 4), torch.tensor([0, 1]))])
    with pytest.raises(
        ValueError, match="batches is a list_iterator, which can be gone through only once and would be used up"
    ):
        lr_range_test(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, batches)
    assert len(list(batches)) == 1


def test_optimizers_that_it_cannot_test():
    model = nn.Linear(4, 2)
    data = [(torch.zeros(2, 4), torch.tensor([0, 1]))]
    with pytest.raises(
        ValueError, match="lr_range_test: LBFGS evaluates the loss several times in each step, by a closure"
    ):
        lr_range_test(model, torch.optim.LBFGS(model.parameters()), cross_entropy, data)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=r"SGD has a parameter group without a learning rate \('lr'\)"):
        lr_range_test(model, optimizer, cross_entropy, data)


def test_distributed_models_agree_on_the_loss(digits, monkeypatch):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plain = network(0.0)
        model = nn.parallel.DistributedDataParallel(network(0.0))
        data = [(digits[0][k : k + 32], digits[1][k : k + 32]) for k in range(0, 512, 32)]
        reduced = []
        all_reduce = torch.distributed.all_reduce
        monkeypatch.setattr(
            torch.distributed, "all_reduce", lambda t, **options: (reduced.append(1), all_reduce(t, **options))
        )
        found = lr_range_test(model, torch.optim.SGD(model.parameters(), 0.1), cross_entropy, data, steps=40)
        assert found == lr_range_test(plain, torch.optim.SGD(plain.parameters(), 0.1), cross_entropy, data, steps=40)
        assert len(reduced) == 40 + len(found.losses)
        before = [p.clone() for p in model.parameters()]
        assert all(torch.equal(p, q) for p, q in zip(before, network(0.0).parameters(), strict=True))
    finally:
        torch.distributed.destroy_process_group()
