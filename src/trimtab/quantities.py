"""Quantities: what a series of a run measures, on which part of the data, who said it, and which of them judges the run.

A series is stored under the name of its quantity: ``"val accuracy"`` was measured, ``"printed val loss"`` stood in a line that the script
printed, ``"logged test f1"`` went to a logger, ``"written val accuracy"`` into a file, and ``"metric reward"`` was asked for with
``--metric``. This file is the only one that reads such names, and the only one that chooses among them.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from trimtab.records import Asked, Goal, Metric, RunRecord, Series, TrainingRecord

Source = Literal["asked", "printed", "logged", "written", "measured"]
Split = Literal["", "train", "val", "test", "eval"]

# -- words -----------------------------------------------------------------------------------------------------------

# Canonical names of scores, and the words that stand for them. The first that fits a text decides.
_SCORES: tuple[tuple[str, Goal, str], ...] = (
    (
        "top-{} accuracy",
        "max",
        r"(?:acc(?:uracy)?|prec(?:ision)?)(?: ?@ ?)?(?<!\s)(\d+)|top ?(\d+)(?: ?acc(?:uracy)?)?",
    ),
    ("accuracy", "max", r"balanced accuracy|bal acc|acc|accuracy|accuracies"),
    ("error rate", "min", r"error rate|misclassification(?: rate)?"),
    ("log loss", "min", r"log ?loss"),
    ("log likelihood", "max", r"log ?likelihood|loglik|llh"),
    ("loss", "min", r"loss"),
    ("f1", "max", r"f ?1|f ?score|f ?beta"),
    ("auc", "max", r"roc auc|au ?roc|auc roc|auc|au ?prc|auc pr|pr auc"),
    ("average precision", "max", r"average precision|m ?ap(?:\s?@?\s?[\d:]+)?|ap ?50"),
    ("precision", "max", r"precision"),
    ("recall", "max", r"recall|sensitivity|specificity"),
    ("iou", "max", r"m ?io ?u|io ?u|jaccard"),
    ("dice", "max", r"dice"),
    ("psnr", "max", r"psnr"),
    ("ssim", "max", r"ssim"),
    ("bleu", "max", r"(?:sacre)?bleu|chrf|meteor|cider|bert ?score"),
    ("rouge", "max", r"rouge ?[12l]?"),
    ("kappa", "max", r"kappa"),
    ("mcc", "max", r"mcc|matthews"),
    ("correlation", "max", r"correlation|corr|pearson|spearman"),
    ("ndcg", "max", r"n ?dcg"),
    ("mrr", "max", r"mrr"),
    ("hit rate", "max", r"hit ?rate|hits ?@ ?\d+"),
    ("exact match", "max", r"exact match"),
    ("elbo", "max", r"elbo"),
    ("reward", "max", r"rewards?|rew|(?:episode|episodic|average|mean) returns?|(?:win|success) ?rate"),
    ("speech quality", "max", r"pesq|stoi|(?:si )?s[dn]r"),
    ("agreement", "max", r"nmi|ari|c ?index|concordance"),
    ("rmse", "min", r"rmse|root mean squared error"),
    ("mse", "min", r"mse|mean squared error"),
    ("log error", "min", r"r?msle"),
    ("mape", "min", r"s?mape|mase"),
    ("mae", "min", r"mae|mean absolute error"),
    ("perplexity", "min", r"perplexity|ppl"),
    ("nll", "min", r"nll|negative log ?likelihood"),
    ("bits", "min", r"bp[cdb]|bits per \w+"),
    ("fid", "min", r"[fk]id"),
    ("lpips", "min", r"lpips"),
    ("wer", "min", r"[wct]er|equal error rate|eer"),
    ("brier", "min", r"brier"),
    ("calibration error", "min", r"ece|calibration error"),
    ("cross entropy", "min", r"cross ?entropy|b?ce"),
    ("error", "min", r"error|err"),
    ("cost", "min", r"cost"),
    ("r2", "max", r"r ?\^? ?2|r²|r squared|explained variance"),
    ("score", "max", r"score"),
)
_GOALS: dict[str, Goal] = {name: goal for name, goal, _ in _SCORES}
_SCORE = re.compile("|".join(rf"(?P<s{place}>(?<!\w)(?:{words})(?!\w))" for place, (_, _, words) in enumerate(_SCORES)))

_SPLITS: tuple[tuple[Split, str], ...] = (
    ("train", r"train|training|trn|tr"),
    (
        "val",
        r"val|vali|valid|validation|dev|held ?out|holdout|oof|out of fold|cv|cross ?val(?:idation)?|cross ?validated",
    ),
    ("test", r"test|testing|tst"),
    ("eval", r"eval|evaluation"),
)
SPLIT = re.compile("|".join(rf"(?P<{name}>(?<!\w)(?:{words})(?!\w))" for name, words in _SPLITS))
MEAN = re.compile(r"(?<!\w)(mean|avg|average|averaged|overall|cv|cross ?val(?:idation)?|oof|out of fold)(?!\w)")
_FINAL = re.compile(r"(?<!\w)final(?!\w)")
BEST = re.compile(r"(?<!\w)(best|max|min|highest|lowest)(?!\w)")
_SUMMARIES = {"best": BEST, "mean": MEAN, "final": _FINAL}
_PREFIXES: dict[str, Source] = {"metric": "asked", "printed": "printed", "logged": "logged", "written": "written"}


@functools.lru_cache(maxsize=2048)  # a script prints the same words all the time
def plain_words(text: str) -> str:
    """A name or a piece of text as lower-case words: ``valAcc``, ``val/acc`` and ``val_acc`` are the same.

    >>> plain_words("valAcc"), plain_words("Test-Set_Loss"), plain_words("F1-Score")
    ('val acc', 'test set loss', 'f1 score')
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return re.sub(r"[\s_/.\-]+", " ", apart).strip().lower()


@functools.lru_cache(maxsize=2048)
def score_in(words: str) -> tuple[str, Goal, tuple[int, int]] | None:
    """The last score that some :func:`plain_words` name: its canonical name, which way is better, and where it stands.

    >>> score_in("test set accuracy of the network")[:2], score_in("lossy")
    (('accuracy', 'max'), None)
    """
    matches = list(_SCORE.finditer(words))
    if not matches:
        return None
    found, (start, end) = matches[-1], matches[-1].span()
    if found[0] == "score" and len(matches) > 1 and matches[-2].end() == start - 1:  # "f1 score"
        found, start = matches[-2], matches[-2].start()
    name, goal, _ = _SCORES[int(str(found.lastgroup)[1:]) if str(found.lastgroup)[1:].isdigit() else 0]
    rank = next((text for text in found.groups()[1:3] if text), "") if "{}" in name else ""
    return name.format(rank), goal, (start, end)


@functools.lru_cache(maxsize=2048)
def split_in(words: str) -> Split | None:
    """Which part of the data some :func:`plain_words` speak of: ``""`` for none, ``None`` for several."""
    found: dict[Any, None] = {match.lastgroup: None for match in SPLIT.finditer(words)}
    if len(found) > 1:  # "eval/test": an evaluation, of the test data
        found.pop("eval", None)
    return None if len(found) > 1 else next(iter(found), "")


@functools.lru_cache(maxsize=2048)
def summary_in(words: str) -> str:
    """``"best"``, ``"mean"`` or ``"final"`` where some :func:`plain_words`, but for their score, say that a number sums others up.

    >>> summary_in("best val accuracy"), summary_in("mean squared error"), summary_in("cv accuracy")
    ('best', '', 'mean')
    """
    score = score_in(words)
    if score:
        words = f"{words[: score[2][0]]} {words[score[2][1] :]}"
    return next((name for name, there in _SUMMARIES.items() if there.search(words)), "")


# -- a quantity ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """What a series measures.

    ``what`` is a score by its canonical name, or any text; ``split`` the part of the data; ``number`` tells several of one kind
    apart; ``summary`` is ``"best"``, ``"mean"`` or ``"final"`` for a number that sums others up; ``part`` is of what it is, as one of
    several classes.
    """

    name: str
    what: str
    split: Split = ""
    source: Source = "measured"
    number: int = 1
    summary: str = ""
    part: str = ""

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def read(cls, name: str) -> Quantity:
        """The quantity of a stored name.

        >>> Quantity.read("val 2 loss")
        Quantity(name='val 2 loss', what='loss', split='val', source='measured', number=2, summary='', part='')
        >>> q = Quantity.read("printed test average loss"); (q.source, q.split, q.what, q.summary)
        ('printed', 'test', 'loss', 'mean')
        """
        first, _, rest = name.partition(" ")
        source = _PREFIXES.get(first, "measured") if rest else "measured"
        words = plain_words(rest if source != "measured" else name)
        split, score = split_in(words), score_in(words)
        if source == "measured":
            number = re.search(r"(?<!\S)\d{1,9}(?!\S)", name)
            bare = " ".join(name.replace(number[0] if number else "", "", 1).split())
            return cls(
                name, score[0] if score and split else bare, split or "", source, int(number[0]) if number else 1
            )
        what = score[0] if score else " ".join((SPLIT.sub(" ", words) if split else words).split())
        if source == "asked":
            return cls(name, what, split or "", source)
        part = words[score[2][1] :].strip() if score and source == "printed" else ""
        return cls(name, what, split or "", source, 1, summary_in(words), part if part.startswith("of ") else "")

    @property
    def goal(self) -> Goal | None:
        """Which way is better; ``None`` where the name does not tell."""
        found = score_in(plain_words(self.what))
        return found[1] if found else None

    @property
    def said(self) -> bool:
        """Whether the script itself says this number."""
        return self.source in ("printed", "logged", "written")

    @property
    def bare(self) -> bool:
        """Whether the script calls it by a part of the data alone, so that nobody knows which way is better."""
        return self.source == "printed" and self.split != "" and not BEST.sub("", self.what).strip()

    @property
    def held_out(self) -> bool:
        """Whether it speaks of data that were not trained on."""
        return self.split in ("val", "test", "eval")

    @property
    def title(self) -> str:
        """The name as a reader wants it.

        >>> Quantity.read("printed val accuracy").title, Quantity.read("metric reward").title, Quantity.read("lr 1").title
        ('validation accuracy', 'reward', 'lr 1')
        """
        bare = self.name.partition(" ")[2] if self.source != "measured" else self.name
        if self.source == "asked":
            return bare
        return re.sub(r"(?<!\w)val(?!\w)", "validation", bare)


def goal_of(name: str) -> Goal:
    """Which way is better, by the name of a number; more, where it does not tell.

    >>> goal_of("val accuracy"), goal_of("printed test rmse"), goal_of("metric reward")
    ('max', 'min', 'max')
    """
    quantity = Quantity.read(name)
    return quantity.goal or ("min" if quantity.bare or re.search(r"loss|err|cost|divergence", quantity.what) else "max")


# -- which number judges ---------------------------------------------------------------------------------------------

_FIRST_FINAL = {"test": 0, "val": 1, "eval": 2}
_FIRST_SERIES = {"val": 0, "eval": 1, "test": 2}
_FIRST_SUMMARIES = {"mean": 0, "": 1, "final": 2, "best": 3}
# All others 1: an error that people count in comes before the loss that is trained on, and before what says the same as a loss.
_FIRST_SCORES = {"accuracy": 0, "precision": 2, "recall": 2, "score": 3, "loss": 2} | dict.fromkeys(
    ("perplexity", "nll", "bits", "cross entropy", "log loss", "cost"), 3
)
_SAYS = {"printed": 0, "logged": 1, "written": 2}


@dataclass(frozen=True)
class Seen:
    """How a number was seen in a run: ``final`` where it was said only once training was over, ``folds`` where the run has several
    trainings of one kind, as a cross-validation."""

    final: bool = False
    folds: bool = False


def judging(names: Iterable[str], seen: Mapping[str, Seen] | None = None) -> str:
    """The one of these numbers that judges a run or a training; ``""`` if none can.

    What was asked for comes first. Then what the script itself says of held-out data: the mean over folds, a number that it gives when
    training is over, a number that it gives again and again (scores before losses). Then a score that it says without saying
    of which data, if it says so at the end or if it is no accuracy; what was measured on held-out data; and anything else that it says.
    What may be a loss or a score comes behind what was measured, one class of several never, and the training loss is last.

    >>> judging(["loss", "val loss", "val accuracy"]), judging(["loss", "val accuracy", "printed val loss"]), judging(["train loss"])
    ('val accuracy', 'printed val loss', '')
    """
    listed = list(names)
    kinds = Counter(map(_kind, listed))
    ranked = [
        (rank, place, name)
        for place, name in enumerate(listed)
        if (rank := _rank(name, seen or {})) is not None
        and not (Quantity.read(name).part and kinds[_kind(name)] > 1)  # one class of several
    ]
    return min(ranked)[2] if ranked else ""


def _kind(name: str) -> tuple[str, str, str]:
    quantity = Quantity.read(name)
    return quantity.source, quantity.split, quantity.what


def _rank(name: str, seen: Mapping[str, Seen]) -> tuple | None:
    quantity, how = Quantity.read(name), seen.get(name, Seen())
    if quantity.source == "asked":
        return (0,)
    if quantity.split == "train" or (quantity.source == "measured" and name != "loss" and not quantity.held_out):
        return None
    says, place = _SAYS.get(quantity.source, 9), ("val", "test", "eval", "").index(quantity.split)
    # Which score: the accuracy, one that tells all, one of a pair, one that may be anything.
    loss, what = quantity.goal == "min", _FIRST_SCORES.get(quantity.what, 1)
    if quantity.said:
        if quantity.bare:  # a guess
            return 9, quantity.summary == "best", _FIRST_SERIES[quantity.split]
        if quantity.goal is None:
            return None
        if how.final and how.folds and quantity.summary in ("mean", "final"):
            return 1, loss, what, says
        if how.final and quantity.held_out:
            return 2, _FIRST_FINAL[quantity.split], loss, what, quantity.summary == "mean", says
        if quantity.held_out:
            return 3, loss, quantity.summary == "best", _FIRST_SERIES[quantity.split], what, says
        if how.final and not loss:
            return 4, what, says
        if not loss:
            rank = 7 if quantity.what in ("accuracy", "score") else 5  # these may be of the training data as well
            return rank, what, _FIRST_SUMMARIES[quantity.summary], says
        return (10, says) if quantity.what != "loss" else None
    if name == "loss":
        return (11,)
    return 6 if quantity.what == "accuracy" else 8, place, quantity.number


def may_judge(name: str) -> bool:
    """Whether a number could judge a run at all.

    >>> may_judge("val accuracy"), may_judge("train accuracy"), may_judge("lr")
    (True, False, False)
    """
    return _rank(name, {}) is not None and name != "loss"


def told(name: str) -> bool:
    """Whether somebody's own code may have told this number, under a name of its own, as one that judges a training.

    >>> told("score"), told("train accuracy"), told("printed seconds")
    (True, False, False)
    """
    quantity = Quantity.read(name)
    return quantity.source == "measured" and quantity.split != "train"


def choose(run: RunRecord, asked: Asked | None = None) -> Metric | None:
    """The number that judges a run, with where it comes from and what else was on offer; ``None`` if there is none."""
    asked = asked or Asked()
    places = _places(run)
    seen = {name: Seen(_final(run, name), len(_alike(run)) > 1) for name in places}
    name = _asked_for(asked, places) if asked.metric is not None else judging(places, seen)
    if not name:
        return None
    bare = name if asked.metric is not None else judging(one for one in places if Quantity.read(one).bare)
    twin = _twin(run, bare) if Quantity.read(bare).bare else ""
    if twin and Quantity.read(name).source == "measured":
        name = bare
    quantity = Quantity.read(name)
    told = [index for index in places[name] if index in _alike(run)]
    folds = len(told) if len(told) > 1 and not seen[name].final else 0
    others = [other for other in places if other != name and may_judge(other)]
    return Metric(
        name=name,
        goal=asked.goal or goal_of(twin if name == bare and twin else name),
        why=_why(quantity, asked, run, twin),
        source=quantity.source,
        best=asked.best,
        folds=folds,
        offered=tuple(others),
    )


def _twin(run: RunRecord, name: str) -> str:
    """The one measured number of held-out data that a printed one shows, rounded or in percent; ``""`` if there is none, or if it may be either."""

    def shows(shown: float, measured: float) -> bool:
        digits = len(repr(shown).partition(".")[2]) if "e" not in repr(shown) else 12
        return any(abs(shown - one) <= 0.51 * 10**-digits for one in (measured, 100 * measured))

    shown = [value for training in run.trainings for value in training.get(name).values]
    found = [
        other
        for other in dict.fromkeys(one for training in run.trainings for one in training.series)
        if (quantity := Quantity.read(other)).source == "measured"
        and quantity.held_out
        and quantity.what in ("loss", "accuracy")
        and all(
            any(shows(value, m) for training in run.trainings for m in training.get(other).values) for value in shown
        )
    ]
    return found[0] if shown and len({goal_of(other) for other in found}) == 1 else ""


def _places(run: RunRecord) -> dict[str, list[int]]:
    """The trainings in which each number was seen."""
    found: dict[str, list[int]] = {}
    for index, training in enumerate(run.trainings):
        for name, series in training.series.items():
            if len(series) and not (Quantity.read(name).said and training.steps and series.steps[-1] == 0):
                found.setdefault(name, []).append(index)  # said before training and never again: a setting, "val 0.1"
    return found


def _alike(run: RunRecord) -> list[int]:
    """The trainings of one kind that came one after the other: folds, or runs of one experiment. Empty if there is only one."""
    stepped = [(index, one) for index, one in enumerate(run.trainings) if one.steps]
    if len(stepped) < 2:
        return []
    kinds = {(one.model, one.facts.get("parameters")) for _, one in stepped}
    apart = all(after.began >= before.ended for (_, before), (_, after) in zip(stepped[:-1], stepped[1:], strict=True))
    return [index for index, _ in stepped] if len(kinds) == 1 and apart else []


def _final(run: RunRecord, name: str) -> bool:
    """Whether a number was said only when all training was over."""
    found = [(index, one.get(name)) for index, one in enumerate(run.trainings) if len(one.get(name))]
    if not Quantity.read(name).said or len(found) != 1:
        return False
    index, series = found[0]
    training = run.trainings[index]
    over = training.steps > 0 and all(one.ended <= training.ended for one in run.trainings)
    if Quantity.read(name).source == "written" and len(series) > 1:  # a table: read at the end, written along the way
        return False
    at_end = series.steps.count(training.steps)
    again = at_end > max(
        map(series.steps.count, set(series.steps) - {training.steps}), default=0
    )  # "best val acc" of every epoch
    return over and at_end > 0 and again


def _asked_for(asked: Asked, places: Mapping[str, Sequence[int]]) -> str:
    """What ``--metric`` reads: a pattern's numbers, or a number by its name."""
    if asked.pattern is not None:
        return next((name for name in places if Quantity.read(name).source == "asked"), "")
    return named(str(asked.metric), places)


def named(wanted: str, names: Iterable[str]) -> str:
    """The series that somebody means by a name: by itself, or without who said it; ``""`` if there is none.

    >>> named("val loss", ["val accuracy", "printed val loss"]), named("Val-Loss", ["val loss"])
    ('printed val loss', 'val loss')
    """
    listed = list(names)
    bare = {name: name.partition(" ")[2] if Quantity.read(name).source != "measured" else name for name in listed}
    for same in (lambda name: name == wanted, lambda name: plain_words(bare[name]) == plain_words(wanted)):
        if found := [name for name in listed if same(name)]:
            return found[0]
    return ""


def _why(quantity: Quantity, asked: Asked, run: RunRecord, twin: str) -> str:
    if quantity.source == "asked":
        guessed = quantity.goal is None and asked.goal is None and goal_of(quantity.name) == "max"
        unsure = "; if less is better, add --minimize" if guessed else ""
        return f"read from the output with --metric {shlex.quote(str(asked.metric))}{unsure}"
    chosen = f", chosen with --metric {shlex.quote(str(asked.metric))}" if asked.metric is not None else ""
    if quantity.bare and twin:
        return f"printed by the script{chosen}, and the same as the measured {Quantity.read(twin).title}"
    if quantity.bare and asked.goal is None:
        return (
            f"printed by the script{chosen}; it does not say whether more or less is better: if more is, add --maximize"
        )
    if quantity.source == "printed":
        return f"printed by the script{chosen}"
    if quantity.source == "logged":
        return f"logged by the script{chosen}"
    if quantity.source == "written":
        return f"written by the script into a file{chosen}"
    if quantity.name == "loss":
        return "no number for held-out data was seen" + chosen
    return f"measured where the script evaluates its loss{chosen}"


# -- what else there was -----------------------------------------------------------------------------------------------


def pattern_of(hint: str) -> str:
    """The regular expression for ``--metric`` that reads a number as it was printed.

    >>> pattern_of("Average wage: 9.00 (20 times)"), pattern_of("dist[m]=-0.5")
    ('Average wage: ([-0-9.e]+)', 'dist\\\\[m\\\\]=([-0-9.e]+)')
    """
    label = re.match(r".*[:=]\s*", hint)
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", label[0] if label else "") + "([-0-9.e]+)"


def offers(names: Iterable[str], hints: Iterable[str] = (), most: int = 6) -> str:
    """What else could judge, each as one writes it for ``--metric``; ``""`` if there is nothing.

    >>> offers(["printed val loss"], ["Average wage: 9.00 (20 times)"])
    "--metric 'printed val loss'; --metric 'Average wage: ([-0-9.e]+)' for Average wage: 9.00 (20 times)"
    """
    listed = [f"--metric {shlex.quote(name)}" for name in names if re.fullmatch(r"[\w /.@-]+", name)]
    listed += [f"--metric {shlex.quote(pattern_of(hint))} for {hint}" for hint in hints]
    return "; ".join(listed[:most]) + (f"; {len(listed) - most} more" if len(listed) > most else "")


def unanswered(asked: Asked, run: RunRecord) -> str:
    """Why ``--metric`` judges nothing, and what could."""
    said = dict.fromkeys(name for one in run.trainings for name in one.series if may_judge(name))
    seen = f" Seen were: {offered}." if (offered := offers(said, run.hints)) else ""
    if asked.pattern is None:
        return f"{run.subject} has no number called {asked.metric!r}.{seen}"
    return (
        f"--metric {asked.metric!r} matched no line that {run.subject} printed. "
        f"It must match a whole number in a printed line, with one group around it: 'acc=([0-9.]+)'.{seen}"
    )


# -- what it came to -------------------------------------------------------------------------------------------------


def judged(run: RunRecord, metric: Metric) -> Series:
    """The series that judges a run: of the training that said it last, with folds one value of each."""
    found = [(index, training) for index, training in enumerate(run.trainings) if len(training.get(metric.name))]
    if not found:
        return Series()
    if metric.folds:
        ends = [training.ended for _, training in found]
        return Series(
            steps=tuple(ends),
            values=tuple(_reduced(training.get(metric.name), metric) for _, training in found),
        )
    last = run.latest.get(metric.name)
    if last is not None and any(index == last for index, _ in found):
        return run.trainings[last].get(metric.name)
    return max((training for _, training in found), key=lambda training: training.steps).get(metric.name)


def value(run: RunRecord, metric: Metric) -> float:
    """What a run came to: the last value or, with ``best``, the best; with folds the mean over them; of a training loss the mean of
    its last tenth. NaN if there is none."""
    series = judged(run, metric)
    if metric.folds and len(series):
        return float(series.array.mean())
    return _reduced(series, metric)


def beside(run: RunRecord, metric: Metric) -> dict[str, float]:
    """What the other numbers that could have judged came to, by name; and under the name of the metric its best value, or its last where the
    best judges."""
    found = {metric.name: value(run, msgspec.structs.replace(metric, best=not metric.best))}
    for name in (*metric.offered, *["loss"] * (metric.name != "loss")):
        found[name] = value(run, of_other(metric, name))
    return {name: one for name, one in found.items() if math.isfinite(one)}


def of_other(metric: Metric, name: str) -> Metric:
    """The metric that a number of this name would be, in the place of ``metric``; of the same name that is its best, or its last."""
    if name == metric.name:
        return msgspec.structs.replace(metric, best=not metric.best)
    return Metric(
        name=name, goal=goal_of(name), source=Quantity.read(name).source, best=metric.best, folds=metric.folds
    )


def _settled(series: Series, name: str) -> Series:
    """Of what is printed or logged several times between two steps, the last: running means, a batch at a time."""
    if Quantity.read(name).source not in ("printed", "logged") or len(set(series.steps)) < 2:
        return series
    last = dict(zip(series.steps, series.values, strict=True))
    return Series(steps=tuple(last), values=tuple(last.values()))


def _reduced(series: Series, metric: Metric) -> float:
    if not len(series):
        return float("nan")
    if metric.best:
        finite = _settled(series, metric.name).finite.values
        return (max if metric.goal == "max" else min)(finite) if finite else float("nan")
    if metric.name == "loss":
        values = series.array
        return float(values[-max(1, len(values) // 10) :].mean())
    return series.last


def held_out(training: TrainingRecord, what: str) -> str:
    """The name of the held-out series of a training that measures ``what`` (``"loss"``, ``"accuracy"``): the one that would judge
    it; ``""`` if there is none."""
    names = [name for name in training.series if len(training.get(name))]
    return judging(name for name in names if (q := Quantity.read(name)).held_out and q.what == what)
