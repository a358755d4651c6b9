"""Early stopping: Keras is the second opinion on patience, simulations are on the statistical test."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import network, train
from trimtab.optim import EarlyStopping

RUNS, LENGTH = 200, 60


def stops_at(values, **settings) -> int | None:
    """The evaluation after which it stops, if it does."""
    judge = EarlyStopping(**settings)
    return next((at for at, value in enumerate(values) if judge.update(value)), None)


# -- patience --------------------------------------------------------------------------------------------------------


def series() -> list[tuple[list[float], dict]]:
    """Curves of all kinds, with the settings they are judged by."""
    generator = np.random.default_rng(0)
    steps = np.arange(40)
    found: list[tuple[list[float], dict]] = []
    for number in range(60):
        trend = (0, -1, 0.05)[number % 3] * steps
        values = (generator.normal(size=40) + trend).round(2).tolist()
        if number % 5 == 4:
            values[3:40:7] = [math.nan] * 6
        settings = {
            "patience": 1 + number % 6,
            "min_improvement": (0.0, 0.3)[number % 2],
            "goal": ("min", "max")[number // 30],
        }
        found.append((values, settings))
    return found


KERAS = """
import json, sys, keras
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
for values, settings in json.load(sys.stdin):
    callback = keras.callbacks.EarlyStopping(
        "val_loss", settings["min_improvement"], settings["patience"], mode=settings["goal"], restore_best_weights=True
    )
    callback.set_model(model)
    model.stop_training = False
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        if not model.stop_training:
            callback.on_epoch_end(epoch, {"val_loss": value})
            last = epoch
    print("stop", last if model.stop_training else -1)
"""


def test_keras_stops_at_the_same_evaluation():
    curves = series()
    shown = subprocess.run(
        [sys.executable, "-c", KERAS],
        input=json.dumps(curves),
        env={**os.environ, "KERAS_BACKEND": "numpy"},  # of a process of its own: Keras chooses once and for all
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    keras = [int(line.split()[1]) for line in shown.stdout.splitlines() if line.startswith("stop ")]
    ours = [stops_at(values, criterion="patience", **settings) for values, settings in curves]
    assert [-1 if at is None else at for at in ours] == keras
    assert 40 < sum(at >= 0 for at in keras) < len(curves)


# -- the statistical test --------------------------------------------------------------------------------------------

NOISE = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "uniform": lambda generator, shape: generator.uniform(size=shape),
    "heavy tails": lambda generator, shape: generator.standard_t(3, size=shape),
}
STEPS = np.arange(LENGTH)
CURVES = {  # in units of the noise; none gets worse
    "flat": 0 * STEPS,
    "improving slowly": -0.02 * STEPS,
    "improving fast, then flat": 20 * np.exp(-STEPS / 5),
}


@pytest.mark.parametrize("patience", [2, 5, 10])
@pytest.mark.parametrize(
    ("curve", "noise"), [*((curve, "normal") for curve in CURVES), ("flat", "uniform"), ("flat", "heavy tails")]
)
def test_stops_falsely_no_more_often_than_it_says(curve, patience, noise):
    generator = np.random.default_rng(0)
    runs = CURVES[curve] + NOISE[noise](generator, (RUNS, LENGTH))
    false = sum(stops_at(values, patience=patience) is not None for values in runs)
    # at 5 % of 200, more than 20 happen once in a thousand times; the seed is fixed
    assert false <= 20
    if noise == "normal" and curve != "improving fast, then flat":  # what noise does to plain patience
        plain = [stops_at(values, patience=patience, criterion="patience") for values in runs[:50]]
        assert sum(at is not None for at in plain) > 45


def test_the_level_is_the_one_asked_for():
    values = np.random.default_rng(1).normal(size=(RUNS, LENGTH))
    rates = [sum(stops_at(run, level=level) is not None for run in values) / RUNS for level in (0.05, 0.5)]
    assert rates[0] < 0.08 and 0.15 < rates[1] < 0.5  # Bonferroni's correction is on the safe side


@pytest.mark.parametrize("goal", ["min", "max"])
def test_stops_when_the_metric_gets_worse(goal):
    generator = np.random.default_rng(0)
    curve = 5 * np.exp(-STEPS / 5) + 0.2 * np.maximum(0, STEPS - 15)  # turns at 15, by a fifth of the noise per step
    sign = 1 if goal == "min" else -1
    stops = [stops_at(sign * (curve + generator.normal(size=LENGTH)), goal=goal) for _ in range(100)]
    assert all(at is not None and at > 15 for at in stops)
    assert 25 < np.median(stops) < 45
    clear = [stops_at(sign * (curve + 0.05 * generator.normal(size=LENGTH)), goal=goal) for _ in range(100)]
    assert np.median(clear) <= 24


def test_min_improvement_ends_a_plateau():
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(50, LENGTH))
    stops = [stops_at(values, min_improvement=4.0) for values in flat]
    assert all(at is not None for at in stops)
    improving = [stops_at(values - 2 * STEPS, min_improvement=4.0) for values in flat]  # by 10 in each block
    assert (
        sum(at is not None for at in improving) <= 6
    )  # at 5 % of 50, more happen three times in a hundred; fixed seed


def test_without_noise():
    assert stops_at([1.0] * 50) is None
    assert stops_at([0.97, 0.97, 0.97, 0.97], patience=2, goal="max", min_improvement=0.01) == 3
    assert stops_at([3.0 - k for k in range(40)], patience=2) is None


@pytest.mark.parametrize("criterion", ["statistical", "patience"])
def test_what_is_not_finite_counts_as_not_improved(criterion):
    judge = EarlyStopping(patience=3, criterion=criterion)
    assert not any(judge.update(value) for value in (3.0, 2.0, 1.0))
    assert not judge.update(-math.inf) and not judge.improved  # no best of this kind
    assert not judge.update(math.nan)
    assert judge.update(math.inf)
    assert judge.stopped and (judge.best, judge.best_at) == (1.0, 2)
    judge = EarlyStopping(patience=2, criterion=criterion)
    assert not judge.update(math.nan)
    assert judge.update(math.nan) and math.isnan(judge.best)


def test_a_few_that_are_not_finite_are_left_out():
    values = np.random.default_rng(0).normal(size=60)
    values[7::9] = math.nan
    assert stops_at(values) is None


# -- keeping the best ------------------------------------------------------------------------------------------------


def test_restores_parameters_and_buffers_of_the_best(digits):
    model = network("normed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    judge = EarlyStopping(patience=2, goal="max", criterion="patience")
    states = []
    for value in (0.1, 0.5, 0.4, 0.3):
        train(model, optimizer, digits, 2)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        stopped = judge.update(value, model)
    assert stopped and (judge.best, judge.best_at) == (0.5, 1)
    twin = pickle.loads(pickle.dumps(judge))
    for one in (judge, twin):
        train(model, optimizer, digits, 1)
        one.restore(model)
        assert all(torch.equal(tensor, states[1][name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience=0 must be a whole number of at least 1."),
        (lambda: EarlyStopping(patience=1), "patience=1 must be at least 2 for criterion='statistical'."),
        (lambda: EarlyStopping(min_improvement=-1), "min_improvement=-1 must be at least 0."),
        (lambda: EarlyStopping(criterion="noise"), "criterion='noise' must be 'statistical' or 'patience'."),
        (lambda: EarlyStopping(goal="low"), "goal='low' must be 'min' or 'max'."),
        (lambda: EarlyStopping(level=0), "level=0 must be a probability strictly between 0 and 1."),
        (
            lambda: EarlyStopping().restore(nn.Linear(1, 1)),
            "EarlyStopping has kept no weights: call update(value, model) with the model, and a finite value.",
        ),
    ],
)
def test_errors(act, message):
    with pytest.raises(ValueError) as error:
        act()
    assert str(error.value) == message


def test_restoring_into_another_model():
    judge = EarlyStopping()
    judge.update(1.0, nn.Linear(2, 2))
    with pytest.raises(ValueError) as error:
        judge.restore(nn.Sequential(nn.Linear(2, 2)))
    assert str(error.value) == (
        "The model has no weight, bias, of which values were kept. Put them back into the model they were taken from."
    )
