"""How the commands tell what they found: on the terminal, as a page, as JSON."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.records import Outcome, Story

PAGES = "reports"  # the folder in the store that keeps the page of every run


def say(console: Console, text: str, style: str = "") -> None:
    """A sentence on the terminal, as it is: no markup, no line broken by us, so that paths can be copied."""
    from trimtab.report.words import printable

    console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)


def say_kept(console: Console, runs: int) -> None:
    """How many runs were kept from before, if any."""
    from trimtab.report.words import count

    if runs:
        say(console, f"Kept from before and not repeated: {count(runs, 'run')}.")


def tell(
    console: Console, folder: Path, html_file: Path | None, json_file: Path | None, story: Story, kept: bool = True
) -> None:
    """Keep and tell the result of a command: on the terminal, as JSON, and as the page of the run.

    Args:
        folder: of the store.
        html_file: where the page goes; else ``report.html`` of the store has the newest, and ``reports/RUN.html`` that of every run.
        kept: whether the run is in the store.
    """
    earlier = _keep(console, folder, story) if kept else []
    show(console, folder, html_file, json_file, replace(story, earlier=earlier), kept=kept)


def _keep(console: Console, folder: Path, story: Story) -> list[Outcome]:
    """Keep the findings beside the run; what was tried on it before."""
    from trimtab.store import Store, StoreError

    try:
        with Store(folder) as store:
            with contextlib.suppress(sqlite3.Error):
                store.put_findings(story.run.id, tuple(story.findings))
            outcomes = store.outcomes(story.run.id)
            for sentence in store.skipped:
                say(console, sentence, "yellow")
    except StoreError:  # the command has said so
        return []
    new = story.outcome
    return [one for one in outcomes if new is None or (one.kind(), one.variant) != (new.kind(), new.variant)]


def show(
    console: Console,
    folder: Path,
    html_file: Path | None,
    json_file: Path | None,
    story: Story,
    newest: bool = True,
    kept: bool = True,
) -> None:
    """Print the result, write the page (and the JSON), and say where they are, or why they could not be written."""
    from trimtab.report.terminal import summary
    from trimtab.store import report_command

    run = story.run
    console.print(summary(story), crop=False)
    if json_file:
        write_result(console, json_file, as_json(story))
    pages = (
        [html_file]
        if html_file
        else [folder / PAGES / f"{_file_name(run.id)}.html", *[folder / "report.html"] * newest]
    )
    try:
        from trimtab.report.files import write_whole
        from trimtab.report.page import page

        text = page(story)
        for path in pages:
            write_whole(path, text.encode("utf-8", errors="replace"))
    except Exception as error:  # the result is told; that its page could not be drawn is no reason to fail
        again = (
            f" Once that is mended, or for another place (--html FILE): {report_command(run.id, folder)}"
            if kept
            else ""
        )
        problem = f"({type(error).__name__}: {error})"
        say(console, f"The report {shown(pages[-1])} could not be written {problem}.{again}", "yellow")
    else:
        say(console, f"Report: {shown(pages[-1])}")


def _file_name(run: str) -> str:
    """The id of a run, which may come from anywhere, as the name of a file."""
    return re.sub(r"[^\w.-]", "_", run).strip(".")[:100]


def write_result(console: Console, json_file: Path, result: dict[str, Any]) -> None:
    """Write what a command found, machine-readable, or say why that was not possible."""
    from trimtab.records import to_json
    from trimtab.report.files import write_whole

    try:
        write_whole(json_file, to_json(result))
    except (OSError, UnicodeError) as error:
        say(console, f"{shown(json_file)} could not be written ({error}).", "yellow")


def shown(path: Path) -> str:
    """A path as one types it here."""
    try:
        relative = os.path.relpath(path)
    except OSError:  # the current folder is gone
        return str(path)
    return str(path) if relative.startswith("..") else relative


def as_json(story: Story) -> dict[str, Any]:
    """The machine-readable result."""
    from trimtab.report.outcomes import telling_of
    from trimtab.report.words import judged_by

    run, findings, outcome = story.run, story.findings, story.outcome
    found = [
        {
            "problem": f.problem, "severity": f.severity, "where": f.where, "confidence": f.confidence, "title": f.title,
            "evidence": f.evidence, "remedies": f.remedies, "training": f.training, "consequences": f.consequences,
        }
        for f in findings
    ]  # fmt: skip
    result: dict[str, Any] = {
        "run": {
            "id": run.id,
            "subject": run.subject,
            "exit_code": run.exit_code,
            "error": run.error,
            "seconds": run.seconds,
        },
        "trainings": [
            {"model": one.model, "optimizers": one.optimizers, "steps": one.steps, "epochs": one.epochs}
            for one in run.trainings
        ],
        "metric": run.metric,
        "reached": run.reached,
        "judged_by": judged_by(story.metric, run.hints),
        "findings": found,
        "rules": {"asked": getattr(findings, "asked", 0), "unjudged": getattr(findings, "unjudged", {})},
    }
    return result | ({outcome.kind(): telling_of(outcome).as_json(outcome)} if outcome is not None else {})
