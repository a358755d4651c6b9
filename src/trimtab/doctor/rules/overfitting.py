"""Overfitting: the training loss still falls while the held-out loss rises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import held_out
from trimtab.records import Evidence, Finding, Series, TrainingRecord

EVALUATIONS = 6
RISE = 0.1  # of the best held-out loss
GAP = 0.08  # of accuracy


def overfitting(training: TrainingRecord) -> Iterator[Finding]:
    """Compares the end of the held-out loss with its best.

    Both are means over a window of a tenth of the evaluations (three at least); their noise is estimated from second differences
    of the series, which a smooth trend does not enter. Fires when the end is above the best by more than 4 standard errors
    and 10 %, and the training loss fell meanwhile. When an accuracy was measured too and is not at least 8 points below
    the training accuracy, it is only a note: the network has become too sure of itself, not worse at the task.
    """
    name, held = held_out(training, "loss")
    loss = training.get("loss").finite
    if len(held) < EVALUATIONS or not len(loss):
        return
    values = held.array
    window = max(3, len(values) // 10)
    means = np.convolve(values, np.ones(window) / window, "valid")
    best_at = int(means.argmin())
    best, end = float(means[best_at]), float(means[-1])
    noise = float(np.median(np.abs(np.diff(values, 2)))) / (0.6745 * np.sqrt(6)) if len(values) > 4 else 0.0
    error = noise * np.sqrt(2 / window)
    best_step = held.steps[best_at + window // 2]
    train_then, train_end = _mean_near(loss, best_step), _mean_near(loss, held.steps[-1])
    rose = end - best > max(4 * error, RISE * abs(best)) and train_end < train_then
    if not rose:
        return
    gap = _gap(training)
    evidence = [
        Evidence(
            text=f"The {name} is lowest around step {best_step} ({best:.4g}) and {end:.4g} at the end, {(end / best - 1):.0%} higher and "
            f"{(end - best) / max(error, 1e-12):.0f} standard errors away; the training loss went from {train_then:.4g} to {train_end:.4g} meanwhile.",
            numbers={"best": best, "end": end, "best_step": float(best_step), "standard_error": float(error)},
            shows=(name, "loss"),
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
    harmless = gap is not None and gap[0] - gap[1] < GAP
    adaptive = any(name.startswith(("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad")) for name in training.optimizers)
    decays = (0.1, 1.0, 10.0) if adaptive else (0.01, 0.1, 0.03)
    yield Finding(
        problem="overfitting",
        severity="info" if harmless else "error" if end > 1.5 * best else "warning",
        where="model",
        title=f"The network overfits from about step {best_step} on",
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
