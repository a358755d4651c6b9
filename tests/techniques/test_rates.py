"""Techniques that scale and schedule the learning rate: what each update really uses, and what the script sees around it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import trimtab as tt
from tests.conftest import network, train
from trimtab.recipe import Recipe

LENGTHS = {
    "inverse_time_decay(beta=0.5)": lambda t: 1 / (1 + 0.5 * t),
    "exponential_decay(beta=0.9)": lambda t: 0.9**t,
    "natural_exp_decay(beta=0.2)": lambda t: np.exp(-0.2 * t),
    "cosine_decay(steps=8, floor=0.1)": lambda t: 0.1 + 0.9 * np.cos(np.pi * np.minimum(t, 8) / 16) ** 2,
    "warmup(steps=4, start=0.2)": lambda t: np.minimum(0.2 + 0.2 * t, 1),
    "warmup_stable_decay(steps=10, warmup=0.2, decay=0.4)": lambda t: np.clip(np.minimum(t / 2, (10 - t) / 4), 0, 1),
    "one_cycle(steps=9, peak_share=0.45, shape='linear', start=0.2, end=0.1)": lambda t: np.interp(
        t, [0, 3.05, 8], [0.2, 1, 0.1]
    ),
    "lr_scale(factor=3.0)": lambda t: 3.0 + 0 * t,
    "learning_rate(lr=0.5)": lambda t: 0.5 / 0.25 + 0 * t,
}
t = np.arange(12, dtype=np.float64)


def slope(rate: float = 0.25, **options: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose gradient is 1: a step of plain SGD is as long as its rate."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    return model, torch.optim.SGD(model.parameters(), lr=rate, **options)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """How far one update goes."""
    (weight,) = model.parameters()
    before = weight.item()
    optimizer.zero_grad()
    model(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
    optimizer.step()
    return before - weight.item()


@pytest.mark.parametrize("text", LENGTHS)
def test_each_update_is_as_long_as_the_formula_says(text):
    model, optimizer = slope()
    tt.attach(model, optimizer).apply(text)
    found = [step(model, optimizer) for _ in t]
    # lengths are differences of weights of size 10: roundings of 1e-15
    np.testing.assert_allclose(found, 0.25 * LENGTHS[text](t), rtol=0, atol=1e-13)


@pytest.mark.parametrize("text", LENGTHS)
def test_the_script_sees_its_own_rate_around_every_update(text):
    model, optimizer = slope()
    training = tt.attach(model, optimizer).apply(text)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)  # one that goes on from what it finds in the group
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        step(model, optimizer)
        assert optimizer.state_dict()["param_groups"][0]["lr"] == seen[-1]
        scheduler.step()
    assert seen == [0.25 * 0.5**n for n in range(5)]
    training.undo()
    assert step(model, optimizer) == pytest.approx(0.25 * 0.5**5, abs=1e-15)


def test_factors_of_several_techniques_and_of_the_script_multiply():
    model, optimizer = slope()
    tt.attach(model, optimizer).apply(
        "lr_scale(factor=2), learning_rate(lr=1.0), warmup(steps=3), inverse_time_decay(beta=1.0)"
    )
    second = tt.attach(model, optimizer).apply("lr_scale(factor=10)")  # a script that has its own handle is watched
    used: list[float] = []
    second.on("after_step", lambda o: used.append(o.param_groups[0]["lr"]))
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda n: 0.5**n)
    found = []
    for _ in t:
        found.append(step(model, optimizer))
        scheduler.step()
    wanted = 0.25 * 10 * 2 * 4 * np.minimum(t / 3, 1) / (1 + t) * 0.5**t
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(used, wanted, rtol=1e-12)
    assert optimizer.param_groups[0]["lr"] == 0.25 * 0.5 ** len(t)


@pytest.mark.parametrize(
    "recipe", ["weight_decay(factor=0.5), lr_scale(factor=0.1)", "lr_scale(factor=0.1), weight_decay(factor=0.5)"]
)
def test_whatever_looks_at_the_rate_in_a_step_sees_the_one_that_is_used(recipe):
    model, optimizer = slope()
    tt.attach(model, optimizer).apply(recipe)
    with torch.no_grad():
        model.weight.fill_(1.0)
    assert step(model, optimizer) == pytest.approx(0.025 * 0.5 + 0.025)


def test_every_optimizer_counts_its_own_updates():
    (first, one), (second, two) = slope(), slope(0.5)
    tt.attach([first, second], [one, two]).apply("exponential_decay(beta=0.5)")
    lengths = [step(first, one), step(first, one), step(second, two), step(first, one), step(second, two)]
    assert lengths == pytest.approx([0.25, 0.125, 0.5, 0.0625, 0.25])


def test_groups_keep_their_ratios():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.02}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    training = tt.attach(model, optimizer).apply("learning_rate(lr=0.5)")
    used = []
    training.on("before_step", lambda o: used.append([group["lr"] for group in o.param_groups]))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert used == [pytest.approx([0.5, 0.1])]
    assert str(training.changes[0]).splitlines() == [
        "base learning rate 0.1 becomes 0.5",
        "  SGD: 0.1 becomes 0.5",
        "  SGD: 0.02 becomes 0.1",
    ]


def test_the_base_rate_is_the_one_that_a_schedule_starts_from():
    for make, factor in (
        (lambda o: lr_scheduler.OneCycleLR(o, 0.25, 10, cycle_momentum=False), 1 / 25),
        (lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.1 * (n + 1)), 0.1),
    ):
        model, optimizer = slope()
        make(optimizer)
        training = tt.attach(model, optimizer).apply("learning_rate(lr=2.5)")
        assert step(model, optimizer) == pytest.approx(2.5 * factor)
        assert training.changes[0].summary == "base learning rate 0.25 becomes 2.5"


@pytest.mark.parametrize("text", LENGTHS)
def test_rates_that_are_tensors_stay_the_tensors_they_are(text):
    model, optimizer = slope(torch.tensor(0.25, dtype=torch.float64))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})  # shares the tensor
    rate = optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[1]["lr"] is rate
    tt.attach(model, optimizer).apply(text)
    found = [step(model, optimizer) for _ in range(3)]
    np.testing.assert_allclose(found, 0.25 * LENGTHS[text](t[:3]), rtol=0, atol=1e-13)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == 0.25


def test_a_step_that_fails_is_not_counted_and_its_rate_is_put_back():
    model, optimizer = slope()
    tt.attach(model, optimizer).apply("exponential_decay(beta=0.5), lr_scale(factor=2)")

    def broken() -> None:
        raise RuntimeError("no loss today")

    step(model, optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no loss today"):
            optimizer.step(broken)
    assert step(model, optimizer) == pytest.approx(0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_closures_and_scaled_gradients_are_updates_too(digits):
    for kind in (torch.optim.LBFGS, torch.optim.SGD):
        model = network()
        optimizer = kind(model.parameters(), lr=0.1)
        training = tt.attach(model, optimizer).apply("exponential_decay(beta=0.5)")
        used = []
        training.on("after_step", lambda o, used=used: used.append(o.param_groups[0]["lr"]))

        def closure(model=model, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits[0]), digits[1])
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        assert used == [0.1, 0.05, 0.025]
    model, optimizer = slope()
    tt.attach(model, optimizer).apply("exponential_decay(beta=0.5)")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    lengths = []
    for number in range(4):
        before = model.weight.item()
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 1, dtype=torch.float64)).sum()).backward()
        if number == 1:
            model.weight.grad.fill_(torch.inf)  # the scaler leaves this update out: not counted
        scaler.step(optimizer)
        scaler.update()
        lengths.append(before - model.weight.item())
    assert lengths == pytest.approx([0.25, 0, 0.125, 0.0625])


def test_same_as_the_schedule_of_trimtab_optim_in_a_scheduler(digits):
    def run(text: str, schedule=None) -> list[float]:
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if schedule is None:
            tt.attach(model, optimizer).apply(text)
            return train(model, optimizer, digits, 20)
        losses, scheduler = [], lr_scheduler.LambdaLR(optimizer, schedule)
        for number in range(20):
            losses += train(model, optimizer, tuple(d[number % 16 * 32 :] for d in digits), 1)
            scheduler.step()
        return losses

    schedule = tt.optim.OneCycle(20, peak_share=0.4)
    assert run("one_cycle(steps=20, peak_share=0.4)") == run("", schedule)


# -- what is said ----------------------------------------------------------------------------------------------------


def test_says_what_came_of_it_and_that_the_script_has_a_schedule_too():
    model, optimizer = slope()
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    training = tt.attach(model, optimizer).apply("cosine_decay(steps=4)")
    assert str(training.changes[0]).splitlines() == [
        "the learning rate falls along a cosine to 0 over 4 updates",
        "  SGD has a scheduler of its own, which goes on: the two multiply",
    ]
    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
    assert training.changes[0].sentence == (
        "the learning rate falls along a cosine to 0 over 4 updates: times 0.5 at update 3, on top of the script's own schedule "
        "(0.25, now 0.0625)"
    )


@pytest.mark.parametrize("text", LENGTHS)
def test_an_optimizer_without_a_rate_has_nothing_to_act_on(text):
    class Own(torch.optim.Optimizer):
        def __init__(self, params) -> None:
            super().__init__(params, {"lr": None})

        def step(self, closure=None) -> None: ...

    model = nn.Linear(1, 1)
    training = tt.attach(model, Own(model.parameters()))
    with pytest.raises(
        tt.NothingToDo,
        match=r"found nothing to act on: no parameter group of the optimizer has a learning rate \('lr'\)\.",
    ):
        training.apply(text)


def test_a_rate_of_zero_has_no_ratios():
    model, optimizer = slope(0.0)
    with pytest.raises(tt.NothingToDo, match="all learning rates are 0"):
        tt.attach(model, optimizer).apply("learning_rate(lr=0.1)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cosine_decay(steps=9), one_cycle(steps=9)",
            "cannot be combined with one_cycle: both schedule the learning rate. Leave one out.",
        ),
        (
            "warmup, one_cycle(steps=9)",
            "one_cycle cannot be combined with warmup: both would warm the learning rate up. Leave one out.",
        ),
        ("cosine_decay(steps=0)", "cosine_decay: steps=0 must be a whole number of updates, at least 1."),
        ("cosine_decay", "cosine_decay cannot take these arguments"),
        ("exponential_decay(beta=2)", "exponential_decay: beta=2 must be above 0 and at most 1"),
        ("warmup_stable_decay(steps=9, shape='step')", "shape='step' must be one of 'linear', 'cosine', 'sqrt'."),
        ("learning_rate(lr=-1)", "learning_rate: lr=-1 must be a positive number: it is the base learning rate."),
    ],
)
def test_bad_recipes_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        Recipe.parse(text)
    assert message in str(error.value)


# -- the watch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["watch", "technique"])
def test_the_watch_records_the_rate_that_was_used(first, digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = tt.attach(model, optimizer)
    if first == "watch":
        recorder = training.watch()
        training.apply("lr_scale(factor=2), exponential_decay(beta=0.5)")
    else:
        training.apply("lr_scale(factor=2), exponential_decay(beta=0.5)")
        recorder = training.watch()
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.1)
    for _ in range(4):
        train(model, optimizer, digits, 1)
        scheduler.step()
    series = recorder.close().trainings[0].series["lr"]
    assert series.steps == (0, 1, 2, 3)
    assert series.values == pytest.approx([0.2, 0.1, 0.2 * 0.25 * 0.1, 0.2 * 0.125 * 0.1])


def test_the_watch_of_several_optimizers():
    (first, one), (second, two) = slope(), slope(0.5)
    training = tt.attach([first, second], [one, two]).apply("exponential_decay(beta=0.5)")
    recorder = training.watch()
    for _ in range(2):
        step(first, one)
        step(second, two)
    series = recorder.close().trainings[0].series
    # of the update that is being made, or of the optimizer's next one
    assert series["lr"].values == (0.25, 0.125, 0.125, 0.0625)
    assert series["lr 1"].values == (0.5, 0.5, 0.25, 0.25)


def test_a_copy_of_the_optimizer_knows_nothing_of_it():
    model, optimizer = slope()
    training = tt.attach(model, optimizer).apply("lr_scale(factor=2)")
    step(model, optimizer)
    kept = copy.deepcopy(optimizer.state_dict())
    training.undo()
    optimizer.load_state_dict(kept)
    assert step(model, optimizer) == pytest.approx(0.25)
