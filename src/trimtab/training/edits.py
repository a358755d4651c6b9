"""The place in a script where its optimizer is made, and the lines that go there to keep a recipe.

The lines name variables that exist there, and stand where they run: behind the statement that makes the optimizer, or, where that one gives
the optimizer away at once (``return SGD(...)``, ``prepare(SGD(...))``), in its place. What can be known is known while the optimizer is
being made; frames are not kept.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from trimtab.records import CodePlace
from trimtab.training.find import is_installed, unwrap
from trimtab.training.variables import variable

_PACKAGE = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent) + os.sep
_RUNNERS = ("run_script", "_fit")  # ours, that run what is the user's
IMPORT = "import trimtab as tt"
APPLY = ".apply(...)"
"""What stands in the lines for the recipe."""

_FEW = 1000  # things in a container that are looked at
_BRANCHES = (ast.IfExp, ast.BoolOp)
_OWN_TIME = (*_BRANCHES, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_GOES_ON = ("elif ", "else:", "else ", "except", "finally", "case ")


@dataclass(frozen=True)
class Statement:
    """A statement of a file, and the call in it that runs."""

    file: str
    node: ast.stmt
    call: ast.Call
    siblings: Sequence[ast.stmt]
    above: tuple[ast.AST, ...]  # what is around the call inside of the statement, outermost first

    @property
    def lines(self) -> tuple[int, int]:
        """Its first line and its last; of a block, that of the call."""
        last = self.call if hasattr(self.node, "body") else self.node
        return self.node.lineno, last.end_lineno or last.lineno

    @property
    def indent(self) -> str:
        line = linecache.getline(self.file, self.node.lineno)
        return line[: len(line) - len(line.lstrip())]

    @property
    def target(self) -> ast.expr | None:
        """What it assigns to."""
        node = self.node
        return node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)

    @property
    def name(self) -> str:
        """What the value of the call is called when the statement is over; empty if it has no name then."""
        node = self.node
        whole = isinstance(node, (ast.Assign, ast.AnnAssign)) and all(isinstance(one, _BRANCHES) for one in self.above)
        plain = isinstance(self.target, (ast.Name, ast.Attribute, ast.Subscript))
        return ast.unparse(self.target) if whole and plain and self.target is not None else ""

    def text(self, begin: tuple[int, int], end: tuple[int, int]) -> str:
        """The source between two places, each a line and a column."""
        found = [linecache.getline(self.file, number).encode() for number in range(begin[0], end[0] + 1)]
        found[-1] = found[-1][: end[1]]
        found[0] = found[0][begin[1] :]
        return b"".join(found).decode().rstrip("\n")

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self.text(*_span(node))

    def with_calls(self, calls: Sequence[ast.Call], new: Sequence[str]) -> list[str]:
        """Its lines, with others in the place of calls."""
        first, last = self.lines
        at, text = (first, 0), ""
        for call, other in zip(calls, new, strict=True):
            begin, end = _span(call)
            text += self.text(at, begin) + other
            at = end
        rest = len(linecache.getline(self.file, last).encode())
        return (text + self.text(at, (last, rest))).split("\n")

    @property
    def around(self) -> tuple[str, str]:
        """What stands before it on its first line, and behind it on its last, without space and comments."""
        begin, end = _span(self.node)
        before = self.text((begin[0], 0), begin).strip()
        behind = self.text(end, (end[0], 1 << 20)).strip().lstrip(";").strip()
        return before, "" if behind.startswith("#") else behind


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)


def _statement(frame: FrameType) -> Statement | None:
    """The innermost statement that a frame is in; several may share a line."""
    file = frame.f_code.co_filename
    _, end_line, _, end_column = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None
    found: Statement | None = None
    waiting: list[tuple[ast.AST, Sequence[ast.stmt], ast.stmt | None, tuple[ast.AST, ...]]] = [(tree, (), None, ())]
    while waiting:
        node, siblings, statement, above = waiting.pop()
        if isinstance(node, ast.stmt):
            statement, above = node, ()
        elif statement is not None:
            if isinstance(node, ast.Call) and (node.end_lineno, node.end_col_offset) == (end_line, end_column):
                found = Statement(file, statement, node, siblings, above)
            if isinstance(node, ast.expr):
                above = (*above, node)
        for _, value in ast.iter_fields(node):
            children = value if isinstance(value, list) else [value]
            block = children if children and isinstance(children[0], ast.stmt) else siblings
            waiting += [(child, block, statement, above) for child in children if isinstance(child, ast.AST)]
    return found


# -- names -----------------------------------------------------------------------------------------------------------


def _names(frame: FrameType) -> Iterator[tuple[str, Any]]:
    """What can be named where a frame is: its variables and what they hold, then those globals that its code speaks of."""
    code = frame.f_code
    own = dict.fromkeys([*code.co_varnames, *code.co_cellvars, *code.co_freevars])
    everything = code.co_name == "<module>"
    outside = [name for name in frame.f_globals if everything or name in code.co_names]
    yield from _held([(name, variable(frame, name)) for name in own])
    yield from _held([(name, frame.f_globals[name]) for name in outside])


def _held(known: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Variables, and what stands in their attributes and places."""
    known = [(name, value) for name, value in known if not name.startswith((".", "__"))]
    yield from known
    for name, value in known:
        if isinstance(value, (type, ModuleType)) or type(value).__module__ == "builtins":
            continue
        parts = value._modules if isinstance(value, nn.Module) else {}
        held = [*list(getattr(value, "__dict__", {}).items()), *parts.items()]
        yield from [(f"{name}.{attribute}", one) for attribute, one in held if attribute.isidentifier()]
    for name, value in known:
        if not isinstance(value, (list, tuple, dict, nn.ModuleList, nn.ModuleDict)) or len(value) > _FEW:
            continue
        if isinstance(value, (list, tuple, nn.ModuleList)):
            yield from [(f"{name}[{place}]", one) for place, one in enumerate(value)]
        else:
            yield from [(f"{name}[{key!r}]", one) for key, one in list(value.items()) if isinstance(key, str)]


def _name(frame: FrameType, is_it: Callable[[Any], bool]) -> str:
    return next((name for name, value in _names(frame) if is_it(value)), "")


def _model_name(frame: FrameType, model: nn.Module) -> str:
    return _name(frame, lambda value: issubclass(type(value), nn.Module) and unwrap(value) is model)


def _optimizer_name(frame: FrameType, optimizer: torch.optim.Optimizer) -> str:
    def is_it(value: Any) -> bool:
        wrapped = (
            value.__dict__.get("optimizer") if hasattr(value, "__dict__") and not isinstance(value, type) else None
        )
        wraps = isinstance(value, torch.optim.Optimizer) and wrapped is optimizer  # accelerate's
        return value is optimizer or wraps

    return _name(frame, is_it)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"


# -- the place -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EditSite:
    """Where the last optimizer of a training is made.

    ``sure`` says that the call in the statement makes it. Else somebody else does on the way, and it shows at the first step: a
    function that gave the optimizer back is over then, one that trains with it is not.
    """

    place: CodePlace | None
    sure: bool
    code: CodeType
    statement: Statement
    calls: tuple[ast.Call, ...]
    models: tuple[str, ...]

    def settled(self, optimizers: Sequence[torch.optim.Optimizer]) -> CodePlace | None:
        """What is known when the first step is made, if it was not sure before."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back
        if frame is None:
            return self.place
        first, last = self.statement.lines
        if first <= frame.f_lineno <= last:
            return None
        names = [_optimizer_name(frame, optimizer) for optimizer in optimizers]
        return _behind(self.statement, self.models, names) if all(names) else None


def site_of(
    models: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    frame: FrameType,
    earlier: EditSite | None = None,
) -> EditSite | None:
    """The statement of the user's that makes the last of the optimizers, which is under construction; ``None`` if there is none.

    It is the innermost one where the models have names. ``earlier`` is where the last optimizer before this one was made.
    """
    *others, optimizer = optimizers
    sure, trainer = True, None
    at: FrameType | None = frame
    while at is not None:
        inner, at = at, at.f_back
        file = inner.f_code.co_filename
        if file.startswith(_PACKAGE) and inner.f_code.co_name in _RUNNERS:
            return None
        if file.startswith((_PACKAGE, _TORCH, "<")) or _first_argument(inner) is optimizer:
            continue
        if is_installed(file):
            sure = False
            trainer = _transformers_trainer(inner) or trainer
            continue
        if trainer is not None:
            if _first_argument(inner) is trainer:
                continue
            statement = _statement(inner)
            place = _before_training(inner, statement, trainer) if statement is not None else None
            return EditSite(place, True, inner.f_code, statement, (), ()) if statement is not None else None
        names = tuple(_model_name(inner, model) for model in models)
        statement = _statement(inner) if all(names) else None
        if statement is not None:
            return _site(inner, statement, names, others, sure, earlier)
        sure = False
    return None


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    return variable(frame, code.co_varnames[0]) if code.co_argcount else None


def _site(
    frame: FrameType,
    statement: Statement,
    models: tuple[str, ...],
    others: Sequence[torch.optim.Optimizer],
    sure: bool,
    earlier: EditSite | None,
) -> EditSite:
    calls: tuple[ast.Call, ...] = (statement.call,)
    beside = earlier if earlier is not None and _same(earlier, frame, statement) else None
    if beside is not None:  # several optimizers in one statement
        calls = (*beside.calls, statement.call)
    again = len({_span(call) for call in calls}) < len(calls)
    names = [_optimizer_name(frame, optimizer) for optimizer in others[: len(others) - len(calls) + 1]]
    place = None
    if not again and all(names):
        place = (
            _place(frame, statement, calls, models, names)
            if sure
            else _behind(statement, models, [*names, statement.name])
        )
    return EditSite(place, sure, frame.f_code, statement, calls, models)


def _same(site: EditSite, frame: FrameType, statement: Statement) -> bool:
    return site.code is frame.f_code and _span(site.statement.node) == _span(statement.node)


def _place(
    frame: FrameType, statement: Statement, calls: tuple[ast.Call, ...], models: Sequence[str], others: Sequence[str]
) -> CodePlace | None:
    """The lines for a statement whose calls make optimizers."""
    if len(calls) == 1 and (place := _behind(statement, models, [*others, statement.name])) is not None:
        return place
    model, indent = _listed(models) if models else "[]", statement.indent
    inside = list(ast.walk(statement.node))
    at_once = not any(isinstance(node, _OWN_TIME) for node in statement.above)
    at_once &= not any(isinstance(node, ast.NamedExpr) for node in inside)
    if at_once and not hasattr(statement.node, "body") and not any(statement.around):
        read = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        stem = "made" if "optimizer" in read else "optimizer"
        names = [stem + (str(number) if number > 1 else "") for number in range(1, len(calls) + 1)]
        lines = [f"{name} = {_expression(statement, call)}" for name, call in zip(names, calls, strict=True)]
        lines += [IMPORT, f"tt.attach({model}, {_listed([*others, *names])}){APPLY}"]
        return _instead(statement, [indent + line for line in lines] + statement.with_calls(calls, names), models)
    if (
        len(calls) > 1
        or others
        or statement.of(statement.node).startswith(_GOES_ON)
        or statement.around[0].startswith(_GOES_ON)
    ):
        return None
    inline = f"tt.attach({model}, {statement.of(calls[0])}){APPLY}.optimizers[0]"
    return _instead(statement, [indent + IMPORT, *statement.with_calls(calls, [inline])], models)


def _expression(statement: Statement, call: ast.Call) -> str:
    text = statement.of(call)
    try:
        ast.parse(text)
    except SyntaxError:  # it went on over the end of a line inside other brackets
        return f"({text})"
    return text


def _behind(statement: Statement, models: Sequence[str], optimizers: Sequence[str]) -> CodePlace | None:
    """The lines behind a statement that gives the optimizer a name; ``None`` where there is no room for lines."""
    if not all(optimizers) or not isinstance(statement.node, (ast.Assign, ast.AnnAssign)):
        return None
    begin = linecache.getline(statement.file, statement.lines[0]).encode()
    column = len(begin) - len(begin.lstrip())
    on_line = [one for one in statement.siblings if one.lineno == statement.lines[0]]
    if not on_line or on_line[0].col_offset != column:
        return None
    indent, behind = statement.indent, statement.around[1]
    lines = [IMPORT, f"tt.attach({_listed(models) if models else '[]'}, {_listed(optimizers)}){APPLY}"]
    if not behind:
        return _told(statement, "after", [indent + line for line in lines], models, optimizers)
    whole = statement.text((statement.lines[0], 0), _span(statement.node)[1])
    return _instead(statement, [*whole.split("\n"), *(indent + line for line in [*lines, behind])], models)


def _instead(statement: Statement, lines: list[str], models: Sequence[str]) -> CodePlace:
    return _told(statement, "instead", lines, models, ())


def _told(
    statement: Statement, where: Any, lines: Sequence[str], models: Sequence[str], optimizers: Sequence[str]
) -> CodePlace:
    first, last = statement.lines
    return CodePlace(
        file=shown(statement.file),
        line=last,
        source=linecache.getline(statement.file, first).rstrip(),
        model_name=_listed(models) if models else "",
        optimizer_name=_listed(optimizers) if optimizers else "",
        first=first,
        where=where,
        lines=tuple(lines),
    )


def shown(file: str) -> str:
    """A file as one names it in the current folder; elsewhere its whole path, but for that of a copy made for a trial."""
    path = Path(file)
    with contextlib.suppress(OSError, ValueError):
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    return path.name if ".trimtab" in path.parts or "trimtab-trials" in file else file


# -- Hugging Face ----------------------------------------------------------------------------------------------------


def _transformers_trainer(frame: FrameType) -> Any:
    """The Trainer of transformers whose method runs, if one does."""
    one = _first_argument(frame)
    named = [
        cls for cls in type(one).__mro__ if (cls.__name__, cls.__module__.split(".")[0]) == ("Trainer", "transformers")
    ]
    return one if named else None


def _before_training(frame: FrameType, statement: Statement, trainer: Any) -> CodePlace | None:
    """A callback for a Trainer that makes its optimizer by itself when it begins to train."""
    name, call, indent = _name(frame, lambda value: value is trainer), statement.call, statement.indent
    before, behind = statement.around
    if before or (behind and not name) or statement.of(statement.node).startswith(_GOES_ON):
        return None
    lines = [
        IMPORT,
        "from transformers import TrainerCallback",
        "class Treated(TrainerCallback):",
        "    def on_train_begin(self, args, state, control, model, optimizer, **kwargs):",
        f"        tt.attach(model, optimizer){APPLY}",
    ]
    if name:
        lines.append(f"{name}.add_callback(Treated())")
        return _told(statement, "before", [indent + line for line in lines], (), ())
    if not isinstance(call.func, ast.Attribute) or any(isinstance(node, _OWN_TIME) for node in statement.above):
        return None
    made = statement.of(call.func.value)
    lines = [f"trainer = {made}", *lines, "trainer.add_callback(Treated())"]
    held = ast.Call(func=call.func, args=[], keywords=[])
    ast.copy_location(held, call.func.value)
    return _instead(statement, [indent + line for line in lines] + statement.with_calls([held], ["trainer"]), ())


def code_place(model: nn.Module | None) -> CodePlace | None:
    """Where the user's code stands right now; ``None`` inside of an installed package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_PACKAGE, _TORCH, "<")):
        frame = frame.f_back
    if frame is None or is_installed(frame.f_code.co_filename):
        return None
    file, line = frame.f_code.co_filename, frame.f_lineno
    name = _model_name(frame, model) if model is not None else ""
    return CodePlace(file=file, line=line, source=linecache.getline(file, line).rstrip(), model_name=name)
