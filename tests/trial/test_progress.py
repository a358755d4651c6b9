"""The progress bar: how long the trials left will take, and bars that are over."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trimtab.records import Trial
from trimtab.trial.progress import TrialBar


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def trial(seconds: float, **fields) -> Trial:
    return Trial(
        **{"subject": "s", "recipe": "ema", "seed": 0, "status": "ok", "value": 0.5, "seconds": seconds, **fields}
    )


def bar_of(time: Time, workers: int | None, terminal: bool = True) -> tuple[TrialBar, io.StringIO]:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=120, color_system=None, legacy_windows=False)
    return TrialBar(console, workers, time), said


def lines(bar: TrialBar) -> list[str]:
    """The bars as they are drawn now."""
    with bar._console.capture() as shown:
        bar._console.print(bar._bar.get_renderable())
    return [line.rstrip() for line in shown.get().splitlines()]


@pytest.mark.parametrize("workers", [2, None])
def test_the_time_left_counts_rounds_of_trials(time, workers):
    bar, _ = bar_of(time, workers)
    bar.stage("trying", 5)
    assert bar.left() is None
    time.now = 60
    for _ in range(2):  # side by side
        bar.advance(trial(60), False)
    assert bar.left() == 120  # three trials, two rounds
    time.now = 100
    assert bar.left() == 80
    time.now = 600  # slower than before: the second round is still to come
    assert bar.left() == 60
    assert "2/5" in lines(bar)[0] and "01:00" in lines(bar)[0]
    for _ in range(2):
        bar.advance(trial(540), False)
    time.now = 5000
    assert bar.left() is None and "--:--" in lines(bar)[0]  # nobody knows
    bar.advance(trial(500), False)
    assert bar.left() is None and "--:--" not in lines(bar)[0]


def test_kept_trials_say_nothing_of_the_time_and_earlier_stages_do(time):
    bar, _ = bar_of(time, 1)
    bar.stage("watching", 1)
    time.now = 30
    bar.advance(trial(30), False)
    bar.stage("trying", 4)
    for _ in range(2):
        bar.advance(trial(1), True)
    assert bar.left() == 60
    assert "2/4" in lines(bar)[1] and "01:00" in lines(bar)[1] and "(kept)" in lines(bar)[1]


def test_a_stage_that_the_budget_ended_stands_still(time):
    bar, _ = bar_of(time, 2)
    bar.stage("trying remedies", 26)
    time.now = 240
    for _ in range(18):
        bar.advance(trial(20), False)
    bar.stage("confirming", 10)
    before = lines(bar)[0]
    assert "18/26" in before and "0:04:00" in before and before.endswith("the rest was left out")
    time.now = 900
    assert lines(bar)[0] == before
    assert "0:11:00" in lines(bar)[1]
    bar.__exit__(None, None, None)
    last = lines(bar)
    time.now = 2000
    assert lines(bar) == last


def test_without_a_terminal_a_stage_is_one_line(time):
    bar, said = bar_of(time, 2, terminal=False)
    with bar:
        bar.stage("trying", 3)
        time.now = 7
        bar.advance(trial(7, status="failed", value=float("nan"), error="it \x1b[31mbroke"), False)
        bar.stage("confirming", 1)
    assert (
        said.getvalue()
        == "ema, seed 0, failed: it \ufffd[31mbroke\ntrying: 1 of 3 done in 7 s\nconfirming: 0 of 1 done in 0 s\n"
    )


def test_the_time_left_counts_what_follows_the_stage(time):
    bar, _ = bar_of(time, 2)
    bar.stage("racing", 4, 10.0, 50.0)
    assert bar.left() == 2 * 10 + 50  # as expected, before any has ended
    bar.running("batch_norm", 0, 340, 1000, 0.4123)
    assert "batch_norm seed 0: 340/1,000 steps, loss 0.412" in lines(bar)[0] and "01:10" in lines(bar)[0]
    bar.running("", 0, 7, 0, float("nan"))
    assert "untreated seed 0: 7 steps, loss nan" in lines(bar)[0]
    time.now = 20
    for _ in range(2):
        bar.advance(trial(20), False)
    assert bar.left() == 20 + 50  # as measured
    for _ in range(2):
        bar.advance(trial(20), False)
    assert bar.left() == 50 and "00:50" in lines(bar)[0]


def test_a_long_recipe_is_cut_in_its_middle(time):
    bar, _ = bar_of(time, 2)
    bar.stage("racing", 2)
    bar.running("layer_norm, dropout, lr_scale(factor=1000)", 1002, 2099, 2500, 0.003)
    (line,) = lines(bar)
    bar.running("lr_scale(factor=1000)", 1002, 2099, 2500, 0.003)
    (whole,) = lines(bar)
    assert " layer_...e(factor=1000) seed 1002: 2,099/2,500 steps, loss 0.003" in line
    assert " lr_scale(factor=1000) seed 1002: 2,099/2,500 steps, loss 0.003" in whole


def test_what_follows_from_a_stage_is_said_behind_it(time):
    bar, said = bar_of(time, 2, terminal=False)
    with bar:
        bar.stage("watching one run", 1)
        bar.say("meanwhile")
        bar.advance(trial(1.0), False)
        bar.say("error: it diverges")
    assert said.getvalue() == "meanwhile\nwatching one run: 1 of 1 done in 0 s\nerror: it diverges\n"
