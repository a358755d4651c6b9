"""The trade-off of a race: gains as the race counts them, the frontier, who is left out, and names that do not lie on one another."""

import itertools
import math
import xml.etree.ElementTree as xml

import numpy as np
import pytest
from msgspec.structs import replace

from trimtab.records import Metric, Runner, RunRecord, Series, Status, Story, TrainingRecord, Treatment, Trial
from trimtab.report import sample
from trimtab.report.figures import Picture, of_race
from trimtab.report.page import page
from trimtab.report.plots.trade_off import LINE, draw_trade_off, places, trade_off_data
from trimtab.testing import check_outcome, check_plot
from trimtab.testing.plots import check_picture
from trimtab.trial.race import Race

ACCURACY = Metric(name="val accuracy", goal="max")
WHOLE = sample.series(np.linspace(0.1, 0.2, 40), 10)


def runner(recipe: str, end: float, cost: float, share: float = 1.0, status: Status = "ok") -> Runner:
    """An arm that comes to ``end`` at its share of 40 reports."""
    course = sample.series(end * (1 - 0.8 * np.exp(-np.arange(round(40 * share)) / 3)), 10)
    return Runner(recipe=recipe, share=share, status=status, value=course.last, cost=cost, reports=course)


UNTREATED = Runner(recipe="", share=1 / 8, status="ok", cost=1.0, reports=Series(values=WHOLE.values[:5], steps=WHOLE.steps[:5]))  # fmt: skip
ARMS = (
    runner("batch_norm", 0.95, 1.4),
    runner("muon", 0.97, 2.4),
    runner("xavier_init", 0.6, 1.0, 1 / 4),
    runner("layer_norm", 0.5, 1.3, 1 / 8),
)


def raced(*arms: Runner, winner: str = "batch_norm", metric: Metric = ACCURACY) -> Treatment:
    return Treatment(subject="s.py", findings=sample.findings(), recipe=winner, metric=metric, race=(UNTREATED, *arms))


def watched(course: Series = WHOLE, name: str = "val accuracy") -> RunRecord:
    training = TrainingRecord(name="training", model="Net", steps=400, series={name: course})
    return RunRecord(id="r", subject="s.py", trainings=(training,), metric=ACCURACY)


@pytest.mark.parametrize("metric", [ACCURACY, Metric(name="val accuracy", goal="min"), replace(ACCURACY, best=True)])
def test_gains_are_those_of_the_race(metric):
    data = trade_off_data(raced(*ARMS, metric=metric), WHOLE)
    assert data is not None
    race = Race(metric, WHOLE, (5, 10, 40))
    race.trials = {
        arm.recipe: Trial(subject="s.py", recipe=arm.recipe, seed=0, status="ok", share=arm.share, curves={metric.name: arm.reports})
        for arm in ARMS
    }  # fmt: skip
    gains = {point.recipe: point.gain for point in data.points}
    assert gains == {arm.recipe: pytest.approx(race.gain(arm.recipe, round(40 * arm.share))) for arm in ARMS}
    assert list(gains) == sorted(gains, key=lambda recipe: -gains[recipe])


def test_without_the_whole_untreated_run_arms_are_compared_where_it_was_seen():
    data = trade_off_data(raced(*ARMS))
    assert data is not None and {point.share for point in data.points} == {1 / 8}
    first = ARMS[0].reports.values[:5]
    gains = {point.recipe: point.gain for point in data.points}
    assert gains["batch_norm"] == pytest.approx(first[-1] - WHOLE.values[4])


def test_nothing_on_the_frontier_is_dearer_without_gaining_more():
    data = trade_off_data(raced(*ARMS, runner("dear", 0.9, 3.0), runner("worse", 0.05, 1.1)), WHOLE)
    assert data is not None
    assert [point.recipe for point in data.frontier] == ["xavier_init", "batch_norm", "muon"]
    beaten = trade_off_data(raced(runner("dear", 0.15, 3.0), runner("worse", 0.05, 1.1)), WHOLE)
    assert beaten is not None and [point.recipe for point in beaten.frontier] == [""]  # the untreated run


def test_who_is_left_out_is_counted_and_two_must_be_left():
    odd = (runner("unknown", 0.9, 0.0), runner("nan", 0.9, math.nan), runner("gone", 0.9, 1.1, status="diverged"))
    (picture,) = of_race(raced(*ARMS, *odd), watched())
    assert picture.caption.endswith(" Not drawn: 2 of unknown cost, 1 that diverged, failed or changed nothing.")
    assert not list(of_race(raced(ARMS[0], *odd), watched()))
    assert not list(of_race(replace(raced(*ARMS), race=()), watched()))
    assert not list(of_race(replace(raced(*ARMS), metric=None), watched()))


def test_the_caption_says_what_to_read():
    def said(*arms: Runner, winner: str = "batch_norm") -> str:
        (picture,) = of_race(raced(*arms, winner=winner), watched(Series(steps=(0,), values=(0.1,))))
        return picture.caption

    flat, cheap, dear = (
        runner("batch_norm", 0.95, 1.4),
        runner("xavier_init", 0.5, 1.04, 1 / 4),
        runner("muon", 0.97, 2.4),
    )
    leads = "batch_norm gains 0.85 for 1.4 times the cost of a step"
    assert said(flat, cheap) == f"{leads}; nothing that is cheaper gains as much."
    assert said(flat, cheap, dear) == (
        f"{leads}; nothing that is cheaper gains as much; muon gains 0.87 for 2.4 times the cost of a step."
    )
    assert (
        said(flat, dear, winner="muon")
        == "muon gains 0.87 for 2.4 times the cost of a step; nothing that is cheaper gains as much."
    )
    assert said(flat, cheap, winner="xavier_init").startswith("xavier_init gains 0.3")
    assert " at the cost of an untreated step after 25 % of a run; " in said(flat, cheap, winner="xavier_init")
    assert said(runner("dear", 0.95, 1.4), runner("batch_norm", 0.5, 1.5)).endswith(
        "; dear gains 0.85 for 1.4 times the cost of a step."
    )
    assert said(runner("a", 0.05, 1.4), runner("b", 0.06, 1.5), winner="") == "No arm gains over the untreated run."


def test_the_winner_and_what_confirmed_it_are_marked():
    confirmed = sample.comparison(recipes=["batch_norm"])
    arm = replace(confirmed.arms[0], cost=1.6)
    treated = replace(raced(*ARMS), confirmation=replace(confirmed, arms=(arm,)))
    data = trade_off_data(treated, WHOLE)
    assert data is not None and data.confirmed is not None
    assert (data.confirmed.cost, data.confirmed.interval) == (1.6, (arm.low, arm.high))
    svg = draw_trade_off(data)
    assert [svg.count(f'class="series series-{i}"') for i in range(5)] == [1, 2, 1, 1, 2]
    assert [name for name, _ in data.legend][-2:] == ["the winner", "the winner, confirmed on fresh seeds"]
    unknown = trade_off_data(replace(treated, confirmation=confirmed), WHOLE)
    assert unknown is not None and unknown.confirmed is None and len(unknown.legend) == 4


def test_the_page_shows_it_above_the_table_of_the_race():
    treated = raced(*ARMS)
    check_outcome(treated)
    made = page(Story(watched(), (), treated))
    race = made[made.index('<section id="race">') :]
    assert race.index('data-kind="trade-off"') < race.index("<table")
    assert "batch_norm gains 0.762 for 1.4 times the cost of a step" in race


TREATED = raced(*ARMS)


def trade_off(training: TrainingRecord, key: str) -> list[Picture]:
    run = RunRecord(id="r", subject="s.py", trainings=(training,))
    pictures = of_race(replace(TREATED, metric=Metric(name="loss", goal="max")), run)
    return [Picture(f"{key}-{one.key}", one.title, one.caption, one.svg, one.legend) for one in pictures]


def test_it_is_drawn_beside_any_watched_run():
    check_plot(trade_off, watched(name="loss").main)


@pytest.mark.parametrize("value", [0.0, -1e300, 1e-300, 1e300, 1e17])
@pytest.mark.parametrize("cost", [1e-9, 1.0, 1e9])
def test_odd_races_are_drawn(value, cost):
    name = 'a</script><b x="$\\frac$">\x00\n字😀'
    arms = [Runner(recipe=f"{name} {i}", share=0.0, status="ok", cost=cost, reports=Series(steps=(i,), values=(value * i,)))
            for i in range(3)]  # fmt: skip
    treated = replace(raced(*arms, *ARMS), metric=Metric(name=name, goal="min"))
    (picture,) = of_race(treated, watched(Series(steps=(0,), values=(value,)), name))
    check_picture("trade_off", replace_key(picture))
    assert "<b x" not in picture.svg and "#0101" not in picture.svg


def replace_key(picture: Picture) -> Picture:
    return Picture("key", picture.title, picture.caption, picture.svg)


def test_one_arm_that_lost_by_far_hides_nothing():
    treated = raced(*ARMS, runner("far", -1e9, 1.1))
    (picture,) = of_race(treated, watched())
    assert picture.caption.endswith(" Who lost much more than others gained stands at the edge.")
    data = trade_off_data(treated, WHOLE)
    assert data is not None
    root = xml.fromstring(draw_trade_off(data))
    assert -1 < float(root.attrib["data-y0"]) < 0 < 0.7 < float(root.attrib["data-y1"]) < 2


@pytest.mark.parametrize("spread", [0.0, 2.0, 30.0])
def test_names_lie_on_nothing_and_the_first_five_have_a_place(spread):
    random = np.random.default_rng(0)
    points = [(500 + spread * x, 150 + spread * y) for x, y in random.standard_normal((9, 2))]
    widths = [80.0 + 15 * i for i in range(9)]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    sides = places(points, widths, taken, (64, 40, 1076, 308))
    assert all(side is not None for side in sides[:5])
    boxes = list(taken)
    for (x, y), width, side in zip(points, widths, sides, strict=True):
        if side is not None:
            left = x + side[0] - (0 if side[0] > 1 else width if side[0] < -1 else width / 2)
            boxes.append((left, y + side[1] - LINE / 2, left + width, y + side[1] + LINE / 2))
    for one, other in itertools.combinations(boxes, 2):
        if one in taken and other in taken:
            continue
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_the_best_five_and_the_untreated_run_are_named():
    arms = [runner(f"recipe_number_{i}", 0.5 + 0.01 * i, 1.2) for i in range(30)]
    data = trade_off_data(raced(*arms, winner="recipe_number_3"), WHOLE)
    assert data is not None
    texts = {text.text for text in xml.fromstring(draw_trade_off(data)).iter() if text.tag.endswith("text")}
    assert {"untreated", "recipe_number_3", *(f"recipe_number_{i}" for i in range(26, 30))} <= texts
