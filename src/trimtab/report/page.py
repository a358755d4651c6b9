"""The report as one HTML file that needs nothing else: no network, no other file, light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from trimtab.quantities import value
from trimtab.records import Outcome, RunRecord, Story, TrainingRecord
from trimtab.report import figures, words
from trimtab.report.effects import other_numbers
from trimtab.report.figures import Picture
from trimtab.report.files import write_whole
from trimtab.report.outcomes import telling_of
from trimtab.report.tables import Table, table
from trimtab.report.verdict import of_outcome, tone, verdict

LARGEST = 1_500_000  # bytes of a page; what would exceed it is named, not drawn
TEXTS = 400_000  # bytes that a page has without its pictures
# How many letters of a text and items of a list are shown: the first of these with which the texts of a page have room.
SHOWN = ((20_000, 100), (2_000, 50), (300, 20), (100, 5))
_MACROS = '{% import "macros.html" as macros with context %}{% set figure, code = macros.figure, macros.code %}\n'
UNDRAWN = "Not drawn, to keep this page small; the record of the run has it."


@dataclass(frozen=True)
class Section:
    """The pictures of one training."""

    training: TrainingRecord
    pictures: tuple[Picture, ...]


def write_page(path: str | Path, story: Story | RunRecord) -> Path:
    """Write the report of a run to ``path`` and return the path. A reader never sees a half-written file.

    What was tried earlier on the same run stands further down on the page.
    """
    path = Path(path)
    write_whole(path, page(story).encode("utf-8", errors="replace"))
    return path


def page(story: Story | RunRecord) -> str:
    """The whole page as text, of 1.5 MB at most: of long texts and lists the beginning is shown, and pictures while there is room."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    story = story if isinstance(story, Story) else Story(story)
    run, outcome = story.run, story.outcome
    room = files(__package__)
    macros = (room / "macros.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({"macros.html": macros}),
    )
    environment.tests["finite"] = math.isfinite
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "effect": words.effect,
        "spelled": words.spelled,
    }
    kind = telling_of(outcome) if outcome is not None else None
    tables = (*(kind.tables(outcome) if kind is not None else ()), *_earlier(story.earlier))
    parts = [(part, (*part.pictures, *part.of_run(run))) for part in (kind.parts(outcome) if kind is not None else ())]
    shown = kind.headline(outcome) if kind is not None else None
    metric = story.metric
    template = (room / "page.html").read_text(encoding="utf-8")
    style, script = (Markup((room / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))

    def rendered(short: _Short, left: int) -> str:
        environment.finalize, environment.filters["some"] = short.text, short.some
        own = []
        for part, drawn in parts:
            left, pictures = _while_room(drawn, left)
            text = f"{_MACROS}{part.template}"
            html = environment.from_string(text).render(part.values, pictures=pictures, words=words)
            own.append({"key": part.key, "title": part.title, "last": part.last, "html": Markup(html)})
        in_tables = []
        for one in tables:
            left, pictures = _while_room(one.pictures, left)
            in_tables.append(replace(one, pictures=pictures))
        sections = tuple(_sections(run, left, short.items))
        return environment.from_string(_MACROS + template).render(
            run=run, findings=words.by_severity(story.found), unable=getattr(story.found, "unable", ""), tables=in_tables, parts=own,
            facts=tuple(kind.facts(outcome)) if kind is not None else (),
            sections=sections, kept=[one for one in (kind.kept(outcome) if kind is not None else ()) if one[1]], short=short,
            main=next((section for section in sections if section.training is run.main), None),
            verdict=verdict(story), tone=tone(story),
            edits=shown is not None and words.arm_noun(shown[0]) == "arm",
            before=words.baseline_mean(*shown) if shown else None, headline=shown, places=words.decimals(shown[1]) if shown else 2,
            judged_by=words.judged_by(metric, run.hints) if run.trainings or outcome is not None else "",
            alone=metric is None or metric.name == "loss", reached=value(run, run.metric) if run.metric is not None else math.nan,
            anchors=_anchors(sections), words=words, other_numbers=other_numbers, started=words.moment(run.started), style=style, script=script,
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


def _earlier(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    """The last table of each, with what it came to."""
    for number, outcome in enumerate(outcomes):
        if (shown := telling_of(outcome).decided(outcome)) is not None:
            made = table(f"earlier-{number}", f"Earlier: {outcome.kind()}", shown, None, curves=False)
            yield replace(made, said=of_outcome(outcome))


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
