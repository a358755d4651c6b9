"""Quantities: what the name of a series says, and which number judges a run."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest

from trimtab.quantities import Quantity, choose, goal_of, held_out, judging, named, offers, value
from trimtab.records import Asked, RunRecord, Series, TrainingRecord
from trimtab.watching.printed import Lines


def training(steps=10, began=0, model="Net", **series) -> TrainingRecord:
    """A training; each series is the list of its values, the last of them at the last step."""
    return TrainingRecord(
        name="training",
        model=model,
        steps=steps,
        began=began,
        ended=began + steps,
        facts={"parameters": 10},
        series={
            name.replace("_", " "): Series(steps=tuple(range(steps - len(values) + 1, steps + 1)), values=tuple(values))
            for name, values in series.items()
        },
    )


def run(*trainings: TrainingRecord, **fields) -> RunRecord:
    latest = {name: index for index, one in enumerate(trainings) for name in one.series}
    return RunRecord(id="1", subject="train.py", trainings=trainings, latest=latest, **fields)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "split", "what", "summary", "goal"),
    [
        ("loss", "measured", "", "loss", "", "min"),
        ("val 2 accuracy", "measured", "val", "accuracy", "", "max"),
        ("train accuracy", "measured", "train", "accuracy", "", "max"),
        ("lr 1", "measured", "", "lr", "", None),
        ("label_grouping_p", "measured", "", "label_grouping_p", "", None),
        ("printed dev loss", "printed", "val", "loss", "", "min"),
        ("printed test average loss", "printed", "test", "loss", "mean", "min"),
        ("logged val/top1", "logged", "val", "top-1 accuracy", "", "max"),
        ("logged eval/mean_reward", "logged", "eval", "reward", "mean", "max"),
        ("written best_val_auc", "written", "val", "auc", "best", "max"),
        ("logged train_val_gap", "logged", "", "train val gap", "", None),
        ("printed rmse", "printed", "", "rmse", "", "min"),
        ("printed mean squared error", "printed", "", "mse", "", "min"),
        ("logged mAP", "logged", "", "average precision", "", "max"),
        ("metric reward", "asked", "", "reward", "", "max"),
    ],
)
def test_what_a_name_says(name, source, split, what, summary, goal):
    quantity = Quantity.read(name)
    assert (quantity.source, quantity.split, quantity.what, quantity.summary, quantity.goal) == (
        source, split, what, summary, goal,
    )  # fmt: skip


def test_which_way_is_better_where_the_name_does_not_tell():
    assert [goal_of(name) for name in ("metric quality", "metric total_losses", "metric acc", "metric val_loss")] == [
        "max", "min", "max", "min",
    ]  # fmt: skip


def test_a_number_by_the_name_that_people_write():
    names = ["val loss", "printed val accuracy", "logged Val/F1"]
    assert [named(one, names) for one in ("val_acc", "Val accuracy", "val/f1", "logged Val/F1", "test loss")] == [
        "", "printed val accuracy", "logged Val/F1", "logged Val/F1", "",
    ]  # fmt: skip


# -- which number judges ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["loss"], "loss"),
        (["loss", "printed loss"], "loss"),
        (["loss", "printed train accuracy"], "loss"),
        (["loss", "val loss"], "val loss"),
        (["loss", "test loss", "val loss"], "val loss"),
        (["loss", "train loss", "train accuracy", "test loss"], "test loss"),
        (["loss", "val loss", "test accuracy"], "test accuracy"),
        (["loss", "val loss", "val 2 accuracy", "val accuracy"], "val accuracy"),
        # what the script itself calls held out comes before what it never computes
        (["loss", "val accuracy", "printed val loss"], "printed val loss"),
        (["loss", "val accuracy", "test accuracy", "printed val accuracy"], "printed val accuracy"),
        (["loss", "eval accuracy", "logged val_loss"], "logged val_loss"),
        (["loss", "printed val loss", "logged val loss"], "printed val loss"),
        (["loss", "printed val loss", "written val accuracy"], "written val accuracy"),
        (["loss", "printed best val accuracy", "printed val accuracy"], "printed val accuracy"),
        (["loss", "printed test accuracy", "printed val accuracy"], "printed val accuracy"),
        # what it does not call held out comes behind what was measured there
        (["loss", "val accuracy", "printed accuracy"], "val accuracy"),
        (["loss", "val loss", "printed accuracy"], "printed accuracy"),
        (["loss", "val loss", "printed mse"], "val loss"),
        (["loss", "printed mse"], "printed mse"),
        (["loss", "printed perplexity"], "printed perplexity"),
        (["loss", "printed good"], "loss"),
        # of one class of several
        (["loss", "val loss", "printed test accuracy of cat", "printed test accuracy of dog"], "val loss"),
        (["loss", "printed test accuracy of cat", "printed mean test accuracy"], "printed mean test accuracy"),
        (["loss", "printed test accuracy of dog", "printed test accuracy"], "printed test accuracy"),
        (["loss", "printed accuracy of lenet"], "printed accuracy of lenet"),
        # what may be a loss or a score
        (["loss", "printed train", "printed test", "printed val"], "printed val"),
        (["grad_norm", "lr"], ""),
        ([], ""),
    ],
)
def test_which_number_judges(names, chosen):
    assert judging(names) == chosen
    metric = choose(run(training(**{name.replace(" ", "_"): [1.0, 0.5] for name in names if "_" not in name})))
    if not any("_" in name for name in names):
        assert (metric.name if metric else "") == chosen


def test_the_number_that_is_said_when_training_is_over_goes_before_what_is_said_along_the_way():
    epochs = {"printed_val_accuracy": [0.5, 0.6, 0.7], "loss": [1.0] * 10}
    assert choose(run(training(**epochs, printed_test_accuracy=[0.65]))).name == "printed test accuracy"
    assert choose(run(training(**epochs, printed_test_accuracy=[0.5, 0.65]))).name == "printed val accuracy"
    assert choose(run(training(**epochs, printed_best_val_accuracy=[0.7]))).name == "printed best val accuracy"
    assert choose(run(training(printed_accuracy=[0.7], val_accuracy=[0.1, 0.7]))).name == "printed accuracy"
    assert choose(run(training(printed_mse=[0.7], val_accuracy=[0.1, 0.7]))).name == "val accuracy"


def test_folds_are_judged_together():
    folds = [training(began=10 * i, printed_val_accuracy=[0.1, 0.5 + i / 10]) for i in range(3)]
    metric = choose(run(*folds))
    assert (metric.name, metric.folds, value(run(*folds), metric)) == ("printed val accuracy", 3, pytest.approx(0.6))
    # the mean that the script itself says goes first
    last = training(began=20, printed_val_accuracy=[0.1, 0.7], printed_mean_accuracy=[0.61])
    metric = choose(run(*folds[:2], last))
    assert (metric.name, metric.folds, value(run(*folds[:2], last), metric)) == ("printed mean accuracy", 0, 0.61)
    # one after the other, but not of one kind: a pretraining
    other = training(began=10, model="Head", printed_val_accuracy=[0.9])
    metric = choose(run(folds[0], other))
    assert (metric.folds, value(run(folds[0], other), metric)) == (0, 0.9)
    # at the same time: a pair of networks
    pair = [training(model="Net", printed_val_accuracy=[0.3]), training(model="Net")]
    assert choose(run(*pair)).folds == 0
    # a training that never stepped is none
    idle = training(steps=0)
    assert choose(run(idle, training(printed_val_accuracy=[0.3]))).folds == 0


def test_what_is_asked_for_goes_first():
    one = run(training(val_accuracy=[0.5, 0.4], printed_val_loss=[1.0, 2.0], metric_acc=[0.1, 0.3, 0.2]))
    metric = choose(one, Asked(metric="acc=([0-9.]+)"))
    assert (metric.name, metric.goal, value(one, metric)) == ("metric acc", "max", 0.2)
    assert "--metric 'acc=([0-9.]+)'" in metric.why
    metric = choose(one, Asked(metric="val accuracy", best=True))
    assert (metric.name, value(one, metric)) == ("val accuracy", 0.5)
    assert value(one, choose(one, Asked(metric="val_loss", goal="max", best=True))) == 2.0
    assert value(one, choose(one, Asked(metric="val_loss", best=True))) == 1.0
    assert choose(one, Asked(metric="no such number")) is None
    assert choose(run(training(val_accuracy=[1.0])), Asked(metric="acc=([0-9.]+)")) is None


def test_every_choice_says_where_it_comes_from_and_what_else_there_was():
    one = run(training(loss=[1.0], val_accuracy=[0.5, 0.4], printed_val_loss=[1.0, 2.0], logged_test_f1=[0.1, 0.2]))
    metric = choose(one)
    assert (metric.name, metric.source, metric.why) == ("logged test f1", "logged", "logged by the script")
    assert metric.offered == ("val accuracy", "printed val loss")
    assert choose(run(training(loss=[1.0]))).why == "no number for held-out data was seen"
    bare = run(training(printed_val=[1.0, 0.5]))
    assert choose(bare).why.endswith("it does not say whether more or less is better: if more is, add --maximize")
    assert choose(bare, Asked(goal="max")).why == "printed by the script"
    asked = choose(run(training(metric_distance=[1.0])), Asked(metric="distance: (.*)"))
    assert asked.why == "read from the output with --metric 'distance: (.*)'; if less is better, add --minimize"
    asked = choose(run(training(metric_distance=[1.0])), Asked(metric="distance: (.*)", goal="min"))
    assert asked.why == "read from the output with --metric 'distance: (.*)'"


def test_what_a_number_is_shows_in_what_was_measured():
    assert judging(["loss", "printed val", "val accuracy"]) == "val accuracy"
    measured = {"val_accuracy": [0.51234, 0.62345], "val_loss": [1.04321, 0.91234]}
    for shown, goal in (
        ([0.512, 0.623], "max"),
        ([51.2, 62.3], "max"),
        ([1.043, 0.912], "min"),
        ([0.51234, 0.62345], "max"),
    ):
        metric = choose(run(training(**measured, printed_val=shown)))
        assert (metric.name, metric.goal) == ("printed val", goal)
        assert metric.why.startswith("printed by the script, and the same as the measured validation ")
    assert choose(run(training(**measured, printed_val=[0.512, 0.7]))).name == "val accuracy"
    assert choose(run(training(**measured, printed_val=[0.512])), Asked(metric="printed val")).goal == "max"


def test_what_is_on_offer_is_written_as_it_is_typed():
    """What :func:`offers` gives is read by the shell and by ``--metric``, and finds the number that it names."""
    lines = ["Epoch 3 Average wage: -9.5 [m]", "dist[m]=1e-05", "gap (x): .5", "so far = 12.5."]
    for line in lines:
        reader = Lines()
        for _ in range(3):
            reader.read(line)
        (hint,) = reader.unknown()
        (option, pattern, *rest) = shlex.split(offers((), [hint]))
        assert option == "--metric" and rest[0] == "for"
        assert float(re.search(pattern, line)[1].rstrip(".")) in (-9.5, 1e-05, 0.5, 12.5)
    assert offers([]) == ""
    assert offers(["val loss", "f1(x)"]) == "--metric 'val loss'"
    assert offers("abcdefgh") == "; ".join(f"--metric {name}" for name in "abcdef") + "; 2 more"


def test_what_was_said_before_training_and_never_again_is_a_setting():
    split = Series(steps=(0,), values=(0.1,))
    one = training(val_accuracy=[0.5, 0.6])
    settings = TrainingRecord(
        name="t", model="Net", steps=10, ended=10, series=dict(one.series) | {"printed val loss": split}
    )
    assert choose(run(settings)).name == "val accuracy"


def test_a_number_that_is_said_once_more_at_the_end_is_the_conclusion():
    best = Series(steps=(4, 8, 10, 10), values=(0.5, 0.6, 0.6, 0.6))
    along = Series(steps=(4, 8, 10), values=(0.5, 0.6, 0.4))
    one = TrainingRecord(
        name="t", model="Net", steps=10, ended=10, series={"printed val f1": along, "printed best val f1": best}
    )
    assert choose(run(one)).name == "printed best val f1"


def test_the_best_of_running_means_is_that_of_the_whole_evaluations():
    means = Series(steps=(4, 4, 8, 8), values=(0.9, 0.5, 0.8, 0.6))
    one = run(TrainingRecord(name="t", model="Net", steps=10, ended=10, series={"printed val f1": means}))
    assert value(one, choose(one, Asked(best=True))) == 0.6


def test_a_training_loss_is_judged_by_the_mean_of_its_last_tenth():
    one = run(training(steps=20, loss=[9.0] * 18 + [1.0, 2.0]))
    assert value(one, choose(one)) == 1.5


def test_all_choose_alike():
    """The trial, early stopping and the doctor choose by one rule, whatever numbers a run has."""
    from trimtab.techniques.early_stopping import choose as stopping

    pool = [
        "loss",
        "val loss",
        "val 2 accuracy",
        "printed val loss",
        "printed test f1",
        "printed dev loss",
        "test accuracy",
    ]
    for size in range(1, len(pool) + 1):
        for names in itertools.combinations(pool, size):
            one = training(**{name.replace(" ", "_"): [1.0, 2.0] for name in names})
            assert choose(run(one)).name == judging(names)
            held = [name for name in names if name != "loss"]
            assert stopping(held) == judging(held)
            losses = [name for name in held if "loss" in name]
            assert held_out(one, "loss") == judging(losses)
