"""The verdict's sentence, compared whole for every way in which a run, a comparison or a treatment can end."""

import math

import pytest
from msgspec.structs import replace

from trimtab.records import (
    Arm,
    Attempt,
    Comparison,
    Findings,
    Metric,
    Runner,
    RunRecord,
    Story,
    TrainingRecord,
    Treatment,
    Tuning,
)
from trimtab.report import sample, verdict
from trimtab.report.verdict import tone

RUN = RunRecord(id="r", subject="train.py", trainings=(TrainingRecord(name="net", model="Net"),))
WORST, WARNING = sample.findings()
NOTE = replace(WARNING, severity="info")


def arm(
    recipe: str = "batch_norm",
    mean: float = 0.94,
    effect: float = 0.84,
    low: float = 0.82,
    high: float = 0.86,
    **other: int,
) -> Arm:
    seeds = (0, 1, 2, 3, 4)
    return Arm(recipe=recipe, seeds=seeds, values=(mean,) * 5, differences=() if math.isnan(effect) else (effect,) * 5, mean=mean, effect=effect, low=low,
               high=high, p=0.001, p_sign=0.0625, p_holm=0.001, wins=5, **other)  # fmt: skip


def comparison(*arms: Arm, baseline: float = 0.1, goal: str = "max") -> Comparison:
    metric = Metric(name="val accuracy" if goal == "max" else "val loss", goal=goal)
    return Comparison(subject="train.py", metric=metric, seeds=(0, 1, 2, 3, 4), baseline=(baseline,) * 5, arms=arms)


def treatment(recipe: str = "batch_norm", **parts: object) -> Treatment:
    return Treatment(subject="train.py", findings=(WORST,), recipe=recipe, **parts)


def tuning(recipe: str = "", **parts: object) -> Tuning:
    attempts = tuple(Attempt(number=i, recipe=one, status="ok", value=0.5) for i, one in enumerate(("", "ema", "swa")))
    metric = Metric(name="val accuracy", goal="max")
    return Tuning(
        subject="train.py",
        search=("ema | swa | none",),
        metric=metric,
        recipe=recipe,
        **{"attempts": attempts, **parts},
    )


@pytest.mark.parametrize(
    ("given", "text", "sound"),
    [
        ({}, "No rule found a fault", "good"),
        ({"findings": [NOTE]}, f"1 note, and no graver fault was found: {NOTE.title}", "plain"),
        ({"findings": Findings((), 9)}, "No rule found a fault (9 asked)", "good"),
        (
            {"findings": Findings((), 9, {"overfitting": "no held-out number", "lr_too_low": "few steps", "nan_source": "few steps"})},
            "No rule found a fault (9 asked, 3 could not judge: overfitting, no held-out number; lr_too_low and nan_source, few steps)",
            "plain",
        ),
        ({"findings": [WARNING]}, "1 finding: The inputs are not scaled", "plain"),
        (
            {"findings": [NOTE, WARNING, WORST]},
            "3 findings (1 error, 1 warning, 1 note); first: The gradient vanishes on its way to the first layers",
            "bad",
        ),
        ({"outcome": comparison()}, "Nothing was compared", "plain"),
        (
            {"outcome": comparison(arm())},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.84 [0.82, 0.86] over 5 paired seeds",
            "good",
        ),
        (
            {"outcome": comparison(arm(mean=0.3, effect=2.0, low=1.98, high=2.02), baseline=2.3, goal="min")},
            "batch_norm lowered validation loss from 2.30 to 0.30: better by 2.00 [1.98, 2.02] over 5 paired seeds",
            "good",
        ),
        (
            {"outcome": comparison(arm(mean=2.5, effect=-0.2, low=-0.3, high=-0.1), baseline=2.3, goal="min")},
            "batch_norm raised validation loss from 2.30 to 2.50: -0.20 [-0.30, -0.10] over 5 paired seeds; it made things worse",
            "plain",
        ),
        (
            {"outcome": comparison(arm(mean=0.12, effect=0.02, low=-0.01, high=0.05), arm("clip_norm(1.0)", 0.1, 0.0, -0.05, 0.05))},
            "None of the 2 recipes is proven to help; the best: batch_norm raised validation accuracy from 0.10 to 0.12: "
            "+0.02 [-0.01, 0.05] over 5 paired seeds; not proven, the interval includes zero",
            "plain",
        ),
        (
            {"outcome": comparison(arm(diverged=1))},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.84 [0.82, 0.86] over 5 paired seeds; "
            "not proven, 1 seed lost",
            "plain",
        ),
        (
            {"outcome": comparison(arm(low=math.nan, high=math.nan))},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.84 over 5 paired seeds; not proven, there is no interval",
            "plain",
        ),
        (
            {"outcome": comparison(arm(effect=math.nan, low=math.nan, high=math.nan), baseline=math.nan)},
            "batch_norm reached validation accuracy 0.94 over 5 paired seeds; untreated, no seed ended with a number",
            "good",
        ),
        (
            {"outcome": comparison(arm(mean=math.nan, effect=math.nan, low=math.nan, high=math.nan, diverged=5))},
            "batch_norm ended with no validation accuracy on any of 5 paired seeds",
            "plain",
        ),
        (
            {"outcome": comparison(arm(mean=0.08, effect=-0.02, low=-0.05, high=0.01))},
            "batch_norm lowered validation accuracy from 0.10 to 0.08, which is worse: -0.02 [-0.05, 0.01] over 5 paired seeds; "
            "not proven, the interval includes zero",
            "plain",
        ),
        (
            {"outcome": comparison(arm(mean=2.3 + 2e-8, effect=-2e-8, low=-5e-8, high=1e-8), baseline=2.3, goal="min")},
            "batch_norm left validation loss at 2.3000: -2e-08 [-5e-08, 1e-08] over 5 paired seeds; not proven, the interval "
            "includes zero",
            "plain",
        ),
        (
            {"outcome": comparison(arm(effect=0.084, low=-0.004, high=0.17))},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.08 [-0.004, 0.17] over 5 paired seeds; not proven, the "
            "interval includes zero",
            "plain",
        ),
        (
            {"outcome": comparison(replace(arm(mean=math.nan, effect=math.nan, failed=5), seeds=()))},
            "batch_norm could not be compared: there is no seed on which both runs ended with validation accuracy (5 failed)",
            "plain",
        ),
        (
            {"outcome": treatment(confirmation=comparison(arm()))},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.84 [0.82, 0.86] over 5 confirming seeds",
            "good",
        ),
        (
            {"outcome": treatment(search=comparison(arm()))},
            "batch_norm raised validation accuracy from 0.10 to 0.94: +0.84 [0.82, 0.86] over 5 searching seeds; "
            "not yet confirmed on fresh seeds",
            "plain",
        ),
        ({"outcome": treatment()}, "batch_norm was chosen; its effect was not measured", "plain"),
        (
            {"outcome": treatment("", search=comparison(arm(effect=0.0, low=-1, high=1), arm("x", effect=0.0, low=-1, high=1)))},
            "1 finding; none of the 2 remedies tried is proven to help",
            "bad",
        ),
        ({"outcome": treatment("", search=comparison(arm(effect=0.0, low=-1, high=1)))}, "1 finding; the remedy tried is not proven to help", "bad"),
        ({"outcome": treatment("")}, "1 finding; no remedy was tried", "bad"),
        (
            {"outcome": treatment("", race=tuple(Runner(recipe=recipe, share=1.0, status="ok") for recipe in ("", "ema", "swa")))},
            "1 finding; none of the 2 remedies tried is proven to help",
            "bad",
        ),
        ({"outcome": Treatment(subject="train.py", findings=())}, "No rule found a fault", "good"),
        (
            {"outcome": tuning("ema", confirmation=comparison(arm("swa", mean=0.99, low=-0.1), arm("ema"))), "findings": [WORST]},
            "ema raised validation accuracy from 0.10 to 0.94: +0.84 [0.82, 0.86] over 5 confirming seeds",
            "good",
        ),
        (
            {"outcome": tuning(confirmation=comparison(arm("swa", low=-0.1), arm("ema", mean=0.2, effect=0.1, low=-0.1)))},
            "None of the 2 recipes confirmed is proven to help; the best: swa raised validation accuracy from 0.10 to 0.94: "
            "+0.84 [-0.10, 0.86] over 5 confirming seeds; not proven, the interval includes zero",
            "plain",
        ),
        (
            {"outcome": tuning(confirmation=comparison(arm("swa", low=-0.1)))},
            "swa raised validation accuracy from 0.10 to 0.94: +0.84 [-0.10, 0.86] over 5 confirming seeds; not proven, the interval "
            "includes zero",
            "plain",
        ),
        ({"outcome": tuning()}, "None of 2 recipes tried was better than the script as it is", "plain"),
        ({"outcome": tuning(attempts=())}, "No recipe was tried", "plain"),
    ],
)  # fmt: skip
def test_verdict(given, text, sound):
    assert verdict(Story(RUN, **given)) == text
    assert tone(Story(RUN, **given)) == sound


def test_what_saves_a_script_on_every_seed_has_helped_whoever_asks():
    saved = arm("ema", effect=math.nan, low=math.nan, high=math.nan)
    confirmed = comparison(arm("swa", low=-0.1), saved, baseline=math.nan)
    assert (saved.standing, saved.proven, saved.helped) == ("rescued", False, True)
    assert replace(saved, failed=1).standing == "lost" and not replace(saved, failed=1).helped
    assert [arm().standing, arm(low=-0.1).standing, arm(low=-2.0, high=-1.0).standing] == ["proven", "unclear", "worse"]
    for found in (
        {"outcome": treatment("ema", confirmation=confirmed)},
        {"outcome": tuning("ema", confirmation=confirmed)},
    ):
        assert (
            verdict(Story(RUN, **found))
            == "ema reached validation accuracy 0.94 over 5 confirming seeds; untreated, no seed ended with a number"
        )
        assert tone(Story(RUN, **found)) == "good"
    assert tone(Story(RUN, outcome=confirmed)) == "good"


def test_a_run_that_failed_or_trained_nothing_says_so():
    assert verdict(RunRecord(id="r", subject="s")) == "No training was seen in this run"
    assert verdict(replace(RUN, finished=False)) == "No rule found a fault so far; the run has not ended, or was killed"
    assert verdict(replace(RUN, exit_code=3)) == "The run ended with exit code 3"
    failed = replace(RUN, error="Traceback ...\nValueError: no data\n", exit_code=1)
    assert verdict(failed) == "The run ended with an error: ValueError: no data"
    assert (
        verdict(Story(failed, [WARNING]))
        == "1 finding: The inputs are not scaled. The run ended with an error: ValueError: no data"
    )
    assert tone(Story(failed)) == "bad"
