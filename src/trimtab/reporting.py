"""Reports in Python and notebooks: of a run, of what was tried on it, and how records show themselves there."""

from __future__ import annotations

import html as markup
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from trimtab.doctor import diagnose
from trimtab.records import (
    Arm,
    Finding,
    Findings,
    Outcome,
    Recording,
    Remark,
    RunRecord,
    Series,
    Story,
    TrainingRecord,
    as_run,
)
from trimtab.store import FOLDER, Store, StoreError
from trimtab.user_folders import last_store

WIDTH = 100  # of what is shown in a notebook, in letters
_HTML = '<pre style="white-space:pre-wrap;line-height:1.4;margin:0">{code}</pre>'


@dataclass(frozen=True)
class Report:
    """The report of a run: a page, which a notebook shows, and its text, which everybody else sees.

    Attributes:
        run: what was watched.
        findings: what is wrong in it.
        outcomes: what was tried on it, newest first.
        path: where the page was written, if it was.
    """

    run: RunRecord
    findings: Sequence[Finding]
    outcomes: Sequence[Outcome] = ()
    path: Path | None = field(default=None, compare=False)

    @property
    def page(self) -> str:
        """The page, as HTML that needs nothing else."""
        from trimtab.report.page import page

        return page(self._story)

    def save(self, path: str | os.PathLike) -> Report:
        """Write the page there; gives the report with its path."""
        from trimtab.report.files import write_whole

        write_whole(os.fspath(path), self.page.encode("utf-8", errors="replace"))
        return Report(self.run, self.findings, self.outcomes, Path(path))

    @property
    def _story(self) -> Story:
        return Story(self.run, self.findings, next(iter(self.outcomes), None), self.outcomes[1:])

    def _view(self) -> RenderableType:
        from trimtab.report.terminal import summary

        return summary(self._story)

    def __str__(self) -> str:
        return _plain(self._view())

    def __repr__(self) -> str:
        return f"{self}\nReport: {self.path}" if self.path is not None else str(self)

    def _repr_html_(self) -> str:
        frame = 'style="width:100%;height:720px;border:1px solid #8884;border-radius:8px" sandbox="allow-scripts"'
        return f'<iframe srcdoc="{markup.escape(self.page)}" {frame}></iframe>'


def report(
    what: str | os.PathLike | RunRecord | Recording | Outcome | None = None,
    path: str | os.PathLike | None = None,
    *,
    run: RunRecord | None = None,
) -> Report:
    """The report of a run and of what was tried on it; a notebook shows its page.

    >>> report(RunRecord(id="r1", subject="train.py", trainings=(TrainingRecord(name="net", model="Net"),)))
    No rule found a fault (10 asked)
    train.py, 0 steps, 0.0 s
    No number judges this run.

    Args:
        what: a script that was watched, or the folder of a store (the newest run in it); a record of a run or a recorder that is making
            one; a treatment, comparison or search. The newest run of this folder, else of the store that was used last, if ``None``.
        path: where the page is written, if anywhere.
        run: the watched run that an outcome belongs to, if it cannot be found in the store.

    Raises:
        StoreError: if nothing is recorded there.
        TypeError: for what has no report.
    """
    if isinstance(what, Outcome):
        watched = run or _run_of(what)
        findings = getattr(what, "findings", None)
        findings = diagnose(watched) if findings is None else findings
        made = Report(watched, findings, (what,))
    elif what is None or isinstance(what, (str, os.PathLike)):
        made = _kept(_folder(what))
    else:
        watched = as_run(what)
        made = Report(watched, diagnose(watched))
    return made if path is None else made.save(path)


def _folder(what: str | os.PathLike | None) -> Path:
    """The store that is meant."""
    if what is None:
        here, last = Path(FOLDER), last_store()
        return here if (here / "runs.db").is_file() or last is None else last
    place = Path(what)
    if place.is_dir():
        return place if (place / "runs.db").is_file() else place / FOLDER
    return place.resolve().parent / FOLDER


def _kept(folder: Path) -> Report:
    with Store.reading(folder) as store:
        run = store.run()
        outcomes = store.outcomes(run.id)
    return Report(run, diagnose(run), outcomes)


def _run_of(outcome: Outcome) -> RunRecord:
    """The watched run that an outcome started from, from a store of which we know; else a run of which nothing is known."""
    name = getattr(outcome, "run", "")
    for folder in filter(None, (Path(FOLDER), last_store())):
        try:
            with Store.reading(folder) as store:
                if name in store.runs():
                    return store.run(name)
        except StoreError:
            continue
    return RunRecord(id=name, subject=outcome.subject)


# -- how records show themselves -----------------------------------------------------------------------------------------


def text(record: Any) -> str:
    """A record as the command line shows it."""
    return _plain(_view(record))


def html(record: Any) -> str:
    """The same with its colours, for a notebook."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False)
    console.print(_view(record), crop=False)
    return console.export_html(inline_styles=True, code_format=_HTML)


def sentences(remarks: Sequence[Remark | str] | str) -> tuple[str, ...]:
    """What an outcome or an arm has to say beside its numbers."""
    from trimtab.report.sentences import sentences

    return sentences(remarks)


def _plain(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_jupyter=False)
    console.print(view, crop=False)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip("\n").split("\n"))  # type: ignore[attr-defined]


def _view(record: Any) -> RenderableType:
    from trimtab.report import terminal
    from trimtab.report.words import effect

    if isinstance(record, RunRecord):
        return terminal.summary(Story(record, diagnose(record)))
    if isinstance(record, TrainingRecord):
        return Text("\n".join(_of_training(record)))
    if isinstance(record, Series):
        return Text(_of_series(record))
    if isinstance(record, Finding):
        return terminal.findings_view([record])
    if isinstance(record, Findings):
        return terminal.findings_view(record) if record else Text(f"{record.silence}.")
    if isinstance(record, Outcome):
        return terminal.outcome_view(record)
    if isinstance(record, Arm):
        return Text(f"{record.recipe}: {effect(record)}")
    return Text(repr(record))


def _of_series(series: Series) -> str:
    from trimtab.report.words import count, number

    if not len(series):
        return "no values"
    finite = series.finite.values
    span = f", from {number(min(finite))} to {number(max(finite))}" if finite else ""
    lost = f", {len(series) - len(finite)} of them not finite" if len(finite) < len(series) else ""
    ends = f"first {number(series.values[0])}, last {number(series.last)}"
    return f"{count(len(series), 'value')} on steps {series.steps[0]:,} to {series.steps[-1]:,}: {ends}{span}{lost}"


def _of_training(training: TrainingRecord) -> list[str]:
    from trimtab.report.words import count

    head = [training.model, *training.optimizers, count(training.steps, "step")]
    lines = [f"{training.name}: {', '.join(head)}, {count(len(training.layers), 'layer')}"]
    width = max(map(len, training.series), default=0)
    lines += [f"  {name:<{width}}  {_of_series(series)}" for name, series in training.series.items()]
    return lines + [f"  profile {name} {profile._in_short()}" for name, profile in training.profiles.items()]
