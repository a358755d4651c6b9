"""The package as its source text tells it: classes with their bases, docstrings, signatures and constants.

Nothing is imported for it, least of all torch, which takes seconds. Names are followed through imports and base classes as far
as the package goes; what lies in other packages is unknown here, and no card needs it. ``tests/cli/test_catalogue.py``
compares what is read this way with the imported objects, one by one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "trimtab"
_Node = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class PublicName:
    """A class or a function of a module."""

    module: Module
    node: _Node

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def doc(self) -> str:
        """Its docstring as ``inspect.getdoc`` gives it: a class without one has that of its nearest base."""
        return next((text for one in self.line() if (text := ast.get_docstring(one.node))), "")

    def line(self) -> tuple[PublicName, ...]:
        """A class and its bases within the package, in the order in which Python asks them; a function alone."""
        if not isinstance(self.node, ast.ClassDef):
            return (self,)
        bases = (self.module.member(base) for base in self.node.bases)
        found = [self, *(one for base in bases if base is not None for one in base.line())]
        return tuple(one for i, one in enumerate(found) if one not in found[i + 1 :])  # a common base comes last

    def attribute(self, name: str, inherited: bool = True) -> Any:
        """The literal value of a class attribute; ``None`` without one."""
        for one in self.line() if inherited else (self,):
            for statement in one.node.body:
                if (value := _assigned(statement).get(name)) is not None:
                    return ast.literal_eval(value)
        return None

    def method(self, name: str) -> PublicName | None:
        """The method of that name, own or inherited."""
        found = (PublicName(one.module, s) for one in self.line() for s in _functions(one.node) if s.name == name)
        return next(found, None)

    @property
    def is_abstract(self) -> bool:
        """Whether a method is left to be implemented."""
        left = {
            function.name for one in self.line() for function in _functions(one.node) if _is(function, "abstractmethod")
        }
        return any((found := self.method(name)) and _is(found.node, "abstractmethod") for name in left)

    def signature(self) -> str:
        """``(width: int, eps: float = 1e-05, *, bias: bool = True)`` as it is written, defaults by their value.

        A class without ``__init__`` of its own in the package has the signature of its fields, if it is a dataclass, or ``(...)``.
        """
        if not self.is_class:
            return _signature(self, self.node)  # type: ignore[arg-type]
        for one in self.line():
            for function in _functions(one.node):
                if function.name == "__init__":
                    return _signature(one, function, bound=True)
            if _is(one.node, "dataclass"):
                return f"({', '.join(one._fields())})"
        return "(...)"

    def _fields(self) -> Iterator[str]:
        fields: dict[str, str] = {}
        for one in reversed(self.line()):
            for statement in one.node.body if _is(one.node, "dataclass") else ():
                if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith(
                    "ClassVar"
                ):
                    given = "" if statement.value is None else f" = {one.module.value(statement.value)}"
                    fields[ast.unparse(statement.target)] = f": {one.module.value(statement.annotation)}{given}"
        return (name + said for name, said in fields.items())


class Module:
    """One file: what it defines, and what it takes from other files of the package."""

    def __init__(self, source: Source, name: str, text: str) -> None:
        self.source, self.name = source, name
        tree = ast.parse(text)
        self.defined: dict[str, _Node] = {}
        self.constants: dict[str, ast.expr] = {}
        self.taken: dict[str, tuple[str, str]] = {}  # name here -> module, name there
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.defined[node.name] = node
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                self.taken |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
            else:
                self.constants |= _assigned(node)

    def find(self, name: str) -> tuple[Module, _Node | ast.expr] | None:
        """The class, function or constant of that name, in the module that defines it."""
        if name in self.defined or name in self.constants:
            return self, self.defined.get(name) or self.constants[name]
        if self.taken.get(name, (self.name, name)) == (self.name, name):  # unknown here, or a file of this folder
            return None
        module = self.source.module(self.taken[name][0])
        return module.find(self.taken[name][1]) if module is not None else None

    def member(self, what: str | ast.expr) -> PublicName | None:
        """A class or function by its name, or by the expression that names it: ``BatchNorm1d``, ``optim.Adam``."""
        if isinstance(what, ast.Attribute) and isinstance(what.value, ast.Name) and what.value.id in self.taken:
            module = self.source.module(".".join(self.taken[what.value.id]))
            return module.member(what.attr) if module is not None else None
        name = what if isinstance(what, str) else what.id if isinstance(what, ast.Name) else ""
        found = self.find(name)
        return (
            PublicName(found[0], found[1]) if found and isinstance(found[1], (ast.ClassDef, ast.FunctionDef)) else None
        )

    def value(self, expression: ast.expr) -> str:
        """An expression as text, a constant of the package by its value."""
        if isinstance(expression, ast.Name) and (found := self.find(expression.id)) and isinstance(found[1], ast.expr):
            return found[0].value(found[1])
        return ast.unparse(expression)

    def constant(self, name: str) -> Any:
        """The literal value of a constant of this file; ``None`` without one."""
        return ast.literal_eval(self.constants[name]) if name in self.constants else None


@dataclass
class Source:
    """The files of a package, read when they are asked for."""

    folder: Path
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """The module of that dotted name; ``None`` if the package has no such file."""
        if name not in self._modules:
            place = self.folder.joinpath(*name.split(".")[1:])
            files = [place.with_suffix(".py"), place / "__init__.py"]
            file = next((file for file in files if file.is_file()), None)
            self._modules[name] = Module(self, name, file.read_text(encoding="utf-8")) if file else None
        return self._modules[name]

    def public(self, name: str) -> dict[str, PublicName]:
        """The classes and functions in the ``__all__`` of a module."""
        module = self.module(name)
        assert module is not None
        found = {name: module.member(name) for name in module.constant("__all__")}
        return {name: member for name, member in found.items() if member is not None}


def _assigned(statement: ast.AST) -> dict[str, ast.expr]:
    """The names that a statement gives a value, each with its expression."""
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return {}
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    value = statement.value
    return {target.id: value for target in targets if isinstance(target, ast.Name) and value is not None}


def _functions(node: _Node) -> Iterator[ast.FunctionDef]:
    """The methods of a class."""
    return (one for one in node.body if isinstance(node, ast.ClassDef) and isinstance(one, ast.FunctionDef))


def _is(node: _Node, decorator: str) -> bool:
    """Whether a decorator of that name stands above it, called or not."""
    named = (one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)
    return any(ast.unparse(one).rpartition(".")[2] == decorator for one in named)


def _signature(where: PublicName, function: ast.FunctionDef, bound: bool = False) -> str:
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    said = [_parameter(where, one, default) for one, default in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        said.insert(len(given.posonlyargs), "/")
    said = said[bound:]
    if given.vararg:
        said.append(f"*{_parameter(where, given.vararg, None)}")
    elif given.kwonlyargs:
        said.append("*")
    said += [_parameter(where, one, d) for one, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        said.append(f"**{_parameter(where, given.kwarg, None)}")
    result = f" -> {ast.unparse(function.returns)}" if function.returns is not None and not bound else ""
    return f"({', '.join(said)}){result}"


def _parameter(where: PublicName, one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {where.module.value(one.annotation)}" if one.annotation is not None else ""
    given = where.module.value(default) if default is not None else ""
    return one.arg + kind + (f" = {given}" if kind and given else f"={given}" if given else "")
