"""Overfitting: the training loss still falls while the number that judges the run gets worse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trimtab import quantities
from trimtab.doctor.curves import held_out, roughness
from trimtab.doctor.present import is_adaptive
from trimtab.doctor.rule import CannotJudge, rule
from trimtab.quantities import Quantity
from trimtab.records import Evidence, Finding, Goal, Series, TrainingRecord

EVALUATIONS = 6
RISE = 0.1  # of the best loss or error; of what a score had gained
LEAST = 0.02  # of the best score
GAP = 0.08  # of accuracy


@rule(needs={"loss": "no training loss was seen"})
def overfitting(training: TrainingRecord) -> Iterator[Finding]:
    """Compares the end of the number that judges the run with its best, whoever said it, and after it the held-out loss.

    Both are means over a window of a tenth of the evaluations (three at least); their noise is estimated from second differences
    of the series, which a smooth trend does not enter. Fires when the end is worse than the best by more than 4 standard errors
    and 10 %, and the training loss fell meanwhile. A held-out loss that rises where another number judges, and that one did not
    get worse, is only a note, unless the accuracy is at least 8 points below that of training batches: the network has become
    too sure of itself, not worse at the task.

    A script that keeps the weights of its best evaluation is judged by what it keeps, and nothing is said.
    """
    loss = training.get("loss").finite
    numbers = dict(_numbers(training))
    if not numbers or not len(loss):
        raise CannotJudge(f"it needs a number for held-out data that was seen at least {EVALUATIONS} times")
    falls = [_fall(training.get(name).finite, name, goal) for name, goal in numbers.items()]
    fall = next((one for one in falls if one is not None and _still_learning(loss, one)), None)
    if fall is None or _keeps_its_best(training, numbers) or _ends_well(training, fall):
        return
    gap = _gap(training)
    evidence = [
        Evidence(
            text=f"The {Quantity.read(fall.name).title} is {fall.best_is} around step {fall.best_step} ({fall.best:.4g}) and {fall.end:.4g} at the "
            f"end, {abs(fall.end / (fall.best or math.inf) - 1):.0%} {fall.worse} and {fall.errors} standard errors away; "
            f"the training loss went from {_mean_near(loss, fall.best_step):.4g} to {_mean_near(loss, fall.last_step):.4g} meanwhile.",
            numbers={
                "best": fall.best,
                "end": fall.end,
                "best_step": float(fall.best_step),
                "standard_error": fall.error,
            },
            shows=(fall.name, "loss"),
        )
    ]
    if gap is not None:
        evidence.append(
            Evidence(
                text=f"At the end the accuracy is {gap[0]:.3f} on training batches and {gap[1]:.3f} held out.",
                numbers={"train_accuracy": gap[0], "held_out_accuracy": gap[1]},
                shows=("train accuracy",),
            )
        )
    judge = next(iter(numbers))
    apart = gap is not None and gap[0] - gap[1] >= GAP
    harmless = not apart and (fall.name != judge or gap is not None) and fall.goal == "min"
    if harmless and fall.name != judge:
        evidence.append(
            Evidence(text=f"The {Quantity.read(judge).title}, which judges the run, did not get worse.", shows=(judge,))
        )
    adaptive = any(map(is_adaptive, training.optimizers))
    decays = (0.1, 1.0, 10.0) if adaptive else (0.01, 0.1, 0.03)
    yield Finding(
        problem="overfitting",
        severity="info" if harmless else "error" if fall.much else "warning",
        where="model",
        title=f"The network overfits from about step {fall.best_step} on",
        evidence=tuple(evidence),
        cause="With more capacity than the data can pin down, the network goes on to fit what is particular to its training samples, noise "
        "included, after it has learned what they share with others.",
        source="Geman, Bienenstock, Doursat 1992; Prechelt 1998; Srivastava et al. 2014",
        remedies=(
            "dropout(p=0.5)",
            f"weight_decay(factor={decays[0]:g})",
            f"weight_decay(factor={decays[1]:g})",
            "early_stopping",
            *(("label_smoothing", "mixup") if "classes" in training.facts else ("drop_connect(p=0.5)", "bagging")),
            f"weight_decay(factor={decays[2]:g})",
            "dropout(p=0.2)",
            "ema(decay=0.99)",
            "lr_scale(factor=0.3)",
        ),
        confidence=0.9,
    )


def _numbers(training: TrainingRecord) -> Iterator[tuple[str, Goal]]:
    """What the training is judged by, seen often enough to have a course, and the held-out loss. A reward is no held-out number: it
    falls and rises with what the policy meets."""
    often = [name for name in training.series if name != "loss" and len(training.get(name).finite) >= EVALUATIONS]
    judge = training.metric
    if judge is not None and judge.name in often:
        yield judge.name, judge.goal
    elif name := quantities.judging(name for name in often if Quantity.read(name).what != "reward"):
        yield name, quantities.goal_of(name)
    name, series = held_out(training, "loss")
    if len(series) >= EVALUATIONS:
        yield name, "min"


@dataclass(frozen=True)
class _Fall:
    """How much worse than at its best a number is at the end."""

    name: str
    goal: Goal
    best: float
    end: float
    worst: float
    best_step: int
    last_step: int
    error: float

    @property
    def lost(self) -> float:
        return abs(self.end - self.best)

    @property
    def errors(self) -> str:
        """How many standard errors were lost, for a sentence."""
        return f"{self.lost / self.error:.0f}" if self.lost < 100 * self.error else "more than 100"

    @property
    def much(self) -> bool:
        return self.end > 1.5 * self.best if self.goal == "min" else self.lost > 0.5 * abs(self.best - self.worst)

    @property
    def best_is(self) -> str:
        return "lowest" if self.goal == "min" else "highest"

    @property
    def worse(self) -> str:
        return "higher" if self.goal == "min" else "lower"


def _fall(series: Series, name: str, goal: Goal) -> _Fall | None:
    sign = 1.0 if goal == "min" else -1.0
    values = sign * series.array
    window = max(3, len(values) // 10)
    means = np.convolve(values, np.ones(window) / window, "valid")
    at = int(means.argmin())
    best, end, worst = float(means[at]), float(means[-1]), float(means[: at + 1].max())
    error = roughness(values) * math.sqrt(2 / window)
    least = RISE * abs(best) if goal == "min" else max(RISE * (worst - best), LEAST * abs(best))
    if end - best <= max(4 * error, least):
        return None
    step = series.steps[at + window // 2]
    return _Fall(name, goal, sign * best, sign * end, sign * worst, step, series.steps[-1], error)


def _still_learning(loss: Series, fall: _Fall) -> bool:
    return _mean_near(loss, fall.last_step) < _mean_near(loss, fall.best_step)


def _keeps_its_best(training: TrainingRecord, numbers: Mapping[str, Goal]) -> bool:
    """Whether weights were put back when training was over, or saved for the last time where some number was at its best."""
    if "restored" in training.facts:
        return True
    saved = training.facts.get("last_saved", -1.0)
    for name, goal in numbers.items():
        series = training.get(name).finite
        until = sum(step <= saved for step in series.steps)
        values = series.array if goal == "min" else -series.array
        if 0 < until < len(values) and values[until - 1] == values.min():
            return True
    return False


def _ends_well(training: TrainingRecord, fall: _Fall) -> bool:
    """Whether the last word on the training, an evaluation that comes once or once more after its last step, is nearer to the best
    than to the end: it is of other weights than those of the last step."""
    for name, series in training.series.items():
        quantity = Quantity.read(name)
        once_more = len(series) == 1 or (name == fall.name and series.steps[-2:] == (training.steps,) * 2)
        same = quantity.held_out and quantity.what == Quantity.read(fall.name).what
        if same and once_more and series.steps[-1] == training.steps:
            return abs(series.last - fall.best) < abs(series.last - fall.end)
    return False


def _mean_near(series: Series, step: int) -> float:
    """The mean of the series over the twentieth of the run that ends at the step."""
    width = max(1, series.steps[-1] // 20)
    near = [v for s, v in zip(series.steps, series.values, strict=True) if step - width <= s <= step]
    return float(np.mean(near)) if near else float(series.array[0])


def _gap(training: TrainingRecord) -> tuple[float, float] | None:
    train, (_, held) = training.get("train accuracy").finite, held_out(training, "accuracy")
    if not len(train) or not len(held):
        return None
    tail = train.array[-max(1, len(train) // 5) :]
    return float(tail.mean()), float(held.array[-max(1, len(held) // 5) :].mean())
