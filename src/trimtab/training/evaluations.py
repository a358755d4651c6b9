"""Evaluations of a training: losses computed without gradients, accuracies with them, and numbers that scripts print."""

from __future__ import annotations

import ast
import io
import itertools
import linecache
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from trimtab.records import Goal, Metric, Series
from trimtab.training.find import is_installed

_SPLITS = {
    "val": re.compile(r"(?<![a-z])(val|valid|validation|validate|dev|heldout|holdout)(?![a-z])"),
    "test": re.compile(r"(?<![a-z])(test|testing)(?![a-z])"),
    "train": re.compile(r"(?<![a-z])(train|training|fit)(?![a-z])"),
}
_EVALUATES = re.compile(r"(?<![a-z])(eval|evaluate|evaluation)(?![a-z])")
_MODE = re.compile(r"\.(train|eval)\(")  # model.train() and model.eval() say nothing about the data
_OURS = str(Path(__file__).resolve().parents[1])
# How torch calls a module depends on the hooks that are there at the moment, ours among them: no part of the place.
_CALLS = torch.nn.Module.__call__.__code__.co_filename


@dataclass
class _Sum:
    """Running means of one stream of evaluations, weighted by the number of samples."""

    label: str
    losses: list[torch.Tensor] = field(default_factory=list)
    hits: list[torch.Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Evaluations:
    """Gathers loss calls made without gradients between two updates into one evaluation per place in the code.

    What is evaluated is read from the code: the call and the statement it stands in, the loop around it and the names of
    the functions that lead there, from the inside outwards, until one of them speaks of validation, test or training data.
    Two calls belong to the same evaluation when everything up to that place is the same.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple, _Sum] = {}
        self._keys: dict[tuple, tuple] = {}
        self._labels: dict[tuple, str] = {}

    def add(self, name: str, output: Any, target: Any, value: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Take in one loss call; cheap: the numbers stay tensors until :meth:`close`."""
        if not isinstance(target, torch.Tensor) or not isinstance(output, torch.Tensor):
            return
        chain = tuple(_chain(sys._getframe(1)))
        if chain not in self._keys:
            split, depth, said = _split_of(chain)
            # Positions, not instructions: an instruction's number moves when the interpreter specializes a call.
            inner = tuple((code, _position(code, instruction)) for code, instruction in chain[:depth])
            self._keys[chain] = (split, inner, said)
        key = self._keys[chain]
        stream = self._sums.setdefault(key, _Sum(self._label(key)))
        count = max(1, target.shape[0] if target.ndim else 1)
        if kwargs.get("reduction") == "sum":
            value = value.detach() / count
        stream.losses.append(value.detach().float().mean())
        stream.counts.append(count)
        hits = accuracy(name, output, target, kwargs.get("ignore_index", -100))
        if hits is not None:
            stream.hits.append(hits)

    def close(self) -> Iterator[tuple[str, float]]:
        """The finished evaluations as ``("val loss", 0.31), ("val accuracy", 0.92)``; begins anew."""
        for stream in self._sums.values():
            weights = torch.tensor(stream.counts, dtype=torch.float64)
            weights /= weights.sum()
            yield f"{stream.label} loss", float(torch.stack(stream.losses).double().cpu() @ weights)
            if len(stream.hits) == len(stream.counts):
                yield f"{stream.label} accuracy", float(torch.stack(stream.hits).double().cpu() @ weights)
        self._sums.clear()

    def _label(self, key: tuple) -> str:
        if key not in self._labels:
            taken = [label for label in self._labels.values() if label.split()[0] == key[0]]
            self._labels[key] = f"{key[0]} {len(taken) + 1}" if taken else key[0]
        return self._labels[key]


def _chain(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    """The callers, innermost first, as code and instruction; not further out than the script."""
    while frame is not None and frame.f_code.co_filename != "<frozen runpy>":
        if not frame.f_code.co_filename.startswith(_OURS) and frame.f_code.co_filename != _CALLS:
            yield frame.f_code, frame.f_lasti
        frame = frame.f_back


def _split_of(chain: Sequence[tuple[CodeType, int]]) -> tuple[str, int, str]:
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


def _split(text: str) -> str:
    words = _words(text)
    found = [split for split, pattern in _SPLITS.items() if pattern.search(words)]
    return found[0] if len(found) == 1 else ""


def _words(text: str) -> str:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", _MODE.sub("", text)).lower()


def _texts(code: CodeType, instruction: int) -> Iterator[tuple[str, str]]:
    """The call that runs, with words that tell what it is about: where its result goes, its arguments, the loops around it."""
    file = code.co_filename
    line, _, column, _ = _position(code, instruction)
    if line is None or column is None:
        return
    try:
        nodes = list(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    except SyntaxError:
        return
    around = [node for node in nodes if isinstance(node, (ast.expr, ast.stmt)) and _covers(node, line, column)]
    calls = [n for n in around if isinstance(n, ast.Call) and (n.lineno, n.col_offset) == (line, column)]
    if not calls:
        return
    call = max(calls, key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0))
    text = ast.unparse(call)
    statements = [node for node in around if isinstance(node, ast.stmt)]
    for statement in reversed(statements):
        if isinstance(statement, ast.Assign):
            yield text, ", ".join(map(ast.unparse, statement.targets))
        elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
            yield text, ast.unparse(statement.target)
    yield text, ", ".join(ast.unparse(value) for value in (*call.args, *(keyword.value for keyword in call.keywords)))
    for statement in reversed(statements):
        if isinstance(statement, ast.Expr) and statement.value is not call:
            yield text, ast.unparse(statement)
    inside = max((n.lineno for n in statements if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))), default=0)
    for loop in reversed(statements):
        if isinstance(loop, (ast.For, ast.AsyncFor)) and loop.lineno >= inside:
            runs_over = ast.unparse(loop.iter)
            if not runs_over.startswith("range("):
                yield f"{text} for {runs_over}", runs_over


def _position(code: CodeType, instruction: int) -> tuple[int | None, int | None, int | None, int | None]:
    return next(itertools.islice(code.co_positions(), instruction // 2, None))


def _covers(node: ast.expr | ast.stmt, line: int, column: int) -> bool:
    start, end = (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return start <= (line, column) < end


def accuracy(name: str, output: torch.Tensor, target: torch.Tensor, ignore: int = -100) -> torch.Tensor | None:
    """The share of right predictions where the loss is a classification's and the targets are classes, else ``None``.

    Shapes: ``output`` (N, C, ...) with ``target`` (N, ...) of class indices for the (cross-entropy) losses over classes;
    equal shapes with 0/1 targets for the binary ones.
    """
    with torch.no_grad():
        if name in ("cross_entropy", "nll_loss", "multi_margin_loss") and not target.is_floating_point():
            right = (output.argmax(1 if output.ndim > 1 else 0) == target)[target != ignore]
        elif name in ("binary_cross_entropy", "binary_cross_entropy_with_logits") and output.shape == target.shape:
            if not bool(((target == 0) | (target == 1)).all()):
                return None
            right = (output > (0.0 if name.endswith("logits") else 0.5)) == (target > 0.5)
        else:
            return None
        return right.float().mean()


# -- printed numbers -------------------------------------------------------------------------------------------------

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)"
_WORDS = r"(?:acc|accuracy|loss|error|err|f1|auc|auroc|r2|rmse|mse|mae|score|perplexity|ppl|bleu)"
_GROUP = r"(?:train|training|val|valid|validation|dev|eval|test)"
_PRINTED = re.compile(
    rf"(?<![A-Za-z])(?P<name>(?:(?:{_GROUP}|best|mean|avg|average|top1|top-1)[ _/.-]*)*{_WORDS})"
    rf"(?P<of>\s(?:of|on|for)\s[^:=|]{{1,60}}(?=[:=]))?"
    rf"(?=['\"\s:=])['\"]?\s*[:=]?\s*(?:tensor\()?['\"]?(?P<value>{_NUMBER})(?:/(?P<all>\d+))?(?![\w.])\s*(?P<percent>%)?",
    re.IGNORECASE,
)
_HEADER = re.compile(rf"(?<![A-Za-z_])(?P<group>{_GROUP})(?:\s+set)?\s*[:\]|]", re.IGNORECASE)
_HIGHER = re.compile(r"acc|f1|auc|auroc|r2|score|bleu", re.IGNORECASE)


def printed_numbers(line: str) -> dict[str, float]:
    """The metrics named in a line of output.

    >>> printed_numbers("epoch 3: loss=0.25, Test accuracy: 91.5%")
    {'loss': 0.25, 'test accuracy': 0.915}
    >>> printed_numbers("Test set: Average loss: 0.04, Accuracy: 9856/10000 (99%)")
    {'test average loss': 0.04, 'test accuracy': 0.9856}
    """
    found = {}
    for match in _PRINTED.finditer(line):
        name = match["name"]
        if not re.search(_GROUP, name, re.IGNORECASE):
            headers = [header["group"] for header in _HEADER.finditer(line, 0, match.start())]
            among = re.search(rf"\b{_GROUP}\b", match["of"] or "", re.IGNORECASE)
            name = " ".join([*([among[0]] if among else headers[-1:]), name])
        name = re.sub(r"[ _/.-]+", " ", name).strip().lower()
        name = re.sub(r"\bacc\b", "accuracy", re.sub(r"\b(valid|validation)\b", "val", name))
        value = float(match["value"]) / (float(match["all"] or 1) or math.nan)
        found[name] = value / 100 if match["percent"] else value
    return found


class Printed(io.TextIOBase):
    """A standard output that passes everything on and reads whole lines on the way."""

    def __init__(self, inner: Any, call: Callable[[str], None]) -> None:
        self._inner = inner
        self._call = call
        self._line = ""

    def write(self, text: str) -> int:
        written = self._inner.write(text)
        self._line += text
        *whole, self._line = self._line.split("\n")
        for line in whole:
            self._call(line.rsplit("\r", 1)[-1])
        self._line = self._line[-10_000:]
        return written if isinstance(written, int) else len(text)

    def finish(self) -> None:
        """The script has ended: what it left without an end of line is a line too."""
        if self._line:
            self._call(self._line)
        self._line = ""

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        if not self.closed:
            self._inner.flush()

    def isatty(self) -> bool:
        return bool(self._inner.isatty())

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def close(self) -> None:  # a script that closes its output closes the real one; we only stand before it
        self._inner.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self._inner.encoding)

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self._inner, "errors", None)


# -- which number judges the run -------------------------------------------------------------------------------------

_MEASURED = ("val accuracy", "test accuracy", "eval accuracy"), ("val loss", "test loss", "eval loss")


def choose_metric(series: dict[str, Series], pattern: str | None = None) -> Metric | None:
    """The number a run is judged by: what ``--metric`` reads, else held-out accuracy, else held-out loss (measured before
    printed), else any other printed score, else the training loss.

    >>> choose_metric({"loss": Series(steps=(0,), values=(1.0,)), "printed accuracy": Series(steps=(0,), values=(0.5,))}).name
    'printed accuracy'
    """
    if pattern is not None:
        names = [name for name in series if name.startswith("metric ")]
        if not names:
            return None
        goal: Goal = (
            "max"
            if _HIGHER.search(names[0]) or not re.search(r"loss|err|mse|mae|ppl|perplex", names[0], re.I)
            else "min"
        )
        return Metric(name=names[0], goal=goal, why=f"read from the output with --metric {pattern!r}")
    accuracies, losses = _MEASURED
    for name in accuracies:
        if name in series:
            return Metric(name=name, goal="max", why="measured where the script evaluates its loss without gradients")
    printed = [name for name in series if name.startswith("printed ") and not re.search(r"train", name)]
    held_out = [name for name in printed if re.search(r"\b(val|dev|eval|test)\b", name)]
    for group in (held_out, printed):
        for name in group:
            if "accuracy" in name:
                return Metric(name=name, goal="max", why="read from the script's output")
    for name in losses:
        if name in series:
            return Metric(name=name, goal="min", why="measured where the script evaluates its loss without gradients")
    for name in (*held_out, *(name for name in printed if name != "printed loss")):
        return Metric(name=name, goal="max" if _HIGHER.search(name) else "min", why="read from the script's output")
    if "loss" in series:
        return Metric(name="loss", goal="min", why="the training loss: no evaluation and no printed metric was seen")
    return None
