"""The cards of the catalogue, read from the docstrings of parts and techniques.

A part is a public class of :mod:`trimtab.nn`, :mod:`trimtab.data` or :mod:`trimtab.optim`, or a function there that says
where it comes from (others are helpers).
A technique is what is registered under a name. Nothing else has to be declared: a new member appears by itself.

A member with a closed form may have a class method ``plotted()``, which gives the titles of both axes and its curves, at settings that
show the shape: ``("step", "factor of the base rate", {"beta=0.01": (steps, factors)})``. Then it can be drawn.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A member belongs to the groups whose words the first sentence of its file says.
GROUPS = {
    group: re.compile(words, re.IGNORECASE)
    for group, words in {
        "normalization": r"normaliz|standardiz|\bnorms\b|\ba norm\b",
        "regularization": r"dropout|DropBlock|penalt|constraint|\bdecay\b|averag|ensemble|smoothing|surrogate|soft cap|z-loss|"
        r"early stopping|skips|residual connection|stochastic depth|bias, variance",
        "augmentation": r"\bimages\b|augment|mixup|CutMix|CutOut|noise on inputs|of tables|in sequences",
        "optimization": r"an optimizer\b|\boptimizers\b|gradient descent|learning rate|\bschedules?\b|clipping|initializ",
    }.items()
}

_MARK = re.compile(
    r"(?:When it (?P<part>helps|hurts)|\b(?P<technique>Helps|Hurts)|\b(?P<source>Source)s?|\bAccuracy|\bGood first settings?):"
    r"|\bClashes with\b"
)
_REFERENCE = re.compile(r":(?:class|func):`~?(?:trimtab\.(?:nn|data|optim)\.)?(\w+)`")


@dataclass(frozen=True)
class Card:
    """What the docstring of one member says.

    kind: ``part`` or ``technique``. call: how it is called. place: where it is, or what it acts on. meaning: the first paragraph.
    formula: TeX, or code where the docstring has it so. variants: members that refer to this one for all of that.
    of: the member that a variant refers to. plotted: gives its curves, if it has any.
    """

    name: str
    kind: str
    call: str
    place: str
    groups: tuple[str, ...]
    meaning: str
    formula: tuple[str, ...]
    helps: str
    hurts: str
    source: str
    variants: tuple[str, ...]
    of: str
    text: str
    plotted: Callable[[], tuple[str, str, dict[str, tuple[list[float], list[float]]]]] | None = None


def all_cards() -> dict[str, Card]:
    """Every card by name: parts, then techniques."""
    import trimtab.techniques  # noqa: F401 - registers them
    from trimtab import data, nn, optim
    from trimtab.recipe import Technique

    rooms = {name: room for room in (nn, data, optim) for name in room.__all__}
    public = {name: getattr(room, name) for name, room in rooms.items()}
    parts = {
        name: thing
        for name, thing in sorted(public.items())
        if (inspect.isclass(thing) and not inspect.isabstract(thing))
        or (inspect.isfunction(thing) and sections(inspect.getdoc(thing) or "")["source"])
    }
    of = {name: _refers_to(thing, parts) for name, thing in parts.items()}
    cards = {}
    for name, thing in parts.items():
        variants = tuple(other for other in parts if of[other] == name)
        cards[name] = _card(name, "part", thing, f"{rooms[name].__name__}.{name}", variants, of[name])
    for name, technique in sorted(Technique.registry.items()):
        cards[name] = _card(name, "technique", technique, f"acts on the {technique.acts_on}", (), "")
    return cards


def _refers_to(thing: Any, parts: dict[str, Any]) -> str:
    """The part whose card says the rest, for one that names no source of its own."""
    text = inspect.getdoc(thing) or ""
    if sections(text)["source"]:
        return ""
    names = [name for name in _REFERENCE.findall(text) if name in parts and parts[name] is not thing]
    return names[0] if names else ""


def _card(name: str, kind: str, thing: Any, place: str, variants: tuple[str, ...], of: str) -> Card:
    text = inspect.getdoc(thing) or ""
    file = inspect.getdoc(sys.modules[thing.__module__]) or ""
    first = re.split(r"\.\s|\n\n", file)[0]
    try:
        signature = str(inspect.signature(thing, eval_str=True))
    except NameError:  # types that are imported for the type checker alone
        signature = str(inspect.signature(thing))
    return Card(
        name=name,
        kind=kind,
        call=name + signature.removesuffix(" -> None"),
        place=place,
        groups=tuple(group for group, words in GROUPS.items() if words.search(first)),
        meaning=readable(text.split("\n\n")[0]),
        formula=formulas(text),
        variants=variants,
        of=of,
        text=text,
        plotted=getattr(thing, "plotted", None),
        **sections(text),
    )


def sections(text: str) -> dict[str, str]:
    """What a docstring says under "When it helps:", "When it hurts:" and "Source:", wherever in a paragraph these stand.

    >>> sections("First.\\n\\nWhen it helps: always. When it\\nhurts: never. Source: A,\\n1999.")
    {'helps': 'always.', 'hurts': 'never.', 'source': 'A, 1999.'}
    """
    found = {"helps": "", "hurts": "", "source": ""}
    for paragraph in text.split("\n\n"):
        line = readable(paragraph)
        marks = list(_MARK.finditer(line))
        for mark, following in zip(marks, [*marks[1:], None], strict=False):
            title = mark["part"] or (mark["technique"] or mark["source"] or "").lower()
            if title and not found[title]:
                found[title] = line[mark.end() : following.start() if following else None].strip()
    return found


def formulas(text: str) -> tuple[str, ...]:
    """The ``.. math::`` of a docstring; without any, the first ``code`` that is an equation.

    >>> formulas("First.\\n\\n.. math:: y = x^2\\n\\n.. math::\\n    a = b, \\\\quad\\n    c = d\\n\\nThen.")
    ('y = x^2', 'a = b, \\\\quad c = d')
    >>> formulas("First ``x``, then ``y = x + 1``.")
    ('y = x + 1',)
    """
    blocks = re.findall(r"^\.\. math::(.*(?:\n(?:[ \t]+\S.*|[ \t]*(?=\n[ \t]+\S)))*)", text, re.MULTILINE)
    if blocks:
        return tuple(" ".join(block.split()) for block in blocks)
    return tuple(re.findall(r"``([^`]* [=~] [^`]*)``", " ".join(text.split()))[:1])


def readable(text: str) -> str:
    """A paragraph in one line, without the marks of reStructuredText."""
    from trimtab.cli.formula import plain

    line = " ".join(text.split())
    line = re.sub(r":math:`([^`]*)`", lambda math: plain(math[1]), line)
    return re.sub(r":\w+:`~?(?:trimtab\.(?:nn|data|optim)\.)?([^`]*)`", r"\1", line).replace("``", "")
