"""Whatever a person types ends in a value or in a clear error: recipes, spaces, metrics, times, files, whole command lines."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import shutil
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import trimtab.techniques
from trimtab.cli import COMMANDS, main
from trimtab.cli.common import EXISTING_FOLDER, FILE, _pattern, seconds
from trimtab.quantities import Quantity
from trimtab.recipe import Recipe, RecipeError, Technique
from trimtab.records import Asked
from trimtab.trial.space import Space

assert trimtab.techniques  # registers them

QUICK, MANY = 400, 20_000
NAMES = sorted(name for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab."))
ODD = [
    "\0", "\ud800", "\udcff", "\u202e", "\x1b[31m", "é", "ﬁ", "²", "𝐱", "\u00a0", "\f", "\r\n", "x" * 5000, "-" * 3000, "(" * 300,
    "[" * 3000, "not " * 3000, "1" * 5000, "'" * 3, '"""', "\\", "\\N{", "#", ";", ":=", "lambda: 0", "yield", "await x", "*", "**", "...",
    "f'{x}'", "b'\\xff'", "rb''", "u''", "1j", "0x", "1_000", "1e999", "-1e999", "nan", "inf", "None", "True", "{}", "{1: 2}", "{1}", "set()",
    "()", "(1,)", "(1, 2)", "[]", "[[1], (2,)]", "'linear'", "b''", "0", "-0.0", "1e-400", "10**10**10", "'a' * 10**9", "1 if x else 2",
    "__import__('os')", "x.y", "x[0]", "|", "none", "uniform(0, 1)", "log(0, 1)", "int(0, 1.5)", "choice()", "choice(1)", "choice([], {})",
    "uniform(nan, 1)", "log_int(1, 1e999)", "uniform(uniform(0, 1), 1)",
]  # fmt: skip


def value(draw: random.Random, depth: int = 0) -> str:
    """A value as it may stand in a recipe, or nearly."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(ODD)
    if kind == 1 and depth < 3:
        inner = ", ".join(value(draw, depth + 1) for _ in range(draw.randrange(4)))
        return draw.choice(["({})", "[{}]", "{{{}}}", "choice({})", "({},)"]).format(inner)
    if kind == 2:
        return repr(draw.choice(["linear", "relu", "width", "depth", "", "a\nb", "every", "conv|attention"]))
    return repr(draw.choice([0, 1, -1, 0.5, 1e-3, 2.0, 10**18, True, False, None, draw.random(), draw.randrange(100)]))


@functools.cache
def fields(name: str) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(Technique.registry[name]))  # type: ignore[arg-type]


def call(draw: random.Random) -> str:
    name = draw.choice(NAMES)
    keys = draw.sample(fields(name), draw.randint(0, min(3, len(fields(name)))))
    given = [value(draw)] * (draw.random() < 0.2) + [f"{key}={value(draw)}" for key in keys]
    return f"{name}({', '.join(given)})" if given or draw.random() < 0.2 else name


def recipe(draw: random.Random) -> str:
    """A recipe, often a wrong one, sometimes with something done to its text."""
    text = draw.choice([", ", ", ", " | ", "; ", " + "]).join(call(draw) for _ in range(draw.choice([1, 1, 2, 3])))
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        at = draw.randint(0, len(text))
        end = min(len(text), at + draw.randrange(4))
        put = draw.choice([draw.choice(ODD), chr(draw.choice([draw.randrange(0x250), draw.randrange(0x110000)])), ""])
        text = text[:at] + put + text[end:]
    return text


PATTERNS = [
    "acc=([0-9.]+)",
    "val accuracy",
    "(a+)+$",
    "(?P<x>.)",
    "(",
    "[",
    "a{9999999999}",
    "(?<=a*)b",
    "(" * 200 + ")" * 200,
    "\\",
    "(?i)x(.)",
]
TIMES = ["90", "3m", "1.5h", "0", "-1", "1e9", "", " ", "9" * 400, "²s", "١s", "nan", ".", "1.s", "1 s", "1d"]


def other(draw: random.Random) -> str:
    """A text for an option; none that is the name of a file in another folder."""
    if draw.random() < 0.05:
        return draw.choice(["/dev/null", "/", "/dev/null/x"])
    text = draw.choice([*PATTERNS, *TIMES, "file.json", "a/b", "~", "*", draw.choice(ODD), recipe(draw)])
    return text.lstrip("/.") + draw.choice(["", "", "", draw.choice(ODD)])


def check_recipe(text: str) -> bool:
    """Reads, and comes back from every form, or is refused with a reason; whether it was read."""
    warnings.simplefilter("ignore", UserWarning)  # of techniques, about settings that are unusual
    for parse in (Space.parse, Recipe.from_toml):
        try:
            parse(text)
        except RecipeError as error:
            assert 20 < len(str(error)) < 6000, text
    try:
        read = Recipe.parse(text)
    except RecipeError as error:
        assert 20 < len(str(error)) < 6000, text
        return False
    assert Recipe.parse(str(read)) == read, text
    assert Recipe.from_toml(read.to_toml()) == read, text
    str(read).encode(), read.to_toml().encode()
    return True


def check_option(text: str) -> None:
    for option in (
        lambda: _pattern(None, None, text),  # type: ignore[arg-type]
        lambda: seconds(None, None, text),  # type: ignore[arg-type]
        lambda: FILE.convert(text, None, None),
        lambda: EXISTING_FOLDER.convert(text, None, None),
    ):
        try:
            option()
        except click.BadParameter as error:
            assert str(error.message)
    assert Asked(metric=text).pattern is None or True
    assert Quantity.read(text).goal in ("min", "max", None)


OPTIONS = ["--with", "--search", "--metric", "--budget", "--seeds", "--workers", "--json", "--html", "--store", "--every", "--plot", "--trials",
           "--candidates", "--list", "--best", "--fresh", "--maximize", "--minimize", "-m", "--help", "-h", "--", "-", "--version", "--keep-files"]  # fmt: skip


def check_command_line(draw: random.Random) -> int:
    """A command line that must be wrong, since its script is: exit code 2 or 1 and a sentence, help, or a list."""
    arguments = [draw.choice([*COMMANDS, *COMMANDS, other(draw)])]
    for _ in range(draw.randrange(5)):
        arguments.append(draw.choice(OPTIONS))
        arguments += [other(draw)] * (draw.random() < 0.8)
    arguments += [draw.choice(["missing.py", other(draw)])] * (draw.random() < 0.7)
    result = CliRunner().invoke(main, arguments, prog_name="trimtab")
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert result.exit_code in (0, 1, 2) and "Traceback" not in result.output, arguments
    assert result.exit_code == 0 or "Error: " in result.stderr, arguments
    for left in Path.cwd().iterdir():  # what was written would be a script, or a folder, for the next
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return result.exit_code


def check(many: int, seed: int) -> None:
    draw = random.Random(seed)
    read = sum(check_recipe(recipe(draw)) for _ in range(many))
    assert read > many / 50
    for _ in range(many):
        check_option(other(draw))


def test_texts_end_in_a_value_or_an_error():
    check(QUICK, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_texts_end_in_a_value_or_an_error(seed):
    check(MANY // 4, seed)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A folder that holds nothing and may be written into; and no memory of others."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_command_lines_end_in_an_error_or_an_answer(nowhere):
    draw = random.Random(0)
    codes = [check_command_line(draw) for _ in range(QUICK // 4)]
    assert {0, 2} <= set(codes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_command_lines_end_in_an_error_or_an_answer(nowhere, seed):
    draw = random.Random(seed)
    for _ in range(MANY // 4):
        check_command_line(draw)
    assert os.getcwd() == str(nowhere)
