"""Places in a script: where a loss or a model is called from, and which part of the data the code there speaks of."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from trimtab.training.find import is_installed
from trimtab.training.variables import variable

_SPLITS = {
    "val": re.compile(r"(?<![a-z])(val|va|valid|validation|validate|dev|heldout|held_out|holdout)(?![a-z])"),
    "test": re.compile(r"(?<![a-z])(test|te|testing)(?![a-z])"),
    "train": re.compile(r"(?<![a-z])(train|tr|training|fit)(?![a-z])"),
}
_EVALUATES = re.compile(r"(?<![a-z])(eval|evaluate|evaluation)(?![a-z])")
_MODE = re.compile(r"\.(train|eval)\(")  # model.train() and model.eval() say nothing about the data
_OURS = str(Path(__file__).resolve().parents[1])
_SCRIPTS = (
    str(Path(_OURS, "training", "loop.py")),
    str(Path(_OURS, "testing")),
)  # files of ours, that stand for loops of a script
# How torch calls a module depends on the hooks that are there at the moment, ours among them: no part of the place.
_CALLS = torch.nn.Module.__call__.__code__.co_filename

MOST_PLACES = 4096
Chain = tuple[tuple[CodeType, int], ...]


class Key(tuple):
    """A tuple that is asked for its hash again and again: that of code takes long."""

    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = super().__hash__()
            return self._hash


@dataclass(frozen=True)
class CallPlace:
    """Where something is called from: two calls come from one place when everything is the same up to the words that say ``split``.

    ``key`` tells places apart; ``split`` is the part of the data that the code speaks of, "eval" where it does not say.
    """

    key: Key
    split: str
    by_function: bool = False  # the name of a function around it says the split, and nothing nearer

    @functools.cached_property
    def unnamed(self) -> CallPlace:
        """The same, where what that name says does not count."""
        return CallPlace(Key(("eval", *self.key[1:])), "eval")


@dataclass
class _Known:
    """A chain of callers that was met: which of their variables hold text, and the place by the values of these."""

    variables: list[tuple[int, str]]  # by frame and name
    places: dict[tuple[str, ...], CallPlace]
    codes: tuple[CodeType, ...]  # kept, so that no other code gets their ids


class Places:
    """Knows places again. The code of each is read once; where words are the values of variables, these are read every time.

    What is evaluated is read from the code: the call and the statement it stands in, the loop around it and the names of
    the functions that lead there, from the inside outwards, until one of them speaks of validation, test or training data. A variable
    that holds text (``for split in ["train", "val"]``) speaks by its value.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], _Known] = {}

    def at(self, frame: FrameType | None) -> CallPlace:
        """The place from which a frame was reached."""
        frames = _callers(frame)
        key = tuple([id(one.f_code) for one in frames] + [one.f_lasti for one in frames])
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MOST_PLACES:  # of code that is made as the script runs
                self._known.clear()
            codes = tuple(one.f_code for one in frames)
            self._known[key] = known = _Known(list(_texts_in_variables(frames)), {}, codes)
        values = (
            tuple([_said(variable(frames[depth], name)) for depth, name in known.variables]) if known.variables else ()
        )
        place = known.places.get(values)
        if place is None:
            known.places[values] = place = _read(frames, known.variables, values)
        return place


def _read(frames: Sequence[FrameType], variables: Sequence[tuple[int, str]], values: Sequence[str]) -> CallPlace:
    """What the code of a chain of callers says, with the values of its variables that hold text."""
    chain = tuple((one.f_code, one.f_lasti) for one in frames)
    said: dict[int, list[str]] = {}
    for (depth, _), value in zip(variables, values, strict=True):
        said.setdefault(depth, []).append(value)
    split, depth, text = _split_of(chain, said)
    # Positions, not instructions: an instruction's number moves when the interpreter specializes a call.
    # Where no word decides, all of the script's own code does: on which line a library calls it back may change.
    # Code of two files that reads alike is equal, so the file belongs to it.
    said_so = depth < len(chain) or text
    inner = tuple(
        (code.co_filename, code, _position(code, number))
        for code, number in chain[:depth]
        if said_so or not is_installed(code.co_filename)
    )
    told = tuple(value for at, one in said.items() if at <= depth for value in one if _split(value))
    return CallPlace(Key((split, inner, text, told)), split, by_function=not text)


def _callers(frame: FrameType | None) -> list[FrameType]:
    """The callers, innermost first; not further out than the script."""
    found = []
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if file == "<frozen runpy>":
            break
        if (not file.startswith(_OURS) or file.startswith(_SCRIPTS)) and file != _CALLS:
            found.append(frame)
        if code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
            break
        frame = frame.f_back
    return found


def _texts_in_variables(frames: Sequence[FrameType]) -> Iterator[tuple[int, str]]:
    """Which variables of which frames hold text, which may say a split now or the next time: loop variables, arguments of the call, parameters."""
    for depth, frame in enumerate(frames):
        if is_installed(frame.f_code.co_filename):
            continue
        for name in _names(frame.f_code, frame.f_lasti):
            value = variable(frame, name)
            if isinstance(value, str):
                yield depth, name


def _said(value: Any) -> str:
    """The text that a variable holds, if a word in it says a split."""
    return value if isinstance(value, str) and len(value) < 40 and _split(value) else ""


def _names(code: CodeType, instruction: int) -> tuple[str, ...]:
    """The variables that a call is about: in its arguments and the loops around it, and the parameters of its function."""
    call, statements = _around(code, instruction)
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    nodes: list[ast.AST] = [] if call is None else [*call.args, *(keyword.value for keyword in call.keywords)]
    for loop in _loops(statements):
        nodes += [loop.target, loop.iter]
    for statement in statements:
        if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign)):  # losses[split] = ...
            nodes += statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    named = [part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)]
    return tuple(dict.fromkeys([*named, *parameters]))


def _split_of(chain: Chain, said_in: dict[int, list[str]]) -> tuple[str, int, str]:
    """Which data a chain of callers evaluates, how many of the callers it takes to say so, and the call that says it.

    The name of a function says it (``def validate(...)``), unless the call of that function knows better:
    ``test(model, train_loader)`` evaluates training data. A name that only speaks of evaluation counts as validation,
    unless the function around it is about something more special.
    """
    named, said = 0, ""  # how many callers up to the last one whose name said something, and what it said
    for depth, (code, instruction) in enumerate(chain):
        library = is_installed(code.co_filename)
        for call, words in () if library else _texts(code, instruction):
            if split := _split(words):
                return split, depth, call
        for value in said_in.get(depth, ()):
            if split := _split(value):
                return split, depth, value
        split, evaluates = _split(code.co_name), _EVALUATES.search(_words(code.co_name))
        if not said and (split or evaluates):
            named, said = depth + 1, split or "evaluation"
        elif said == "evaluation" and split in ("val", "test"):
            return split, depth + 1, ""
        elif said and evaluates:
            named = depth + 1
        elif said and (split or not library):
            break
    return {"": "eval", "evaluation": "val"}.get(said, said), named or len(chain), ""


@functools.lru_cache(maxsize=1024)
def _split(text: str) -> str:
    words = _words(text)
    found = [split for split, pattern in _SPLITS.items() if pattern.search(words)]
    return found[0] if len(found) == 1 else ""


def _words(text: str) -> str:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", _MODE.sub("", text)).lower()


def _texts(code: CodeType, instruction: int) -> Iterator[tuple[str, str]]:
    """The call that runs, with words that tell what it is about: where its result goes, its arguments, the loops around it."""
    call, statements = _around(code, instruction)
    if call is None:
        return
    text = ast.unparse(call)
    for statement in reversed(statements):
        if isinstance(statement, ast.Assign):
            yield text, ", ".join(map(ast.unparse, statement.targets))
        elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
            yield text, ast.unparse(statement.target)
    yield text, ", ".join(ast.unparse(value) for value in (*call.args, *(keyword.value for keyword in call.keywords)))
    for statement in reversed(statements):
        if isinstance(statement, ast.Expr) and statement.value is not call:
            yield text, ast.unparse(statement)
    for loop in reversed(_loops(statements)):
        runs_over = ast.unparse(loop.iter)
        if not runs_over.startswith("range("):
            yield f"{text} for {runs_over}", runs_over


def _around(code: CodeType, instruction: int) -> tuple[ast.Call | None, tuple[ast.stmt, ...]]:
    """The call that an instruction makes, and the statements around it, outermost first."""
    line, _, column, _ = _position(code, instruction)
    if line is None or column is None:
        return None, ()
    return _covering("".join(linecache.getlines(code.co_filename)), line, column)


@functools.lru_cache(maxsize=1024)
def _covering(source: str, line: int, column: int) -> tuple[ast.Call | None, tuple[ast.stmt, ...]]:
    try:
        nodes = list(ast.walk(_tree(source)))
    except (SyntaxError, ValueError):
        return None, ()
    around = [node for node in nodes if isinstance(node, (ast.expr, ast.stmt)) and _covers(node, line, column)]
    calls = [n for n in around if isinstance(n, ast.Call) and (n.lineno, n.col_offset) == (line, column)]
    if not calls:
        return None, ()
    call = max(calls, key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0))
    return call, tuple(node for node in around if isinstance(node, ast.stmt))


@functools.lru_cache(maxsize=64)
def _tree(source: str) -> ast.Module:
    return ast.parse(source)


def _loops(statements: Sequence[ast.stmt]) -> list[ast.For | ast.AsyncFor]:
    """The loops around a statement, inside of its function."""
    inside = max((n.lineno for n in statements if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))), default=0)
    return [one for one in statements if isinstance(one, (ast.For, ast.AsyncFor)) and one.lineno >= inside]


def _position(code: CodeType, instruction: int) -> tuple[int | None, int | None, int | None, int | None]:
    return next(itertools.islice(code.co_positions(), instruction // 2, None))


def _covers(node: ast.expr | ast.stmt, line: int, column: int) -> bool:
    start, end = (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return start <= (line, column) < end
