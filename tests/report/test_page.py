"""The page stays small, whatever a record holds, and says what it leaves out."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from trimtab.records import Evidence, Finding, RunRecord, Series, Story, TrainingRecord
from trimtab.report import sample
from trimtab.report.page import LARGEST, page

MANY = 3000
RUN = sample.run(60)
FINDING = sample.findings()[0]
WORDS = ("a sentence of some length, which says little",) * MANY


def finding(**fields) -> Finding:
    return replace(FINDING, **fields)


LARGE = {
    "findings": (RUN, {"findings": (finding(cause="because " * 60),) * MANY}),
    "names in a finding": (
        RUN,
        {
            "findings": (
                finding(
                    where="encoder.layer " * MANY,
                    evidence=(Evidence(text="t", numbers={f"layer {i}": 1.0 for i in range(MANY)}),),
                    remedies=("batch_norm",) * MANY,
                ),
            )
        },
    ),
    "what was printed": (replace(RUN, output_tail="y" * 3_000_000, error="x\n" * 500_000, applied=WORDS), {}),
    "facts and notes": (
        replace(RUN, trainings=(replace(RUN.main, facts={f"f{i}": 1.0 for i in range(30 * MANY)}, notes=WORDS),)),
        {},
    ),
    "arms": (RUN, {"outcome": replace(sample.search(), arms=sample.search().arms * 60, remarks=WORDS)}),
    "long names everywhere": (
        RunRecord(
            id="r" * 9999,
            subject="s" * 99999,
            trainings=(
                TrainingRecord(
                    name="n" * 9999,
                    model="m" * 99999,
                    steps=2,
                    series={f"{'s' * 9999}{i}": Series(steps=(0,), values=(1.0,)) for i in range(100)},
                ),
            ),
        ),
        {"findings": (finding(title="t" * 99999, problem="p" * 99999, remedies=("r" * 99999,) * 9),) * 99},
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_page_stays_small_and_says_what_it_leaves_out(what):
    run, options = LARGE[what]
    made = page(Story(run, **options))
    assert 20_000 < len(made.encode()) < LARGEST
    assert re.search(r"To keep this page small, it shows the first \d+ of what is many", made)


def test_a_usual_page_leaves_nothing_out():
    assert "To keep this page small" not in page(Story(RUN, sample.findings(), sample.treatment()))


@pytest.mark.parametrize("started", [float("nan"), 1e300, -1e300])
def test_a_time_that_is_none_is_no_reason_for_no_page(started):
    assert "<td>unknown</td>" in page(replace(RUN, started=started, seconds=float("nan")))
