"""``trimtab tune SCRIPT --search DIMENSION``: search for the best recipe, or flags, and prove them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, trial_command

if TYPE_CHECKING:
    from trimtab.cli.common import OpenSession
    from trimtab.records import Outcome, RunRecord


@click.command(
    "tune", short_help="Search for the best RECIPE, or the best flags of SCRIPT.", context_settings=OF_SCRIPT
)
@click.option(
    "--search",
    "searches",
    multiple=True,
    required=True,
    metavar="DIMENSION",
    help='What to vary: "dropout(p=uniform(0, 0.6)) | none", or flags of SCRIPT, "--lr=log(1e-4, 1e-1)". Repeat for more.',
)
@click.option(
    "--trials", default=30, show_default=True, type=click.IntRange(1), metavar="N", help="How many points of it to try."
)
@click.option(
    "--candidates", default=3, show_default=True, type=click.IntRange(1), metavar="N", help="How many to confirm."
)
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=click.IntRange(2),
    metavar="N",
    help="How many fresh seeds confirm them.",
)
@trial_command
def command(
    open_session: OpenSession, searches: tuple[str, ...], trials: int, candidates: int, seeds: int
) -> tuple[RunRecord, Outcome]:
    """Search a space of recipes for SCRIPT, or of flags that it has, and confirm the best on fresh seeds against the script as it is.

    Every --search is one place of the recipe: a technique with distributions in the place of values, or alternatives divided
    by | with none for leaving it out. There are uniform(a, b), log(a, b), int(a, b), log_int(a, b) and choice(x, y, ...).

    \b
      --search "lr=log(1e-3, 1)"                   short for learning_rate(lr=log(1e-3, 1))
      --search "batch_norm | layer_norm | none"
      --search "dropout(p=uniform(0, 0.6)) | none"

    A --search that begins with - is of flags of the script, with distributions in the place of their values; [a, b] is short for
    choice(a, b). Values stand behind the script's own arguments. A search is of recipes or of flags.

    \b
      --search "--lr=log(1e-4, 1e-1) --width=[16, 64, 256]"

    Trials that fall behind are stopped early, those that diverge at once. Everything after SCRIPT belongs to the script.
    Finished trials are kept in .trimtab/ beside it: start the same command again after an interruption and it goes on where it
    was, with more --trials it goes further. Needs Optuna: pip install 'trimtab[tune]'.

    \b
    Exit codes:
      0  something was proven to help
      1  the script failed, or Optuna is not installed
      2  wrong usage
      3  nothing provably helps
    """
    from trimtab.trial.flags import read_space
    from trimtab.trial.search import MissingOptuna, require_optuna
    from trimtab.trial.tune import tune_watched

    try:
        require_optuna()
    except MissingOptuna as error:
        raise click.ClickException(str(error)) from None
    space = read_space(searches)  # before anything runs
    with open_session() as session:
        return tune_watched(session, space, trials=trials, seeds=seeds, candidates=candidates)
