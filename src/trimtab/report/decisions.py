"""A ledger of decisions as a table for a terminal, and as a page: what was tried, what is kept, by how much, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from trimtab.ledger import Decision
from trimtab.report.blocks import as_text
from trimtab.report.figures import Picture
from trimtab.report.files import write_whole
from trimtab.report.plots.known import draw_known, known_data
from trimtab.report.words import count, duration, fixed, moment, number, printable, spelled

_STYLE = {"better": "green", "worse": "red"}
MOST = 500  # rows of a page


def said(decisions: Sequence[Decision]) -> str:
    """One sentence on all of them."""
    kept = [decision for decision in decisions if decision.kept]
    ended = [decision for decision in decisions if decision.ended]
    runs, seconds = sum(one.runs for one in decisions), math.fsum(one.seconds for one in decisions)
    cost = f"{count(runs, 'run')}, {duration(seconds)}"
    open_ = len(decisions) - len(ended)
    return (
        f"{len(kept)} of {count(len(ended), 'decision')} kept, and with probability 0.95 none of these falsely; {cost}"
        f"{f'; {open_} not ended' if open_ else ''}"
    )


def decisions_view(decisions: Sequence[Decision]) -> RenderableType:
    """A row for each decision."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    rows.add_column("", justify="right", no_wrap=True)
    rows.add_column("tried", overflow="fold", ratio=1)
    rows.add_column("verdict", no_wrap=True)
    for heading in ("effect [95 %]", "may err", "runs", "time"):
        rows.add_column(heading, justify="right", no_wrap=True)
    for one in decisions:
        numbers = effect(one), number(one.alpha), str(one.runs), duration(one.seconds)
        style = _STYLE.get(one.verdict, "") if one.ended else "dim"
        rows.add_row(str(one.number), as_text(one.arm), word(one), *numbers, style=style)
    return Group(as_text(said(decisions), style="bold"), rows)


def word(decision: Decision) -> str:
    """What was decided."""
    words = {"better": "kept", "undecided": "not kept"}
    return words.get(decision.verdict, decision.verdict) if decision.ended else "not ended"


def effect(decision: Decision) -> str:
    """The effect with its interval."""
    if not math.isfinite(decision.effect):
        return ""
    half = (decision.high - decision.low) / 2
    size = half if math.isfinite(half) and half > 0 else abs(decision.effect)
    places = max(0, 1 - math.floor(math.log10(size))) if size else 2
    text = fixed(decision.effect, places, sign=True)
    return f"{text} [{fixed(decision.low, places)}, {fixed(decision.high, places)}]" if math.isfinite(half) else text


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,"><title>{{ name }} - trimtab</title><style>{{ style }}</style></head><body><main>
<section class="hero {{ 'good' if kept else 'plain' }}"><p class="eyebrow">{{ name }}{% if decisions %}<span>{{ moment(decisions[-1].began) }}</span>{% endif %}</p>
<h1>{{ sentence }}</h1></section>
{% if picture %}<section><h2>What is really known</h2><div class="grid">{{ figure(picture) }}</div></section>{% endif %}
<section><h2>Decisions</h2><div class="card scroll"><table class="trials">
<thead><tr><th scope="col" class="num"></th><th scope="col">tried</th><th scope="col" class="nowrap">verdict</th><th scope="col" class="nowrap">effect</th><th scope="col">script</th><th scope="col">number</th><th scope="col" class="num"><abbr title="the probability with which it may be kept falsely">may err</abbr></th><th scope="col" class="num">seeds</th><th scope="col" class="num">runs</th><th scope="col" class="num">time</th></tr></thead>
<tbody>{% for one in shown %}<tr{% if one.kept %} class="proven"{% endif %}><td class="num">{{ one.number }}</td><th scope="row"><code>{{ one.arm }}</code>{% if one.kept and one.lines %}<details><summary>keep it</summary><pre><code>{{ one.lines | join("\n") }}</code></pre></details>{% endif %}</th><td class="verdict {{ one.verdict }}">{{ word(one) }}</td><td class="nowrap">{{ effect(one) }}</td><td><code>{{ one.subject }}</code></td><td>{{ spelled(one.metric) if one.metric }}</td><td class="num">{{ one.alpha | number }}</td><td class="num">{{ one.seeds }}</td><td class="num">{{ one.runs }}</td><td class="num nowrap">{{ duration(one.seconds) }}</td></tr>
{% endfor %}</tbody></table></div>
{% if decisions | length > shown | length %}<p>The last {{ shown | length }} of {{ decisions | length }}.</p>{% endif %}
</section></main><script>{{ script }}</script></body></html>"""


def write_decisions(path: str | Path, name: str, decisions: Sequence[Decision]) -> Path:
    """The page of a ledger as one file that needs nothing else."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    room = files(__package__)
    macros = (room / "macros.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, loader=DictLoader({"macros.html": macros}), finalize=_printable
    )
    environment.filters |= {"number": number, "some": list}
    data = known_data(decisions)
    caption = (
        "Of the script that was decided on last. The line is the mean of the metric under the best that is kept, with the bounds of its effect beside what the script was then. Points are edits "
        "as they looked when they were decided on; those far off stand at the edge."
    )
    picture = (
        Picture("known", "What is kept, decision by decision", caption, draw_known(data), data.legend) if data else None
    )
    style, script = (Markup((room / file).read_text(encoding="utf-8")) for file in ("page.css", "page.js"))
    template = environment.from_string(
        '{% import "macros.html" as macros with context %}{% set figure = macros.figure %}' + _PAGE
    )
    text = template.render(
        name=name, decisions=decisions, shown=list(decisions)[-MOST:], picture=picture, sentence=said(decisions), style=style, script=script,
        kept=any(one.kept for one in decisions), effect=effect, word=word, duration=duration, spelled=spelled, moment=moment,
    )  # fmt: skip
    write_whole(Path(path), text.encode("utf-8", errors="replace"))
    return Path(path)


def _printable(value: object) -> object:
    return printable(value) if type(value) is str else value
