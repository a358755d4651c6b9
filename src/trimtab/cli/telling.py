"""How the commands tell what they found: on the terminal, as a page, as JSON."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.records import Comparison, Finding, Outcome, RunRecord, Treatment, Tuning

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
    console: Console,
    folder: Path,
    html_file: Path | None,
    json_file: Path | None,
    run: RunRecord,
    findings: tuple[Finding, ...],
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
    kept: bool = True,
) -> None:
    """Keep and tell the result of a command: on the terminal, as JSON, and as the page of the run.

    Args:
        folder: of the store.
        html_file: where the page goes; else ``report.html`` of the store has the newest, and ``reports/RUN.html`` that of every run.
        kept: whether the run is in the store.
    """
    outcome = tuning or treatment or comparison
    earlier = _keep(console, folder, run, findings, outcome) if kept else []
    show(console, folder, html_file, json_file, run, findings, outcome, earlier, kept=kept)


def _keep(
    console: Console, folder: Path, run: RunRecord, findings: tuple[Finding, ...], outcome: Outcome | None
) -> list[Outcome]:
    """Keep the findings beside the run; what was tried on it before."""
    from trimtab.store import Store, StoreError, name_of

    try:
        with Store(folder) as store:
            with contextlib.suppress(sqlite3.Error):
                store.put_findings(run.id, findings)
            outcomes = store.outcomes(run.id)
            for sentence in store.skipped:
                say(console, sentence, "yellow")
    except StoreError:  # the command has said so
        return []
    return [one for one in outcomes if outcome is None or name_of(one) != name_of(outcome)]


def show(
    console: Console,
    folder: Path,
    html_file: Path | None,
    json_file: Path | None,
    run: RunRecord,
    findings: tuple[Finding, ...],
    outcome: Outcome | None,
    earlier: Sequence[Outcome] = (),
    newest: bool = True,
    kept: bool = True,
) -> None:
    """Print the result, write the page (and the JSON), and say where they are, or why they could not be written."""
    from trimtab.report.terminal import summary
    from trimtab.trial.session import report_command

    kind = {type(outcome).__name__.lower(): outcome} if outcome is not None else {}
    console.print(summary(run, findings, earlier=earlier, **kind), crop=False)  # type: ignore[arg-type]
    if json_file:
        write_json(console, json_file, run, findings, **kind)  # type: ignore[arg-type]
    pages = (
        [html_file]
        if html_file
        else [folder / PAGES / f"{_file_name(run.id)}.html", *[folder / "report.html"] * newest]
    )
    try:
        from trimtab.report.files import write_whole
        from trimtab.report.page import page

        text = page(run, findings, earlier=earlier, **kind)  # type: ignore[arg-type]
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


def write_json(
    console: Console,
    json_file: Path,
    run: RunRecord,
    findings: tuple[Finding, ...],
    treatment: Treatment | None = None,
    comparison: Comparison | None = None,
    tuning: Tuning | None = None,
) -> None:
    """Write the machine-readable result of trials."""
    write_result(console, json_file, as_json(run, findings, treatment, comparison, tuning))


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


def as_json(
    run: RunRecord,
    findings: tuple,
    treatment: Treatment | None,
    comparison: Comparison | None,
    tuning: Tuning | None = None,
) -> dict[str, Any]:
    """The machine-readable result."""
    from trimtab.report.words import judged_by

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
        "judged_by": judged_by((tuning or treatment or comparison or run).metric, run.hints),
        "findings": found,
        "rules": {"asked": getattr(findings, "asked", 0), "unjudged": getattr(findings, "unjudged", {})},
    }
    if treatment is not None:
        result["treatment"] = _confirmed(treatment)
    if comparison is not None:
        result["comparison"] = comparison
    if tuning is not None:
        result["tuning"] = _confirmed(tuning) | {
            "untreated": tuning.untreated,
            "importances": tuning.importances,
            "attempts": tuning.attempts,
        }
    return result


def _confirmed(found: Treatment | Tuning) -> dict[str, Any]:
    """A recipe that was looked for, and its effect on fresh seeds."""
    arms = found.confirmation.arms if found.confirmation else ()
    arm = next((arm for arm in arms if arm.recipe == found.recipe), None)
    return {
        "recipe": found.recipe,
        "metric": found.metric,
        "effect": arm.effect if arm else None,
        "low": arm.low if arm else None,
        "high": arm.high if arm else None,
        "seeds": arm.seeds if arm else (),
        "proven": bool(arm and arm.proven),
        "standing": arm.standing if arm else None,
        "confirmation": found.confirmation,
        "search": found.search,
        "lines": found.lines,
        "words": found.words,
    }
