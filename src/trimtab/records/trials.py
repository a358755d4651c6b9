"""What trials are, and what they show of an arm: a recipe or an edit beside the untreated subject."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trimtab.records.base import Record, counted, drawing, shortened
from trimtab.records.runs import CodePlace, Series

if TYPE_CHECKING:
    import numpy as np

Status = Literal["ok", "diverged", "failed", "no_effect", "pruned"]
Standing = Literal["proven", "rescued", "same", "unclear", "worse", "lost"]
Verdict = Literal["better", "worse", "same", "undecided"]
ERROR = 0.05  # how often something may be called an effect that is none


class Applied(Record, frozen=True, kw_only=True):
    """What a trial has applied to one of its trainings: where the lines that keep it go, how plain torch says the same, what weights the
    model has more than before, and whether the optimizer's groups go on showing the script's rate."""

    code: CodePlace | None = None
    plain: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    rates: bool = False


class Predicted(Record, frozen=True, kw_only=True):
    """Which of a number of held-out samples were predicted right in the end, in the order in which they came: a bit for each, eight to a byte.
    ``targets`` stands for what they are: two trials with the same saw the same samples."""

    samples: int
    right: bytes
    targets: str

    @property
    def bits(self) -> np.ndarray:
        """One for each that was right; shape ``(samples,)``."""
        import numpy as np

        return np.unpackbits(np.frombuffer(self.right, np.uint8), count=self.samples)


class Trial(Record, frozen=True, kw_only=True):
    """One run of a subject under a recipe and a seed. ``value`` is the metric at the end, NaN unless status is ok.

    Only a search stops trials before their end: ``pruned``, with the reason in ``error``, or ``diverged``. A trial that was to make only
    a ``share`` of the run has the metric that it had there. ``numbers`` stands for every loss and every score that was seen: two runs
    with the same are the same. ``others`` are the other numbers that could have judged, by name, and under the name of the metric its best
    value, or its last where the best judges. ``predicted`` are the predictions that the metric is the share of, where
    it is one. ``step_seconds`` is the time from one step to the next, ``memory`` the most bytes that its process had;
    0 where that is not known.
    """

    subject: str
    recipe: str
    seed: int
    status: Status
    value: float = math.nan
    seconds: float = 0.0
    error: str = ""
    curves: dict[str, Series] = {}
    changed: tuple[str, ...] = ()
    applied: tuple[Applied, ...] = ()
    numbers: str = ""
    share: float = 1.0
    step_seconds: float = 0.0
    memory: float = 0.0
    others: dict[str, float] = {}
    predicted: Predicted | None = None

    def _in_short(self) -> str:
        ended = shortened(self.value) if self.status == "ok" else self.status
        return f"{self.recipe or 'untreated'}, seed {self.seed}: {ended}"


class Remark(Record, frozen=True, kw_only=True):
    """Something that is to be said beside the numbers: what, by its code, and the values that the sentence has.

    ``report/sentences.py`` has the sentences, so that they can be reworded and translated, and a program need not read them.
    """

    code: str
    values: dict[str, bool | int | float | str | tuple[int | float | str, ...]] = {}

    def _in_short(self) -> str:
        return f"{self.code}: {drawing().sentences((self,))[0]}"


def remark(code: str, **values: float | str | Sequence[float | str]) -> Remark:
    """A remark with these values.

    >>> remark("no_pair")
    <Remark no_pair: No seed on which both runs ended with a number: there is no difference to test.>
    """
    kept: dict[str, Any] = {
        name: value if isinstance(value, (int, float, str)) else tuple(value) for name, value in values.items()
    }
    return Remark(code=code, values=kept)


Remarks = tuple[Remark | str, ...]
"""What is to be said, in turn. Texts are what a trial itself has said, and the sentences that older versions stored."""


class Arm(Record, frozen=True, kw_only=True):
    """A recipe against the baseline over paired seeds. Effects are oriented so that positive is better.

    ``low``/``high`` bound the mean paired difference (t interval at ``Comparison.level``), ``p_sign`` is the exact two-sided
    sign-flip probability, ``p_holm`` the t-test probability after Holm's correction over the arms. Differences below ``margin`` count as none
    (0: every difference counts). ``tried`` are the seeds that it was run on. ``correlation``
    is that of the untreated and the treated run of a seed, 0 where that is not known. ``beyond`` are the bounds of the
    interval that holds for other ``samples`` of the same kind, too, and not for those held out alone; none where they were not seen. ``remarks`` are what no number says;
    ``lines`` keep the recipe of an arm that is proven; of an ``edit``, which is another version of the subject and no recipe, they are the
    difference. ``cost`` is how many times as long as untreated a step takes, ``memory`` how many
    times as much the process needs.
    """

    recipe: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    differences: tuple[float, ...]
    mean: float
    effect: float
    low: float
    high: float
    p: float
    p_sign: float
    p_holm: float
    wins: int
    diverged: int = 0
    failed: int = 0
    no_effect: int = 0
    baseline_diverged: int = 0
    remarks: Remarks | str = msgspec.field(default=(), name="note")  # as stores have it, those of older versions a text
    lines: tuple[str, ...] = ()
    cost: float = 0.0
    memory: float = 0.0
    edit: bool = False
    margin: float = 0.0
    correlation: float = 0.0
    beyond: tuple[float, ...] = ()
    samples: int = 0
    tried: int = 0

    def _in_short(self) -> str:
        interval = f" [{shortened(self.low)}, {shortened(self.high)}]"
        return (
            f"{self.recipe}: {self.effect:+.4g}{interval} over {counted(self.seeds, 'seed')}{', proven' * self.proven}"
        )

    @property
    def note(self) -> str:
        """The remarks, in sentences."""
        return " ".join(drawing().sentences(self.remarks))

    @property
    def standing(self) -> Standing:
        """What the trials say of it.

        ``"lost"``: seeds were lost with it. ``"rescued"``: it ended with a number on every seed, and the untreated subject on none.
        ``"proven"``: the interval of the improvement excludes zero, and so does the test after Holm's correction over the arms.
        ``"worse"``: the same of a change for the worse. ``"same"``: the interval excludes all differences of ``margin`` and more.
        ``"unclear"``: none of these.
        """
        if self.diverged + self.failed + self.no_effect:
            return "lost"
        if self.values and not self.differences:
            return "unclear" if self.p_holm > ERROR else "rescued"
        if (self.low > 0 or self.high < 0) and not self.p_holm > ERROR:  # it is NaN where nothing was to correct
            return "proven" if self.low > 0 else "worse"
        return "same" if -self.margin < self.low <= self.high < self.margin else "unclear"

    @property
    def verdict(self) -> Verdict:
        """The same in one of four words, for decisions.

        ``"better"``: proven, or it alone trains. ``"worse"``: proven, also on the seeds that it has left, or it has failed on every seed, or
        diverged on every one of three or more on which the untreated subject did not. ``"same"``: differences of ``margin`` and more are
        excluded, or every number of every run is that of the untreated one. ``"undecided"``: none of these.
        """
        if self.standing != "lost":
            return _VERDICTS[self.standing]
        lost = self.diverged + self.failed + self.no_effect
        tried = self.tried or len(self.seeds) + lost
        if self.no_effect == tried:
            return "same"
        broken = self.failed == tried or (self.failed + self.diverged == tried >= _LOST)
        harmed = self.high < 0 and not self.p_holm > ERROR
        return "worse" if harmed or (broken and not self.baseline_diverged) else "undecided"

    @property
    def proven(self) -> bool:
        """Whether the interval of the improvement excludes zero and no seed was lost on the way."""
        return self.standing == "proven"

    @property
    def helped(self) -> bool:
        """Whether it is proven to help, or the subject trains with it alone."""
        return self.standing in ("proven", "rescued")


_LOST = 3  # seeds that have all diverged: that is no chance
_VERDICTS: dict[Standing, Verdict] = {
    "proven": "better",
    "rescued": "better",
    "worse": "worse",
    "same": "same",
    "unclear": "undecided",
}
