"""``trimtab catalogue [NAME]``: the techniques and parts, a group of them, and the card of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.common import FILE
from trimtab.cli.telling import say, write_result

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.cli.cards import Card

WIDEST = 100  # letters of a line of prose


@click.command("catalogue", short_help="List techniques and parts, or show a group or the card of one.")
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the cards there, machine-readable.")
@click.option(
    "--plot", is_flag=False, flag_value="", metavar="[FILE]", help="Draw its curve: here, or into FILE (.svg, .png)."
)
@click.argument("name", required=False)
def command(name: str | None, json_file: Path | None, plot: str | None) -> None:
    """List all techniques and parts, or show the card of one: formula, when it helps, when it hurts, source.

    NAME is a technique (batch_norm), a part (BatchNorm2d), or a group of both: normalization.
    """
    from rich.console import Console

    from trimtab.cli.cards import GROUPS, all_cards
    from trimtab.recipe import nearest, quoted

    cards, out = all_cards(), Console()
    if name is None and plot in cards:  # catalogue --plot one_cycle
        name, plot = plot, ""
    if plot is not None and (name is None or name in cards or name in GROUPS):
        shown = [_drawable(name, cards)]
        _plot(out, shown[0], plot)
    elif name in GROUPS:
        shown = [card for card in cards.values() if name in card.groups]
        _group(out, [card for card in shown if not card.of])
    elif name is None:
        shown = list(cards.values())
        _list(out, shown, GROUPS)
    elif name in cards:
        shown = [cards[name]]
        _one(out, cards[name])
    else:
        raise click.UsageError(
            f"There is no technique, part or group called {quoted(name)}. {nearest(name, [*cards, *GROUPS])}"
        )
    if json_file:
        write_result(out, json_file, {"cards": [_as_json(card) for card in shown]})


def _one(out: Console, card: Card) -> None:
    from rich.text import Text

    from trimtab.cli.docstring import filled

    out.print(Text.assemble((card.name, "bold"), f"{card.call.removeprefix(card.name)}  {card.place}\n"))
    out.print(Text(filled(card.text, min(out.width, WIDEST))))
    if card.has_curve:
        out.print(f"\nIts curve: trimtab catalogue {card.name} --plot", highlight=False)
    if card.of:
        out.print(f"\nFormula, when it helps, when it hurts, source: trimtab catalogue {card.of}", highlight=False)


def _drawable(name: str | None, cards: dict[str, Card]) -> Card:
    """The card of that name, if it has a curve."""
    if name in cards and cards[name].has_curve:
        return cards[name]
    what = "--plot draws the curve of one NAME" if name is None else f"{name} has no curve to draw"
    drawable = ", ".join(card.name for card in cards.values() if card.has_curve)
    raise click.UsageError(f"{what}. These have one: {drawable}.")


def _plot(out: Console, card: Card, file: str) -> None:
    """The curve in the terminal, or, with a file, there."""
    from rich.text import Text

    from trimtab.report.plots.schedule import SUFFIXES, schedule_data, schedule_text, write_schedule

    assert card.has_curve
    data = schedule_data(card.name, *card.plotted())
    if not file:
        out.print(Text.assemble((card.name, "bold"), f"  {card.meaning}\n"))
        out.print(schedule_text(data, min(out.width, 76)))
        say(out, f"\nAs a picture: trimtab catalogue {card.name} --plot {card.name}.svg")
        return
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES and (path.is_file() or not os.path.exists(path)):  # a device takes any
        raise click.UsageError(
            f"--plot {file}: the file must end in {' or '.join(SUFFIXES)}, such as {card.name}.svg. Without a file the plot is shown here."
        )
    try:
        write_schedule(data, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"{file[:100]} could not be written ({reason}).") from None
    say(out, f"Plot: {file}")


def _list(out: Console, cards: list[Card], groups: Iterable[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    for kind, columns in {
        "technique": ("technique", "acts on", "what it does"),
        "part": ("part", "group", "what it is"),
    }.items():
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, no_wrap=column != columns[2])
        for card in cards:
            if card.kind == kind and not card.of:
                second = card.place.rsplit(" ", 1)[-1] if kind == "technique" else ", ".join(card.groups)
                table.add_row(card.name, second, Text(card.meaning + _variants(card)))
        out.print(table)
        out.print()
    out.print("The card of one: trimtab catalogue NAME", highlight=False)
    for group in groups:
        out.print(f"All of a group, with formulas: trimtab catalogue {group}", highlight=False)


def _group(out: Console, cards: list[Card]) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from trimtab.cli.formula import plain

    for card in cards:
        where = "a technique" if card.kind == "technique" else card.place
        out.print(Text.assemble((card.name, "bold"), f"  {where}"))
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, style="dim")
        table.add_column()
        for title, said in (
            ("meaning", card.meaning + _variants(card)),
            ("formula", "\n".join(map(plain, card.formula))),
            ("helps", card.helps),
            ("hurts", card.hurts),
            ("source", card.source),
        ):
            if said:  # a technique may have no formula; that parts say all of it is tested
                table.add_row(title, Text(said))
        out.print(Padding(table, (0, 0, 0, 2), expand=False))
        out.print()


def _variants(card: Card) -> str:
    return f" Also: {', '.join(card.variants)}." if card.variants else ""


def _as_json(card: Card) -> dict[str, Any]:
    return {
        "name": card.name, "kind": card.kind, "call": card.call, "place": card.place, "groups": card.groups,
        "meaning": card.meaning, "formula": card.formula, "helps": card.helps, "hurts": card.hurts, "source": card.source,
        "variants": card.variants, "variant_of": card.of or None, "has_curve": card.has_curve,
    }  # fmt: skip
