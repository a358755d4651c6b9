"""An L1 + L2 penalty on all tensors of a ResNet-18, value and gradient: ours against the usual ways.

Method as in benchmarks/norms.py: one thread, thread CPU time, 96 MB read before each timed call, contenders in turn within a
round, medians over rounds of the ratios within a round. The usual loop adds ``l1 |w| + l2/2 w^2`` of each tensor to the loss
and lets autograd differentiate it; "foreach" is the same by torch's multi-tensor functions, without autograd.

    python benchmarks/penalty.py [--rounds N]
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

import numpy as np
import torch
from training_step import ResNet18

from trimtab.optim import add_penalty_gradient_

L1, L2 = 1e-4, 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = list(ResNet18().parameters())
    gradients = [torch.zeros_like(w) for w in weights]
    for w, g in zip(weights, gradients, strict=True):
        w.grad = g

    def loop() -> torch.Tensor:
        value = torch.stack([L1 * w.abs().sum() + L2 / 2 * w.square().sum() for w in weights]).sum()
        value.backward()
        return value.detach()

    @torch.no_grad()
    def foreach() -> torch.Tensor:
        torch._foreach_add_(gradients, weights, alpha=L2)
        torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=L1)
        first, second = torch._foreach_norm(weights, 1), torch._foreach_norm(weights, 2)
        return L1 * torch.stack(first).sum() + L2 / 2 * torch.stack(second).square().sum()

    def ours() -> torch.Tensor:
        return add_penalty_gradient_(weights, l1=L1, l2=L2)

    found = {}
    for name, call in {"loop": loop, "foreach": foreach, "ours": ours}.items():
        torch._foreach_zero_(gradients)
        found[name] = float(call()), torch.cat([g.flatten() for g in gradients]).clone()
    exact = sum(L1 * w.double().abs().sum() + L2 / 2 * w.double().square().sum() for w in weights)
    errors = {name: abs(value / float(exact.detach()) - 1) for name, (value, _) in found.items()}
    for name in ("foreach", "ours"):
        torch.testing.assert_close(found[name][1], found["loop"][1])
    flood = torch.ones(24_000_000)

    def timed(call: Callable[[], object]) -> float:
        flood.sum()
        began = time.thread_time_ns()
        call()
        return (time.thread_time_ns() - began) / 1e6

    rows = np.array([[timed(call) for call in (ours, loop, foreach)] for _ in range(arguments.rounds)])
    count = sum(w.numel() for w in weights)
    result = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "torch": torch.__version__,
        "python": platform.python_version(), "threads": 1, "rounds": arguments.rounds, "tensors": len(weights),
        "parameters": count, "ms": dict(zip(("ours", "loop", "foreach"), np.median(rows, axis=0).round(3), strict=True)),
        "vs_loop": round(float(np.median(rows[:, 1] / rows[:, 0])), 3),
        "vs_foreach": round(float(np.median(rows[:, 2] / rows[:, 0])), 3),
    }  # fmt: skip
    print(f"{len(weights)} tensors, {count / 1e6:.1f} M parameters")
    for name, ms in result["ms"].items():
        print(f"{name:<8} {ms:8.2f} ms, value off by {errors[name]:.0e}")
    print(f"ours is {result['vs_loop']} times as fast as the loop, {result['vs_foreach']} times as fast as foreach")
    (Path(__file__).parent / "results" / "penalty.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
