"""What watching costs: the ratio of watched to unwatched time in one run, and the size of the record.

Method. Two copies of the same training alternate in one process on one thread, in blocks of ten steps (each watched block has its
sampled step): one plain, one watched at the default sampling with its rows going to a store on disk. The cost is
watched/plain - 1, by processor time over all blocks, and by wall time as the median over pairs of neighbouring blocks, so that
a noisy machine hurts both alike. The plain copy runs in the same process, so the calls of the taps themselves (microseconds a
step) are in both. The size is measured on a run of 10 000 steps: the peak of Python's and the process's memory beyond the plain run, and the file.

Evaluations are measured by themselves, since scripts evaluate in loops of their own: batches without gradients, with the loss of each, in
turn with nothing there, under a watch, under a technique that hears of evaluations (early_stopping), and under both; the ratio is the median
over rounds, each of which has all four.

    python benchmarks/watch_overhead.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import trimtab as tt
from trimtab.store import Store


def cnn() -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), torch.randn(16, 3, 32, 32)


def mlp() -> tuple[nn.Module, torch.Tensor]:
    layers: list[nn.Module] = []
    for _ in range(5):
        layers += [nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 10)), torch.randn(128, 1024)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean(1))


def encoder() -> tuple[nn.Module, torch.Tensor]:
    return Encoder(), torch.randn(8, 64, 128)


def tiny() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.randn(32, 64)


def training(make, seed: int = 0):
    torch.manual_seed(seed)
    model, x = make()
    y = torch.randint(0, 10, (len(x),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, optimizer, step


def timed(step, steps: int) -> tuple[float, float]:
    """Wall and processor seconds of some steps."""
    began, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return time.perf_counter() - began, time.process_time() - processor


def cost(make, seconds: float) -> dict[str, float]:
    """Plain and watched blocks in turn; a block is long enough to hold two sampled steps."""
    _, _, plain = training(make)
    model, optimizer, watched = training(make)
    timed(plain, 3)
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store, tt.Recorder("benchmark", store) as recorder:
        recorder.watch(tt.attach(model, optimizer))
        timed(watched, 3)
        block = 10
        blocks: list[tuple] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds or len(blocks) < 5:
            first = len(blocks) % 2
            times = {which: timed((plain, watched)[which], block) for which in (first, 1 - first)}
            blocks.append((*times[0], *times[1]))
        watch = recorder.samplers[0]
        samples = len(watch.log.series["movement"][0])
    wall_plain, cpu_plain, wall_watched, cpu_watched = np.array(blocks).T
    return {
        "step_ms": 1000 * float(np.median(wall_plain)) / block,
        "cost_percent": 100 * (float(cpu_watched.sum() / cpu_plain.sum()) - 1),
        "cost_of_wall_time_percent": 100 * (float(np.median(wall_watched / wall_plain)) - 1),
        "pairs_of_blocks": len(blocks),
        "sampled_every": watch.step / max(1, samples),
    }


def evaluated(make, seconds: float) -> dict[str, float]:
    """Times of an evaluated batch beside that of one with nothing there."""
    began, rounds = time.perf_counter(), []
    while time.perf_counter() - began < seconds or len(rounds) < 5:
        times = {}
        for who in ("plain", "watched", "listened", "both"):
            model, optimizer, step = training(make)
            with contextlib.ExitStack() as stack:
                if who != "plain":
                    handle = stack.enter_context(tt.attach(model, optimizer))
                if who in ("listened", "both"):
                    handle.apply("early_stopping(patience=1000)")
                if who in ("watched", "both"):
                    stack.enter_context(handle.watch())
                step()
                times[who] = batch_time(model, make()[1])
        rounds.append([times[who] / times["plain"] for who in ("watched", "listened", "both")] + [times["plain"]])
    watched, listened, both, plain = np.median(np.array(rounds), axis=0)
    return {
        "evaluated_batch_us": 1e6 * float(plain),
        "watched": float(watched),
        "heard_by_a_technique": float(listened),
        "both": float(both),
        "rounds": len(rounds),
    }


def batch_time(model: nn.Module, x: torch.Tensor) -> float:
    """Seconds for a batch, the median of seven loops."""
    y = torch.randint(0, 10, (len(x),))
    model.eval()
    loops, count = [], 20
    with torch.no_grad():
        for _ in range(8):
            began = time.perf_counter()
            for _ in range(count):
                nn.functional.cross_entropy(model(x), y)
            loops.append((time.perf_counter() - began) / count)
            count = max(5, min(400, int(0.02 / loops[-1])))
    return float(np.median(loops[1:]))


def size(steps: int) -> dict[str, float]:
    """The record of a long run of the small network: memory and disk."""
    model, optimizer, step = training(tiny)
    timed(step, 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        with tt.Recorder("benchmark", store) as recorder:
            recorder.watch(tt.attach(model, optimizer))
            timed(step, steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*"))
    return {"steps": steps, "memory_mb": (peak - before) / 1024, "disk_mb": disk / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds per network")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    results: dict = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__.split("+")[0]}
    results["threads"] = torch.get_num_threads()
    results["record of a long run"] = size(2_000 if quick else 10_000)
    print("network     step ms   processor time   wall time   sampled every")
    for make in (mlp, cnn, encoder, tiny):
        result = results[make.__name__] = cost(make, 8 if quick else 30)
        print(
            f"{make.__name__:10s} {result['step_ms']:8.2f} {result['cost_percent']:+14.2f} % "
            f"{result['cost_of_wall_time_percent']:+9.2f} % {result['sampled_every']:10.1f} steps"
        )
    print("network     evaluated batch   watched   heard by a technique   both")
    for make in (mlp, cnn, encoder, tiny):
        result = evaluated(make, 4 if quick else 15)
        results[make.__name__]["evaluation"] = result
        print(
            f"{make.__name__:10s} {result['evaluated_batch_us']:12.1f} us {result['watched']:9.2f} x {result['heard_by_a_technique']:20.2f} x "
            f"{result['both']:5.2f} x"
        )
    long = results["record of a long run"]
    print(f"{long['steps']:,} steps: {long['memory_mb']:.1f} MB of memory, {long['disk_mb']:.1f} MB on disk")
    out = Path(__file__).parent / "results" / "watch_overhead.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
