"""A night of edits that a program makes by itself: what is kept falsely, what is found, and what it costs, beside keep-if-better.

Simulated: 100 edits, of which 15 are real improvements of one to two standard deviations of the seed and the others change nothing but the random
numbers; the run of an edit and that of the script on one seed are correlated, as sharing a seed makes them. ``compare --until-decided --log``
is followed with the functions that it is made of; keep-if-better runs each edit once and keeps it if its number is better than the
best one yet. Costs are runs, those of the script itself with them.

    python benchmarks/night.py [--save] [--nights N]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from trimtab.ledger import Decision, allowance
from trimtab.trial.compare import LOOKED
from trimtab.trial.deciding import POINTED
from trimtab.trial.looks import hopeless, looks_up_to, plan
from trimtab.trial.stats import paired_t, sign_flip

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "night.json"
EDITS, REAL = 100, 15
CORRELATIONS = (0.5, 0.9, 0.99)
PLAN = plan(looks_up_to(LOOKED))


def decided(d: np.ndarray, risk: float) -> tuple[bool, int]:
    """Whether an edit of these differences by seed is kept, and after how many seeds that is known."""
    if d[0] <= 0:
        return False, 1
    seen = d[:1]
    last = PLAN[-1]
    for look in PLAN:
        seen = d[: look.made[-1]]
        mean, _, _, p = paired_t(seen)
        p = max(p, sign_flip(seen, np.random.default_rng(0)))
        if mean > 0 and look.fair(p) <= 2 * risk:
            return True, len(seen)
        if look is last or hopeless(seen, LOOKED, last.level_at(2 * risk), POINTED):
            break
    return False, len(seen)


def night(random: np.random.Generator, correlation: float) -> dict:
    real = np.zeros(EDITS, dtype=bool)
    real[random.choice(EDITS, REAL, replace=False)] = True
    gains = np.where(real, random.uniform(1, 2, EDITS), 0.0)
    shared = math.sqrt(correlation) * random.standard_normal(LOOKED)

    def runs(level: float) -> np.ndarray:
        return level + shared + math.sqrt(1 - correlation) * random.standard_normal(LOOKED)

    script, level = runs(0.0), 0.0
    simple, simple_level, simple_kept = script[0], 0.0, np.zeros(EDITS, dtype=bool)
    ledger: list[Decision] = []
    cost, made = 0, 1
    kept = np.zeros(EDITS, dtype=bool)
    for i in range(EDITS):
        risk = allowance(ledger)
        edit = runs(level + gains[i])
        kept[i], seeds = decided(edit - script, risk)
        verdict = "better" if kept[i] else "undecided"
        ledger.append(
            Decision(number=i + 1, key=str(i), subject="", arm="", alpha=risk, began=0.0, ended=1.0, verdict=verdict)
        )
        cost, made = cost + seeds, max(made, seeds)
        if kept[i]:  # its runs are those of the script from now on
            script, level = edit, level + gains[i]
            cost, made = cost + made - seeds, seeds  # those on seeds that it was not run on
        once = runs(simple_level + gains[i])[0]
        if once > simple:
            simple, simple_level, simple_kept[i] = once, simple_level + gains[i], True
    return {
        "false": int((kept & ~real).sum()), "found": int((kept & real).sum()), "runs": cost + made, "gain": level,
        "simple_false": int((simple_kept & ~real).sum()), "simple_found": int((simple_kept & real).sum()),
        "simple_gain": simple_level, "simple_claimed": float(simple), "possible": float(gains.sum()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--nights", type=int, default=200, metavar="N", help="Nights of each kind.")
    asked = parser.parse_args()
    rows = []
    for correlation in CORRELATIONS:
        random = np.random.default_rng(0)
        nights = [night(random, correlation) for _ in range(asked.nights)]
        mean = {name: float(np.mean([one[name] for one in nights])) for name in nights[0]}
        row = {
            "correlation": correlation,
            "nights_with_a_false_keep": float(np.mean([one["false"] > 0 for one in nights])),
            "real_found": mean["found"] / REAL,
            "runs_over_keep_if_better": mean["runs"] / (EDITS + 1),
            "gain": mean["gain"] / mean["possible"],
            "keep_if_better": {
                "false_keeps": mean["simple_false"],
                "nights_with_a_false_keep": float(np.mean([one["simple_false"] > 0 for one in nights])),
                "real_found": mean["simple_found"] / REAL,
                "gain": mean["simple_gain"] / mean["possible"],
                "claimed_beyond_the_gain_in_standard_deviations": mean["simple_claimed"] - mean["simple_gain"],
            },
        }
        rows.append(row)
        simple = row["keep_if_better"]
        print(
            f"correlation {correlation}: a false keep in {row['nights_with_a_false_keep']:.3f} of the nights, {row['real_found']:.2f} of the real "
            f"ones kept, {row['runs_over_keep_if_better']:.1f} times the runs of keep-if-better, which has {simple['false_keeps']:.1f} false keeps a "
            f"night, keeps {simple['real_found']:.2f} of the real ones, and claims {simple['claimed_beyond_the_gain_in_standard_deviations']:+.1f} "
            "standard deviations that are not there",
            flush=True,
        )
    if asked.save:
        RESULTS.write_text(
            json.dumps({"nights": asked.nights, "edits": EDITS, "real": REAL, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
