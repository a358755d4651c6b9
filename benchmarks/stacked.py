"""Seeds trained together against a process for each: the time of 16 seeds of a small network on handwritten digits, by both engines.

The engines take turns, and the median of each counts. Trials of the local engine run on as many workers as it takes by itself, a stack
on as many; each process computes with one thread. The numbers of every seed are compared, too: they may differ by rounding. What that can
come to shows beside it: trials by themselves whose first weights were nudged by one part in ten million.

    python benchmarks/stacked.py [--seeds 16] [--epochs 10] [--rounds 3] [--save]
"""

from __future__ import annotations

import alone  # isort: skip

import argparse
import functools
import json
import math
import statistics
import tempfile
import time
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from trimtab.records import Metric
from trimtab.trial.engines import Engine, LocalEngine, StackedEngine
from trimtab.trial.run import Job, Result
from trimtab.trial.subjects import Task

RESULTS = Path(__file__).parent / "results" / "stacked.json"
METRIC = Metric(name="val loss", goal="min")
NAMES = ("val loss", "val accuracy")
HIDDEN = (32, 64, 128)


def data() -> tuple:
    """1437 digits to train on, 360 held out, inputs (N, 64) in 0..1."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def mlp(hidden: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def nudged(hidden: int) -> nn.Module:
    """The same, its first weights otherwise rounded."""
    model = mlp(hidden)
    with torch.no_grad():
        next(model.parameters()).mul_(1 + 1e-7)
    return model


def timed(engine: Engine, task: Task, seeds: int) -> tuple[float, dict[int, Result]]:
    """Seconds that the trials of all seeds take, and their results."""
    results: dict[int, Result] = {}
    began = time.perf_counter()
    engine.run([Job(task, "", seed, METRIC) for seed in range(seeds)], lambda job, of: results.update({job.seed: of}))
    seconds = time.perf_counter() - began
    assert len(results) == seeds and all(of.trial.status == "ok" for of in results.values())
    return seconds, results


def deviation(one: dict[int, Result], other: dict[int, Result]) -> dict[str, float]:
    """The largest difference of the seeds' last held-out losses and accuracies."""

    def last(results: dict[int, Result], seed: int, name: str) -> float:
        return results[seed].run.trainings[0].get(name).last

    return {name: max(abs(last(one, seed, name) - last(other, seed, name)) for seed in one) for name in NAMES}


def compared(hidden: int, seeds: int, epochs: int, rounds: int) -> dict:
    """One network, by both engines in turn."""
    task = Task(f"digits {hidden}", functools.partial(mlp, hidden), data, epochs=epochs)
    local, stacked = LocalEngine(), StackedEngine()
    timed(local, task, 1)  # the server of the processes starts
    seconds: dict[str, list[float]] = {"local": [], "stacked": []}
    differs = dict.fromkeys(NAMES, 0.0)
    for _ in range(rounds):
        took, by_itself = timed(local, task, seeds)
        seconds["local"].append(took)
        took, together = timed(stacked, task, seeds)
        seconds["stacked"].append(took)
        differs = {name: max(differs[name], of) for name, of in deviation(by_itself, together).items()}
    assert not stacked.remarks, stacked.remarks
    _, otherwise = timed(local, replace(task, model=functools.partial(nudged, hidden)), seeds)
    rounding = deviation(by_itself, otherwise)
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    row = {
        "hidden": hidden, "seeds": seeds, "epochs": epochs, "steps": epochs * math.ceil(1437 / task.batch_size),
        "workers": local.workers, "seconds": seconds, "ratio": medians["local"] / medians["stacked"], "differs": differs,
        "nudged": rounding,
    }  # fmt: skip
    print(
        f"{seeds} seeds, {hidden:>4} hidden units, {row['steps']} steps: local {medians['local']:.2f} s, stacked {medians['stacked']:.2f} s, "
        f"{row['ratio']:.1f} times faster; val loss differs by {differs['val loss']:.1e} at most, val accuracy by {differs['val accuracy']:.1e} "
        f"(nudged: {rounding['val loss']:.1e}, {rounding['val accuracy']:.1e})",
        flush=True,
    )
    for engine in (local, stacked):
        engine.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.name}.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        rows = [compared(hidden, asked.seeds, asked.epochs, asked.rounds) for hidden in HIDDEN]
    if asked.save:
        found = {
            "machine": alone.machine(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "threads": 1,
        }
        RESULTS.write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
