"""The noise of a subject: how much its number moves, and what difference can be seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.quantities import of_other
from trimtab.records import Finding, Noise, Spread
from trimtab.report.effects import blind
from trimtab.report.telling import Part, Telling
from trimtab.report.words import count, judge, number

if TYPE_CHECKING:
    from rich.console import RenderableType

PARTS = {"all": "all that is random", "init": "initialization alone", "order": "order alone"}
ALIKE = 0.002  # relative: standard deviations that are those of one number, or of the same in percent
SAID = 5  # seeds of which the sentence says what they show

_NOISE = """<section id="noise"><h2>Noise</h2>
<p class="lead">How much {{ words.judge(noise.metric, goal=true) }} of the untreated subject moves: its standard deviation over seeds, with the 95 % interval.</p>
<div class="card scroll"><table class="trials">
<thead><tr><th scope="col">what varies</th><th scope="col" class="num">mean</th><th scope="col">moves by</th><th scope="col" class="num">seeds</th><th scope="col">lost seeds</th></tr></thead>
<tbody>{% for row in rows | some %}<tr><th scope="row">{{ row[0] }}</th><td class="num">{{ row[1] }}</td><td class="nowrap">{{ row[2] }}</td><td class="num">{{ row[3] }}</td><td>{{ row[4] or "none" }}</td></tr>
{% endfor %}</tbody></table></div>
<ul class="words">{% for line in lines | some %}<li>{{ line }}</li>{% endfor %}</ul>
</section>"""


class NoiseTelling(Telling[Noise]):
    """How much the number moves, by parts in a table, and what few seeds can show."""

    record = Noise

    def sentence(self, outcome: Noise, findings: Sequence[Finding]) -> str:
        everything, metric = outcome.spreads[0], judge(outcome.metric)
        seeds = count(len(everything.values), "seed")
        if len(everything.values) < 2:
            return f"How much {metric} moves is not known: {seeds} of {len(outcome.seeds)} ended with a number"
        if everything.sd == 0:
            return f"{metric} is {number(everything.mean)} on all of {seeds}{blind(outcome.metric)}"
        seen = _rounded(outcome.smallest[SAID])
        return f"{metric} moves by {moves(everything)} from seed to seed; with {SAID} seeds a difference of {seen} can be seen{blind(outcome.metric)}"

    def view(self, outcome: Noise) -> Iterator[RenderableType]:
        from rich.table import Table as Grid

        from trimtab.report.blocks import as_text, hanging

        rows = list(_rows(outcome))
        yield as_text(f"{judge(outcome.metric, goal=True)}, {count(len(outcome.seeds), 'seed')}")
        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        headings = ["what varies", "mean", "moves by [95 %]", "seeds", *["lost seeds"] * any(row[-1] for row in rows)]
        for heading in headings:
            grid.add_column(heading, justify="left" if heading in ("what varies", "lost seeds") else "right")
        for row in rows:
            grid.add_row(*map(as_text, row[: len(headings)]))
        yield grid
        for line in _lines(outcome):
            yield hanging("-", as_text(line))

    def parts(self, outcome: Noise) -> Iterator[Part]:
        values = {"noise": outcome, "rows": list(_rows(outcome)), "lines": list(_lines(outcome))}
        yield Part("noise", "Noise", _NOISE, values)

    def as_json(self, outcome: Noise) -> Any:
        return msgspec.structs.asdict(outcome) | {"words": outcome.words}


def moves(spread: Spread) -> str:
    """A standard deviation with its interval: ``0.021 [0.015, 0.034]``."""
    if not math.isfinite(spread.high):
        return _rounded(spread.sd)
    return f"{_rounded(spread.sd)} [{_rounded(spread.low)}, {_rounded(spread.high)}]"


def _rounded(value: float) -> str:
    """Two digits: of ten seeds a standard deviation is known to within a half."""
    return number(float(f"{value:.2g}"))


def _rows(outcome: Noise) -> Iterator[tuple[str, ...]]:
    for spread in outcome.spreads:
        seeds = str(len(spread.values))
        yield PARTS[spread.part], number(spread.mean), moves(spread), seeds, ", ".join(map(str, spread.lost))


def _lines(outcome: Noise) -> Iterator[str]:
    """What few seeds show, how much the other numbers move, and the remarks."""
    if outcome.spreads[0].sd > 0:
        seen = (f"{_rounded(size)} with {seeds} seeds" for seeds, size in outcome.smallest.items())
        yield f"The smallest difference between two versions that can be seen: {', '.join(seen)}."
    if others := list(_others(outcome)):
        yield f"The other numbers move by: {'; '.join(others)}."
    yield from outcome.words


def _others(outcome: Noise) -> Iterator[str]:
    """The other numbers, those left out that show one that was told."""
    told = [outcome.spreads[0].sd]
    for name, sd in outcome.spreads[0].others.items():
        if any(math.isclose(times * sd, one, rel_tol=ALIKE) for one in told for times in (1, 100, 0.01)):
            continue
        told.append(sd)
        yield f"{judge(of_other(outcome.metric, name))} {_rounded(sd)}"
