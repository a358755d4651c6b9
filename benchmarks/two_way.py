"""How often the intervals of a comparison hold on samples that were not held out: over seeds alone, and over seeds and samples.

Two versions of a small network are trained on many seeds, on the digits and on data that are made, and predict a large pool of samples. A
comparison sees five seeds of each and 100 or 300 samples, drawn anew 200 times; the truth is the mean difference over all seeds and the
whole pool.

    python benchmarks/two_way.py [--save] [--times N]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification
from torch import nn

from trimtab.trial.stats import paired_t, two_way

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "two_way.json"
SEEDS, SEEN = 40, 5
HELD_OUT = (100, 300)


def data(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    x, y = make_classification(6000, 20, n_informative=8, n_classes=4, flip_y=0.1, class_sep=0.8, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def predicted(name: str, seed: int, rate: float, width: int) -> np.ndarray:
    """Which samples of the pool a network has right that was trained on the first 300."""
    x, y = data(name)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, int(y.max()) + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(10):
        for batch in torch.randperm(300).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(x[300:]).argmax(1) == y[300:]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--times", type=int, default=200, metavar="N", help="Comparisons of each kind.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    random, rows = np.random.default_rng(0), []
    for name in ("digits", "made"):
        before, after = (
            np.stack([predicted(name, seed, *how) for seed in range(SEEDS)]) for how in ((0.02, 16), (0.05, 32))
        )
        d = after.astype(float) - before
        for held_out in HELD_OUT:
            covered = {"seeds": 0, "both": 0}
            widths = {"seeds": 0.0, "both": 0.0}
            for _ in range(asked.times):
                seen = d[np.ix_(random.choice(SEEDS, SEEN, replace=False), random.choice(d.shape[1], held_out))]
                for way, interval in (("seeds", paired_t(seen.mean(1))), ("both", two_way(seen))):
                    covered[way] += interval.low <= d.mean() <= interval.high
                    widths[way] += (interval.high - interval.low) / asked.times if np.isfinite(interval.high) else 0.0
            row = {"data": name, "held_out": held_out, "difference": float(d.mean())}
            row |= {f"covered_{way}": count / asked.times for way, count in covered.items()}
            row |= {f"width_{way}": width for way, width in widths.items()}
            rows.append(row)
            print(
                f"{name}, {held_out} samples: the difference is {row['difference']:+.3f}; seeds alone cover it in {row['covered_seeds']:.3f}, seeds and "
                f"samples in {row['covered_both']:.3f} (mean widths {row['width_seeds']:.3f} and {row['width_both']:.3f})",
                flush=True,
            )
    if asked.save:
        RESULTS.write_text(json.dumps({"times": asked.times, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
