"""What all records have in common: they are immutable, show themselves, and are written as JSON or MessagePack."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

# What a terminal obeys, but for line breaks and tabs, or what hides from its reader: control characters, marks that turn the direction
# of a text around, halves of letters.
CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff"
_CONTROL = re.compile(f"[{CONTROL}]")


def front_door() -> Any:
    """The package itself. It knows the rooms that stand above this one: what draws records, and what makes them."""
    return sys.modules[__name__.partition(".")[0]]


def drawing() -> Any:
    """The room that draws records."""
    return front_door().drawing()


class Record(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Base of all records: immutable, keyword-only."""

    def _in_short(self) -> str:
        """What ``repr`` says; nothing for all fields."""
        return ""

    def __repr__(self) -> str:
        said = self._in_short()
        return f"<{type(self).__name__} {_escaped(said)}>" if said else super().__repr__()

    def __str__(self) -> str:
        return drawing().text(self) if self._in_short() else repr(self)

    def _repr_html_(self) -> str | None:
        return drawing().html(self) if self._in_short() else None


def shortened(value: float) -> str:
    return f"{value:.4g}"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text)


def counted(items: Sequence[Any] | int, noun: str) -> str:
    count = items if isinstance(items, int) else len(items)
    return f"{count} {noun}{'s' * (count != 1)}"


def to_json(record: Record | Sequence[Record] | dict) -> bytes:
    """A record as indented JSON; numbers that JSON cannot say (NaN, infinity) become ``null``. What a terminal would obey is escaped.

    >>> to_json({"subject": "\x1b[31mred \x9b5m", "value": float("nan")}).decode().splitlines()[1:3]
    ['  "subject": "\\\\u001b[31mred \\\\u009b5m",', '  "value": null']
    """
    return _escaped(msgspec.json.format(_encoded(msgspec.json.encode, record), indent=2).decode()).encode()


def to_bytes(record: Record | Sequence[Record]) -> bytes:
    """A record as MessagePack."""
    return _encoded(msgspec.msgpack.encode, record)


def _encoded(encode: Callable[[Any], bytes], record: Any) -> bytes:
    """Names of files and what a script prints may be no texts at all: where they are not, ``?`` stands for a letter."""
    try:
        return encode(record)
    except UnicodeEncodeError:
        return encode(_legible(msgspec.to_builtins(record, builtin_types=(bytes,))))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_legible(key): _legible(inner) for key, inner in value.items()}
    return [_legible(inner) for inner in value] if isinstance(value, (list, tuple)) else value
