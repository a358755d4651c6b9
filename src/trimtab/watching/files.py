"""Numbers that a script writes into a file of its own: a table of epochs, a JSON of results, a log.

While a script runs it is noted which files it opens for writing; they are read once, when it has ended.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.training.safe import suppressed
from trimtab.training.stage import stage
from trimtab.watching.printed import Lines

LARGEST = 5_000_000  # bytes that are read, of one file and of all together
_KINDS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".log")
_WRITES = os.O_WRONLY | os.O_RDWR


@contextlib.contextmanager
def numbers_written(tell: Callable[[str, float], None]) -> Iterator[None]:
    """At the end of the block, call ``tell(name, value)`` for the numbers in the files that were written inside.

    Only what was added counts, where a file was there before and is appended to.
    """
    sizes: dict[str, int] = {}

    def note(path: str, anew: bool) -> None:
        if anew or path not in sizes:
            sizes[path] = os.path.getsize(path) if not anew and os.path.exists(path) else 0

    noting = stage.own(Opening).noting
    noting.append(note)
    try:
        yield
    finally:
        noting.remove(note)
        _flush(sizes)
        left = LARGEST
        for path, size in sizes.items():
            with contextlib.suppress(Exception):  # anything may be in a file of that name
                left -= os.path.getsize(path)
                for name, value in numbers_in(Path(path), size) if left >= 0 else ():
                    tell(name, value)


def _flush(paths: Collection[str]) -> None:
    """Let files that were left open have what was written, as they do when Python ends."""
    for thing in gc.get_objects() if paths else ():
        if type(thing) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            with contextlib.suppress(Exception):  # closed, or of no path
                if os.path.abspath(thing.name) in paths:
                    thing.flush()


class Opening:
    """Notes which files are opened for writing. An audit hook cannot be taken out again: there is one for all, and it does nothing while
    nobody notes."""

    def __init__(self) -> None:
        self.noting: list[Callable[[str, bool], None]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.noting and event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, os.PathLike)) and isinstance(flags, int) and flags & _WRITES:
                with suppressed():  # an error of ours must not keep the file from being opened
                    text = os.fspath(path)
                    if isinstance(text, str) and text.lower().endswith(_KINDS):
                        for note in tuple(self.noting):
                            note(os.path.abspath(text), bool(flags & os.O_TRUNC))


def numbers_in(path: Path, before: int = 0) -> Iterator[tuple[str, float]]:
    """The numbers in a file by name, in their order; of one that is a table or a log, from the byte ``before`` on.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "log.csv")
    ...     _ = file.write_text("epoch,val_acc\\n1,0.5\\n2,0.6\\n")
    ...     list(numbers_in(file))
    [('epoch', 1.0), ('val_acc', 0.5), ('epoch', 2.0), ('val_acc', 0.6)]
    """
    found = path.stat()
    if found.st_size > LARGEST or not stat.S_ISREG(found.st_mode):  # a pipe would have to be waited for
        return
    data = path.read_bytes()
    before = before if before < found.st_size else 0
    old, new = data[:before].decode(errors="replace"), data[before:].decode(errors="replace")
    kind = path.suffix.lower()
    if kind == ".json":
        yield from _leaves(json.loads(data))
    elif kind == ".jsonl":
        for line in new.splitlines():
            if line.strip():
                yield from _leaves(json.loads(line))
    elif kind in (".csv", ".tsv"):
        yield from _table(old, new, "\t" if kind == ".tsv" else ",")
    else:
        lines = Lines()
        for line in new.splitlines():
            yield from lines.read(line).items()


def _table(old: str, new: str, separator: str) -> Iterator[tuple[str, float]]:
    header = (old or new).split("\n", 1)[0]
    if not old:
        new = new.split("\n", 1)[1] if "\n" in new else ""
    names = next(csv.reader([header], delimiter=separator), [])
    for row in csv.reader(io.StringIO(new), delimiter=separator):
        for name, cell in zip(names, row, strict=False):
            with contextlib.suppress(ValueError):
                yield name, float(cell)


def _leaves(data: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    elif isinstance(data, list) and len({type(value) in (int, float) for value in data}) == 1:
        for value in data:
            yield from _leaves(value, name)
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        yield name, float(data)
