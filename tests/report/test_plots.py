"""Data functions of the plots, and what the drawn SVG promises: axis attributes, classes, escaped names."""

import json
import math
import re
import xml.etree.ElementTree as xml

import msgspec
import numpy as np
import pytest

from trimtab.records import Attempt, Axis, Layer, Metric, Profile, Series, TrainingRecord, Tuning
from trimtab.report import sample
from trimtab.report.figures import of_search, of_seeds, of_training, profiles_of_training
from trimtab.report.plots.coordinates import coordinates_data, draw_coordinates
from trimtab.report.plots.curves import curves_data, draw_curves, wants_log
from trimtab.report.plots.gradient_profile import by_layer, gradient_profile_data
from trimtab.report.plots.heatmap import draw_heatmap, heatmap_data
from trimtab.report.plots.importances import draw_importances, importances_data
from trimtab.report.plots.search_history import draw_history, history_data
from trimtab.report.plots.seeds import seeds_data
from trimtab.report.plots.trials import draw_axis, draw_trials, trials_data
from trimtab.watching.sampler import all_measured


def training(**series: Series) -> TrainingRecord:
    return TrainingRecord(
        name="net", model="Net", steps=100, series={k.replace("_", " "): v for k, v in series.items()}
    )


def profile(rows: list[list[float]], names: tuple[str, ...] = ("a", "b")) -> Profile:
    return Profile(names=names, steps=tuple(range(0, 10 * len(rows), 10)), rows=tuple(tuple(row) for row in rows))


def test_losses_share_a_picture_and_nonfinite_steps_are_kept():
    record = training(
        loss=Series(steps=(0, 1, 2), values=(2.0, math.inf, 1.0)), val_loss=Series(steps=(2,), values=(1.5,))
    )
    data = curves_data(record, ["loss", "val loss"], "loss")
    assert data is not None
    assert [curve.name for curve in data.curves] == ["loss", "val loss"]
    assert data.curves[0].broken.tolist() == [1]
    assert np.isnan(data.curves[0].values[1])
    assert data.scale == "linear"


def test_empty_series_have_no_curves():
    assert curves_data(training(loss=Series()), ["loss"], "loss") is None


def test_log_scale_only_for_positive_values_of_many_sizes():
    assert wants_log(np.array([1e-3, 1.0]))
    assert (
        not wants_log(np.array([0.0, 1e6]))
        and not wants_log(np.array([0.9, 1.0]))
        and not wants_log(np.array([np.nan]))
    )


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([2.3, 1e3, 2e25], "log"),
        ([2.3, 0.0, 1.9, 2e25], "symlog"),  # a loss of exactly 0 among them
        ([-0.4, -0.9, -0.5, -2e25], "symlog"),
        ([2.3, 0.0, 1.9], "linear"),
        ([0.0, 0.0], "linear"),
        ([math.nan, math.inf], "linear"),
    ],
)
def test_the_scale_shows_all_of_a_curve(values, scale):
    data = curves_data(training(loss=Series(steps=tuple(range(len(values))), values=tuple(values))), ["loss"], "loss")
    assert data is not None and data.scale == scale
    root = xml.fromstring(draw_curves(data))
    assert root.attrib["data-yscale"] == scale
    (picture,) = of_training(training(loss=Series(steps=tuple(range(len(values))), values=tuple(values))), "t0", None)
    assert ("linear around 0 and logarithmic beyond" in picture.caption) == (scale == "symlog")


def test_compared_losses_that_blow_up_are_not_drawn_on_a_linear_axis():
    trials = list(sample.comparison().trials)
    blown = Series(steps=(0, 4, 8), values=(0.0, 2.0, 2e25))
    trials[0] = msgspec.structs.replace(trials[0], curves={"loss": blown})
    data = seeds_data(msgspec.structs.replace(sample.comparison(), trials=tuple(trials)), sample.WINNER, "loss")
    assert data is not None and data.scale == "symlog"
    assert xml.fromstring(draw_curves(data)) is not None


@pytest.mark.parametrize("values", [(0.93,), (0.93860001, 0.93860002), (800.0, 800.001)])
def test_no_axis_says_the_same_twice(values):
    steps = tuple(range(800, 800 + len(values)))
    data = curves_data(training(val_accuracy=Series(steps=steps, values=values)), ["val accuracy"], "accuracy")
    assert data is not None
    texts = [text.text for text in xml.fromstring(draw_curves(data)).iter() if text.tag.endswith("text")]
    across, up = texts[: texts.index("step")], texts[texts.index("step") + 1 :]
    assert across == [f"{step:,}" for step in steps]
    assert len(set(up)) == len(up) > 1


def test_one_effect_far_off_does_not_hide_the_others():
    comparison = sample.search()
    arms = [*comparison.arms]
    arms[-1] = msgspec.structs.replace(arms[-1], effect=-2e25, low=-9e25, high=4e25, differences=(-2e25, 0.1, 0.2))
    data = trials_data(msgspec.structs.replace(comparison, arms=tuple(arms)))
    assert data is not None and -1 < data.low < 0 < 0.8 < data.high < 2
    for row in range(len(arms)):
        path = [
            float(n)
            for one in xml.fromstring(draw_trials(data, row)).iter()
            for n in re.findall(r"-?[\d.]+", one.get("d", ""))
        ]
        assert max(map(abs, path)) < 1000


def test_every_number_of_a_run_has_a_title_and_an_explanation():
    assert len({one.name for one in all_measured()}) == len(all_measured())
    for one in all_measured():
        assert one.meaning.endswith(".") and "_" not in one.title
        drawn = training(**{one.name: Series(steps=(0, 1), values=(0.5, 0.25))})
        if one.of == "run":
            drawn = msgspec.structs.replace(drawn, series={one.name: next(iter(drawn.series.values()))})
            picture = next(picture for picture in of_training(drawn, "t0", None, all_measured()) if picture.svg)
        else:
            drawn = msgspec.structs.replace(drawn, series={}, profiles={one.name: profile([[0.5, 0.2]])})
            picture = next(picture for picture in profiles_of_training(drawn, "t0", all_measured()) if picture.svg)
        assert picture.title.lower() == one.title.lower() and picture.caption.startswith(one.meaning)


def test_many_layers_share_rows_and_lose_no_trouble():
    rows = np.ones((5, 3000))
    rows[2, 1234], rows[3, 2000] = np.nan, 7.0
    names = tuple(f"layer.{i}" for i in range(3000))
    data = heatmap_data(profile(rows.tolist(), names), "gradient")
    assert data is not None and data.cells.shape == (200, 5) and data.together == 15
    assert data.names[0] == "layer.0 to layer.14" and data.names[-1] == "layer.2985 to layer.2999"
    assert np.isnan(data.cells[1234 // 15, 2]) and data.cells[2000 // 15, 3] == 7.0 and data.broken == 1
    assert data.median.tolist() == [1.0] * 200
    record = TrainingRecord(name="net", model="Net", profiles={"activation_std": profile(rows.tolist(), names)})
    shown = {picture.title: picture for picture in profiles_of_training(record, "t0", all_measured())}
    assert "up to 15 neighbouring layers" in shown["Activation spread"].caption


def test_learning_rate_holds_to_the_last_step():
    data = curves_data(training(lr=Series(steps=(0, 50), values=(0.1, 0.01))), ["lr"], "learning rate")
    assert data is not None
    assert data.curves[0].steps.tolist() == [0, 50, 99]
    assert data.curves[0].values.tolist() == [0.1, 0.01, 0.01]


def test_seed_bands_hold_all_seeds():
    comparison = sample.comparison()
    data = seeds_data(comparison, sample.WINNER, "loss")
    assert data is not None
    untreated, treated = data.curves
    assert untreated.name == "untreated (5 seeds)" and treated.name == f"{sample.WINNER} (5 seeds)"
    values = np.array([t.curves["loss"].values for t in comparison.trials if t.recipe == ""])
    assert untreated.band is not None
    assert untreated.band.low.min() == values.min() and untreated.band.high.max() == values.max()
    np.testing.assert_allclose(untreated.values, values.mean(axis=0))
    assert seeds_data(comparison, sample.WINNER, "no such curve") is None


def test_parameters_of_a_layer_are_joined_in_forward_order():
    layers = (
        Layer(name="first", kind="Linear", parameters=("first.weight", "first.bias")),
        Layer(name="act", kind="ReLU"),
    )
    record = TrainingRecord(name="net", model="Net", layers=layers)
    joined = by_layer(profile([[7.0, 3.0, 4.0]], ("free", "first.weight", "first.bias")), record)
    assert joined.names == ("first", "free")
    assert joined.rows == ((5.0, 7.0),)


def test_heatmap_marks_trouble_but_not_what_was_not_measured_yet():
    data = heatmap_data(profile([[1.0, math.nan], [math.inf, 1e-6], [math.nan, 1e-5]]), "gradient")
    assert data is not None
    assert data.broken == 2
    assert data.waiting.tolist() == [[False, False, False], [True, False, False]]
    assert (data.low, data.high, data.log) == (1e-6, 1.0, True)
    assert data.median.tolist() == [1.0, pytest.approx(5.5e-6)]


def test_heatmap_names_layers_without_a_number():
    data = heatmap_data(profile([[1.0, math.nan], [2.0, math.nan]]), "gradient")
    assert data is not None
    assert data.names == ("a",) and data.absent == ("b",)
    assert heatmap_data(profile([[math.nan, math.nan]]), "gradient") is None
    assert heatmap_data(Profile(), "gradient") is None


def test_thinned_heatmap_keeps_the_largest_value_of_its_steps():
    rows = [[1.0, 1.0] for _ in range(2_000)]
    rows[1_234][1] = 99.0
    data = heatmap_data(profile(rows), "gradient")
    assert data is not None
    assert data.cells.shape == (2, 300)
    line, column = np.unravel_index(data.cells.argmax(), data.cells.shape)
    assert line == 1 and data.first[column] <= 12_340 <= data.last[column]


def test_effects_share_an_axis_that_holds_zero_and_all_seeds():
    comparison = sample.search()
    data = trials_data(comparison)
    assert data is not None
    assert data.low < 0 < data.high
    for arm, row in zip(comparison.arms, data.arms, strict=True):
        assert row.seeds == arm.seeds
        assert data.low < min(arm.differences) and data.high > max(arm.differences)


def searched(
    *ends: tuple[str, float], goal: str = "min", axes: tuple[Axis, ...] = (), at: tuple[dict, ...] = ()
) -> Tuning:
    """A search whose trials ended so: a status and a number, which is the last report of a pruned one."""
    attempts = tuple(
        Attempt(number=i, recipe=f"r{i}", status=status, value=value if status == "ok" else math.nan, at=at[i] if at else {},
              reports=Series(steps=(4, 8), values=(9.0, value)) if status == "pruned" else Series())
        for i, (status, value) in enumerate(ends)
    )  # fmt: skip
    return Tuning(
        subject="s", search=(), metric=Metric(name="val loss", goal=goal), attempts=attempts, axes=axes, untreated=0.5
    )


def test_the_best_so_far_never_gets_worse_and_counts_whole_trials_only():
    ends = (("diverged", 0), ("ok", 0.7), ("pruned", 0.1), ("ok", 0.9), ("ok", 0.6), ("failed", 0))
    data = history_data(searched(*ends))
    assert data is not None
    np.testing.assert_array_equal(data.best, [math.nan, 0.7, 0.7, 0.7, 0.6, 0.6])
    np.testing.assert_array_equal(data.last, [math.nan, math.nan, 0.1, math.nan, math.nan, math.nan])
    more = history_data(searched(*ends, goal="max"))
    assert more is not None
    np.testing.assert_array_equal(more.best, [math.nan, 0.7, 0.7, 0.9, 0.9, 0.9])
    assert history_data(searched(("pruned", 0.3))) is None
    assert not data.log and history_data(searched(("ok", 1e-4), ("ok", 1.0))).log


def test_an_outlier_does_not_hide_the_rest_of_a_search():
    losses = [("ok", 0.30 + 0.01 * i) for i in range(12)]
    data = history_data(searched(*losses, ("ok", 1e6), ("pruned", 50.0)))
    assert data is not None and not data.log
    assert (data.low, data.high) == (0.3, 0.5)  # the untreated run has 0.5
    more = history_data(searched(*losses, ("ok", -1e6), goal="max"))
    assert more is not None and 0.3 <= more.low <= 0.32 and more.high == 0.5


def test_trials_meet_the_axes_where_their_values_lie():
    axes = (
        Axis(name="lr", low=1e-4, high=1.0, log=True),
        Axis(name="p", low=0.0, high=0.5),
        Axis(name="n", choices=("a", "b")),
    )
    at = ({"lr": 1e-2, "p": 0.5, "n": "a"}, {"lr": 1.0, "n": "b"}, {"lr": 1e-4, "p": 0.1, "n": "b"})
    data = coordinates_data(searched(("ok", 2.0), ("ok", 4.0), ("diverged", 0), axes=axes, at=at))
    assert data is not None
    assert [scale.name for scale in data.scales] == ["lr", "p", "n", "validation loss"]
    places = {line.name: line.places for line in data.lines}
    np.testing.assert_allclose(places["r0"], [0.5, 1.0, 0.75, 0.0])
    np.testing.assert_allclose(places["r1"], [1.0, math.nan, 0.25, 1.0])
    np.testing.assert_allclose(places["r2"], [0.0, 0.2, 0.25, math.nan], atol=1e-12)
    assert [mark for _, mark in data.scales[0].marks] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert data.scales[2].marks == ((0.75, "a"), (0.25, "b"))
    assert [(line.name, line.group) for line in data.lines] == [("r2", 0), ("r0", 1), ("r1", 1)]


def test_of_many_axes_the_important_ones_are_drawn_in_their_order():
    axes = tuple(Axis(name=f"x{i}", low=0.0, high=1.0) for i in range(20))
    many = msgspec.structs.replace(searched(("ok", 1.0), axes=axes), importances={f"x{i}": i / 190 for i in range(20)})
    data = coordinates_data(many)
    assert data is not None and data.left == 8
    assert [scale.name for scale in data.scales[:-1]] == [f"x{i}" for i in range(8, 20)]
    bars = importances_data(many)
    assert bars is not None and bars.names[0] == "x19" and len(bars.names) == 12 and bars.left == 8


def test_the_winner_and_the_confirmed_are_drawn_over_the_others():
    tuning = sample.tuning()
    data = coordinates_data(tuning)
    assert data is not None
    assert [line.name for line in data.lines][-1] == tuning.recipe
    assert [line.group for line in data.lines] == sorted(line.group for line in data.lines)
    assert sum(line.group >= 2 for line in data.lines) == len(tuning.confirmation.arms)


def test_a_search_without_numbers_says_so():
    (picture,) = of_search(searched(("diverged", 0), ("pruned", 0.3)))
    assert picture.caption == "No trial of the search ended with a number." and not picture.svg
    captions = [picture.caption for picture in of_search(searched(("ok", 0.3)))]
    assert captions[1] == "Importances take two axes, ten trials, five of them with a number, and results that differ."
    assert len(captions) == 2  # and no axes, no coordinates


@pytest.mark.parametrize("value", [0.0, -1e300, 1e-300, 1e300])
def test_odd_searches_are_drawn(value):
    axes = (Axis(name="x", low=1e-9, high=1e9, log=True), Axis(name="<y>&", choices=("'a'", "</svg>")))
    at = ({"x": 1.0, "<y>&": "</svg>"}, {})
    tuning = searched(("ok", value), ("pruned", math.inf), axes=axes, at=at)
    for picture in of_search(msgspec.structs.replace(tuning, untreated=math.nan, importances={"x": 0.0, "<y>&": 1.0})):
        assert xml.fromstring(picture.svg) is not None


def test_every_drawing_is_well_formed_and_says_where_its_axes_lie():
    record = sample.run().trainings[0]
    curves, map_ = curves_data(record, ["loss", "val loss"], "loss"), gradient_profile_data(record)
    trials, tuning = trials_data(sample.search()), sample.tuning()
    history, shares, lines = history_data(tuning), importances_data(tuning), coordinates_data(tuning)
    assert curves and map_ and trials and history and shares and lines
    ours = (draw_history(history), draw_importances(shares), draw_coordinates(lines))
    for svg in (draw_curves(curves), draw_heatmap(map_), draw_trials(trials, 0), draw_axis(trials), *ours):
        root = xml.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")
        assert float(root.attrib["data-px1"]) > float(root.attrib["data-px0"])
        json.loads(root.attrib["data-hover"])
        assert "#0101" not in svg and "#0102" not in svg  # every placeholder has become a variable


@pytest.mark.parametrize(
    "values", [(1.0,), (math.nan,), (math.nan, math.inf), (0.0, 0.0), (-1e300, 1e300), (1e-300, 1e300)]
)
def test_odd_series_are_drawn(values):
    data = curves_data(training(loss=Series(steps=tuple(range(len(values))), values=values)), ["loss"], "loss")
    assert data is not None
    assert xml.fromstring(draw_curves(data)) is not None


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, 1.0])
def test_odd_profiles_are_drawn(value):
    for share in (False, True):
        data = heatmap_data(profile([[value, value]]), "odd", share)
        assert data is not None
        assert xml.fromstring(draw_heatmap(data)) is not None


def test_names_may_contain_anything():
    name = 'a</script><b x="$\\frac$">\x00\n字😀'
    record = TrainingRecord(
        name=name, model=name, steps=2, series={name: Series(steps=(0, 1), values=(1.0, 2.0))},
        profiles={name: profile([[1.0, 2.0]], (name, "b"))},
    )  # fmt: skip
    pictures = [*of_training(record, "t0", None), *profiles_of_training(record, "t0", all_measured())]
    drawn = [picture for picture in pictures if picture.svg]
    assert len(drawn) == 2
    for picture in drawn:
        assert "<b x" not in picture.svg and "</script" not in picture.svg


def test_what_cannot_be_drawn_says_so():
    pictures = [*of_training(training(), "t0", None), *profiles_of_training(training(), "t0", all_measured())]
    assert [picture.caption for picture in pictures] == [
        "No loss curve: no loss was seen in this training.",
        "No gradient profile: no sampled step of this run recorded 'grad_norms'.",
        "No activation spread: no sampled step of this run recorded 'activation_std'.",
        "No dead units: no sampled step of this run recorded 'dead_units'.",
    ]
    bare = msgspec.structs.replace(sample.comparison(), trials=())
    assert [picture.caption for picture in of_seeds(bare, bare.arms[0], "x")] == ["No curves: the trials kept none."]


def test_loss_metric_and_learning_rate_lead():
    record = sample.run().trainings[0]
    extra = {"movement": record.series["loss"], **record.series, "printed val loss": record.series["val loss"]}
    pictures = list(of_training(msgspec.structs.replace(record, series=extra), "t0", sample.ACCURACY, all_measured()))
    assert [picture.title for picture in pictures] == ["Loss", "Accuracy", "Learning rate", "Movement of the weights"]
    assert pictures[0].shows == ("loss", "val loss", "printed val loss")
