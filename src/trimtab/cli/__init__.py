"""The command line: ``trimtab watch | treat | compare | noise | tune | report | log | catalogue | info``.

Exit codes: 0 success; 1 the script failed or cannot be judged (``watch`` exits as the script did); 2 wrong usage;
3 ``treat`` found something wrong and nothing that provably helps, or ``tune`` found nothing that does.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import click

from trimtab import __version__

BEGAN = "trimtab.began"  # when the command began (monotonic), in the context
COMMANDS = ("watch", "treat", "compare", "noise", "tune", "report", "log", "catalogue", "info")


class _Lazy(click.Group):
    """Loads a command's file when the command is asked for; torch is imported only when one of them runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"trimtab.cli.{name}").command

    def invoke(self, ctx: click.Context) -> Any:
        """An error may quote a name or a record that was made elsewhere."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            from trimtab.report.words import printable

            error.message = printable(error.message)  # type: ignore[misc]
            raise

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in COMMANDS and args[0].endswith(".py"):
            raise click.UsageError(f"{args[0]!r} is a script, not a command. Did you mean: trimtab treat {args[0]}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Make PyTorch networks train steadily and generalise, and prove it.

    Point it at a training script, unchanged: it watches the run, says with evidence what is wrong, tries the techniques
    that the literature prescribes, and shows by a controlled trial which of them helps.
    """
    click.get_current_context().meta[BEGAN] = time.monotonic()
