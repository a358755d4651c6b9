"""Whole training steps before and after ``fuse``: how much of a step goes to norms and what stands around them, and what is won.

Method. Two copies of one network with the same weights, one as it is and one with the technique ``fuse`` applied, train on the same
batch with fused AdamW, in turn, on one thread pinned to one core, by thread CPU time; the gain is the median over rounds of the ratio
within a round. The shares come from torch's profiler, run apart from the timing: self time of operations by kind. The losses of
both are compared with those of a float64 run over five steps of plain gradient descent, with dropout off, since masks differ.

    python benchmarks/training_step.py [--rounds N]
"""

from __future__ import annotations

from alone import machine  # before torch: it starts the process anew

# isort: split
import argparse
import copy
import datetime
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import trimtab as tt

HERE = Path(__file__).parent
KINDS = {
    "matmul, convolution": ("conv", "mm", "linear", "attention", "bmm", "mkldnn"),
    "norm": ("norm",),
    "dropout": ("dropout", "bernoulli"),
    "activation": ("relu", "gelu", "silu", "threshold"),
    "add, multiply": ("add", "mul", "div"),
}


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 with the stem that 32x32 images get."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        blocks, inner = [], 64
        for outer, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [BasicBlock(inner, outer, stride), BasicBlock(outer, outer, 1)]
            inner = outer
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(1))


def last(x: torch.Tensor) -> torch.Tensor:
    return x.to(memory_format=torch.channels_last)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], bool]] = {
    "ResNet-18, 128 x 3 x 32 x 32": (ResNet18, lambda: torch.randn(128, 3, 32, 32), False),
    "ResNet-18, channels_last": (ResNet18, lambda: last(torch.randn(128, 3, 32, 32)), False),
    "encoder 6 x 512, 16 x 128, dropout 0.1": (Encoder, lambda: torch.randn(16, 128, 512), False),
    "the same, bfloat16 autocast": (Encoder, lambda: torch.randn(16, 128, 512), True),
}


class Run:
    def __init__(self, model: nn.Module, x: torch.Tensor, autocast: bool, fused: bool, plain: bool = False) -> None:
        self.model, self.x, self.autocast = copy.deepcopy(model), x, autocast
        self.y = torch.arange(len(x)) % 10
        parameters = self.model.parameters()
        # Adam divides tiny gradients by themselves and so makes roundings large: to compare losses, plain gradient descent
        self.optimizer = torch.optim.SGD(parameters, 0.01) if plain else torch.optim.AdamW(parameters, 1e-4, fused=True)
        self.told = str(tt.attach(self.model, self.optimizer).apply("fuse").changes[-1]) if fused else ""

    def step(self) -> float:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = nn.functional.cross_entropy(self.model(self.x).float(), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def shares(self) -> dict[str, float]:
        """Percent of the step by kind of operation."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.step()
        times: dict[str, float] = defaultdict(float)
        for event in found.key_averages():
            name = event.key.lower()
            if name.startswith("_function"):  # ours: the kernel runs inside, and no operation of torch with it
                kind = "norm"
            else:
                kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
            times[kind] += event.self_cpu_time_total
        total = sum(times.values())
        return {kind: round(100 * times[kind] / total, 1) for kind in [*KINDS, "other"]}


def errors(make: Callable[[], nn.Module], x: torch.Tensor) -> dict[str, float]:
    """The largest relative error of the losses of the first steps against float64, before and after; dropout off."""
    model, x = make(), x[:16]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    exact = Run(copy.deepcopy(model).double(), x.double(), False, False, plain=True)
    runs = {"before": Run(model, x, False, False, plain=True), "after": Run(model, x, False, True, plain=True)}
    found = dict.fromkeys(runs, 0.0)
    for _ in range(5):
        wanted = exact.step()
        for key, run in runs.items():
            found[key] = max(found[key], abs(run.step() - wanted) / abs(wanted))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {arguments.core})
    rows = []
    for name, (make, data, autocast) in CASES.items():
        torch.manual_seed(0)
        model, x = make(), data()
        if "channels_last" in name:
            model = model.to(memory_format=torch.channels_last)
        runs = {"before": Run(model, x, autocast, False), "after": Run(model, x, autocast, True)}
        times: dict[str, list[float]] = {key: [] for key in runs}
        for round_ in range(arguments.rounds + 2):
            for key in ("before", "after") if round_ % 2 else ("after", "before"):
                began = time.thread_time()
                runs[key].step()
                times[key].append(time.thread_time() - began)
        ratio = np.array(times["before"][2:]) / np.array(times["after"][2:])
        row = {
            "network": name,
            "ms": {key: round(float(np.median(t[2:])) * 1e3, 1) for key, t in times.items()},
            "faster": round(float(np.median(ratio)), 3),
            "quartiles": [round(float(q), 3) for q in np.quantile(ratio, (0.25, 0.75))],
            "percent_of_step": {key: run.shares() for key, run in runs.items()},
            "losses_off_float64_by": errors(make, x),
            "fused": runs["after"].told.splitlines()[0],
        }
        rows.append(row)
        print(
            f"{name:<42} {row['ms']['before']:8.1f} ms -> {row['ms']['after']:8.1f} ms  {row['faster']:.3f}x {row['quartiles']}"
        )
        for key, shares in row["percent_of_step"].items():
            print(f"    {key:<7}", ", ".join(f"{kind} {share} %" for kind, share in shares.items()))
        off = row["losses_off_float64_by"]
        print(
            f"    losses off float64 by {off['before']:.1e} before, {off['after']:.1e} after; {row['fused']}",
            flush=True,
        )
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "torch": torch.__version__,
        "threads": 1,
        "rows": rows,
    }
    (HERE / "results" / "training_step.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
