"""A treatment: what was found, what was tried, what was confirmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.records import Arm, Comparison, Finding, Findings, Metric, Remark, Runner, Treatment, Tuning
from trimtab.report.effects import change
from trimtab.report.outcomes.comparison import comparison_json
from trimtab.report.sentences import sentences
from trimtab.report.telling import Part, Telling
from trimtab.report.words import cost, count, duration, judge, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trimtab.report.tables import Table

_COURSE = """<section><h2>The course of the treatment</h2><ul class="words">{% for sentence in sentences | some %}<li>{{ sentence }}</li>{% endfor %}</ul></section>"""

_RACE = """<section id="race"><h2>Race</h2>
<p class="lead">Every arm ran on one and the same seed, judged by {{ words.judge(treatment.metric, goal=true) }}, {{ level }}; whoever was clearly behind at the same step ran no further. The race picks; only the confirmation on fresh seeds proves.</p>
{% for picture in pictures %}<div class="wide">{{ figure(picture) }}</div>{% endfor %}
<div class="card scroll"><table class="trials attempts">
<thead><tr><th scope="col">recipe</th><th scope="col" class="num">ran</th><th scope="col" class="num">{{ treatment.metric.name | spelled }}</th><th scope="col" class="num"><abbr title="of a step, untreated 1">cost</abbr></th><th scope="col">why no further</th></tr></thead>
<tbody>{% for runner, ran, cost, why in rows | some %}<tr{% if not runner.recipe %} class="baseline"{% elif runner.recipe == treatment.recipe %} class="proven"{% endif %}><th scope="row">{% if runner.recipe %}<code>{{ runner.recipe }}</code>{% else %}untreated{% endif %}</th><td class="num">{{ ran }}</td><td class="num">{{ runner.value | number }}</td><td class="num">{{ cost }}</td><td>{{ why }}</td></tr>
{% endfor %}</tbody></table></div>
</section>"""


class TreatmentTelling(Telling[Treatment]):
    """The effect of what was confirmed, the search and its confirmation in tables, and the course in words."""

    record = Treatment

    def sentence(self, outcome: Treatment, findings: Sequence[Finding]) -> str:
        shown, confirmed = self.headline(outcome), outcome.confirmation is not None
        if outcome.recipe and shown is None:
            return f"{outcome.recipe} was chosen; its effect was not measured"
        if shown is not None:
            seeds = "confirming seed" if confirmed else "searching seed"
            return change(*shown, seeds) + ("" if confirmed else "; not yet confirmed on fresh seeds")
        if not findings:
            return (findings if isinstance(findings, Findings) else Findings()).silence
        raced = sum(bool(runner.recipe) for runner in outcome.race)
        tried = len(outcome.search.arms) if outcome.search is not None else raced
        tale = [
            "no remedy was tried",
            "the remedy tried is not proven to help",
            f"none of the {tried} remedies tried is proven to help",
        ]
        return f"{count(len(findings), 'finding')}; {tale[min(tried, 2)]}"

    def helped(self, outcome: Treatment) -> bool | None:
        shown = self.headline(outcome)
        if not outcome.recipe:  # then what was found is what there is to tell
            return None
        return outcome.confirmation is not None and shown is not None and shown[1].helped

    def exit_code(self, outcome: Treatment, by_verdict: bool = False) -> int:
        needed = any(finding.severity != "info" for finding in outcome.findings)
        return 0 if self.helped(outcome) or not needed else 3

    def headline(self, outcome: Treatment) -> tuple[Comparison, Arm] | None:
        shown = outcome.confirmation or outcome.search
        chosen = [arm for arm in shown.arms if arm.recipe == outcome.recipe] if shown and outcome.recipe else []
        return (shown, chosen[0]) if shown and chosen else None

    def view(self, outcome: Treatment) -> Iterator[RenderableType]:
        from rich.text import Text

        from trimtab.report.blocks import as_text, comparison_view, hanging, to_add

        if outcome.search is not None:
            last = outcome.confirmation is None  # what the statistics can show is said once, below the last table
            yield from (as_text("Search", style="bold"), comparison_view(outcome.search, last, False), Text())
        if outcome.race:
            yield from (as_text("Race on one seed", style="bold"), race_view(outcome), Text())
        if outcome.confirmation is not None:
            yield as_text("Confirmation on fresh seeds", style="bold")
            yield from (comparison_view(outcome.confirmation, lines=False), Text())
        for remark, sentence in zip(outcome.remarks, outcome.words, strict=True):
            if isinstance(remark, Remark) and remark.code == "command":  # it stays on one line, to be copied
                yield as_text(sentence, "cyan", no_wrap=True, overflow="ignore")
            else:
                yield hanging("-", as_text(sentence))
        proven = outcome.confirmation is None or self.helped(outcome)
        yield from to_add(outcome.lines, "" if proven else "to try it, since it is not proven")

    def tables(self, outcome: Treatment) -> Iterator[Table]:
        from trimtab.report.tables import table

        if outcome.confirmation is not None:
            shown = self.headline(outcome) if outcome.confirmation.arms else None
            yield table("trial-1", "Confirmation on fresh seeds", outcome.confirmation, shown)
        if outcome.search is not None:
            shown = self.headline(outcome) if outcome.search.arms else None
            yield table("trial-2", "Search: what was tried", outcome.search, shown, outcome.confirmation is None)

    def decided(self, outcome: Treatment) -> Comparison | None:
        return outcome.confirmation or outcome.search

    def parts(self, outcome: Treatment) -> Iterator[Part]:
        if outcome.race:
            from trimtab.report.figures import of_race

            rows = [
                (runner, ran(runner), cost(runner.cost), " ".join(sentences(runner.why)))
                for runner in furthest_first(outcome)
            ]
            yield Part(
                "race",
                "Race",
                _RACE,
                {"treatment": outcome, "rows": rows, "level": level_of(outcome.metric) if outcome.metric else ""},
                of_run=partial(of_race, outcome),
            )
        if outcome.words:
            yield Part("course", "", _COURSE, {"sentences": outcome.words}, last=True)

    def kept(self, outcome: Treatment) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield outcome.recipe, outcome.lines

    def facts(self, outcome: Treatment) -> Iterator[tuple[str, str]]:
        if outcome.seconds:
            yield "treatment took", duration(outcome.seconds)

    def as_json(self, outcome: Treatment) -> Any:
        return confirmed(outcome)


def race_view(outcome: Treatment) -> RenderableType:
    """Every arm of the race: how far it ran, what it had there, what its steps cost, and why it went no further."""
    from rich.console import Group
    from rich.table import Table as Grid

    from trimtab.report.blocks import as_text

    assert outcome.metric is not None
    table = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("recipe", overflow="fold", ratio=1)
    for heading in ("ran", "value", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for runner in furthest_first(outcome):
        name = as_text(
            runner.recipe or "untreated", style="green" if runner.recipe and runner.recipe == outcome.recipe else ""
        )
        why = " ".join(sentences(runner.why))
        table.add_row(
            name,
            ran(runner),
            number(runner.value),
            cost(runner.cost),
            as_text(why),
            style="" if runner.recipe else "dim",
        )
    return Group(
        as_text(f"{judge(outcome.metric, goal=True)}; {level_of(outcome.metric)}; cost of a step, untreated 1"), table
    )


def level_of(metric: Metric) -> str:
    """Which number of a course is compared."""
    return "the best of a run" if metric.best else "the mean of the last quarter of what was seen of a run"


def ran(runner: Runner) -> str:
    """How far an arm was let run; nothing where it was refused, or never came to a number."""
    return "" if runner.status in ("failed", "no_effect") else percent(runner.share)


def furthest_first(outcome: Treatment) -> list[Runner]:
    """The arms of a race: the untreated one, then who ran furthest, the best first."""
    assert outcome.metric is not None
    sign = -1 if outcome.metric.goal == "max" else 1

    def place(runner: Runner) -> tuple:
        return bool(runner.recipe), runner.status != "ok", -runner.share, sign * runner.value

    return sorted(outcome.race, key=place)


def confirmed(outcome: Treatment | Tuning) -> dict[str, Any]:
    """A recipe that was looked for, and its effect on fresh seeds, as JSON has it."""
    arms = outcome.confirmation.arms if outcome.confirmation else ()
    arm = next((arm for arm in arms if arm.recipe == outcome.recipe), None)
    return {
        "recipe": outcome.recipe,
        "metric": outcome.metric,
        "effect": arm.effect if arm else None,
        "low": arm.low if arm else None,
        "high": arm.high if arm else None,
        "seeds": arm.seeds if arm else (),
        "proven": bool(arm and arm.proven),
        "standing": arm.standing if arm else None,
        "confirmation": comparison_json(outcome.confirmation) if outcome.confirmation else None,
        "search": comparison_json(outcome.search) if isinstance(outcome.search, Comparison) else outcome.search,
        "race": getattr(outcome, "race", ()),
        "lines": outcome.lines,
        "words": outcome.words,
        "remarks": outcome.remarks,
    }
