"""What the code that prints a line says of the numbers in it: how it calls them, and which are not computed at all."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

from trimtab.quantities import Quantity, plain_words, score_in
from trimtab.records import Goal
from trimtab.training.find import is_installed
from trimtab.watching.printed import printed_numbers

_NOT_THE_USERS = (str(Path(__file__).parents[1]), os.path.dirname(os.__file__), "<")


@dataclass(frozen=True)
class Saying:
    """A call that prints: the score that its names speak of (``""`` for none or several), and the texts in it."""

    score: str = ""
    texts: tuple[str, ...] = ()

    @functools.cached_property
    def literal(self) -> set[tuple[str, float]]:
        """The numbers that its texts say."""
        return {item for text in self.texts for item in printed_numbers(text).items()}


def understood(found: dict[str, float]) -> dict[str, float]:
    """The numbers of a line that is being printed, as the code that prints it means them.

    What has the name of a part of the data alone gets the score that the names in the call speak of: ``print("val", acc)``. A number that
    stands in the text of the code is no result: ``print("val acc 0.99 in the paper")``.
    """
    if not found:
        return found
    saying = next(
        (one for frame in _users(sys._getframe(1)) if (one := _saying(frame.f_code, frame.f_lasti)).texts or one.score),
        Saying(),
    )
    return {
        f"{name} {saying.score}" if saying.score and Quantity.read(f"printed {name}").bare else name: value
        for name, value in found.items()
        if (name, value) not in saying.literal
    }


def _users(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of the user's own code, innermost first: a few, for it may print by a function of its own."""
    count = 0
    while frame is not None and count < 3:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS) and not is_installed(file):
            count += 1
            yield frame
        frame = frame.f_back


@functools.lru_cache(maxsize=1024)
def _saying(code: CodeType, instruction: int) -> Saying:
    tree = _tree(code.co_filename)
    _, line, _, column = list(code.co_positions())[instruction // 2]
    call = next(
        (n for n in ast.walk(tree) if isinstance(n, ast.Call) and (n.end_lineno, n.end_col_offset) == (line, column)),
        None,
    )
    if call is None:
        return Saying()
    parts: list[ast.AST] = [*call.args, *call.keywords]
    if isinstance(call.func, ast.Attribute):  # "val {}".format(acc), and what a logger is called
        parts.append(call.func.value)
    score, texts = _score(parts), _texts(parts)
    for _ in range(3):  # line = f"val {v}"; v = evaluate(model); def evaluate(model): return accuracy
        if (score and texts) or not parts:
            break
        parts = _meant(tree, {name for part in parts for name in _names(part)})
        score = score or _score(parts)
        texts = texts or _texts(part for part in parts if isinstance(part, (ast.Constant, ast.JoinedStr, ast.Call)))
    return Saying(score, texts)


def _meant(tree: ast.AST, names: set[str]) -> list[ast.AST]:
    """What is assigned to variables of these names, and what functions of these names give back."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            if any(isinstance(n, ast.Name) and n.id in names for target in node.targets for n in ast.walk(target)):
                found.append(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name in names:
            found += [one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value is not None]
    return found


@functools.lru_cache(maxsize=64)
def _tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def _score(parts: Iterable[ast.AST]) -> str:
    """The score that names in the code speak of: the only one, or what those have in common."""
    found = {score[:2] for part in parts for name in _names(part) if (score := _named(name))}
    goals = {goal for _, goal in found}
    if len(found) == 1:
        return next(iter(found))[0]
    return ("loss" if "min" in goals else "score") if len(goals) == 1 else ""


def _names(part: ast.AST) -> Iterator[str]:
    for node in ast.walk(part):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)


def _named(name: str) -> tuple[str, Goal, tuple[int, int]] | None:
    """The score in the name of a variable or a function: ``val_acc``, ``accs``, ``losses``, ``vloss``."""
    words = re.sub(r"(?<=ss)es\b|(?<=[a-z])(?<!s)s\b", "", plain_words(name))
    return score_in(words) or score_in(re.sub(r"^.*(?=(?:loss|acc)$)", "", words))


def _texts(parts: Iterable[ast.AST]) -> tuple[str, ...]:
    """The texts in some code; of an f-string every piece between two values."""
    return tuple(
        node.value
        for part in parts
        for node in ast.walk(part)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
