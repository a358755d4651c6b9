"""The terminal's views, compared whole with ``summary_*.txt`` beside this file.

When a view is meant to change, read the new text and put it there.
"""

import io
import math
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console, Group, RenderableType

from trimtab.records import Arm, Comparison, Metric, Story
from trimtab.report import comparison_view, findings_view, sample, summary
from trimtab.report.outcomes import telling_of

HERE = Path(__file__).parent
SHOWN = {
    "treated": Story(sample.run(), sample.findings(), sample.treatment()),
    "compared": Story(sample.run(), (), sample.search()),
    "tuned": Story(sample.run(), (), sample.tuning()),
    "clean": Story(sample.run(sick=False)),
}


def rendered(view: RenderableType, width: int = 100) -> str:
    console = Console(width=width, record=True, no_color=True, file=io.StringIO())
    console.print(view)
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())


@pytest.mark.parametrize("kind", SHOWN)
def test_summary(kind):
    assert rendered(summary(SHOWN[kind])) == (HERE / f"summary_{kind}.txt").read_text()


def test_the_pieces_stand_alone_and_make_up_the_summary():
    whole = rendered(summary(SHOWN["treated"]))
    assert rendered(findings_view(sample.findings())) in whole
    assert rendered(Group(*telling_of(sample.treatment()).view(sample.treatment()))) in whole
    assert rendered(comparison_view(sample.search(), words=False)) in whole
    assert rendered(Group(*telling_of(sample.tuning()).view(sample.tuning()))) in rendered(summary(SHOWN["tuned"]))


def arm(recipe: str, mean: float, effect: float, low: float, high: float, **other: int) -> Arm:
    return Arm(recipe=recipe, seeds=(0, 1, 2), values=(mean,) * 3, differences=(effect,) * 3, mean=mean, effect=effect, low=low,
               high=high, p=0.1, p_sign=0.25, p_holm=0.3, wins=2, **other)  # fmt: skip


LONG = "batch_norm(after='linear'), clip_norm(max_norm=1.0)"


def mixed() -> Comparison:
    """One effect that is tiny, one that is usual, one beyond all measure, and a long recipe."""
    arms = (
        arm("adam", 1.297932069, -2e-8, -5e-8, 1e-8),
        arm("lr_scale(factor=3)", 1.1, 0.198, -0.0004, 0.24),
        arm(LONG, 2e25, -2e25, -9e25, 4e25, diverged=1),
    )
    metric = Metric(name="eval loss", goal="min")
    return Comparison(subject="train.py", metric=metric, seeds=(0, 1, 2), baseline=(1.2979319,) * 3, arms=arms)


def test_a_tiny_effect_and_a_narrow_terminal_leave_the_table_readable():
    assert rendered(comparison_view(mixed()), 80) == (
        "eval loss (less is better), 3 paired seeds\n"
        "    mean           effect [95 %]    verdict  p sign  p Holm  wins  lost seeds\n"
        "untreated\n"
        "  1.2979\n"
        "adam\n"
        "  1.2979  -2e-08 [-5e-08, 1e-08]  undecided    0.25     0.3   2/3\n"
        "lr_scale(factor=3)\n"
        "  1.1000   +0.20 [-0.0004, 0.24]  undecided    0.25     0.3   2/3\n"
        f"{LONG}\n"
        "   2e+25  -2e+25 [-9e+25, 4e+25]  undecided    0.25     0.3   2/3  1 diverged\n"
    )
    wide = rendered(comparison_view(mixed()), 130).splitlines()
    assert wide[3].split() == ["adam", "1.2979", "-2e-08", "[-5e-08,", "1e-08]", "undecided", "0.25", "0.3", "2/3"]
    assert len(wide) == 6


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("kind", SHOWN)
def test_nothing_is_wider_than_the_terminal_but_lines_to_copy(kind, width):
    lines = rendered(summary(SHOWN[kind]), width).split("Lines to add:")[0].splitlines()
    assert max(map(len, lines)) <= max(width, 76)  # a row of numbers keeps together


def test_markup_in_names_is_shown_as_it_is():
    odd = replace(
        sample.findings()[1], where="[bold]layer[0][/bold]", title="[red]odd[/red]", remedies=("clip_norm([1])",)
    )
    text = rendered(findings_view([odd]))
    assert "[bold]layer[0][/bold]" in text and "[red]odd[/red]" in text and "clip_norm([1])" in text


def test_the_untreated_mean_is_of_all_seeds_and_lines_begin_with_the_best():
    """Also where the first recipe had no effect on any seed, and a better one was given last."""
    idle = replace(
        arm("clip_norm", math.nan, math.nan, math.nan, math.nan, no_effect=3),
        seeds=(),
        values=(),
        differences=(),
        wins=0,
    )
    good, better = (
        replace(arm(f"lr_scale(factor={factor})", 1.0, effect, effect / 2, effect * 2), lines=(f"line {factor}",))
        for factor, effect in ((3, 0.2), (10, 0.4))
    )
    metric = Metric(name="val loss", goal="min")
    compared = Comparison(
        subject="train.py", metric=metric, seeds=(0, 1, 2), baseline=(1.25,) * 3, arms=(idle, good, better)
    )
    shown = rendered(comparison_view(compared))
    assert re.search(r"untreated\s+1\.25", shown)
    assert shown.index("line 10") < shown.index("line 3")
