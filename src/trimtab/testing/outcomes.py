"""What every outcome holds: it is kept and read back, and told alike by exit code, terminal, page and JSON."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from rich.console import Console

from trimtab.records import Comparison, Noise, Outcome, RunRecord, Story, TrainingRecord, Treatment, Tuning, to_json
from trimtab.report.outcomes import telling_of
from trimtab.report.page import page
from trimtab.report.telling import Telling
from trimtab.report.terminal import summary
from trimtab.report.verdict import of_outcome, tone, verdict
from trimtab.store import Store
from trimtab.testing.traces import blamed, described, name_of

OWN: tuple[type[Outcome], ...] = (Comparison, Noise, Treatment, Tuning)
RUN = RunRecord(id="run", subject="train.py", trainings=(TrainingRecord(name="training", model="Net", steps=1),))


def check_outcome(outcome: Outcome) -> None:
    """Run the suite that all outcomes pass over one of a kind, for which a class is derived from :class:`~trimtab.report.telling.Telling`.

    Raises:
        AssertionError: with what must hold.
    """
    name = name_of(outcome)
    assert isinstance(outcome, Outcome), f"{name}: one outcome must be given, and {described(outcome)} is none"
    taken = {own.kind() for own in OWN if own is not type(outcome)}
    assert outcome.kind() not in taken, f"{name}: its kind() is {outcome.kind()!r}, which is one of trimtab's own"
    with blamed(name, "telling it"):
        _check_exit_code(name, outcome)
        _check_told(outcome.kind(), outcome)


def told_by(outcome: Outcome) -> Telling:
    """How it is told.

    Raises:
        AssertionError: if nothing tells it; with the classes that could and do not say of what.
    """
    lost = [kind.__name__ for kind in Telling.__subclasses__() if not hasattr(kind, "record")]
    said = f"; {' and '.join(lost)} must set record to the class of the outcome that it tells" if lost else ""
    try:
        return telling_of(outcome)
    except (TypeError, AttributeError) as error:
        raise AssertionError(f"{name_of(outcome)}: it cannot be told ({error}){said}") from error


def _check_exit_code(name: str, outcome: Outcome) -> None:
    telling = told_by(outcome)
    helped, code = telling.helped(outcome), telling.exit_code(outcome)
    assert helped is None or isinstance(helped, bool), (
        f"{name}: helped() must be True, False or None, and is {helped!r}"
    )
    assert helped is not True or code == 0, f"{name}: it helped, and its exit code must be 0, and is {code!r}"
    assert helped is not False or code != 0 or type(outcome) is Comparison, (
        f"{name}: it did not help, and its exit code must say so, and is {code!r}"
    )


def _check_told(kind: str, outcome: Outcome) -> None:
    telling = told_by(outcome)
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
