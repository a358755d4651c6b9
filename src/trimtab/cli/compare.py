"""``trimtab compare SCRIPT --with RECIPE``: recipes against the untreated script, over paired seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.common import OF_SCRIPT, make_script, result_options, script_arguments, trial_options, trials_told
from trimtab.cli.telling import say_kept, tell

if TYPE_CHECKING:
    from trimtab.records import Asked


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
@trial_options
@result_options
@script_arguments
def command(
    script: str, arguments: tuple[str, ...], module: bool, metric: Asked, html_file: Path | None,
    json_file: Path | None, recipes: tuple[str, ...], seeds: int, budget: float, workers: int | None, keep_files: bool, fresh: bool,
) -> None:  # fmt: skip
    """Run SCRIPT as it is and under each RECIPE on the same seeds, and compare.

    Everything after SCRIPT belongs to the script. For the techniques that recipes are made of: trimtab catalogue.
    Finished trials are kept in .trimtab/ beside SCRIPT and not repeated.

    \b
    Exit codes:
      0  compared
      1  the untreated script failed
      2  wrong usage
    """
    subject = make_script(script, arguments, module)
    from rich.console import Console

    from trimtab.doctor import diagnose
    from trimtab.records import Story
    from trimtab.trial.compare import compare_watched, recipe_texts
    from trimtab.trial.engines import LocalEngine
    from trimtab.trial.progress import TrialBar
    from trimtab.trial.session import Session

    errors = Console(stderr=True)
    with trials_told(errors):
        texts = recipe_texts(recipes)  # before anything runs
        engine = LocalEngine(workers, keep_files)
        with TrialBar(errors, engine.workers) as bar, Session(subject, metric, engine, bar, budget, fresh) as session:
            run, comparison = compare_watched(session, texts, seeds=seeds)
        out = Console()
        story = Story(run, diagnose(run), comparison)
        tell(out, subject.folder, html_file, json_file, story, kept=session.store is not None)
        say_kept(out, session.reused)
