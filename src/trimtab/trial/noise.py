"""Noise: how much the number that judges a subject moves from run to run by chance, and what difference can be seen through it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np

from trimtab.records import Noise, Remark, RunRecord, Spread, Trial, remark
from trimtab.trial.run import BASELINE
from trimtab.trial.session import Session
from trimtab.trial.subjects import Subject
from trimtab.trial.terms import Terms, with_terms

SEEDS = 10  # by default
SEEN = (3, 5, 10)  # numbers of seeds of which it is said what they show
FOUND = 0.8  # of the times that a smallest difference would be proven
STAGES = {"all": "running seeds", "init": "varying the initialization", "order": "varying the order of the data"}


@with_terms()
def noise(
    subject: Subject | str | os.PathLike,
    seeds: int | Sequence[int] = SEEDS,
    *,
    parts: bool = False,
    **terms: Unpack[Terms],
) -> Noise:
    """Run the untreated subject on many seeds: how much the number that judges it moves, and what difference few seeds can show.

    The runs stay in ``.trimtab/`` beside the subject, and :func:`compare` has those on its seeds for nothing.

    Args:
        subject: the path of a script, a :class:`Script` (with arguments) or a :class:`Task`.
        seeds: how many (0, 1, 2 ...), or which. Seed 0 is the script as it stands.
        parts: make as many runs again in which seeds vary only what is drawn until the first optimizer is made, which is the initialization as a
            rule, and in which they vary only what is drawn from then on, the order of the data above all.
        terms: see Terms.

    Raises:
        SubjectError: if there is no such script.
        TrialError: if the subject crashes, never trains or has no metric.
    """
    with Session(subject, **terms) as session:
        return noise_watched(session, seeds, parts)[1]


def noise_watched(session: Session, seeds: int | Sequence[int] = SEEDS, parts: bool = False) -> tuple[RunRecord, Noise]:
    """:func:`noise` in a session, with the record of the watched run."""
    wanted = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    run = session.watch()
    assert session.metric is not None
    made: dict[str, list[Trial]] = {}
    stages = STAGES if parts else {"all": STAGES["all"]}
    for left, (part, stage) in zip(reversed(range(len(stages))), stages.items(), strict=True):
        session.later = session.rounds(left * len(wanted))
        trials = session.trials([BASELINE], wanted, stage, varies="" if part == "all" else part)[BASELINE]
        made[part] = sorted(trials, key=lambda trial: trial.seed)
    spreads = tuple(_spread(part, trials) for part, trials in made.items())
    found = Noise(
        subject=session.subject.label,
        metric=session.metric,
        seeds=tuple(wanted),
        spreads=spreads,
        smallest={n: smallest_difference(spreads[0].sd, n) for n in SEEN},
        trials=tuple(made["all"]),
        remarks=(*_remarks(session, made, spreads, len(wanted)), *session.remarks),
    )
    session.keep(lambda store: store.put_outcome(run.id, found))
    return run, found


def deviation(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    r"""The standard deviation of normal numbers, and the bounds of its interval.

    .. math:: s\,\sqrt{\frac{n-1}{\chi^2_{n-1,\,(1+level)/2}}} \le \sigma \le s\,\sqrt{\frac{n-1}{\chi^2_{n-1,\,(1-level)/2}}}

    Of fewer than two numbers, and of equal ones, nothing is known above.

    >>> print("{:.3f} [{:.3f}, {:.3f}]".format(*deviation([0.91, 0.93, 0.92, 0.95, 0.90])))
    0.019 [0.012, 0.055]
    """
    from scipy import special

    n = len(values)
    if n < 2:
        return math.nan, 0.0, math.inf
    sd = float(np.std(values, ddof=1))
    if sd == 0:
        return 0.0, 0.0, math.inf
    low, high = (
        sd * math.sqrt((n - 1) / float(special.chdtri(n - 1, tail))) for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    return sd, low, high


def smallest_difference(sd: float, seeds: int) -> float:
    r"""The smallest difference between two versions, each on so many seeds of its own, that Student's test would prove four times of five.

    .. math:: (t_{n-1,\,0.975} + t_{n-1,\,0.8})\,\sqrt{2}\,\sigma/\sqrt{n}

    By the noncentral t it is proven 0.77 of the times with 3 seeds, 0.79 with 5 and 0.80 with 10.

    >>> print(" ".join(f"{smallest_difference(1.0, n):.2f}" for n in (3, 5, 10)))
    4.38 2.35 1.41
    """
    from scipy import special

    t = sum(float(special.stdtrit(seeds - 1, share)) for share in (0.975, FOUND))
    return t * math.sqrt(2 / seeds) * sd


def _spread(part: str, trials: Sequence[Trial]) -> Spread:
    ended = [trial for trial in trials if trial.status == "ok"]
    values = [trial.value for trial in ended]
    sd, low, high = deviation(values)
    known = [name for name in ended[0].others if all(name in trial.others for trial in ended)] if len(ended) > 1 else []
    return Spread(
        part=part,
        values=tuple(values),
        mean=float(np.mean(values)) if values else math.nan,
        sd=sd,
        low=low,
        high=high,
        lost=tuple(trial.seed for trial in trials if trial.status != "ok"),
        others={name: deviation([trial.others[name] for trial in ended])[0] for name in known},
    )


def _remarks(session: Session, made: dict[str, list[Trial]], spreads: Sequence[Spread], seeds: int) -> Iterator[Remark]:
    yield remark("shares_nothing")
    if len(spreads) > 1:
        yield remark("parts_alone")
    for spread in spreads:
        if spread.sd == 0:
            yield remark("stands_still", part=spread.part, seeds=len(spread.values))
    trials = [trial for of_part in made.values() for trial in of_part]
    for said in dict.fromkeys(trial.error.rstrip(".") for trial in trials if trial.status != "ok" and trial.error):
        yield remark("reason", said=said)
    if missing := seeds * len(made) - len(trials):
        yield remark("trials_cut", seconds=session.budget, missing=missing, of=seeds * len(made))
    seen = [trial.predicted for trial in made["all"] if trial.predicted is not None]
    if seen and len(seen) == len(spreads[0].values) and len({one.samples for one in seen}) == 1:
        share = float(np.mean([one.bits.mean() for one in seen]))
        scale = 100 if spreads[0].mean > 1 else 1  # it is in percent
        error = scale * math.sqrt(share * (1 - share) / seen[0].samples)
        yield remark("of_samples", samples=seen[0].samples, error=error)
    yield remark("own_splits") if len({one.targets for one in seen}) > 1 else remark("one_data_set")
