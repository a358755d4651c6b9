"""Which pictures a page shows of a training and of a comparison, and what is said of those it cannot show.

A series and a profile are drawn as the record of the run says what they are; see :class:`~trimtab.records.Measured`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.members import Brought, left_out, members_of, said
from trimtab.quantities import judged
from trimtab.records import (
    Arm,
    Comparison,
    Measured,
    Metric,
    Profile,
    RunRecord,
    Series,
    TrainingRecord,
    Treatment,
    Tuning,
)
from trimtab.report.measured import of_profiles, of_series
from trimtab.report.plots import gradient_profile
from trimtab.report.plots.coordinates import coordinates_data, draw_coordinates
from trimtab.report.plots.curves import CurvesData, curves_data, draw_curves, group, quantity
from trimtab.report.plots.heatmap import HeatmapData, draw_heatmap, heatmap_data
from trimtab.report.plots.importances import draw_importances, importances_data
from trimtab.report.plots.search_history import draw_history, history_data
from trimtab.report.plots.seeds import curve_names, seeds_data
from trimtab.report.plots.trade_off import Point, TradeOffData, draw_trade_off, trade_off_data
from trimtab.report.words import cost, importance, percent, spelled

LEADING = 3  # loss, metric and learning rate stand before the profiles, other series behind them
_CURVES = 12
_PROFILES = 12


@dataclass(frozen=True)
class Picture:
    """One figure of the page; ``svg`` is empty when there was nothing to draw, and ``caption`` then says why."""

    key: str
    title: str
    caption: str
    svg: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    shows: tuple[str, ...] = ()


def of_training(
    training: TrainingRecord, key: str, metric: Metric | None, measured: Sequence[Measured] = ()
) -> Iterator[Picture]:
    """Curves of everything that was measured: losses first, then the metric, the learning rate and the rest."""
    groups = group(training.series)
    judged = quantity(metric.name) if metric is not None else ""
    names = sorted(groups, key=lambda name: (name.lower() != "loss", name != judged, name != "lr"))
    if not any(name.lower() == "loss" for name in groups):
        yield Picture(f"{key}-loss", "Loss", "No loss curve: no loss was seen in this training.")
    for number, name in enumerate(names):
        members, known = groups[name], of_series(name, measured)
        data = curves_data(training, members, known.title) if number < _CURVES else None
        if data is not None:
            yield _curves(f"{key}-{number}", data, _curve_caption(data, members, metric, known.meaning))
        elif number < _CURVES:
            yield Picture(f"{key}-{number}", known.title.capitalize(), f"No curve of {name}: the series is empty.")
    if left := names[_CURVES:]:
        yield Picture(
            f"{key}-more", "More series", f"Recorded but not drawn, to keep this page small: {', '.join(left)}."
        )


def profiles_of_training(training: TrainingRecord, key: str, measured: Sequence[Measured] = ()) -> Iterator[Picture]:
    """Heat maps of the known profiles in their order, then of any other that the run recorded."""
    for number, member in enumerate(members_of("plots")):
        yield from _of_others(member, training, key, number)
    for number, member in enumerate(left_out("plots")):
        said_of_it = f"The plot {member.name} of {member.package} is left out: {member.why}."
        yield Picture(f"{key}-no-plot-{number}", member.name, said_of_it)
    drawn = 0
    for one in of_profiles(list(training.profiles), measured):
        name, title = one.name, one.title[:1].upper() + one.title[1:]
        data = _heat(training, name, title, one.share) if drawn < _PROFILES else None
        if data is not None:
            drawn += 1
            caption = _heat_caption(one.meaning, data)
            yield Picture(f"{key}-{name}", title, caption, draw_heatmap(data), shows=_recorded(name))
        elif drawn >= _PROFILES and name in training.profiles:
            yield Picture(f"{key}-{name}", title, "Recorded but not drawn, to keep this page small.", shows=(name,))
        elif one.owed or name in training.profiles:
            yield Picture(
                f"{key}-{name}",
                title,
                f"No {title.lower()}: no sampled step of this run recorded {name!r}.",
                shows=(name,),
            )


def _of_others(member: Brought, training: TrainingRecord, key: str, number: int) -> list[Picture]:
    """The pictures of a plot that another package brings, or what has come of it in their place."""
    try:
        pictures = list(member.thing(training, key))
        for picture in pictures:
            _check(picture)
    except Exception as error:  # of foreign code
        failed = f"The plot {member.name} of {member.package} could not be drawn ({said(error)})."
        return [Picture(f"{key}-plot-{number}", member.name, failed)]
    return pictures


def _check(picture: Picture) -> None:
    """Refuse what is no picture, or one with other things than texts in it."""
    if not isinstance(picture, Picture):
        raise TypeError(f"a plot must give pictures, and gave a {type(picture).__name__}")
    texts = [picture.key, picture.title, picture.caption, picture.svg, *picture.shows]
    if not all(
        isinstance(text, str) for text in (*texts, *(text for name, style in picture.legend for text in (name, style)))
    ):
        raise TypeError(f"the picture {picture.key!r} must hold texts only")


def _heat(training: TrainingRecord, name: str, title: str, share: bool) -> HeatmapData | None:
    if name in gradient_profile.NAMES:
        return gradient_profile.gradient_profile_data(training, title)
    return heatmap_data(training.profiles.get(name, Profile()), title, share)


def _recorded(name: str) -> tuple[str, ...]:
    return gradient_profile.NAMES if name in gradient_profile.NAMES else (name,)


def of_seeds(comparison: Comparison, arm: Arm, key: str) -> Iterator[Picture]:
    """Losses and metric over the seeds, untreated against the arm."""
    names = curve_names(comparison)
    wanted = sorted(names, key=lambda name: (name != comparison.metric.name, quantity(name) != "loss"))
    for number, name in enumerate(wanted[:4]):
        data = seeds_data(comparison, arm.recipe, name)
        if data is not None:
            caption = "Line: mean of the seeds. Band: lowest to highest seed."
            yield _curves(f"{key}-{number}", data, " ".join(filter(None, [caption, _scale_caption(data)])))
    if not names:
        yield Picture(f"{key}-none", "Curves of the trials", "No curves: the trials kept none.")


def of_search(tuning: Tuning) -> Iterator[Picture]:
    """The course of a search, what decided, and where its trials lie; the last one is wide."""
    history = history_data(tuning)
    if history is None:
        yield Picture("search", "Course of the search", "No trial of the search ended with a number.")
        return
    seen = "The dashed line is the untreated run; a pruned trial stands at what it reported last. What has no number, or lies far off, stands at the edge."
    yield Picture("search", "Course of the search", seen, draw_history(history), history.legend)
    shares = importances_data(tuning)
    if shares is not None:
        more = f" {shares.left} axes of less importance are not drawn." if shares.left else ""
        yield Picture("importance", "What decided", importance(tuning) + more, draw_importances(shares))
    else:
        few = "Importances take two axes, ten trials, five of them with a number, and results that differ."
        yield Picture("importance", "What decided", few)
    lines = coordinates_data(tuning)
    if lines is not None:
        more = f" {lines.left} axes of less importance are not drawn." if lines.left else ""
        caption = (
            "Every line is a trial, from its settings to its result; it runs below an axis that its recipe does not have."
            + more
        )
        yield Picture("coordinates", "Trials and their settings", caption, draw_coordinates(lines), lines.legend)


def of_race(treatment: Treatment, run: RunRecord) -> Iterator[Picture]:
    """What the arms of a race gain over the watched run, which is the untreated one, against what they cost."""
    untreated = judged(run, treatment.metric) if treatment.metric is not None else Series()
    data = trade_off_data(treatment, untreated)
    if data is not None:
        yield Picture(
            "trade-off", "What it gains, and what it costs", _trade_off_caption(data), draw_trade_off(data), data.legend
        )


def _trade_off_caption(data: TradeOffData) -> str:
    most = data.points[0]
    lead = next((point for point in data.points if point.recipe == data.winner), most)
    rivals = [point for point in data.points if point.cost < lead.cost and point.gain >= lead.gain]
    if lead.gain <= 0:
        said = (
            "No arm gains over the untreated run"
            if lead is most
            else f"{lead.recipe} does not gain over the untreated run"
        )
    else:
        beside = f"; {_bargain(rivals[0])}" if rivals else "; nothing that is cheaper gains as much"
        dearer = f"; {_bargain(most)}" if most.cost > lead.cost and most.gain > lead.gain else ""
        said = _bargain(lead) + beside + dearer
    missing = [f"{data.unknown} of unknown cost"] * bool(data.unknown)
    missing += [f"{data.lost} that diverged, failed or changed nothing"] * bool(data.lost)
    edge = " Who lost much more than others gained stands at the edge." if data.points[-1].gain < data.gains[0] else ""
    return f"{said}.{edge}" + (f" Not drawn: {', '.join(missing)}." if missing else "")


def _bargain(point: Point) -> str:
    price = cost(point.cost)
    times = "at the cost of an untreated step" if price == "1.0" else f"for {price} times the cost of a step"
    return f"{point.recipe} gains {point.gain:.3g} {times}" + (
        f" after {percent(point.share)} of a run" if point.share < 1 else ""
    )


def _curves(key: str, data: CurvesData, caption: str) -> Picture:
    title = spelled(data.title)
    return Picture(key, title[:1].upper() + title[1:], caption, draw_curves(data), data.legend, data.names)


def _curve_caption(data: CurvesData, members: list[str], metric: Metric | None, tells: str) -> str:
    parts = [tells] if tells else []
    if metric is not None and metric.name in members:
        parts.append(f"The run is judged by {metric.name!r} ({'more' if metric.goal == 'max' else 'less'} is better).")
    if any(len(curve.broken) for curve in data.curves):
        parts.append("Crosses at the top mark steps where the value was not finite.")
    return " ".join(filter(None, [*parts, _scale_caption(data)]))


def _scale_caption(data: CurvesData) -> str:
    return "The axis is linear around 0 and logarithmic beyond." if data.scale == "symlog" else ""


def _heat_caption(caption: str, data: HeatmapData) -> str:
    parts = [caption] if caption else []
    if not data.cells.any():
        parts.append("Every value is 0.")
    if data.broken:
        parts.append("Not finite: orange is NaN (or a layer that was not called), red is infinite.")
    if (data.first != data.last).any():
        parts.append("Each column shows the largest value of several sampled steps.")
    if data.together > 1:
        parts.append(f"Each row shows the largest value of up to {data.together} neighbouring layers.")
    if data.absent:
        names = ", ".join(data.absent[:5]) + (" ..." if len(data.absent) > 5 else "")
        parts.append(f"Not shown, because they never had a number: {names}.")
    return " ".join(parts)
