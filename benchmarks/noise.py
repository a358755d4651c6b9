"""Whether what ``trimtab noise`` announces comes true: the standard error of the mean of five runs, from ten seeds, beside twenty others.

Six small scripts, three data sets in two settings. Of each, ten seeds announce how much the mean of five runs moves; then twenty other
seeds are run, and the same is reckoned from them. The ratio of the two is 1 but for chance, which lets 95 of 100 lie between 0.59 and 1.92
(the square root of an F with 19 and 9 degrees of freedom).

    python benchmarks/noise.py [--save] [--scripts N]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

from scipy import stats
from small import SCRIPT

import trimtab as tt
from trimtab.trial.engines import LocalEngine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "noise.json"
SEEDS, OTHERS, RUNS = 10, range(10, 30), 5
SCRIPTS = {
    f"{data}_{width}": SCRIPT.format(data=data, width=width, rate=rate)
    for data in ("digits", "wine", "breast_cancer")
    for width, rate in ((16, 0.02), (64, 0.05))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--scripts", type=int, default=len(SCRIPTS), metavar="N")
    asked = parser.parse_args()
    bounds = [math.sqrt(stats.f.ppf(p, len(OTHERS) - 1, SEEDS - 1)) for p in (0.025, 0.975)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in list(SCRIPTS.items())[: asked.scripts]:
            script = Path(folder) / f"{name}.py"
            script.write_text(source)
            found = [tt.noise(script, seeds, engine=LocalEngine(2)).spreads[0] for seeds in (SEEDS, OTHERS)]
            announced, seen = (spread.sd / math.sqrt(RUNS) for spread in found)
            rows.append({"script": name, "announced": announced, "seen": seen, "ratio": seen / announced})
            print(f"{name:<18} announced {announced:.3g}, seen {seen:.3g}: {seen / announced:.2f} times", flush=True)
    within = sum(bounds[0] <= row["ratio"] <= bounds[1] for row in rows)
    print(f"{within} of {len(rows)} ratios between {bounds[0]:.2f} and {bounds[1]:.2f}")
    if asked.save:
        said = {
            "seeds": SEEDS,
            "others": len(OTHERS),
            "runs": RUNS,
            "bounds": bounds,
            "within": within,
            "scripts": rows,
        }
        RESULTS.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
