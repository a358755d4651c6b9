"""``trimtab treat SCRIPT``: find out what helps, by how much, and how to keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, trial_command

if TYPE_CHECKING:
    from trimtab.cli.common import OpenSession
    from trimtab.records import Outcome, RunRecord


@click.command("treat", short_help="Diagnose SCRIPT, race the remedies, confirm the best.", context_settings=OF_SCRIPT)
@click.option(
    "--seeds",
    default=8,
    show_default=True,
    type=click.IntRange(2),
    metavar="N",
    help="How many fresh seeds confirm the winner, at most.",
)
@click.option("--thorough", is_flag=True, help="Try all remedies to their end, on three seeds.")
@click.option("--from", "run", metavar="RUN", help="Start from this run, which was watched before.")
@trial_command
def command(open_session: OpenSession, seeds: int, thorough: bool, run: str | None) -> tuple[RunRecord, Outcome]:
    """Diagnose SCRIPT, let the remedies race on one seed, and confirm the best on fresh ones.

    Everything after SCRIPT belongs to the script. Finished trials are kept in .trimtab/ beside it: start the same command
    again after an interruption and it goes on where it was.

    \b
    Exit codes:
      0  something was proven to help, or no rule found a fault
      1  the script failed, so there is nothing to compare with
      2  wrong usage
      3  something is wrong, and nothing provably helps
    """
    from trimtab.trial.treat import treat_watched

    with open_session() as session:
        return treat_watched(session, seeds=seeds, thorough=thorough, run_id=run)
