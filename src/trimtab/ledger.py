r"""A ledger of many decisions: a file that many may write to, and what each decision may risk for all of them together to be sound.

Whoever tries a hundred edits and keeps those that are proven at 0.05 keeps two or three that change nothing. A ledger gives every decision its
own part of one promise: that with probability 0.95 *none* of the edits kept in it is a false one (the family-wise error), however many will
come. Decision :math:`i` may keep an edit falsely with probability

.. math:: \alpha_i = \alpha\,\frac{S}{(i + S - 1)(i + S)} + \mathbf 1[\text{decision } i-1 \text{ kept}]\;\alpha_{i-1}, \qquad \alpha = 0.05

The first terms sum to :math:`\alpha` over all :math:`i`; a decision that has kept an edit hands its part on to the next (online fallback, Tian
& Ramdas 2021, Online control of the familywise error rate), which holds whatever the dependence between the decisions: all are compared on
the same seeds.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from trimtab.records import ERROR, Goal, Record, Verdict

SLOWLY = 50  # S: the first half of the promise is for so many decisions
FORMAT = "trimtab ledger"
_MARK = f'{{"kind": "{FORMAT}"'


class LedgerError(ValueError):
    """A file that is no ledger, or cannot be written."""


class Decision(Record, frozen=True, kw_only=True):
    """An edit or a recipe that was tried: begun, with what it may risk, and once it has ended what was decided.

    ``key`` stands for what was compared with what: the same question is the same decision. ``alpha`` is the probability with which it may be
    kept falsely. ``effect`` is oriented so that positive is better, ``before`` the mean of the untreated subject; ``runs`` and
    ``seconds`` are what it cost. ``lines`` keep it: those to add of a recipe, the difference of an edit.
    """

    number: int
    key: str
    subject: str
    arm: str
    alpha: float
    began: float
    ended: float = 0.0
    verdict: Verdict = "undecided"
    metric: str = ""
    goal: Goal = "max"
    before: float = math.nan
    effect: float = math.nan
    low: float = -math.inf
    high: float = math.inf
    p: float = math.nan
    seeds: int = 0
    runs: int = 0
    seconds: float = 0.0
    lines: tuple[str, ...] = ()

    def _in_short(self) -> str:
        return f"{self.number}: {self.arm}, {self.verdict if self.ended else 'not ended'}"

    @property
    def kept(self) -> bool:
        """Whether it is to be kept: it is better, as surely as all decisions together promise."""
        return bool(self.ended) and self.verdict == "better"


class Ledger:
    """The decisions in a file, one to a line when it begins and one when it ends. Several may write at a time.

    Raises:
        LedgerError: if the file is something else, or cannot be written.

    >>> import tempfile
    >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "night.jsonl")
    >>> first, second = ledger.begin("train.py", {"--lr 0.1": "a", "--lr 0.2": "b"})
    >>> round(first.alpha, 6), round(second.alpha, 6)
    (0.00098, 0.000943)
    >>> ledger.end(msgspec.structs.replace(first, verdict="better", effect=0.1))
    >>> (third,) = ledger.begin("train.py", {"--lr 0.1": "c"})
    >>> round(third.alpha, 6), [decision.kept for decision in ledger.decisions()]
    (0.000907, [True, False, False])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._open() as file:
            _read(self.path, file.read())

    def decisions(self) -> tuple[Decision, ...]:
        """All of them in turn, also those that have not ended."""
        with self._open() as file:
            return _read(self.path, file.read())

    def begin(self, subject: str, arms: Mapping[str, str]) -> tuple[Decision, ...]:
        """A decision for each arm, by its key; one that is in the ledger already is that one."""
        with self._open() as file:
            found = list(_read(self.path, file.read()))
            known = {decision.key: decision for decision in found}
            begun = []
            for arm, key in arms.items():
                if key not in known:
                    risk = allowance(found)
                    made = Decision(
                        number=next_number(found), key=key, subject=subject, arm=arm, alpha=risk, began=time.time()
                    )
                    found.append(made)
                    known[key] = made
                    self._write(file, made)
                begun.append(known[key])
            return tuple(begun)

    def end(self, decision: Decision) -> None:
        """Write down what was decided."""
        with self._open() as file:
            self._write(file, msgspec.structs.replace(decision, ended=decision.ended or time.time()))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The file, for nobody else to read or write meanwhile."""
        try:
            if self.path.exists() and not self.path.is_file():
                raise LedgerError(f"{self.path} cannot be a ledger: it is no file that keeps what is written to it.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+", encoding="utf-8", errors="backslashreplace") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                yield file
        except LedgerError:
            raise
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise LedgerError(f"{self.path} cannot be read and written as a ledger: {why}.") from error

    def _write(self, file: Any, decision: Decision) -> None:
        file.seek(0)
        cut = file.read()[-1:] not in ("", "\n")  # a line that a crash has left unfinished
        file.write("\n" * cut + json.dumps({"kind": FORMAT, **_finite(msgspec.to_builtins(decision))}) + "\n")
        file.flush()


def next_number(decisions: Sequence[Decision]) -> int:
    return decisions[-1].number + 1 if decisions else 1


def allowance(decisions: Sequence[Decision]) -> float:
    """The probability with which the decision that comes next may keep an edit falsely.

    >>> round(sum(ERROR * SLOWLY / ((i + SLOWLY - 1) * (i + SLOWLY)) for i in range(1, 10**6)), 4)
    0.05
    """
    number = next_number(decisions)
    handed_on = decisions[-1].alpha if decisions and decisions[-1].kept else 0.0
    return ERROR * SLOWLY / ((number + SLOWLY - 1) * (number + SLOWLY)) + handed_on


def read(path: Path | str) -> tuple[Decision, ...]:
    """The decisions of a ledger that is only looked at.

    Raises:
        LedgerError: if there is no such file, or it is something else.
    """
    try:
        return _read(Path(path), Path(path).read_text(encoding="utf-8", errors="backslashreplace"))
    except OSError as error:
        raise LedgerError(f"{path} cannot be read as a ledger: {getattr(error, 'strerror', None) or error}.") from error


def _read(path: Path, text: str) -> tuple[Decision, ...]:
    """The last of what was written of each decision. A line that was cut off by a crash counts for nothing."""
    found: dict[int, Decision] = {}
    for line in filter(str.strip, text.removeprefix("\ufeff").splitlines()):
        if not line.startswith(_MARK) and not _MARK.startswith(line):
            raise LedgerError(
                f"{path} is no ledger: a line of it begins with {line[:30]!r}. Give the name of a file that trimtab compare --log has made, or of "
                "none."
            )
        try:
            said = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        try:
            decision = msgspec.convert({name: value for name, value in said.items() if name != "kind"}, Decision)
        except msgspec.ValidationError as error:
            raise LedgerError(
                f"{path} holds a decision that this version of trimtab does not read: {error}."
            ) from error
        found[decision.number] = decision
    return tuple(found[number] for number in sorted(found))


def _finite(said: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: what has no bound is left away."""
    return {name: value for name, value in said.items() if not isinstance(value, float) or math.isfinite(value)}
