"""A tuning: a search over a space of recipes, or of flags, and what of it was confirmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.records import Arm, Comparison, Finding, Tuning
from trimtab.report.effects import change
from trimtab.report.outcomes.treatment import confirmed
from trimtab.report.telling import Part, Telling
from trimtab.report.words import count, duration, importance, judge, leading, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trimtab.report.tables import Table

BEST = 5  # trials of the search, and axes of it, that the terminal shows
LISTED = 10  # and the page

_SEARCH = """<section id="search"><h2>Search</h2>
<p class="lead">{{ words.count(tuning.attempts | length, "trial") }} of the space below on one seed, judged by {{ words.judge(tuning.metric, goal=true) }}. The search picks; only the confirmation on fresh seeds proves.</p>
<ul class="space">{% for text in tuning.search | some %}<li><code>{{ text }}</code></li>{% endfor %}</ul>
<div class="grid">{% for picture in pictures[:2] %}{{ figure(picture) }}{% endfor %}</div>
{% for picture in pictures[2:] %}<div class="wide">{{ figure(picture) }}</div>{% endfor %}
{% if leading %}
<div class="card scroll"><table class="trials attempts">
<thead><tr><th scope="col">the best of the search</th><th scope="col" class="num">{{ tuning.metric.name | spelled }}</th><th scope="col" class="num">time</th></tr></thead>
<tbody>
<tr class="baseline"><th scope="row">untreated</th><td class="num">{{ tuning.untreated | number }}</td><td></td></tr>
{% for attempt in leading %}<tr{% if attempt.recipe == tuning.recipe %} class="proven"{% endif %}><th scope="row"><code>{{ attempt.recipe }}</code></th><td class="num">{{ attempt.value | number }}</td><td class="num">{{ attempt.seconds | duration }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if tuning.words %}<ul class="words">{% for sentence in tuning.words | some %}<li>{{ sentence }}</li>{% endfor %}</ul>{% endif %}
</section>"""


class TuningTelling(Telling[Tuning]):
    """The effect of the winner, the best of the search, what decided, and the confirmation in a table."""

    record = Tuning

    def sentence(self, outcome: Tuning, findings: Sequence[Finding]) -> str:
        shown, tried = self.headline(outcome), sum(bool(attempt.recipe) for attempt in outcome.attempts)
        if shown is None:
            none = f"None of {count(tried, _noun(outcome))} tried was better than the script as it is"
            return none if tried else f"No {_noun(outcome)} was tried"
        comparison, arm = shown
        if outcome.recipe or len(comparison.arms) == 1:
            return change(comparison, arm, "confirming seed")
        which = f"None of the {len(comparison.arms)} {_noun(outcome)}s confirmed is proven to help"
        return f"{which}; the best: {change(comparison, arm, 'confirming seed')}"

    def helped(self, outcome: Tuning) -> bool:
        return bool(outcome.recipe)

    def headline(self, outcome: Tuning) -> tuple[Comparison, Arm] | None:
        shown = outcome.confirmation
        if shown is None or shown.best is None:
            return None
        return shown, next((arm for arm in shown.arms if arm.recipe == outcome.recipe), shown.best)

    def view(self, outcome: Tuning) -> Iterator[RenderableType]:
        from rich.text import Text

        from trimtab.report.blocks import as_text, comparison_view, hanging, to_add

        yield from (as_text("Search", style="bold"), _attempts(outcome), Text())
        if outcome.importances:
            ranked = sorted(outcome.importances.items(), key=lambda item: -item[1])[:BEST]
            decided = ", ".join(f"{name} {percent(share)}" for name, share in ranked)
            yield from (
                hanging("-", as_text(importance(outcome))),
                hanging(" ", as_text(decided, style="cyan")),
                Text(),
            )
        if outcome.confirmation is not None:
            yield as_text("Confirmation on fresh seeds", style="bold")
            yield from (comparison_view(outcome.confirmation, lines=False), Text())
        yield from (hanging("-", as_text(sentence)) for sentence in outcome.words)
        yield from to_add(outcome.lines, edit=_noun(outcome) == "setting")

    def tables(self, outcome: Tuning) -> Iterator[Table]:
        from trimtab.report.tables import table

        if outcome.confirmation is not None:
            title = "Confirmation of the search on fresh seeds"
            yield table("tuned", title, outcome.confirmation, self.headline(outcome))

    def decided(self, outcome: Tuning) -> Comparison | None:
        return outcome.confirmation

    def parts(self, outcome: Tuning) -> Iterator[Part]:
        from trimtab.report.figures import of_search

        values = {"tuning": outcome, "leading": leading(outcome.attempts, outcome.metric, LISTED)}
        yield Part("search", "Search", _SEARCH, values, tuple(of_search(outcome)))

    def kept(self, outcome: Tuning) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield outcome.recipe, outcome.lines

    def facts(self, outcome: Tuning) -> Iterator[tuple[str, str]]:
        if outcome.seconds:
            yield "search took", duration(outcome.seconds)

    def as_json(self, outcome: Tuning) -> Any:
        return confirmed(outcome) | {
            "untreated": outcome.untreated,
            "importances": outcome.importances,
            "attempts": outcome.attempts,
        }


def _noun(tuning: Tuning) -> str:
    """What was searched for."""
    return "setting" if "".join(tuning.search[:1]).startswith("-") else "recipe"


def _attempts(tuning: Tuning) -> RenderableType:
    from rich.console import Group
    from rich.table import Table as Grid

    from trimtab.report.blocks import as_text

    name = judge(tuning.metric)
    title = as_text(f"{name} on the seed of the search, the best of {count(len(tuning.attempts), 'trial')}")
    table = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_noun(tuning), overflow="fold", ratio=1)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_row("untreated", number(tuning.untreated), "", style="dim")
    for attempt in leading(tuning.attempts, tuning.metric, BEST):
        table.add_row(as_text(attempt.recipe), number(attempt.value), duration(attempt.seconds))
    return Group(title, table)
