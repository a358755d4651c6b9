"""Which number judges: what the commands say of it, and the options that choose another."""

from __future__ import annotations

import html
import json
import re
import shlex

import pytest
from msgspec.structs import replace

from tests.report.test_terminal import rendered
from tests.trial.reporting import BEGIN, WAYS
from trimtab.cli.telling import as_json
from trimtab.records import Metric, RunRecord, Story
from trimtab.report import sample, summary, verdict
from trimtab.report.page import page

BLIND = "no number for held-out data was seen"
ALONE = "; only the training loss judges"


def words(text: str) -> str:
    return " ".join(text.split())


# -- what every kind of result says ----------------------------------------------------------------------------------


def results(metric: Metric) -> dict[str, tuple[RunRecord, dict]]:
    """A result of every command, judged by this number."""
    run = replace(sample.run(sick=False), metric=metric, hints=("Average wage: 9.00 (20 times)",))
    search, confirmation = replace(sample.search(), metric=metric), replace(sample.comparison(), metric=metric)
    treatment = replace(sample.treatment(), metric=metric, search=search, confirmation=confirmation)
    tuning = replace(sample.tuning(), metric=metric, confirmation=replace(sample.tuning().confirmation, metric=metric))
    return {
        "watch": (run, {}),
        "compare": (run, {"outcome": search}),
        "treat": (run, {"outcome": treatment}),
        "tune": (run, {"outcome": tuning}),
    }


def shown(run: RunRecord, given: dict) -> tuple[str, str, str]:
    """On the terminal, on the page, in the JSON."""
    story = Story(run, **given)
    said = as_json(story)["judged_by"]
    return words(rendered(summary(story), 100)), words(html.unescape(page(story))), said


@pytest.mark.parametrize("command", ["watch", "compare", "treat", "tune"])
def test_every_result_names_its_number(command):
    metric = Metric(
        name="printed val accuracy", goal="max", why="printed by the script", source="printed", folds=5,
        offered=("printed test accuracy", "val loss"),
    )  # fmt: skip
    run, given = results(metric)[command]
    sentence = (
        "Judged by validation accuracy (mean over 5 folds), more is better: printed by the script. "
        "On offer too: --metric 'printed test accuracy'; --metric 'val loss'."
    )
    for place in shown(run, given):
        assert sentence in place
    if given:
        assert "validation accuracy (mean over 5 folds) from" in verdict(Story(run, **given))
    assert ALONE not in verdict(Story(run, **given))


@pytest.mark.parametrize("command", ["watch", "compare", "treat", "tune"])
def test_a_training_loss_never_judges_silently(command):
    metric = Metric(name="loss", goal="min", why=BLIND, best=True)
    run, given = results(metric)[command]
    assert ALONE in verdict(Story(run, **given))
    sentence = (
        f"Judged by training loss (its best) alone, less is better: {BLIND}. "
        "On offer: --metric 'Average wage: ([-0-9.e]+)' for Average wage: 9.00 (20 times)."
    )
    for place in shown(run, given):
        assert sentence in place


def test_without_any_number():
    run = replace(sample.run(), metric=None, hints=("wage: 9.00",))
    for place in shown(run, {}):
        assert "No number judges this run. On offer: --metric 'wage: ([-0-9.e]+)' for wage: 9.00." in place
    assert "judges" not in rendered(summary(RunRecord(id="r", subject="s")))


# -- the commands ----------------------------------------------------------------------------------------------------


def test_what_is_on_offer_can_be_taken(trimtab, train):
    train.write_text(BEGIN + WAYS["only a reward"].script)
    said = words(trimtab("watch", "train.py").stderr)
    assert ALONE in said
    assert f"Judged by training loss alone, less is better: {BLIND}. On offer: --metric" in said
    (option, pattern) = shlex.split(re.search(r"(--metric '[^']+')", said)[1])
    assert (option, pattern) == ("--metric", "Average wage: ([-0-9.e]+)")
    said = words(trimtab("watch", option, pattern, "--json", "found.json", "train.py").stderr)
    assert f"Judged by Average wage, more is better: read from the output with --metric '{pattern}'" in said
    assert "if less is better, add --minimize" in said
    found = json.loads(train.with_name("found.json").read_text())
    assert found["metric"]["name"] == "metric Average wage" and found["metric"]["source"] == "asked"
    assert found["judged_by"] in said


@pytest.mark.parametrize(
    ("options", "goal", "best"),
    [
        ([], "max", False),
        (["--minimize"], "min", False),
        (["--maximize"], "max", False),
        (["--best"], "max", True),
        (["--minimize", "--best"], "min", True),
    ],
)
def test_the_direction_and_the_best_are_chosen(trimtab, train, options, goal, best):
    """Two networks are trained; the number is on the standard error, and belongs to the one that stepped last."""
    train.write_text(BEGIN + WAYS["a GAN, the standard error and --metric"].script)
    shown = trimtab("watch", "--metric", "distance: ([0-9.]+)", *options, "--json", "found.json", "train.py")
    assert shown.exit_code == 0, shown.stderr
    metric = json.loads(train.with_name("found.json").read_text())["metric"]
    assert (metric["name"], metric["goal"], metric["best"]) == ("metric distance", goal, best)
    printed = [float(value) for value in re.findall(r"distance: ([0-9.]+)", shown.stderr.split("Judged by")[0])]
    assert len(printed) >= 6 and len(set(printed)) > 3
    reached = {False: printed[5], True: (max if goal == "max" else min)(printed[:6])}[best]
    assert f"distance{' (its best)' * best} {reached:.4g}," in words(shown.stderr)


def test_a_comparison_goes_the_way_that_is_asked_for(trimtab, train):
    """The same trials: what is better with --maximize is worse with --minimize."""
    train.write_text(BEGIN + WAYS["a GAN, the standard error and --metric"].script)
    asked = ["--metric", "distance: ([0-9.]+)", "--with", "lr_scale(factor=30)", "--seeds", "2"]
    effects = {}
    for goal in ("--maximize", "--minimize"):
        shown = trimtab("compare", *asked, goal, "--json", "found.json", "train.py")
        assert shown.exit_code == 0, shown.stderr
        comparison = json.loads(train.with_name("found.json").read_text())["comparison"]
        effects[goal] = comparison["arms"][0]["effect"]
        assert f"distance ({'more' if goal == '--maximize' else 'less'} is better), 2 paired seeds" in words(
            shown.stdout
        )
    assert effects["--minimize"] == -effects["--maximize"] != 0


def test_folds_are_judged_by_their_mean(trimtab, train):
    train.write_text(BEGIN + WAYS["cross-validation without a mean"].script)
    shown = trimtab("compare", "--with", "adam", "--seeds", "2", "--json", "found.json", "train.py")
    assert shown.exit_code == 0, shown.stderr
    said = words(shown.stdout)
    assert re.search(r"validation accuracy \(mean over 4 folds\) (from|at) 0\.", said)
    assert "12 steps in the longest of 4 trainings" in said.replace("10 steps", "12 steps")
    comparison = json.loads(train.with_name("found.json").read_text())["comparison"]
    assert comparison["metric"]["folds"] == 4
    listed = re.search(r"validation accuracy \(mean over 4 folds\) (0\.\d+)", trimtab("report", "--list").stdout)
    assert float(listed[1]) == pytest.approx(comparison["baseline"][0], abs=1e-4)
    # every trial's value is the mean of what its four folds printed last
    assert all(trial["status"] == "ok" for trial in comparison["trials"])
    curves = [trial["curves"]["printed val accuracy"]["values"] for trial in comparison["trials"]]
    for trial, curve in zip(comparison["trials"], curves, strict=True):
        assert len(curve) == 4 and trial["value"] == pytest.approx(sum(curve) / 4)


def test_a_search_that_is_judged_the_other_way_is_another_search(trimtab, train):
    train.write_text(BEGIN + WAYS["a GAN, the standard error and --metric"].script)
    asked = ["--search", "lr_scale(factor=choice(2, 20))", "--trials", "3", "--seeds", "2", "--candidates", "1"]
    asked += ["--metric", "distance: ([0-9.]+)", "--json", "found.json"]
    best = {}
    for goal, better in (("--minimize", min), ("--maximize", max)):
        shown = trimtab("tune", *asked, goal, "train.py")
        assert shown.exit_code in (0, 3), shown.output
        assert "of these." not in shown.stdout  # nothing is kept of the other search
        found = json.loads(train.with_name("found.json").read_text())["tuning"]
        probes = {probe["recipe"]: probe["value"] for probe in found["attempts"] if probe["recipe"]}
        confirmed = found["confirmation"]["arms"][0]["recipe"] if found["confirmation"] else None
        untreated = found["untreated"]
        if confirmed is not None:
            assert probes[confirmed] == better(probes.values()) != untreated
        best[goal] = confirmed
    assert best["--minimize"] != best["--maximize"]
