"""``trimtab noise SCRIPT``: how much the number that judges a script moves by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, trial_command

if TYPE_CHECKING:
    from trimtab.cli.common import OpenSession
    from trimtab.records import Outcome, RunRecord


@click.command("noise", short_help="Say how much the number of SCRIPT moves by chance.", context_settings=OF_SCRIPT)
@click.option("--seeds", type=click.IntRange(2), default=10, show_default=True, metavar="N", help="How many seeds.")
@click.option(
    "--parts",
    is_flag=True,
    help="As many runs again where only the initialization varies, and where only the order of the data does.",
)
@trial_command
def command(open_session: OpenSession, seeds: int, parts: bool) -> tuple[RunRecord, Outcome]:
    """Run SCRIPT as it is on many seeds: how much the number that judges it moves from run to run, and what difference could be seen
    with 3, 5 and 10 seeds.

    Everything after SCRIPT belongs to the script. Finished trials are kept in .trimtab/ beside SCRIPT and not repeated; trimtab compare
    uses them, too.

    \b
    Exit codes:
      0  measured
      1  the script failed, or cannot be judged
      2  wrong usage
    """
    from trimtab.trial.noise import noise_watched

    with open_session() as session:
        return noise_watched(session, seeds, parts)
