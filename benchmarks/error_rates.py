"""How often our statistics err, and what they find, in simulated comparisons whose truth is known.

Without a difference: how often intervals cover zero and how often an arm is called better, for one look at fixed seeds, for a confirmation
that looks on the way, and for a family of six arms of which none helps; with normal differences, with skewed ones (a log-normal metric), and
where one run of seven diverges. With a difference: how often it is found, and by how many seeds.

    python benchmarks/error_rates.py [--save] [--times N]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from trimtab.records import Metric, Trial
from trimtab.trial.looks import hopeless, looks_up_to, plan
from trimtab.trial.stats import compare_arms

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "error_rates.json"
LOSS = Metric(name="val loss", goal="min")
FIXED, MOST, ARMS = 5, 8, 6
CORRELATION = 0.5  # of an untreated and a treated run of one seed
KINDS, DIVERGES = ("normal", "log-normal", "diverging"), 1 / 7
EFFECTS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)  # in standard deviations of the differences


def values(random: np.random.Generator, arms: int, seeds: int, effect: float, kind: str = "normal") -> np.ndarray:
    """Metrics of an untreated subject and so many arms, by seed: the arms are better by so many standard deviations of the differences."""
    together = random.standard_normal(seeds)
    own = random.standard_normal((1 + arms, seeds))
    numbers = math.sqrt(CORRELATION) * together + math.sqrt(1 - CORRELATION) * own
    numbers[1:] -= effect * math.sqrt(2 * (1 - CORRELATION))
    if kind == "diverging":
        return np.where(random.random(numbers.shape) < DIVERGES, np.nan, 3 + numbers)
    return np.exp(numbers) if kind == "log-normal" else 3 + numbers


def trials(recipe: str, numbers: np.ndarray) -> list[Trial]:
    status = ["ok" if math.isfinite(x) else "diverged" for x in numbers]
    return [Trial(subject="s", recipe=recipe, seed=i, status=status[i], value=x) for i, x in enumerate(numbers)]


def at_once(numbers: np.ndarray) -> list:
    """The arms of a comparison of all seeds."""
    arms = {str(arm): trials(str(arm), row) for arm, row in enumerate(numbers[1:])}
    return list(compare_arms(LOSS, trials("", numbers[0]), arms))


def confirmed(numbers: np.ndarray, give_up: bool) -> tuple:
    """An arm when a confirmation ends, after how many seeds, and as it was at each look."""
    seen = []
    for look in PLAN:
        seeds = look.made[-1]
        untreated, treated = numbers[:, :seeds]
        (arm,) = compare_arms(LOSS, trials("", untreated), {"a": trials("a", treated)}, looks={"a": look}, margin=0.0)
        seen.append(arm)
        if arm.standing != "unclear" or (give_up and hopeless(arm.differences, MOST, PLAN[-1].level)):
            break
    return arm, seeds, seen


PLAN = plan(looks_up_to(MOST))


def without(times: int, kind: str) -> dict:
    """What is said where there is no difference."""
    random = np.random.default_rng(0)
    one = [at_once(values(random, 1, FIXED, 0.0, kind))[0] for _ in range(times)]
    looked = [confirmed(values(random, 1, MOST, 0.0, kind), give_up=False)[0] for _ in range(times)]
    treated = [confirmed(values(random, 1, MOST, 0.0, kind), give_up=True) for _ in range(times)]
    families = [at_once(values(random, ARMS, FIXED, 0.0, kind)) for _ in range(times)]
    return {
        "metric": kind,
        "covered_fixed": mean(arm.low <= 0 <= arm.high for arm in one),
        "covered_looks": mean(arm.low <= 0 <= arm.high for arm in looked),
        "covered_treat": mean(arm.low <= 0 <= arm.high for arm, *_ in treated),
        "better_fixed": mean(arm.standing == "proven" for arm in one),
        "better_looks": mean(arm.standing == "proven" for arm in looked),
        "better_treat": mean(arm.standing == "proven" for arm, *_ in treated),
        "family_any_below_0.05": mean(any(arm.p_holm <= 0.05 for arm in arms) for arms in families),
        "family_any_better": mean(any(arm.p_holm <= 0.05 and arm.effect > 0 for arm in arms) for arms in families),
        "seeds_treat": mean(seeds for _, seeds, _ in treated),
    }


def found(times: int, effect: float) -> dict:
    """What is said of a difference of so many standard deviations."""
    random = np.random.default_rng(1)
    one = [at_once(values(random, 1, FIXED, effect))[0] for _ in range(times)]
    looked = [confirmed(values(random, 1, MOST, effect), give_up=True) for _ in range(times)]
    return {
        "effect": effect,
        "found_fixed": mean(arm.standing == "proven" for arm in one),
        "found_looks": mean(arm.standing == "proven" for arm, *_ in looked),
        "seeds_looks": mean(seeds for _, seeds, _ in looked),
    }


def mean(numbers) -> float:
    return float(np.mean(list(numbers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--times", type=int, default=2000, metavar="N", help="Comparisons of each kind.")
    asked = parser.parse_args()
    null = [without(asked.times, kind) for kind in KINDS]
    effects = [found(asked.times, effect) for effect in EFFECTS]
    for row in null:
        print(f"no difference, {row['metric']} metric, {asked.times} comparisons of each kind:")
        for name, number in row.items():
            if name != "metric":
                print(f"  {name:<24} {number:.3f}")
    for row in effects:
        print(
            f"{row['effect']} standard deviations: found in {row['found_fixed']:.3f} with {FIXED} seeds, in {row['found_looks']:.3f} with "
            f"looks at up to {MOST}, after {row['seeds_looks']:.1f} of them"
        )
    if asked.save:
        RESULTS.write_text(json.dumps({"times": asked.times, "without": null, "with": effects}, indent=1) + "\n")


if __name__ == "__main__":
    main()
