"""``trimtab report [RUN]``: the report of a recorded run, again."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.cli.common import FILE, say, tell, told_plainly


@click.command("report", short_help="Show a recorded run and its treatment again.")
@click.argument("run", required=False)
@click.option(
    "--store",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=Path(".trimtab"),
    show_default=True,
    help="The folder that holds the records.",
)
@click.option(
    "--html",
    "html_file",
    type=FILE,
    metavar="FILE",
    help="Where the report goes. [default: report.html in the store]",
)
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the result there, machine-readable.")
@click.option("--list", "listing", is_flag=True, help="List the recorded runs and stop.")
def command(run: str | None, folder: Path, html_file: Path | None, json_file: Path | None, listing: bool) -> None:
    """Diagnose a recorded RUN (the newest by default), with its treatment and its search if it had them, and write its report."""
    from rich.console import Console

    from trimtab.doctor import diagnose
    from trimtab.store import Store

    if not folder.is_dir():
        raise click.UsageError(
            f"There is no folder {str(folder)!r}. Records are kept in .trimtab beside a watched script: --store FOLDER/.trimtab"
        )
    out = Console()
    with told_plainly(), Store(folder) as store:
        if listing:
            for name in store.runs():
                listed = store.run(name)
                steps = listed.main.steps if listed.main is not None else 0
                ended = f", {listed.error}" if listed.error else ""
                say(out, f"{name}  {listed.subject}, {steps} steps{ended}")
            return
        record = store.run(run)
        treatment, tuning = store.treatment(record.id), store.tuning(record.id)
    html = html_file or folder.resolve() / "report.html"
    tell(out, html, json_file, record, diagnose(record), treatment, tuning=tuning)
