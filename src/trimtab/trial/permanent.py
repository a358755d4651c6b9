"""The lines that make a recipe permanent, as the trials that proved it have found out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from trimtab.recipe import Recipe
from trimtab.records import Applied, CodePlace, Trial
from trimtab.training.edits import APPLY, IMPORT

WIDTH = 79  # of comments, in letters
FEW = 4  # weights that are named
SOURCE = 50  # letters of a source line that are shown


def permanent_lines(recipe: str, trials: Iterable[Trial]) -> tuple[str, ...]:
    """The lines to add to a script for a recipe, each place of them under a comment that says where it is.

    They name the variables of the script, are indented for their place, and apply the recipe to every training that a trial applied it
    to. Below them stands what plain torch says in their place, and what changes in checkpoints.

    Args:
        recipe: what to keep.
        trials: of this recipe and others; one of it that went well knows the places.
    """
    applied = next((trial.applied for trial in trials if trial.recipe == recipe and trial.applied), ())
    places = list(dict.fromkeys(one.code for one in applied)) or [None]
    lines = [line for place in places for line in _at(place, recipe)]
    return (*lines, *_words(recipe, applied))


def _at(place: CodePlace | None, recipe: str) -> Iterator[str]:
    if place is None or not place.lines:
        yield "# after the line that makes your optimizer, before the first step:"
        yield from (IMPORT, f'tt.attach(model, optimizer).apply("{recipe}")')
        return
    source = place.source.strip()
    if len(source) > SOURCE:  # it must fit on one line of a terminal: it is there to be copied
        source = f"{source[: SOURCE - 3]}..."
    indent = place.source[: len(place.source) - len(place.source.lstrip())]
    yield f"{indent}# in {place.file}, {_where(place)}: {source}"
    yield from (line.replace(APPLY, f'.apply("{recipe}")') for line in place.lines)


def _where(place: CodePlace) -> str:
    if place.where == "after":
        return f"after line {place.line}"
    if place.where == "before":
        return f"before line {place.first}"
    lines = f"line {place.line}" if place.first == place.line else f"lines {place.first} to {place.line}"
    return f"in the place of {lines}"


def _words(recipe: str, applied: Sequence[Applied]) -> Iterator[str]:
    """What is to be known beside the lines, as comments."""
    for sentence in dict.fromkeys(sentence for one in applied for sentence in one.plain):
        yield from _comment(sentence)
    if any(one.rates for one in applied):
        yield from _comment(
            "With the lines above, param_groups (and what logs or saves it) goes on showing the script's rate; "
            "with training = tt.attach(...).apply(...), training.rates() gives the one that is used."
        )
    weights = list(dict.fromkeys(name for one in applied for name in one.weights))
    techniques = Recipe.parse(recipe)
    if weights or any(technique.evaluates for technique in techniques):
        named = ", ".join(weights[:FEW]) + (f" and {len(weights) - FEW} more" if len(weights) > FEW else "")
        what = f"holds {named}" if weights else "does not tell what the model computes"
        yield from _comment(
            f"Checkpoints: state_dict() then {what}. Where it is loaded and nothing is trained, put this before load_state_dict(...):"
        )
        stays = Recipe(technique for technique in techniques if technique.stays)
        yield f'#   tt.attach(model).apply("{stays}")'


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False
    )
