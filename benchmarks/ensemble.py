"""Bagged networks trained together (``trimtab.nn.Ensemble``) against one after another.

Method. 16 small networks with batches of 64 digits, each on its own bootstrap (weights of the losses), Adam; once as an ``Ensemble``
with one optimizer, once as 16 modules with 16 optimizers. One thread, thread CPU time. In every round each of the two trains one epoch, in
turn; reported is the median over rounds of the ratio within a round, so that a noisy machine hurts both alike. In the end
the parameters of both are compared: the same numbers, up to rounding. Asked: at least 4 times faster.

    python benchmarks/ensemble.py [--rounds N] [--members N] [--width N]
"""

from __future__ import annotations

from alone import machine  # before torch: it starts the process anew

# isort: split
import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from trimtab.data import bootstrap_indices, bootstrap_weights, out_of_bag_average
from trimtab.nn import Ensemble
from trimtab.nn.functional import member_losses

BATCH = 64


def seconds(call: Callable[[], None]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 8 - 1, dtype=torch.float32), torch.tensor(labels)
    weights = bootstrap_weights(bootstrap_indices(len(x), args.members))
    batches = torch.randperm(len(x)).split(BATCH)

    single = [
        nn.Sequential(nn.Linear(64, args.width), nn.ReLU(), nn.Linear(args.width, 10)) for _ in range(args.members)
    ]
    ensemble = Ensemble(copy.deepcopy(single))
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=0.01)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in single]

    def together() -> None:
        for rows in batches:
            optimizer.zero_grad()
            member_losses(F.cross_entropy, ensemble(x[rows]), y[rows], weights[:, rows]).sum().backward()
            optimizer.step()

    def one_by_one() -> None:
        for model, own, weight in zip(single, optimizers, weights, strict=True):
            for rows in batches:
                own.zero_grad()
                (F.cross_entropy(model(x[rows]), y[rows], reduction="none") * weight[rows]).mean().backward()
                own.step()

    together()
    one_by_one()
    difference = max(
        (p - q).abs().max().item()
        for one, other in zip(single, ensemble.members(), strict=True)
        for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )
    times = np.array([(seconds(together), seconds(one_by_one)) for _ in range(args.rounds)])
    with torch.no_grad():
        outputs = ensemble(x)
    alone = (outputs.argmax(2) == y)[weights == 0].float().mean()
    bagged = (out_of_bag_average(outputs.softmax(2), weights).argmax(1) == y).float().mean()

    print(machine())
    print(f"{args.members} networks 64-{args.width}-10, batches of {BATCH} digits, Adam; one epoch of all members:")
    print(f"  together    {np.median(times[:, 0]):.3f} s")
    print(f"  one by one  {np.median(times[:, 1]):.3f} s")
    low, ratio, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    print(f"  together is {ratio:.1f} times faster (quartiles {low:.1f} to {high:.1f})")
    print(f"  largest difference of a parameter after one epoch ({len(batches)} steps): {difference:.1e}")
    print(f"  out-of-bag accuracy: {alone:.3f} of one member, {bagged:.3f} of all")


if __name__ == "__main__":
    main()
