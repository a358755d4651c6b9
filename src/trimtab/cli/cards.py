"""The cards of the catalogue, read from the docstrings of parts and techniques.

A part is a public class of :mod:`trimtab.nn`, :mod:`trimtab.data` or :mod:`trimtab.optim`, or a function there that says
where it comes from (others are helpers). A technique is a class in the list of :mod:`trimtab.techniques`. Each says which group
it belongs to: a technique by its ``group``, parts by the ``GROUP`` of their file. Nothing else has to be declared.

A member with a closed form may have a class method ``plotted()``, which gives the titles of both axes and its curves, at settings that
show the shape: ``("step", "factor of the base rate", {"beta=0.01": (steps, factors)})``. Then it can be drawn.

Cards are made from the source text (:mod:`trimtab.cli.source`), so that the catalogue is there at once; they are kept in the
user's cache until a file of the package changes.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trimtab import __version__
from trimtab.cli.formula import readable_formula
from trimtab.cli.source import PublicName, Source
from trimtab.members import leave_out, members_of, said
from trimtab.recipe import technique_name
from trimtab.user_folders import cache_folder, keep

GROUPS = ("normalization", "regularization", "augmentation", "optimization")
ROOMS = ("nn", "data", "optim")  # of parts
PACKAGE = Path(__file__).parents[1]
Curves = tuple[str, str, dict[str, tuple[list[float], list[float]]]]

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
    of: the member that a variant refers to. home: module and name of the object. has_curve: can be drawn.
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
    home: tuple[str, str]
    has_curve: bool

    def plotted(self) -> Curves:
        """The titles of both axes and its curves; imports the member."""
        module, name = self.home
        return getattr(importlib.import_module(module), name).plotted()


def all_cards() -> dict[str, Card]:
    """Every card by name: parts, then techniques, then those of other packages, as ``PACKAGE.NAME`` where the name is taken."""
    cards = _own_cards()
    for package, card in _cards_of_others():
        if card.name in cards:
            card = replace(card, name=f"{package}.{card.name}", call=f"{package}.{card.call}")
        cards.setdefault(card.name, card)
    return cards


def _cards_of_others() -> Iterator[tuple[str, Card]]:
    for member in (*members_of("parts"), *members_of("techniques")):
        try:
            card = card_of(member.thing)
        except Exception as error:  # of foreign code
            leave_out(member.kind, member.thing, f"its card cannot be made ({said(error)})")
        else:
            yield member.package, card


def card_of(thing: Any) -> Card:
    """The card of a technique, or of a part, that another package brings."""
    is_technique = hasattr(thing, "acts_on")
    name, text = thing.name if is_technique else thing.__name__, inspect.getdoc(thing) or ""
    group = getattr(thing, "group", "") or getattr(sys.modules[thing.__module__], "GROUP", "")
    return Card(
        name=name,
        kind="technique" if is_technique else "part",
        call=f"{name}{inspect.signature(thing)}",
        place=f"acts on the {thing.acts_on}" if is_technique else f"{thing.__module__}.{thing.__qualname__}",
        groups=(group,) if isinstance(group, str) else tuple(group),
        meaning=readable_formula(text.split("\n\n")[0]),
        formula=formulas(text),
        variants=(),
        of="",
        text=text,
        home=(thing.__module__, thing.__qualname__),
        has_curve=hasattr(thing, "plotted"),
        **sections(text),
    )


def _own_cards() -> dict[str, Card]:
    kept = cache_folder() / f"cards-{_key(PACKAGE)}.json"
    try:
        return {name: _tupled(card) for name, card in json.loads(kept.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        cards = read_cards(PACKAGE)
        keep(kept, json.dumps({name: asdict(card) for name, card in cards.items()}), others="cards-*.json")
        return cards


def _key(package: Path) -> str:
    """What the cards depend on: the version, and the names, sizes and times of the files."""
    files = (file for room in (*ROOMS, "techniques", "cli") for file in sorted((package / room).rglob("*.py")))
    seen = [(str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files]
    return hashlib.sha256(repr((__version__, seen)).encode()).hexdigest()[:16]


def _tupled(card: dict[str, Any]) -> Card:
    lists: dict[str, Any] = {key: tuple(value) for key, value in card.items() if isinstance(value, list)}
    return Card(**card | lists)


def read_cards(package: Path) -> dict[str, Card]:
    """:func:`all_cards`, read from the files of the package."""
    source = Source(package)
    public = {name: (room, part) for room in ROOMS for name, part in source.public(f"trimtab.{room}").items()}
    parts = {
        name: (room, part)
        for name, (room, part) in sorted(public.items())
        if (part.is_class and not part.is_abstract) or (not part.is_class and sections(part.doc)["source"])
    }
    techniques = {
        one.attribute("name", inherited=False) or technique_name(one.name): one
        for one in source.public("trimtab.techniques").values()
    }
    of = {name: _refers_to(name, part.doc, parts) for name, (_, part) in parts.items()}
    cards = {}
    for name, (room, part) in parts.items():
        variants = tuple(other for other in parts if of[other] == name)
        group = part.module.constant("GROUP")
        called = f"{room}.{name}" if name in techniques else name  # the name alone is the technique's
        cards[called] = _card(called, "part", part, f"trimtab.{room}.{name}", group, variants, of[name])
    for name, technique in sorted(techniques.items()):
        place = f"acts on the {technique.attribute('acts_on')}"
        cards[name] = _card(name, "technique", technique, place, technique.attribute("group"), (), "")
    return cards


def _refers_to(name: str, text: str, parts: dict[str, Any]) -> str:
    """The part whose card says the rest, for one that names no source of its own."""
    if sections(text)["source"]:
        return ""
    return next((other for other in _REFERENCE.findall(text) if other in parts and other != name), "")


def _card(
    name: str, kind: str, thing: PublicName, place: str, group: str | tuple[str, ...] | None, variants: tuple[str, ...], of: str
) -> Card:  # fmt: skip
    text = thing.doc
    return Card(
        name=name,
        kind=kind,
        call=name + thing.signature(),
        place=place,
        groups=(group,) if isinstance(group, str) else tuple(group or ()),
        meaning=readable_formula(text.split("\n\n")[0]),
        formula=formulas(text),
        variants=variants,
        of=of,
        text=text,
        home=(thing.module.name, thing.name),
        has_curve=thing.method("plotted") is not None,
        **sections(text),
    )


def sections(text: str) -> dict[str, str]:
    """What a docstring says under "When it helps:", "When it hurts:" and "Source:", wherever in a paragraph these stand.

    >>> sections("First.\\n\\nWhen it helps: always. When it\\nhurts: never. Source: A,\\n1999.")
    {'helps': 'always.', 'hurts': 'never.', 'source': 'A, 1999.'}
    """
    found = {"helps": "", "hurts": "", "source": ""}
    for paragraph in text.split("\n\n"):
        line = readable_formula(paragraph)
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
    code = re.findall(r"``(.*?)``", " ".join(text.split()))
    return tuple(one for one in code if re.search(r" [=~] ", one))[:1]
