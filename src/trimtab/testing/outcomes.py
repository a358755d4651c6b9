"""What every outcome holds: it is kept and read back, and told alike by exit code, terminal, page and JSON."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from rich.console import Console

from trimtab.records import Outcome, RunRecord, Story, TrainingRecord, to_json
from trimtab.report.outcomes import telling_of
from trimtab.report.page import page
from trimtab.report.terminal import summary
from trimtab.report.verdict import of_outcome, tone, verdict
from trimtab.store import Store

RUN = RunRecord(id="run", subject="train.py", trainings=(TrainingRecord(name="training", model="Net", steps=1),))


def check_outcome(outcome: Outcome) -> None:
    """Run the suite that all outcomes pass over one of a kind, for which a class is derived from :class:`~trimtab.report.telling.Telling`.

    Raises:
        AssertionError: with what must hold.
    """
    kind, telling = outcome.kind(), telling_of(outcome)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        store.put_run(RUN, finished=True)
        store.put_outcome(RUN.id, outcome)
        (read,) = store.outcomes(RUN.id)
    assert to_json(read) == to_json(outcome), f"{kind}: what a store gives back is not what it was given"
    story = Story(RUN, (), outcome)
    said, helped = verdict(story), telling.helped(outcome)
    assert said and "\n" not in said and not said.endswith("."), (
        f"{kind}: the verdict must be one sentence, without its period"
    )
    assert helped is None or tone(story) == ("good" if helped else "plain"), (
        f"{kind}: the tone does not follow helped()"
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(summary(story))
    assert said in console.file.getvalue(), f"{kind}: the terminal does not say the verdict"  # type: ignore[attr-defined]
    whole = page(story)
    assert f'<section class="hero {tone(story)}"' in whole, f"{kind}: the page has another tone"
    for part in telling.parts(outcome):
        assert not part.title or f'href="#{part.key}"' in whole, f"{kind}: the page has no link to {part.key}"
    json.loads(to_json({kind: telling.as_json(outcome)}))
    earlier = page(Story(RUN, (), None, (outcome,)))
    if telling.decided(outcome) is not None:
        assert f"Earlier: {kind}" in earlier, f"{kind}: the page does not say that it was tried before"
    assert of_outcome(outcome), f"{kind}: of_outcome says nothing"
