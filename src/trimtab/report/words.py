"""How numbers and names are said in reports: the page and the terminal use the same words."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

from trimtab.quantities import Quantity, offers
from trimtab.records import CONTROL, Arm, Attempt, Comparison, Finding, Metric, Severity, Tuning

UNFINISHED = "not ended, or killed"  # in the place of the time that a run took
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


def number(value: float) -> str:
    """A number as a reader wants it.

    >>> [number(x) for x in (0.94123, 12345.0, 3e-9, 940, float("nan"), float("-inf"))]
    ['0.9412', '12,345', '3e-09', '940', 'NaN', '-inf']
    """
    value = float(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else str(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"


# Sequences that move a cursor, colour a text, set a title or a clipboard; the parts of one that is cut short; marks that turn the
# direction of a text around. Line breaks and tabs stay.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]")
_CONTROL = re.compile(f"[{CONTROL}]")


def printable(text: str) -> str:
    """A recorded text without what a terminal would obey: it may come from anywhere.

    >>> printable("\\x1b]0;title\\x07\\x1b[31mred\\x1b[0m, a bell \\x07 and half \\udcff a letter")
    'red, a bell \ufffd and half \ufffd a letter'
    """
    return _CONTROL.sub("\ufffd", _SEQUENCE.sub("", text.replace("\r\n", "\n")))


def count(items: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{items:,} {noun}" if items == 1 else f"{items:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as a short text.

    >>> [duration(x) for x in (0.25, 42, 200, 7_500, float("nan"))]
    ['0.2 s', '42 s', '3 min 20 s', '2 h 05 min', 'unknown']
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def moment(seconds: float) -> str:
    """A time of the clock, given in seconds since 1970, as one reads it here.

    >>> moment(float("nan")), moment(1e300), len(moment(1e9))
    ('unknown', 'unknown', 16)
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "unknown"


def spelled(metric: str) -> str:
    """The name of a metric as a reader wants it, without who said it.

    >>> spelled("val accuracy"), spelled("printed val loss"), spelled("logged val/f1")
    ('validation accuracy', 'validation loss', 'validation/f1')
    """
    return Quantity.read(metric).title


def judge(metric: Metric, goal: bool = False) -> str:
    """What judges, for a sentence: with how it is summed up and, with ``goal``, which way is better.

    >>> judge(Metric(name="printed val accuracy", goal="max", folds=5)), judge(Metric(name="loss", goal="min", best=True), goal=True)
    ('validation accuracy (mean over 5 folds)', 'training loss (its best, less is better)')
    """
    better = f"{'more' if metric.goal == 'max' else 'less'} is better"
    how = ", ".join(
        [f"mean over {metric.folds} folds"] * bool(metric.folds) + ["its best"] * metric.best + [better] * goal
    )
    name = "training loss" if metric.name == "loss" else spelled(metric.name)
    return f"{name} ({how})" if how else name


def judged_by(metric: Metric | None, hints: Sequence[str] = ()) -> str:
    """Which number judges, where it comes from, and what else was on offer.

    >>> judged_by(Metric(name="printed val f1", goal="max", why="printed by the script", offered=("val loss",)))
    "Judged by validation f1, more is better: printed by the script. On offer too: --metric 'val loss'."
    >>> judged_by(Metric(name="loss", goal="min", why="no number for held-out data was seen"), ["wage: 9.0 (20 times)"])
    "Judged by training loss alone, less is better: no number for held-out data was seen. On offer: --metric 'wage: ([-0-9.e]+)' for wage: 9.0 (20 times)."
    """
    if metric is None:
        offered = offers((), hints)
        return "No number judges this run." + (f" On offer: {offered}." if offered else "")
    alone = metric.name == "loss"
    offered = offers(metric.offered, hints if metric.source == "measured" else ())
    said = f"Judged by {judge(metric)}{' alone' * alone}, {'more' if metric.goal == 'max' else 'less'} is better"
    return f"{said}{f': {metric.why}' if metric.why else ''}." + (
        f" On offer{' too' * (not alone)}: {offered}." if offered else ""
    )


SIGNIFICANT = 5  # digits of a mean that are shown at most: an effect below them is said by its own size


def training_name(name: str) -> str:
    """The heading of one training among several.

    >>> training_name("training 2"), training_name("fold 2")
    ('Training 2', 'Training fold 2')
    """
    return f"T{name[1:]}" if re.match(r"training\b", name) else f"Training {name}"


def decimals(arm: Arm) -> int:
    """Digits after the point that the arm's interval can carry: at least two below 10, none from 100 on, and no more than the mean
    can be read with."""
    sizes = [abs(x) for x in (arm.mean, arm.effect, arm.low, arm.high) if math.isfinite(x)]
    largest = max(sizes, default=0)
    least = 2 if largest < 10 else 1 if largest < 100 else 0
    half = (arm.high - arm.low) / 2
    if not (math.isfinite(half) and half > 0):
        return least
    return max(least, min(-math.floor(math.log10(half)), _readable(largest)))


def _readable(size: float) -> int:
    """Digits after the point with which a number of this size has five digits in all."""
    return SIGNIFICANT - 1 - math.floor(math.log10(size)) if size > 0 else SIGNIFICANT


def fixed(value: float, places: int, sign: bool = False) -> str:
    """A number with so many digits after the point; one that these would make 0 by its first digit, a very large or small one short.

    >>> [fixed(x, 2) for x in (0.126, -0.004, -0.0, 2e-8, 2e25, float("nan"))]
    ['0.13', '-0.004', '0.00', '2e-08', '2e+25', 'NaN']
    """
    plus = "+" if sign else ""
    if not math.isfinite(value):
        return number(value)
    if abs(value) >= 1e7 or places > 2 * SIGNIFICANT:
        return f"{value:{plus}.3g}"
    text = f"{value:{plus}.{places}f}"
    if float(text) == 0:
        return f"{value:{plus}.1g}" if value else f"{0:{plus}.{places}f}"
    return text


def effect(arm: Arm, sign: bool = True) -> str:
    """``+0.84 [0.82, 0.86]``; without brackets where there is no interval (a single seed)."""
    places = decimals(arm)
    if not math.isfinite(arm.effect):
        return "no effect measured"
    text = fixed(arm.effect, places, sign)
    bounded = math.isfinite(arm.high - arm.low)
    return f"{text} [{fixed(arm.low, places)}, {fixed(arm.high, places)}]" if bounded else text


def percent(share: float) -> str:
    """A share of a whole.

    >>> percent(0.125)
    '12 %'
    """
    return f"{100 * share:.0f} %"


def cost(times: float) -> str:
    """How many times as much as untreated; nothing where that is not known.

    >>> cost(1.26), cost(3.4), cost(0.0)
    ('1.3', '3.4', '')
    """
    return f"{times:.1f}" if times else ""


def costs(arm: Arm) -> str:
    """What an arm costs, beside untreated: a step, and memory."""
    return " / ".join(filter(None, [cost(arm.cost), cost(arm.memory)]))


def mean(comparison: Comparison, value: float) -> str:
    """A mean of the trial table, with the same digits in every row."""
    places = max(map(decimals, comparison.arms), default=2) + 1
    means = [abs(arm.mean) for arm in comparison.arms if math.isfinite(arm.mean)]
    usual = sorted(means)[len(means) // 2] if means else 1.0
    return fixed(value, max(min(places, _readable(usual)), 0))


def arm_noun(comparison: Comparison) -> str:
    """What the arms of a comparison are called: recipes, unless some are edits."""
    return "arm" if any(arm.edit for arm in comparison.arms) else "recipe"


def baseline_mean(comparison: Comparison, arm: Arm | None = None) -> float:
    """Mean of the untreated subject over the arm's seeds, or all seeds; NaN if none of them ended with a number.

    Where it diverged on one of the arm's, it is taken to have been worse by what that counts for.
    """
    by_seed = dict(zip(comparison.seeds, comparison.baseline, strict=False))
    seeds = comparison.seeds if arm is None else arm.seeds
    if arm is not None and arm.differences and any(math.isnan(by_seed.get(seed, 0.0)) for seed in seeds):
        return arm.mean - arm.effect * (1 if comparison.metric.goal == "max" else -1)
    values = [by_seed[seed] for seed in seeds if math.isfinite(by_seed.get(seed, math.nan))]
    return sum(values) / len(values) if values else math.nan


def helped(comparison: Comparison) -> list[Arm]:
    """The arms that have lines which keep them, the best first."""
    return sorted((arm for arm in comparison.arms if arm.lines), key=lambda arm: -arm.effect)


def lost(arm: Arm) -> str:
    """The seeds that an arm lost, in words; empty if none."""
    parts = [(arm.diverged, "diverged"), (arm.failed, "failed"), (arm.no_effect, "without effect")]
    return ", ".join(f"{seeds} {what}" for seeds, what in parts if seeds)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Findings with the gravest first; the judge's own order is kept within a severity."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def leading(attempts: Sequence[Attempt], metric: Metric, most: int) -> list[Attempt]:
    """The best trials of a search that came to their end, the untreated one left out."""
    sign = -1 if metric.goal == "max" else 1
    done = [attempt for attempt in attempts if attempt.recipe and attempt.status == "ok"]
    return sorted(done, key=lambda attempt: sign * attempt.value)[:most]


def importance(tuning: Tuning) -> str:
    """What the importances of a search say, and how far they can be trusted."""
    return (
        f"What tells the best {percent(tuning.quantile)} of {count(len(tuning.attempts), 'trial')} from the rest (PED-ANOVA; stopped "
        "trials are among the rest). A rough guide: one seed, few trials, and the axes are judged one by one."
    )
