"""What a script prints: its lines, as they pass on their way to the output, and the numbers that they name."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trimtab.quantities import BEST, MEAN, SPLIT, Split, plain_words, score_in, split_in, summary_in
from trimtab.training.safe import suppressed

UNKNOWN = " "  # the score of what has the name of a part of the data alone
LONGEST = 2000  # characters of a line that are read for scores: its end, where a history has its newest numbers
KEPT = 10_000  # characters of a line that are kept, also of one that has not ended yet
LABEL = 200  # characters in front of a number that may say what it is
HINTS = 50  # labels of unknown numbers that are kept count of

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HALF = re.compile(r"^(?:[^{]*(?={)|\S*\s)")
_GAP = re.compile(r"(?<=\s{8})\s+")
_PLAIN_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![,\d])(?:\.\d+)?|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)"
_PLAIN = re.compile(_PLAIN_NUMBER, re.IGNORECASE)
_NUMBER = re.compile(rf"(?<![\w.@^])(?<!top[- _]){_PLAIN_NUMBER}(?![\w@]|\.\w|-[A-Za-z])", re.IGNORECASE)
_FRACTION = re.compile(r"\s?/\s?(\d[\d,]*)(?![\w.])")
_AVERAGE = re.compile(rf"\s?\(\s*({_PLAIN_NUMBER})\s*\)", re.IGNORECASE)
_SHARE = re.compile(r"\s?%\s?\(\s*(\d+)\s?/\s?(\d+)\s*\)")
_CORRECT = re.compile(r"\s*(?:are |were )?(?:correct|right)(?!\w)", re.IGNORECASE)
_QUALIFIER = re.compile(r"@\s?\[([^\]]*)\]")  # "average precision @[ IoU=0.50:0.95 | area=all ] = 0.5"
_PERCENT = re.compile(r"\s*\(?\s*%")
_UNIT = re.compile(r"\s?(?:ms|s|sec|secs|seconds?|min|minutes?|h|hours?|[kmg]i?b|\w+/s(?:ec)?)(?!\w)", re.IGNORECASE)
_SPREAD = re.compile(r"(?:±|\+/?[-−])\s*\(?\s*$")
_COLON = re.compile(  # said at more length: "accuracy of the network on the 10000 images: "
    r"['\"\])]*\s*(?:(?:[(\[]|(?:on|of|for|over|in|after|at|across|by|using|with|per|so far)(?!\w))[^:=]{0,60})?[:=]\s*['\"(\[{]*\s*(?:\w*\()?\s*$",
    re.IGNORECASE,
)
_GOES_ON = re.compile(  # a count or a number of something in a label: "accuracy on 100 images: ", "accuracy of 3: ", "acc [3/10]: "
    rf"(?:\s?/\s?\d+)?(?:[\])]+|\s+(?!(?:at|in|after)\s)[^\W\d][^:=,;|%\d]{{0,60}})?\s*[:=]\s*['\"(\[{{]*(?={_PLAIN_NUMBER})",
    re.IGNORECASE,
)
_INTRODUCES = re.compile(
    r"(?:[(\[#]|(?<!\w)(?:on|of|for|over|in|after|at|across|using|with|class|label|digit|first|last|all))[^:=]*$"
)
_PART = re.compile(  # "accuracy of cat: ", "f1 for class 3 = "
    r"\s*(?:of|for)\s+(?:the\s+)?((?:class|label|digit|category)?\s*['\"]?[\w-]+(?: [\w-]+)?)['\"]?\s*[:=]\s*",
    re.IGNORECASE,
)
_TRAIN = re.compile(rf"(?<!\w)train(?:ing)?\s*[:=]?\s*(?={_PLAIN_NUMBER})", re.IGNORECASE)
_NEWER = re.compile(rf"\s?(?:-+>|=+>|→|⇒)\s?(?={_PLAIN_NUMBER})", re.IGNORECASE)
_COUNTER = re.compile(r"\[\s*\d+\s*/\s*\d+\s*\]")
_THINGS = re.compile(
    r"\s(?:(?!(?:at|in|after)\s)\w+ )?(?:samples?|images?|examples?|batch(?:es)?|rows|classes|epochs?|steps?|runs|folds)(?!\w)",
    re.IGNORECASE,
)
_OUT_OF = re.compile(r"\s(?:out )?of\s(\d[\d,]*)(?![\w.])", re.IGNORECASE)
_WITHIN = re.compile(r"\s?[(\[]\s*([^\W\d]+)\s*[)\]]")
_BEHIND = re.compile(r"\s*%?\s*\(?\s*([^\W\d][\w \t]{0,60}?)\s*(?=[,;|)\]/]|$)")
# Words that may stand between a score and its number, or beside a part of the data, without changing what the number is.
_FILLING = re.compile(
    r"(?<!\w)(?:set|data|split|score|result|results|metrics|value|so far|at|on|of|the|a|is|was|reached|and|tensor)(?!\w)"
)
_WHOLE = re.compile(
    r"(?<!\w)(?:our|this|whole|full|final|model|network|net|classifier|ensemble|images?|examples?|all|everything|\d+ \w+)(?!\w)"
)
_DOING = re.compile(r"(?<!\w)(?:model|checking|computing|evaluating|performing|running|starting|begin|start)(?!\w)")
_UNKNOWN = re.compile(
    rf"(?<![\w.])([A-Za-z][A-Za-z0-9 _/@-]{{1,40}}?(?:\s?[\[(][^\])]{{1,20}}[\])])?)\s*[:=]\s*(?={_PLAIN_NUMBER}(?![\w/:]))",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"(?<!\S)[-+]?\d[\d.,/]*\s+")
_BOOKKEEPING = re.compile(
    r"(?<!\w)(?:epochs?|steps?|iter\w*|batch\w*|seeds?|lr|learning rate|time|eta|elapsed|took|sec\w*|ms|it|fold|rank|devices?|gpu\w*|"
    r"mem\w*|param\w*|num\w*|size|samples?|runtime|version|port|pid|count|total|grad norm)(?!\w)"
)


def printed_numbers(line: str, header: str = "") -> dict[str, float]:
    """The scores named in a line of output.

    A number belongs to the score in front of it. Of which data it speaks is said there, or was said earlier in the line, or in
    the ``header``.

    >>> printed_numbers("epoch 3: loss=0.25, Test accuracy: 91.5%")
    {'loss': 0.25, 'test accuracy': 0.915}
    >>> printed_numbers("Test set: Average loss: 0.04, Accuracy: 9856/10000 (99%)")
    {'mean test loss': 0.04, 'test accuracy': 0.9856}
    >>> printed_numbers("Accuracy: train 0.99, val 0.91 (best 0.93)")
    {'train accuracy': 0.99, 'val accuracy': 0.91, 'best val accuracy': 0.93}

    What has the name of a part of the data alone is what is named behind it; in a line with a loss of its own, a score; and else it stays
    unknown, and may be a loss or a score.

    >>> printed_numbers("train 0.91, val 0.83 acc"), printed_numbers("Loss: 1.90, Train: 0.41, Val: 0.35")
    ({'train accuracy': 0.91, 'val accuracy': 0.83}, {'loss': 1.9, 'train score': 0.41, 'val score': 0.35})
    >>> printed_numbers("train 2.06 val 2.11")
    {'train': 2.06, 'val': 2.11}

    Of a class or another part of what is measured, the number is another one.

    >>> printed_numbers("Accuracy of cat: 54%"), printed_numbers("Accuracy of the network on 100 images: 54%")
    ({'accuracy of cat': 0.54}, {'accuracy': 0.54})
    """
    line = _legible(line)
    found: dict[str, float] = {}
    bare: list[str] = []
    split_so_far, begin = header, 0
    single: set[str] = set()  # scores that were named with no part of the data
    carried: str | None = ""  # the score of numbers that have no name but a part of the data; None: something unknown
    for match in _NUMBER.finditer(line):
        if match.start() < begin:  # the second half of a fraction
            continue
        label = line[max(begin, match.start() - LABEL) : match.start()]
        if "}" in label:  # of a history: the next epoch
            split_so_far, carried = header, ""
        words, places = _words(label)
        named = score_in(words)
        split = _split_of(words, named[2]) if named else split_in(words)
        score = part = ""
        if named is not None:
            between = label[places[named[2][1] - 1] + 1 :]
            if not _follows(between) or _labels(between, line, match):
                continue  # "accuracy on the 10000 images: 54": the label goes on behind this number
            score, part = named[0], _part(between)
            carried = "score" if score == "loss" and split == "" else score  # "loss: 1.9, train: 0.41" are two things
            single |= {score} if split == "" else set()
            if (
                score != "loss"
                and split == ""
                and (between.strip() == "=" or len(single) > 1 or _TRAIN.search(line, match.end()))
            ):
                carried = ""  # "acc=0.66, valid=2.04", "loss 0.1, acc 0.6, val 0.9", "acc 0.6, train 0.8, val 0.9": so are these
        elif split and _rest(words):
            carried = None  # "time: train 3.2, val 0.4"
        elif carried and (split or summary_in(words) == "best"):
            score = carried  # "accuracy: train 0.99, val 0.91"
        elif carried == "" and split and _alone(words, line, match):
            score = "score" if _PERCENT.match(line, match.end()) else UNKNOWN
        number, begin = _value(line, match)
        if (within := _WITHIN.match(line, begin)) and split == "" and (said := split_in(_words(within[1])[0])):
            split, begin = said, within.end()  # "accuracy: 0.9 (train), 0.8 (val)"
            score = score or carried or ""
        goes_on = split_so_far and not re.search(r"[^\W\d_]", label)  # "val: 0.8 acc, 0.5 loss"
        if not named and (split or goes_on) and (behind := _behind(line, begin)):
            score, begin = behind  # "val 0.83 acc"
            found = {f"{name} {score}" if name in bare else name: value for name, value in found.items()}
            bare = []
        if not score and not named and _FRACTION.match(line, match.end()) and _CORRECT.match(line, begin):
            score = "accuracy"  # "Got 23 / 40 correct"
        if split:
            split_so_far = split
        if not score or split is None or _SPREAD.search(label):
            continue
        summary = summary_in(words)
        name = " ".join(filter(None, (summary, split or split_so_far, score.strip(), part)))
        if name in found and not split:
            name = " ".join(filter(None, (summary, score, part)))
        if score == UNKNOWN:
            bare.append(name)
        found[name] = number
    return found


def _legible(line: str) -> str:
    """What is read of a line: neither colours nor endless gaps, and of a very long one the end, from an opening brace or a blank on."""
    if len(line) > LONGEST:
        line = _HALF.sub("", line[-LONGEST:], count=1)
    return _GAP.sub("", _COLOUR.sub("", line))


def _labels(between: str, line: str, match: re.Match) -> bool:
    """Whether a number behind a score is a part of its label, which goes on behind it: ``"accuracy on 100 images: "``."""
    if not match[0].replace(",", "").isdecimal():
        return False
    if _THINGS.match(line, match.end()) or _COUNTER.match(line, match.start() - 1):
        return True
    behind = _GOES_ON.match(line, match.end()) if _INTRODUCES.search(between) else None
    return behind is not None and score_in(_words(behind[0])[0]) is None


def _behind(line: str, end: int) -> tuple[str, int] | None:
    """The score that is named behind a number and speaks of nothing else, and where its name ends."""
    match = _BEHIND.match(line, end)
    words = _words(match[1])[0] if match else ""
    score = score_in(words)
    if match is None or score is None or _rest(words.replace(words[slice(*score[2])], "")):
        return None
    return score[0], match.end()


def _part(between: str) -> str:
    """Of which part of what is measured a score is, if the text behind it says so: ``"of cat"``."""
    if not (match := _PART.fullmatch(between)):
        return ""
    words = plain_words(match[1])
    whole = not _rest(_WHOLE.sub(" ", words)) or _BOOKKEEPING.search(words) or split_in(words) != ""
    return "" if whole else f"of {words.removeprefix('class ')}"


@functools.lru_cache(maxsize=2048)
def _words(label: str) -> tuple[str, list[int]]:
    """:func:`plain_words` of a label, with the place in the label of each of their letters."""
    words: list[str] = []
    places: list[int] = []
    before = " "
    for place, letter in enumerate(label):
        if letter in " \t_/.-":
            letter = " "
        elif letter.isupper() and (before.islower() or (before.isupper() and label[place + 1 : place + 2].islower())):
            words.append(" ")
            places.append(place)
        if letter != " " or (words and words[-1] != " "):
            words.append(letter.lower())
            places.append(place)
        before = label[place]
    return "".join(words), places


def _follows(between: str) -> bool:
    """Whether a number behind this text still belongs to the score in front of it."""
    if suffix := re.match(r"_\w+", between):
        if _rest(plain_words(suffix[0])):  # another name: loss_scale, but acc_val
            return False
        between = between[suffix.end() :]
    between = re.sub(r"\([^()\d]*\)", "", _COUNTER.sub("", between))  # "f1 (macro avg) 0.5"
    return bool(_COLON.fullmatch(between)) or (not _rest(plain_words(between)) and not re.search(r"\d|[,;]", between))


def _rest(words: str) -> str:
    """What some words say beside a part of the data and how it is summed up."""
    return re.sub(r"[\W_]+", "", _FILLING.sub(" ", MEAN.sub(" ", BEST.sub(" ", SPLIT.sub(" ", words)))))


def _split_of(words: str, score: tuple[int, int]) -> Split | None:
    """Which part of the data a score at a place in some words is of: where they speak of several, that beside the score.

    ``None`` where several stand side by side: "train/val accuracy".
    """
    split = split_in(words)
    if split is not None:
        return split
    before, after = words[: score[0]], words[score[1] :]
    if len(only := list(SPLIT.finditer(before))) == 1 and not before[only[0].end() :].strip():
        return split_in(before)  # "test accuracy after training"
    if (behind := split_in(after)) != "":
        return behind
    near = list(SPLIT.finditer(before))
    if len(near) > 1 and not before[near[-2].end() : near[-1].start()].strip(" /&,").removeprefix("and"):
        return None
    return split_in(near[-1][0])


def _alone(words: str, line: str, match: re.Match) -> bool:
    """Whether a number has the name of a part of the data and nothing else, and is neither a count nor a time."""
    return (
        not re.search(r"[^\W_]", BEST.sub(" ", SPLIT.sub(" ", words)))
        and not match[0].isdecimal()
        and not _UNIT.match(line, match.end())
    )


def _value(line: str, match: re.Match) -> tuple[float, int]:
    """The number, as a share where it is a fraction or has a percent sign, and where its text ends.

    Of ``0.51 (0.48)``, a batch and all until then, the mean; of ``0.51 -> 0.53``, the newest.
    """
    value, end = _one_value(line, match)
    while (newer := _NEWER.match(line, end)) and (behind := _PLAIN.match(line, newer.end())):
        value, end = _one_value(line, behind)
    return value, end


def _one_value(line: str, match: re.Match) -> tuple[float, int]:
    text, end = match[0].replace(",", ""), match.end()
    value = float(text)
    if fraction := _FRACTION.match(line, end):
        return value / (float(fraction[1].replace(",", "")) or math.nan), fraction.end()
    if (
        (fraction := _OUT_OF.match(line, end))
        and text.isdecimal()
        and value <= (total := float(fraction[1].replace(",", "")))
    ):
        return value / (total or math.nan), fraction.end()
    if share := _SHARE.match(line, end):  # "57.5% (23/40)": the finer one
        return int(share[1]) / (int(share[2]) or math.nan), share.end()
    if percent := _PERCENT.match(line, end):
        return float(f"{text}e-2" if text.lower().strip("+-.0123456789") == "" else value / 100), percent.end()
    if (average := _AVERAGE.match(line, end)) and not average[1].isdecimal():  # "best 0.51 (12)" is of epoch 12
        return float(average[1].replace(",", "")), average.end()
    return value, end


@dataclass
class Lines:
    """Reads the lines of one output in their order: tables have their names in a line of their own, and so may groups of lines."""

    titles: list[list[str]] = field(default_factory=list)  # of the columns, for every way to cut the line that has them
    header: str = ""
    # Of numbers that nobody here knows: how often they came, what was shown last, whether it changed.
    hints: dict[str, tuple[int, str, bool]] = field(default_factory=dict)
    qualifiers: dict[str, str] = field(default_factory=dict)
    _follows_header: bool = False

    def read(self, line: str) -> dict[str, float]:
        """The scores of the next line.

        >>> lines = Lines()
        >>> lines.read("epoch  train_loss  valid_loss  accuracy"), lines.read("0      0.71        0.52        0.83")
        ({}, {'train loss': 0.71, 'val loss': 0.52, 'accuracy': 0.83})
        >>> lines.read("Validation:"), lines.read("  f1 = 0.5")
        ({}, {'val f1': 0.5})
        """
        line = _legible(line)
        if not line[:1].isspace() and not self._follows_header:
            self.header = ""
        self._follows_header = False
        if not _NUMBER.search(line):
            self._titles(line)
            return {}
        found = self._row(line) or self._scores(line)
        if ":" in line or "=" in line:
            self._hint(line)
        return found

    def _scores(self, line: str) -> dict[str, float]:
        """The scores that a line names. With a qualifier in brackets, a score with another one is another score: the first counts."""
        if not (qualifier := _QUALIFIER.search(line)):
            return printed_numbers(line, self.header)
        numbers = printed_numbers(_QUALIFIER.sub("", line), self.header)
        return {n: value for n, value in numbers.items() if self.qualifiers.setdefault(n, qualifier[1]) == qualifier[1]}

    def _titles(self, line: str) -> None:
        """A line without a number: the names of columns, the header of a group (what is indented, and the next line), or neither."""
        titles = [cells for cells in _cells(line) if any(map(_column, cells))]
        if titles:
            self.titles = titles
        words = plain_words(re.sub(r"[\"'{}\[\]:=#*|]", " ", line))
        split, score = split_in(words), score_in(words)
        if split and not _rest(_DOING.sub(" ", words[: score[2][0]] + words[score[2][1] :] if score else words)):
            self.header, self._follows_header = split, True

    def _row(self, line: str) -> dict[str, float]:
        """A row of the table whose names were printed last."""
        for cells in _cells(line) if self.titles else ():
            titles = next((titles for titles in self.titles if len(titles) == len(cells)), [])
            columns = [(name, cell) for title, cell in zip(titles, cells, strict=False) if (name := _column(title))]
            matches = [_NUMBER.match(cell) for _, cell in columns]
            numbers = sum(bool(_NUMBER.match(cell)) and cell[-1] not in ",:;" for cell in cells)
            if not any(matches) or 2 * numbers < len(cells):  # a sentence, of as many words
                continue
            of = next(
                (split for cell in cells if (split := split_in(words := plain_words(cell))) and not _rest(words)), ""
            )
            return {
                name if split_in(name) or not of else f"{of} {name}": _value(cell, match)[0]
                for (name, cell), match in zip(columns, matches, strict=True)
                if match
            }
        return {}

    def _hint(self, line: str) -> None:
        for match in _UNKNOWN.finditer(line):
            label = _COUNTED.split(match[1])[-1].strip()  # "episode 3 wage: 9.0" is of every episode
            words = plain_words(label)
            if score_in(words) or _BOOKKEEPING.search(words) or split_in(words) == "train":
                continue
            if label in self.hints or len(self.hints) < HINTS:
                end = _NUMBER.match(line, match.end())
                shown = line[line.index(label, match.start()) : end.end() if end else match.end()].strip()
                count, before, changed = self.hints.get(label, (0, shown, False))
                self.hints[label] = count + 1, shown, changed or shown != before

    def unknown(self) -> tuple[str, ...]:
        """Numbers that were printed under names that nobody here knows, the most frequent first: ``"good: 0.74 (15 times)"``.

        Where some change, those that never do are settings.
        """
        changing = [hint for hint in self.hints.values() if hint[2]]
        ranked = sorted(changing or self.hints.values(), key=lambda hint: -hint[0])
        return tuple(f"{shown} ({count} times)" if count > 1 else shown for count, shown, _ in ranked[:3])


def _cells(line: str) -> Iterator[list[str]]:
    """The ways to cut a line into cells, the surest first."""
    for separator in (r"\s*[|│┃]\s*", r"\t+", r"\s*,\s*", r"\s{2,}", r"\s+"):
        cells = [cell for cell in re.split(separator, line.strip(" \t|│┃")) if cell]
        if len(cells) > 1:
            yield cells


def _column(title: str) -> str:
    """The name of what stands under a title, if that is a score."""
    words = plain_words(title)
    score, split = score_in(words), split_in(words)
    if score is None or split is None or len(words) > 40:
        return ""
    return " ".join(filter(None, (summary_in(words), split, score[0])))


# -- standing in the way ---------------------------------------------------------------------------------------------


class _Reader:
    """Cuts what is written into lines and gives them to a call; an error of the call's own never reaches the writer."""

    def __init__(self, call: Callable[[str], None]) -> None:
        self._call = call
        self._line = ""

    def write(self, text: str) -> None:
        *whole, rest = text.split("\n")
        for line in whole:
            self._end(line)
        self._line = (self._line + rest[-KEPT:])[-KEPT:]

    def _end(self, line: str) -> None:
        """A line has ended: what is left of it where it was written over again and again."""
        line, self._line = (self._line + line[-KEPT:])[-KEPT:], ""
        self._call(line.rstrip("\r").rsplit("\r", 1)[-1])

    def finish(self) -> None:
        """What was left without an end of line is a line too."""
        if self._line:
            self._end("")


class _Reading:
    """Bytes on their way to an output, read as they pass."""

    reader: _Reader
    decoder: codecs.IncrementalDecoder
    prompt = False  # hand on whole lines at once, so that they are there if the process is killed
    unread = b""  # print() writes every argument and every blank by itself

    def write(self, data: Any) -> int:
        written: int = super().write(data)  # type: ignore[misc]
        data = bytes(data)
        self.unread += data
        if b"\n" in data or len(self.unread) > KEPT:
            if self.prompt:
                self.flush()  # type: ignore[attr-defined]
            self.read_along()
        return written

    def read_along(self) -> None:
        """Read what was written since the last time; that must not end the writing."""
        unread, self.unread = self.unread, b""
        with suppressed():
            self.reader.write(self.decoder.decode(unread))


class _Buffered(_Reading, io.BufferedWriter):
    pass


class _Unbuffered(_Reading, io.FileIO):  # python -u
    pass


class Printed(io.TextIOBase):
    """An output that passes everything on and reads whole lines on the way: for outputs that are no ordinary text files."""

    def __init__(self, inner: Any, call: Callable[[str], None]) -> None:
        self._inner = inner
        self._reader = _Reader(call)

    def write(self, text: str) -> int:
        written = self._inner.write(text)
        self._reader.write(text)
        return written if isinstance(written, int) else len(text)

    def finish(self) -> None:
        """The script has ended: what it left without an end of line is a line too."""
        self._reader.finish()

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


def read_along(stream: Any, call: Callable[[str], None]) -> tuple[Any, Callable[[], None]]:
    """A stand-in for an output that gives every line to ``call`` on its way, and what to call when the script has ended.

    For the outputs of a process it is of the same class, with the same buffering, on the same file: a script cannot tell, and may detach,
    reconfigure or close it. ``None`` (no output at all) stays what it is.
    """
    if stream is None:
        return None, lambda: None
    if type(stream) is not io.TextIOWrapper or not isinstance(stream.buffer, (io.BufferedWriter, io.FileIO)):
        other = Printed(stream, call)
        return other, other.finish
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    reader, buffered = _Reader(call), isinstance(stream.buffer, io.BufferedWriter)
    raw: Any = (io.FileIO if buffered else _Unbuffered)(stream.fileno(), "w", closefd=False)
    raw.name = getattr(stream, "name", "")
    bytes_: Any = _Buffered(raw) if buffered else raw
    bytes_.reader = reader
    bytes_.prompt = getattr(stream.buffer, "prompt", False)
    bytes_.decoder = codecs.getincrementaldecoder(stream.encoding)("replace")
    ours: Any = io.TextIOWrapper(
        bytes_, stream.encoding, stream.errors, newline="\n" if os.linesep == "\n" else None,
        line_buffering=stream.line_buffering, write_through=True,
    )  # fmt: skip
    ours.mode = getattr(stream, "mode", "w")

    def finish() -> None:
        with contextlib.suppress(OSError, ValueError):  # the script has closed it, or nobody reads any more
            ours.flush()
        bytes_.read_along()
        reader.finish()

    return ours, finish
