"""Outcomes: what they came to is said alike everywhere, and another kind of them is one file."""

import io
import math

import pytest
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from trimtab.cli.telling import as_json
from trimtab.records import Comparison, Outcome, RunRecord, Story, to_json
from trimtab.report import sample
from trimtab.report.outcomes import telling_of
from trimtab.report.page import page
from trimtab.report.telling import Part, Telling
from trimtab.report.terminal import summary
from trimtab.report.verdict import tone, verdict
from trimtab.store import Store
from trimtab.testing import check_outcome

RUN = sample.run(50, sick=False)
PROVEN = sample.comparison()
ARM = PROVEN.arms[0]
ARMS = {
    "proven": ARM,
    "rescued": replace(ARM, differences=(), effect=math.nan, low=math.nan, high=math.nan),
    "unclear": replace(ARM, low=-0.1),
    "worse": replace(ARM, effect=-0.2, low=-0.3, high=-0.1),
    "lost": replace(ARM, failed=1),
}


def outcomes(standing: str) -> list[Outcome]:
    """What each command gives where its only recipe ended so."""
    arm = ARMS[standing]
    assert arm.standing == standing
    baseline = (math.nan,) * 5 if standing == "rescued" else PROVEN.baseline
    compared = replace(PROVEN, arms=(arm,), baseline=baseline)
    won = arm.recipe if arm.helped else ""
    return [
        compared,
        replace(sample.treatment(), recipe=arm.recipe, confirmation=compared),
        replace(sample.tuning(), recipe=won, confirmation=compared),
    ]


def colour(story: Story) -> str:
    console = Console(record=True, width=200, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(summary(story))
    first = console.export_text(styles=True).split("\n")[0]
    return "good" if "\x1b[1;32m" in first else "bad" if "\x1b[1;31m" in first else "plain"


@pytest.mark.parametrize("standing", ARMS)
def test_exit_code_tones_and_verdict_agree(standing):
    for outcome in outcomes(standing):
        story = Story(RUN, (), outcome)
        helped = ARMS[standing].helped
        assert telling_of(outcome).helped(outcome) == helped
        assert telling_of(outcome).exit_code(outcome) == (0 if helped or isinstance(outcome, Comparison) else 3)
        assert tone(story) == colour(story) == ("good" if helped else "plain")
        assert f'<section class="hero {tone(story)}"' in page(story)
        said = verdict(story)
        assert ("not proven" in said or "made things worse" in said or "None of" in said) == (not helped), said


class Promise(Outcome):
    """A fourth kind of outcome: a number that was promised, and whether it came."""

    wanted: float
    came: float

    @property
    def variant(self) -> str:
        return f"{self.wanted:g}"


class PromiseTelling(Telling[Promise]):
    record = Promise

    def sentence(self, outcome, findings):
        return f"{outcome.wanted:g} was promised, and {outcome.came:g} came"

    def helped(self, outcome):
        return outcome.came >= outcome.wanted

    def view(self, outcome):
        yield Text(f"promised: {outcome.wanted:g}")

    def parts(self, outcome):
        yield Part(
            "promise",
            "Promise",
            "<section id='promise'><b>{{ words.number(wanted) }}</b></section>",
            {"wanted": outcome.wanted},
        )


def test_a_fourth_kind_of_outcome_is_one_file(tmp_path):
    kept, broken = (
        Promise(subject="train.py", wanted=0.9, came=0.95),
        Promise(subject="train.py", wanted=0.99, came=0.95),
    )
    with Store(tmp_path) as store:
        store.put_run(RUN, finished=True)
        for one in (kept, broken, sample.comparison()):
            store.put_outcome(RUN.id, one)
        found = store.outcomes(RUN.id)
    assert {type(one) for one in found} == {Promise, Comparison} and kept in found and broken in found
    story = Story(RUN, (), kept, [one for one in found if one != kept])
    assert verdict(story) == "0.9 was promised, and 0.95 came" and tone(story) == colour(story) == "good"
    assert tone(replace_outcome(story, broken)) == "plain"
    text = io.StringIO()
    Console(file=text, width=100).print(summary(story))
    assert "promised: 0.9" in text.getvalue()
    assert "Tried earlier on this run: 0.99 was promised, and 0.95 came." in text.getvalue()
    made = page(story)
    assert '<a href="#promise">Promise</a>' in made and "<b>0.9</b>" in made and "Earlier: comparison" in made
    assert b'"promise"' in to_json(as_json(story))


@pytest.mark.parametrize(
    "outcome", [sample.comparison(), sample.treatment(), sample.tuning(), Promise(subject="s", wanted=1.0, came=0.5)]
)
def test_an_outcome_holds_what_all_outcomes_hold(outcome):
    check_outcome(outcome)


def replace_outcome(story: Story, outcome: Outcome) -> Story:
    return Story(story.run, story.findings, outcome, story.earlier)


def test_what_nobody_can_tell_is_said():
    class Dream(Outcome):
        """No telling."""

    with pytest.raises(TypeError, match=r"Nobody knows how to tell a Dream\. Derive a class"):
        verdict(Story(RunRecord(id="r", subject="s"), (), Dream(subject="s")))
