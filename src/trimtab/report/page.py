"""The report as one HTML file that needs nothing else: no network, no other file, light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from trimtab.quantities import value
from trimtab.records import Arm, Comparison, Finding, Outcome, RunRecord, TrainingRecord, Treatment, Tuning
from trimtab.report import figures, words
from trimtab.report.figures import Picture
from trimtab.report.files import write_whole
from trimtab.report.plots.trials import draw_axis, draw_trials, trials_data
from trimtab.report.verdict import headline, of_outcome, tone, verdict

BEST = 10  # trials of a search that are listed
LARGEST = 1_500_000  # bytes of a page; what would exceed it is named, not drawn
TEXTS = 400_000  # bytes that a page has without its pictures
# How many letters of a text and items of a list are shown: the first of these with which the texts of a page have room.
SHOWN = ((20_000, 100), (2_000, 50), (300, 20), (100, 5))
UNDRAWN = "Not drawn, to keep this page small; the record of the run has it."


@dataclass(frozen=True)
class Section:
    """The pictures of one training."""

    training: TrainingRecord
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Table:
    """One comparison: its rows with their strips, and the curves of its best arm."""

    title: str
    comparison: Comparison
    rows: tuple[tuple[Arm, str], ...]
    axis: str
    pictures: tuple[Picture, ...]
    said: str = ""


def write_page(
    path: str | Path,
    run: RunRecord,
    findings: Sequence[Finding] = (),
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
    earlier: Sequence[Outcome] = (),
) -> Path:
    """Write the report of a run to ``path`` and return the path. A reader never sees a half-written file.

    ``earlier`` is what was tried on the same run before: it stands further down on the page.
    """
    path = Path(path)
    text = page(run, findings, treatment, comparison, tuning, earlier)
    write_whole(path, text.encode("utf-8", errors="replace"))
    return path


def page(
    run: RunRecord,
    findings: Sequence[Finding] = (),
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
    earlier: Sequence[Outcome] = (),
) -> str:
    """The whole page as text, of 1.5 MB at most: of long texts and lists the beginning is shown, and pictures while there is room."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    room = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.tests["finite"] = math.isfinite
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "effect": words.effect,
        "spelled": words.spelled,
    }
    findings = findings or (treatment.findings if treatment is not None else ()) or findings
    tables = (*_tables(treatment, comparison, tuning), *_earlier(run, earlier))
    searched = tuple(figures.of_search(tuning)) if tuning is not None else ()
    shown = headline(treatment, comparison, tuning)
    outcome = tuning or treatment or comparison
    metric = outcome.metric if outcome is not None else run.metric
    template = (room / "page.html").read_text(encoding="utf-8")
    style, script = (Markup((room / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))

    def rendered(short: _Short, left: int) -> str:
        left, drawn = _while_room(searched, left)
        in_tables = []
        for table in tables:
            left, pictures = _while_room(table.pictures, left)
            in_tables.append(replace(table, pictures=pictures))
        sections = tuple(_sections(run, left, short.items))
        environment.finalize, environment.filters["some"] = short.text, short.some
        return environment.from_string(template).render(
            run=run, findings=words.by_severity(findings), treatment=treatment, tuning=tuning, searched=drawn, tables=in_tables,
            sections=sections, kept=_kept(treatment, comparison, tuning), short=short,
            leading=words.leading(tuning.attempts, tuning.metric, BEST) if tuning is not None else (),
            main=next((section for section in sections if section.training is run.main), None),
            verdict=verdict(run, findings, treatment, comparison, tuning), tone=tone(run, findings, treatment, comparison, tuning),
            before=words.baseline_mean(*shown) if shown else None, headline=shown, places=words.decimals(shown[1]) if shown else 2,
            judged_by=words.judged_by(metric, run.hints) if run.trainings or outcome is not None else "",
            alone=metric is None or metric.name == "loss", reached=value(run, run.metric) if run.metric is not None else math.nan,
            anchors=_anchors(sections), words=words, started=words.moment(run.started), style=style, script=script,
        )  # fmt: skip

    for letters, items in SHOWN:
        texts = len(rendered(_Short(letters, items), 0).encode(errors="replace"))
        if texts <= TEXTS:
            break
    return rendered(_Short(letters, items), LARGEST - texts - 20_000)  # for the lines that stand for pictures


class _Short:
    """Shows the beginning of what is long, and knows whether something was."""

    def __init__(self, letters: int, items: int) -> None:
        self.letters, self.items, self.cut = letters, items, False

    def text(self, value: object) -> object:
        if type(value) is not str:
            return value
        self.cut |= len(value) > self.letters
        return words.printable(value if len(value) <= self.letters else f"{value[: self.letters]} ...")

    def some(self, items: Iterable) -> list:
        listed = list(items)
        self.cut |= len(listed) > self.items
        return listed[: self.items]


def _while_room(pictures: Sequence[Picture], left: int) -> tuple[int, tuple[Picture, ...]]:
    """Pictures until so many bytes are spent, and what is left; for the others stands a line."""
    kept = []
    for picture in pictures:
        size = len(picture.svg.encode()) + len(picture.caption) + 2 * sum(len(name) + 100 for name, _ in picture.legend)
        fits = not picture.svg or size <= left
        left -= size if fits else 0
        kept.append(picture if fits else replace(picture, svg="", legend=(), caption=UNDRAWN))
    return left, tuple(kept)


def _kept(
    treatment: Treatment | None, comparison: Comparison | None, tuning: Tuning | None
) -> list[tuple[str, tuple[str, ...]]]:
    """What is proven, with the lines that keep it."""
    found = [(one.recipe, one.lines) for one in (tuning, treatment) if one is not None][:1]
    found += [(arm.recipe, arm.lines) for arm in words.helped(comparison)] if comparison is not None else []
    return [(recipe, lines) for recipe, lines in found if lines]


def _tables(treatment: Treatment | None, comparison: Comparison | None, tuning: Tuning | None) -> Iterator[Table]:
    shown = [("Comparison", comparison)]
    if treatment is not None:
        shown += [("Confirmation on fresh seeds", treatment.confirmation), ("Search: what was tried", treatment.search)]
    if tuning is not None and tuning.confirmation is not None:
        yield _table(
            "tuned", "Confirmation of the search on fresh seeds", tuning.confirmation, headline(None, None, tuning)
        )
    for number, (title, part) in enumerate(shown):
        if part is None:
            continue
        chosen = headline(treatment if part is not comparison else None, part) if part.arms else None
        curves = number < 2 or treatment is None or treatment.confirmation is None
        yield _table(f"trial-{number}", title, part, chosen, curves)


def _earlier(run: RunRecord, outcomes: Sequence[Outcome]) -> Iterator[Table]:
    """The last table of each, with what it came to."""
    for number, outcome in enumerate(outcomes):
        kind, shown = type(outcome).__name__.lower(), words.last_table(outcome)
        if shown is not None:
            table = _table(f"earlier-{number}", f"Earlier: {kind}", shown, None, curves=False)
            yield replace(table, said=of_outcome(run, outcome))


def _table(
    key: str, title: str, comparison: Comparison, chosen: tuple[Comparison, Arm] | None, curves: bool = True
) -> Table:
    data = trials_data(comparison)
    arms = comparison.arms[: SHOWN[0][1]]
    strips = [draw_trials(data, row) if data is not None else "" for row in range(len(arms))]
    pictures = tuple(figures.of_seeds(comparison, chosen[1], key)) if chosen is not None and curves else ()
    rows = tuple(zip(arms, strips, strict=True))
    return Table(title, comparison, rows, draw_axis(data) if data is not None else "", pictures)


def _sections(run: RunRecord, left: int, most: int) -> Iterator[Section]:
    """The trainings with the most steps first; once a picture has no room, a line stands for those of all others."""
    for number, training in enumerate(sorted(run.trainings, key=lambda training: -training.steps)[:most]):
        if left <= 0:
            yield Section(training, (Picture(f"t{number}-none", "Curves", UNDRAWN),))
            continue
        curves = tuple(figures.of_training(training, f"t{number}", run.metric, run.measured))
        profiles = tuple(figures.profiles_of_training(training, f"t{number}", run.measured))
        left, pictures = _while_room((*curves[: figures.LEADING], *profiles, *curves[figures.LEADING :]), left)
        if any(picture.caption == UNDRAWN for picture in pictures):
            left = 0
        yield Section(training, pictures)


def _anchors(sections: Sequence[Section]) -> dict[tuple[str, str], str]:
    """Where a series or profile is drawn: ``(training, name)`` to the key of its picture."""
    found: dict[tuple[str, str], str] = {}
    for section in reversed(sections):
        for picture in section.pictures:
            for name in picture.shows if picture.svg else ():
                found[section.training.name, name] = found["", name] = picture.key
    return found
