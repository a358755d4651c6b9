"""``trimtab treat SCRIPT``: find out what helps, by how much, and how to keep it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, make_script, result_options, script_arguments, trial_options, trials_told
from trimtab.cli.telling import say_kept, tell

if TYPE_CHECKING:
    from trimtab.records import Asked


@click.command("treat", short_help="Diagnose SCRIPT, try the remedies, confirm the best.", context_settings=OF_SCRIPT)
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=click.IntRange(2),
    metavar="N",
    help="How many fresh seeds confirm the winner.",
)
@trial_options
@result_options
@script_arguments
def command(
    script: str, arguments: tuple[str, ...], module: bool, metric: Asked, html_file: Path | None,
    json_file: Path | None, seeds: int, budget: float, workers: int | None, keep_files: bool, fresh: bool,
) -> None:  # fmt: skip
    """Diagnose SCRIPT, try the remedies over paired seeds, and confirm the best on fresh ones.

    Everything after SCRIPT belongs to the script. Finished trials are kept in .trimtab/ beside it: start the same command
    again after an interruption and it goes on where it was.

    \b
    Exit codes:
      0  something was proven to help, or no rule found a fault
      1  the script failed, so there is nothing to compare with
      2  wrong usage
      3  something is wrong, and nothing provably helps
    """
    subject = make_script(script, arguments, module)
    from rich.console import Console

    from trimtab.records import Story
    from trimtab.report.outcomes import telling_of
    from trimtab.trial.engines import LocalEngine
    from trimtab.trial.progress import TrialBar
    from trimtab.trial.session import Session
    from trimtab.trial.treat import treat_watched

    errors = Console(stderr=True)
    with trials_told(errors):
        engine = LocalEngine(workers, keep_files)
        with TrialBar(errors, engine.workers) as bar, Session(subject, metric, engine, bar, budget, fresh) as session:
            run, treatment = treat_watched(session, seeds=seeds)
        out = Console()
        story = Story(run, treatment.findings, treatment)
        tell(out, subject.folder, html_file, json_file, story, kept=session.store is not None)
        say_kept(out, session.reused)
    needed = any(finding.severity != "info" for finding in treatment.findings)
    sys.exit(0 if telling_of(treatment).helped(treatment) or not needed else 3)
