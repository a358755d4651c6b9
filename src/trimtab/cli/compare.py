"""``trimtab compare SCRIPT --with RECIPE``: recipes against the untreated script, over paired seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, trial_command

if TYPE_CHECKING:
    from trimtab.cli.common import OpenSession
    from trimtab.records import Outcome, RunRecord


@click.command("compare", short_help="Compare RECIPEs with the untreated SCRIPT.", context_settings=OF_SCRIPT)
@click.option(
    "--with",
    "recipes",
    multiple=True,
    required=True,
    metavar="RECIPE",
    help='What to try, for example "batch_norm, clip_norm(1.0)". Repeat for more arms.',
)
@click.option(
    "--seeds", default=5, show_default=True, type=click.IntRange(2), metavar="N", help="How many paired seeds."
)
@trial_command
def command(open_session: OpenSession, recipes: tuple[str, ...], seeds: int) -> tuple[RunRecord, Outcome]:
    """Run SCRIPT as it is and under each RECIPE on the same seeds, and compare.

    Everything after SCRIPT belongs to the script. For the techniques that recipes are made of: trimtab catalogue.
    Finished trials are kept in .trimtab/ beside SCRIPT and not repeated.

    \b
    Exit codes:
      0  compared
      1  the untreated script failed
      2  wrong usage
    """
    from trimtab.trial.compare import compare_watched, recipe_texts

    texts = recipe_texts(recipes)  # before anything runs
    with open_session() as session:
        return compare_watched(session, texts, seeds=seeds)
