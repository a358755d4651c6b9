"""A docstring as text for a terminal: paragraphs filled to its width, formulas in Unicode, lists and code in their shape."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from trimtab.cli.formula import plain, readable_formula

_SECTION = re.compile(r"([A-Z]\w+):$")  # Args:, Raises:, Returns:, ...
_RULE = re.compile(r"=+(?: +=+)+$")  # above and below the rows of a table
_MATH = re.compile(r"\.\. math::(.*)", re.DOTALL)


def filled(doc: str, width: int = 80) -> str:
    r"""The docstring, no line of prose wider than ``width``.

    >>> print(filled("The mean of\nall.\n\n.. math:: y = \\bar x\n\nArgs:\n    x: numbers, as many as there are,\n        two at least.", 40))
    The mean of all.
    <BLANKLINE>
        y = x̄
    <BLANKLINE>
    Args:
        x: numbers, as many as there are,
            two at least.
    """
    return "\n\n".join("\n".join(_lines(block, width)) for block in _blocks(doc))


def _blocks(doc: str) -> Iterator[str]:
    """What blank lines divide; indented text belongs to the block above it, and code keeps together what it prints."""
    block = ""
    for part in re.split(r"\n\s*\n", doc.strip("\n")):
        if block and part.startswith(" "):
            block += f"\n\n{part}"
        else:
            yield from filter(None, [block])
            block = part
    yield block


def _lines(block: str, width: int) -> Iterator[str]:
    first, _, rest = block.partition("\n")
    if math := _MATH.match(block):
        yield from _formula(plain(" ".join(math[1].split())), width)
    elif block.startswith(">>>"):
        yield from block.split("\n")
    elif _SECTION.match(first) and rest.startswith(" "):
        yield first
        for item in _items(textwrap.dedent(rest)):
            yield from _wrapped(readable_formula(item), width, "    ", "        ")
    elif block.startswith("* "):
        for item in _items(block):
            yield from _wrapped(readable_formula(item), width, "", "  ")
    elif _RULE.match(first):
        for row in _rows(rest.split("\n"), second=first.rindex("=", 0, first.rindex(" =")) + 1):
            yield from _wrapped(readable_formula(row), width, "  ", "    ")
    elif "\n\n" in block:  # a paragraph, and under it what keeps its shape
        prose, _, shaped = block.partition("\n\n")
        yield from _wrapped(readable_formula(prose).removesuffix("::"), width)
        yield from ("", *shaped.split("\n"))
    else:
        yield from _wrapped(readable_formula(block), width)


def _formula(text: str, width: int) -> Iterator[str]:
    """The lines of a formula; what does not fit on one is divided at its gaps first."""
    for line in text.split("\n"):
        for part in [line] if len(line) + 4 <= width else line.split("   "):
            yield from _wrapped(part, width, "    ", "        ")


def _items(text: str) -> Iterator[str]:
    """The items of a list: each begins without indentation."""
    return (item for item in re.split(r"\n+(?=\S)", text) if item.strip())


def _rows(lines: list[str], second: int) -> Iterator[str]:
    """The rows of a table of two columns; a row goes on with the next line where its first cell ends with a comma, or that of
    the line is empty."""
    rows: list[tuple[str, str]] = []
    for line in lines:
        cells = line[:second].strip(), line[second:].strip()
        if _RULE.match(line):
            continue
        if rows and (not cells[0] or rows[-1][0].endswith(",")):
            rows[-1] = f"{rows[-1][0]} {cells[0]}".strip(), f"{rows[-1][1]} {cells[1]}"
        else:
            rows.append(cells)
    return (f"{name}: {said}" for name, said in rows)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    # quads of formulas are gaps that are meant: textwrap leaves inner spaces alone
    return textwrap.wrap(
        text, max(width, 40), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip
