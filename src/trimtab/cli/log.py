"""``trimtab log FILE``: the decisions that comparisons have kept in a file."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.cli.common import FILE


@click.command("log", short_help="Show the decisions that compare --log has kept.")
@click.argument("file", type=FILE)
@click.option("--html", "html_file", type=FILE, metavar="FILE", help="Write the page there.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the decisions there, machine-readable.")
def command(file: Path, html_file: Path | None, json_file: Path | None) -> None:
    """Show what was tried, what is kept, by how much, and what it cost.

    FILE is what trimtab compare --log FILE has written, by one or by many at a time.
    """
    from rich.console import Console

    from trimtab.ledger import LedgerError, read
    from trimtab.records import to_json
    from trimtab.report.decisions import decisions_view, write_decisions
    from trimtab.report.files import write_whole

    try:
        decisions = read(file)
        Console().print(decisions_view(decisions))
        if html_file is not None:
            click.echo(f"Page: {write_decisions(html_file, file.name, decisions)}")
        if json_file is not None:
            write_whole(json_file, to_json({"decisions": decisions}))
    except (LedgerError, OSError) as error:
        raise click.ClickException(str(error)) from None
