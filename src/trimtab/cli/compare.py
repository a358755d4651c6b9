"""``trimtab compare SCRIPT --with RECIPE``: recipes against the untreated script, over paired seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.common import FILE, OF_SCRIPT, trial_command

if TYPE_CHECKING:
    from trimtab.cli.common import OpenSession
    from trimtab.records import Outcome, RunRecord


@click.command("compare", short_help="Compare RECIPEs with the untreated SCRIPT.", context_settings=OF_SCRIPT)
@click.option(
    "--with",
    "recipes",
    multiple=True,
    metavar="RECIPE",
    help='What to try, for example "batch_norm, clip_norm(1.0)". Repeat for more arms.',
)
@click.option(
    "--against",
    "versions",
    multiple=True,
    metavar="VERSION",
    help="Another version of SCRIPT: a file, or a revision of its git repository (HEAD~1). Repeat for more arms.",
)
@click.option(
    "--args",
    "command_lines",
    multiple=True,
    metavar="TEXT",
    help='SCRIPT with these arguments of its own behind those given: "--lr 0.1 --width 64". Repeat for more arms.',
)
@click.option(
    "--env",
    "environments",
    multiple=True,
    metavar="TEXT",
    help='SCRIPT with these variables of the environment: "WIDTH=64 DEPTH=3". Repeat for more arms.',
)
@click.option(
    "--seeds",
    type=click.IntRange(2),
    metavar="N",
    help="How many paired seeds; with --until-decided at most. [default: 5; 20]",
)
@click.option(
    "--until-decided",
    is_flag=True,
    help="Add seeds until each arm is better, worse or the same, or the budget is over.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0),
    metavar="X",
    help="An arm is the same if its interval lies between -X and X. [default: the standard deviation of SCRIPT over its seeds]",
)
@click.option(
    "--log",
    type=FILE,
    metavar="FILE",
    help="Keep the decisions of many comparisons there, and call an arm better only as surely as lets all that are kept be right. As with --until-decided, but what does not look better is given up early.",
)
@click.option("--exit-code", "by_verdict", is_flag=True, help="End with a code that says the verdict on the best arm.")
@trial_command
def command(
    open_session: OpenSession, recipes: tuple[str, ...], versions: tuple[str, ...], command_lines: tuple[str, ...],
    environments: tuple[str, ...], seeds: int | None, until_decided: bool, margin: float | None, log: Path | None,
) -> tuple[RunRecord, Outcome]:  # fmt: skip
    """Run SCRIPT as it is, under each RECIPE, and with each edit on the same seeds, and compare.

    Everything after SCRIPT belongs to the script. For the techniques that recipes are made of: trimtab catalogue.
    Finished trials are kept in .trimtab/ beside SCRIPT and not repeated.

    The verdict on an arm is one of four words: better or worse (the interval excludes zero, among all arms), same (it excludes all
    differences of the margin and more), or undecided; then the report says how many seeds would decide.

    \b
    Exit codes:
      0  compared; with --exit-code: the best arm is better
      1  the untreated script failed, or a version cannot be tried here
      2  wrong usage
      3  with --exit-code: undecided; with --log also what was given up, since it does not look better
      4  with --exit-code: the same
      5  with --exit-code: worse, or it does not run
    """
    from trimtab.ledger import Ledger, LedgerError
    from trimtab.trial.compare import by_name, compare_watched, recipe_texts, versions_of
    from trimtab.trial.edits import with_arguments, with_variables
    from trimtab.trial.subjects import Script, SubjectError

    if not (recipes or versions or command_lines or environments):
        raise click.UsageError(
            "There is nothing to compare with. Give --with RECIPE, --against VERSION, --args TEXT or --env TEXT."
        )
    texts = recipe_texts(recipes) if recipes else []  # before anything runs
    ledger = None
    if log is not None:
        try:
            ledger = Ledger(log)
        except LedgerError as error:
            raise click.UsageError(str(error)) from None
    with open_session() as session:
        script = session.subject
        assert isinstance(script, Script)
        try:
            named = versions_of(script, versions)
            named += [(text, with_arguments(script, text)) for text in command_lines]
            named += [(text, with_variables(script, text)) for text in environments]
            edits = by_name(named, texts)
        except SubjectError as error:
            raise click.UsageError(str(error)) from None
        return compare_watched(
            session, texts, edits, seeds=seeds, until_decided=until_decided, margin=margin, ledger=ledger
        )
