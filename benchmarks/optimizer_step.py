"""One step of each optimizer over all tensors of a ResNet-18, and of a small network: ours against all forms of torch's.

Method as in benchmarks/norms.py: one thread, thread CPU time, 96 MB read before each timed step, contenders in turn within a
round, medians over rounds of the ratios within a round. torch's forms: a loop over the tensors, its multi-tensor functions ("foreach"), its
fused kernels (which on processors SGD, Adagrad and Adam have), and the compiled multi-tensor step. The small network shows what a
step costs besides its memory; there nothing is read in between, and a sample is twenty steps.

    python benchmarks/optimizer_step.py [--rounds N] [--only TEXT] [--no-compile]
"""

from __future__ import annotations

from alone import machine  # before torch: it starts the process anew

# isort: split
import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training_step import ResNet18

from trimtab import optim

STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9, "weight_decay": 1e-4}),
    "Adagrad": ("Adagrad", {}),
    "Adadelta": ("Adadelta", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop, centered, momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adam": ("Adam", {}),
    "Adam, amsgrad": ("Adam", {"amsgrad": True}),
    "AdamW": ("AdamW", {}),
}
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": ResNet18,
    "MLP 64-64-64-10": lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)),
}


def contenders(
    name: str, settings: dict[str, Any], compiled: bool
) -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    theirs = getattr(torch.optim, name)
    found = {
        "ours": lambda p: getattr(optim, name)(p, lr=1e-3, **settings),
        "loop": lambda p: theirs(p, lr=1e-3, foreach=False, **settings),
        "foreach": lambda p: theirs(p, lr=1e-3, foreach=True, **settings),
    }
    if name in FUSED:
        found["fused"] = lambda p: theirs(p, lr=1e-3, fused=True, **settings)
    if compiled:
        found["compiled"] = found["foreach"]
    return found


def measure(network: str, name: str, settings: dict[str, Any], rounds: int, compiled: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    start = [p.detach() for p in NETWORKS[network]().parameters()]
    gradients = [torch.randn_like(p) for p in start]
    steps, params = {}, {}
    for form, make in contenders(name, settings, compiled).items():
        params[form] = [p.clone().requires_grad_() for p in start]
        for p, g in zip(params[form], gradients, strict=True):
            p.grad = g
        optimizer = make(params[form])
        steps[form] = torch.compile(optimizer.step) if form == "compiled" else optimizer.step
        for _ in range(3):  # makes the state; a compiled step is compiled for its first steps and then for all others
            steps[form]()
    for form in steps:
        torch.testing.assert_close(params[form], params["loop"], rtol=1e-5, atol=1e-6)
    small = sum(p.numel() for p in start) < 1e6
    repeats, flood = (20, torch.ones(1)) if small else (1, torch.ones(24_000_000))

    def timed(step: Callable[[], object]) -> float:
        flood.sum()
        began = time.thread_time_ns()
        for _ in range(repeats):
            step()
        return (time.thread_time_ns() - began) / 1e6 / repeats

    rows = np.array([[timed(step) for step in steps.values()] for _ in range(rounds)])
    forms = list(steps)
    ms = dict(zip(forms, np.median(rows, axis=0).round(4).tolist(), strict=True))
    fastest = min(forms[1:], key=lambda form: ms[form])
    ratios = {form: round(float(np.median(rows[:, i] / rows[:, 0])), 3) for i, form in enumerate(forms) if i}
    return {
        "network": network,
        "step": " ".join([name, *map(str, settings)]),
        "ms": ms,
        "ratios": ratios,
        "fastest of torch": fastest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", metavar="TEXT", help="steps whose name contains this; writes no file")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        print(f"{network}\n{'':<28}  ours, ms   torch's fastest / ours   all of torch's / ours")
        for title, (name, settings) in STEPS.items():
            if arguments.only not in title:
                continue
            torch.compiler.reset()
            row = {"title": title, **measure(network, name, settings, arguments.rounds, not arguments.no_compile)}
            rows.append(row)
            fastest, ratios = row["fastest of torch"], row["ratios"]
            every = ", ".join(f"{form} {ratio:.2f}" for form, ratio in ratios.items())
            print(
                f"{title:<28} {row['ms']['ours']:9.4f}   {ratios[fastest]:.2f} ({fastest})".ljust(66) + every,
                flush=True,
            )
    result = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "torch": torch.__version__,
        "python": platform.python_version(), "threads": 1, "rounds": arguments.rounds, "rows": rows,
    }  # fmt: skip
    if not arguments.only:
        (Path(__file__).parent / "results" / "optimizer_step.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
