"""Schedules against their formulas in float64, and against the schedulers of torch, Keras, optax and transformers.

Keras chooses its backend for good when it is imported, so it works in a process of its own: this file, run as a script, is
that process.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from trimtab.optim import (
    Cosine,
    Exponential,
    InverseTime,
    NaturalExponential,
    OneCycle,
    Warmup,
    WarmupStableDecay,
)

t = np.arange(260, dtype=np.float64)
BASE = 0.3


def half_cosine(x: np.ndarray) -> np.ndarray:
    return (1 + np.cos(np.pi * x)) / 2


def stable(steps: int, up: int, down: int, floor: float, fall: Any) -> np.ndarray:
    over = np.clip((t - (steps - down)) / down, 0, 1)
    return np.where(t < up, t / max(up, 1), floor + (1 - floor) * fall(over))


def one_cycle(steps: int, share: float, start: float, end: float, rise: Any, fall: Any) -> np.ndarray:
    peak, last = share * steps - 1, steps - 1
    return np.where(
        t < peak,
        start + (1 - start) * rise(t / peak),
        1 - (1 - end) * fall(np.minimum((t - peak) / (last - peak), 1)),
    )


def line(x: np.ndarray) -> np.ndarray:
    return x


# The formulas of the docstrings, written with other functions than the code uses: sines for cosines, powers for exponentials.
FORMULAS = [
    (InverseTime(0.01), np.divide(1, 1 + t / 100)),
    (Exponential(0.97), np.exp(t * np.log(0.97))),
    (NaturalExponential(0.02), np.power(np.e, -t / 50)),
    (Cosine(200), np.cos(np.minimum(t, 200) * np.pi / 400) ** 2),
    (Cosine(230, 0.1), 0.1 + 0.9 * np.cos(np.minimum(t, 230) * np.pi / 460) ** 2),
    (Warmup(40), np.minimum(t / 40, 1)),
    (Warmup(40, start=0.25), np.minimum(0.25 + 0.75 * t / 40, 1)),
    (Warmup(50, Cosine(150, 0.2)), np.where(t < 50, t / 50, 0.2 + 0.8 * np.cos(np.clip(t - 50, 0, 150) * np.pi / 300) ** 2)),
    (Warmup(10, InverseTime(0.1)), np.where(t < 10, t / 10, 1 / (1 + 0.1 * np.maximum(t - 10, 0)))),
    (WarmupStableDecay(220), stable(220, 22, 44, 0.0, lambda x: 1 - x)),
    (WarmupStableDecay(200, 0.25, 0.5, "cosine", 0.1), stable(200, 50, 100, 0.1, lambda x: np.cos(np.pi * x / 2) ** 2)),
    (WarmupStableDecay(200, 0.0, 1.0, "sqrt"), stable(200, 0, 200, 0.0, lambda x: 1 - x**0.5)),
    (OneCycle(210), one_cycle(210, 0.3, 0.04, 4e-6, lambda x: np.sin(np.pi * x / 2) ** 2, lambda x: np.sin(np.pi * x / 2) ** 2)),
    (OneCycle(205, 0.61, 0.5, 0.01, "linear"), one_cycle(205, 0.61, 0.5, 0.01, line, line)),
]  # fmt: skip
SCHEDULES = [schedule for schedule, _ in FORMULAS]


def factors(schedule: Any, steps: int = len(t)) -> np.ndarray:
    return np.array([schedule(step) for step in range(steps)])


@pytest.mark.parametrize(("schedule", "wanted"), FORMULAS, ids=lambda value: str(value) if callable(value) else "")
def test_formula(schedule, wanted):
    # factors are at most 1 and come of a handful of roundings of 1e-16
    np.testing.assert_allclose(factors(schedule), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_first_and_last_step(schedule):
    assert 0 <= schedule(0) <= 1
    if isinstance(schedule, (InverseTime, Exponential, NaturalExponential, Cosine)):
        assert schedule(0) == 1
    if hasattr(schedule, "steps") and not (isinstance(schedule, Warmup) and schedule.then):
        assert schedule(schedule.steps) == schedule(10**9)  # it stays at its end
    assert schedule(10**9) >= 0


def test_shortest_schedules():
    assert factors(Cosine(1), 3).tolist() == [1, 0, 0]
    assert factors(Warmup(1, Exponential(0.5)), 3).tolist() == [0, 1, 0.5]
    assert factors(WarmupStableDecay(1), 3).tolist() == [1, 0, 0]
    assert factors(WarmupStableDecay(3, 0.5, 0.5), 4).tolist() == [
        0,
        0.5,
        1,
        0,
    ]  # both halves round up; warm-up has its two
    assert factors(WarmupStableDecay(10, 0.0, 0.0, floor=0.5), 12).tolist() == [1] * 10 + [0.5] * 2
    assert factors(OneCycle(1), 2).tolist() == [4e-6, 4e-6]
    assert factors(OneCycle(2, peak_share=0.5), 3).tolist() == [1, 4e-6, 4e-6]


# -- other libraries -------------------------------------------------------------------------------------------------


def rates(make: Any, steps: int) -> np.ndarray:
    """The rates of a scheduler of torch, as the updates of an optimizer see them."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def in_sequence(optimizer: torch.optim.Optimizer) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.25, total_iters=40),
        lr_scheduler.CosineAnnealingLR(optimizer, 160, BASE * 0.1),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[40])


@pytest.mark.parametrize(
    ("schedule", "theirs", "steps"),
    [
        (Exponential(0.98), lambda o: lr_scheduler.ExponentialLR(o, 0.98), 250),
        (NaturalExponential(0.02), lambda o: lr_scheduler.ExponentialLR(o, float(np.exp(-0.02))), 250),
        (Cosine(250, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 250, BASE * 0.1), 251),  # then theirs climbs
        (Warmup(40, start=0.25), lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=40), 250),
        (Warmup(40, Cosine(160, 0.1), 0.25), in_sequence, 201),
        (OneCycle(250), lambda o: lr_scheduler.OneCycleLR(o, BASE, 250, cycle_momentum=False), 250),  # then theirs raises
        (
            OneCycle(230, 0.4, 0.1, 0.002, "linear"),
            lambda o: lr_scheduler.OneCycleLR(o, BASE, 230, pct_start=0.4, anneal_strategy="linear", cycle_momentum=False, div_factor=10, final_div_factor=50),
            230,
        ),
        (OneCycle(7, 0.1), lambda o: lr_scheduler.OneCycleLR(o, BASE, 7, pct_start=0.1, cycle_momentum=False), 7),  # a peak before step 0
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # not the address of a function: workers must agree on names
)  # fmt: skip
def test_torch_gives_the_same_rates(schedule, theirs, steps):
    ours = rates(lambda optimizer: lr_scheduler.LambdaLR(optimizer, schedule), steps)
    # torch multiplies step by step, one rounding each: 250 of 1e-16, of the rate
    np.testing.assert_allclose(ours, rates(theirs, steps), rtol=1e-12, atol=1e-16)


def test_transformers_gives_the_same_stable_schedule():
    transformers = pytest.importorskip("transformers")
    for shape in ("linear", "cosine", "sqrt"):
        ours = WarmupStableDecay(240, 0.125, 0.25, shape, 0.1)

        def theirs(optimizer: torch.optim.Optimizer, shape: str = shape) -> Any:
            name = "1-sqrt" if shape == "sqrt" else shape
            return transformers.get_wsd_schedule(optimizer, 30, 60, 240, decay_type=name, min_lr_ratio=0.1)

        found, wanted = BASE * factors(ours, 250), rates(theirs, 250)
        # their warm-up starts at the floor, ours at 0
        np.testing.assert_allclose(found[30:], wanted[30:], rtol=1e-12)
        np.testing.assert_allclose(BASE * factors(Warmup(30, start=0.1), 30), wanted[:30], rtol=1e-12)


def test_optax_gives_the_same_factors():
    optax = pytest.importorskip("optax")
    pairs = [
        (Exponential(0.98), optax.exponential_decay(1.0, 1, 0.98)),
        (Cosine(200, 0.1), optax.cosine_decay_schedule(1.0, 200, 0.1)),
        (Warmup(50), optax.linear_schedule(0.0, 1.0, 50)),
        (Warmup(50, Cosine(150, 0.2), 0.1), optax.warmup_cosine_decay_schedule(0.1, 1.0, 50, 200, 0.2)),
    ]
    for ours, theirs in pairs:
        wanted = np.asarray(theirs(np.arange(0, 240, 3)))
        np.testing.assert_allclose(
            factors(ours, 240)[::3], wanted, rtol=0, atol=1e-6
        )  # float32: some roundings of 6e-8
    # optax has the peak at step 0.3 T and the end at step T, torch and we one step before: the way down is the same
    cycle = optax.cosine_onecycle_schedule(200, 1.0, 0.3)
    wanted = np.array([float(cycle(step)) for step in range(60, 200, 14)])
    np.testing.assert_allclose(factors(OneCycle(200), 199)[59::14], wanted, rtol=0, atol=1e-6)


def of_keras() -> dict[str, list[float]]:
    import keras

    assert keras.backend.backend() == "torch"
    schedules = keras.optimizers.schedules
    theirs = {
        "InverseTime": schedules.InverseTimeDecay(1.0, decay_steps=50, decay_rate=2.0),
        "Exponential": schedules.ExponentialDecay(1.0, decay_steps=50, decay_rate=0.3),
        "Cosine": schedules.CosineDecay(1.0, decay_steps=200, alpha=0.1),
        "Warmup": schedules.CosineDecay(0.25, decay_steps=150, alpha=0.2, warmup_target=1.0, warmup_steps=40),
    }
    return {name: [float(schedule(step)) for step in range(len(t))] for name, schedule in theirs.items()}


def test_keras_gives_the_same_factors(tmp_path):
    # its settings file goes to the folder, too, instead of the home of whoever runs this
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(tmp_path / "answers.json")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    wanted = json.loads((tmp_path / "answers.json").read_text())
    ours = {
        "InverseTime": InverseTime(2.0 / 50),
        "Exponential": Exponential(0.3 ** (1 / 50)),
        "Cosine": Cosine(200, 0.1),
        "Warmup": Warmup(40, Cosine(150, 0.2), 0.25),
    }
    assert ours.keys() == wanted.keys()
    for name, schedule in ours.items():
        np.testing.assert_allclose(factors(schedule), wanted[name], rtol=0, atol=1e-6)  # Keras computes in float32


# -- what torch does with them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_can_be_pickled_compared_and_not_changed(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.steps = 3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_checkpoint_of_a_scheduler_goes_on_where_it_was(schedule):
    expected = BASE * factors(schedule, 60)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    scheduler = lr_scheduler.LambdaLR(optimizer, schedule)
    for _ in range(25):
        optimizer.step()
        scheduler.step()
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, buffer)
    buffer.seek(0)
    kept = torch.load(buffer)  # weights_only: schedules inside of schedules are among what torch trusts

    other = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    changed = {"beta": 0.5} if hasattr(schedule, "beta") else {"steps": 9}
    again = lr_scheduler.LambdaLR(other, dataclasses.replace(schedule, **changed))  # the checkpoint's own numbers count
    other.load_state_dict(kept["optimizer"])
    again.load_state_dict(kept["scheduler"])
    for step in range(25, 60):
        assert other.param_groups[0]["lr"] == pytest.approx(expected[step], rel=1e-15)
        other.step()
        again.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseTime(0), "beta=0 must be a positive number: it is how fast the rate falls."),
        (lambda: NaturalExponential(float("inf")), "beta=inf must be a positive number"),
        (lambda: NaturalExponential(float("nan")), "beta=nan must be a positive number"),
        (lambda: Exponential(1.1), "beta=1.1 must be above 0 and at most 1: each step multiplies the rate by it."),
        (lambda: Cosine(0), "steps=0 must be a whole number of updates, at least 1."),
        (lambda: Cosine(100.0), "steps=100.0 must be a whole number of updates"),
        (lambda: Cosine(True), "steps=True must be a whole number of updates"),
        (lambda: Cosine(10, 1.5), "floor=1.5 must lie in [0, 1]."),
        (lambda: Warmup(10, start=-0.1), "start=-0.1 must lie in [0, 1]."),
        (lambda: WarmupStableDecay(10, 0.6, 0.6), "warmup=0.6 and decay=0.6 are shares of all steps and must not be more than 1 together."),
        (lambda: WarmupStableDecay(10, shape="step"), "shape='step' must be one of 'linear', 'cosine', 'sqrt'."),
        (lambda: OneCycle(10, 1.0), "peak_share=1.0 must lie between 0 and 1: it is the share of steps on the way up."),
        (lambda: OneCycle(10, start=0), "start=0 must be above 0 and at most 1: it is a share of the peak rate."),
        (lambda: OneCycle(10, end=2), "end=2 must lie in [0, 1]."),
        (lambda: OneCycle(10, shape="sqrt"), "shape='sqrt' must be one of 'cosine', 'linear'."),
    ],
)  # fmt: skip
def test_bad_settings_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(message)


def test_only_functions_follow_a_warm_up():
    with pytest.raises(TypeError, match=r"then=0\.5 must be a schedule, such as Cosine"):
        Warmup(10, 0.5)
    assert Warmup(2, lambda step: 0.5)(3) == 0.5
    assert Warmup(np.int64(2))(1) == 0.5


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(of_keras()))
