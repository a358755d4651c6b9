"""The terminal's views, compared whole with ``summary_*.txt`` beside this file.

When a view is meant to change, read the new text and put it there.
"""

import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from trimtab.report import comparison_view, findings_view, sample, summary, treatment_view, tuning_view

HERE = Path(__file__).parent
SHOWN = {
    "treated": (sample.run(), sample.findings(), sample.treatment(), None),
    "compared": (sample.run(), (), None, sample.search()),
    "tuned": (sample.run(), (), None, None, sample.tuning()),
    "clean": (sample.run(sick=False), (), None, None),
}


def rendered(view: RenderableType) -> str:
    console = Console(width=100, record=True, no_color=True, file=io.StringIO())
    console.print(view)
    return "".join(f"{line.rstrip()}\n" for line in console.export_text().splitlines())


@pytest.mark.parametrize("kind", SHOWN)
def test_summary(kind):
    assert rendered(summary(*SHOWN[kind])) == (HERE / f"summary_{kind}.txt").read_text()


def test_the_pieces_stand_alone_and_make_up_the_summary():
    whole = rendered(summary(*SHOWN["treated"]))
    assert rendered(findings_view(sample.findings())) in whole
    assert rendered(treatment_view(sample.treatment())) in whole
    assert rendered(comparison_view(sample.search(), words=False)) in whole
    assert rendered(tuning_view(sample.tuning())) in rendered(summary(*SHOWN["tuned"]))


def test_markup_in_names_is_shown_as_it_is():
    odd = replace(
        sample.findings()[1], where="[bold]layer[0][/bold]", title="[red]odd[/red]", remedies=("clip_norm([1])",)
    )
    text = rendered(findings_view([odd]))
    assert "[bold]layer[0][/bold]" in text and "[red]odd[/red]" in text and "clip_norm([1])" in text
