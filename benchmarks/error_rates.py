"""How often our statistics err, and what they find, in simulated comparisons whose truth is known.

Without a difference: how often intervals cover zero and how often an arm is called better, for one look at fixed seeds, for a confirmation
that looks on the way, and for a family of six arms of which none helps, looked at once and on the way; with normal differences, with skewed
ones (a log-normal metric), and where one run of seven diverges. With a difference: how often it is found, and by how many seeds; how often
it is when as many seeds are made as were said to decide; and how often "same" is said of one that is as large as the margin.

    python benchmarks/error_rates.py [--save] [--times N]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import msgspec
import numpy as np

from trimtab.records import Metric, Trial
from trimtab.trial.arms import compare_arms, seeds_to_decide
from trimtab.trial.looks import hopeless, looks_up_to, plan

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
    looked_families = [family(values(random, ARMS, MOST, 0.0, kind)) for _ in range(times)]
    return {
        "metric": kind,
        "covered_fixed": mean(arm.low <= 0 <= arm.high for arm in one),
        "covered_looks": mean(arm.low <= 0 <= arm.high for arm in looked),
        "covered_treat": mean(arm.low <= 0 <= arm.high for arm, *_ in treated),
        "better_fixed": mean(arm.standing == "proven" for arm in one),
        "better_looks": mean(arm.standing == "proven" for arm in looked),
        "better_treat": mean(arm.standing == "proven" for arm, *_ in treated),
        "family_any_below_0.05": mean(any(arm.p_holm <= 0.05 for arm in arms) for arms in families),
        "family_any_better": mean(any(arm.verdict == "better" for arm in arms) for arms in families),
        "family_any_better_looks": mean(any(arm.verdict == "better" for arm in arms) for arms in looked_families),
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


def family(numbers: np.ndarray) -> list:
    """The arms of a comparison that goes on until each is decided, as they end."""
    ended, left, reached = [], list(range(len(numbers) - 1)), {}
    for look in PLAN:
        seeds = look.made[-1]
        reached |= {str(arm): look for arm in left}
        arms = {name: trials(name, numbers[1 + int(name), : at.made[-1]]) for name, at in reached.items()}
        ended = compare_arms(LOSS, trials("", numbers[0, :seeds]), arms, looks=reached, margin=0.0)
        left = [int(arm.recipe) for arm in ended if int(arm.recipe) in left and arm.standing == "unclear"]
        if not left:
            break
    return list(ended)


def decisions(times: int) -> dict:
    """How often "same" is said of a difference as large as the margin, and how often so many seeds decide as were said to."""
    random = np.random.default_rng(2)
    size = 1.0 / math.sqrt(2 * (1 - CORRELATION))  # one standard deviation of the seed, in those of the differences
    same, announced, other = [], [], []
    for _ in range(times):
        untreated, treated = values(random, 1, MOST, -size)
        looks = [
            compare_arms(LOSS, trials("", untreated[: look.made[-1]]), {"a": trials("a", treated[: look.made[-1]])}, looks={"a": look}, margin=1.0)
            for look in PLAN
        ]  # fmt: skip
        same.append(any(arm.verdict == "same" for (arm,) in looks))
        (arm,) = at_once(values(random, 1, 20, 1.0))  # a pilot of which the effect and the spread are known well
        seeds = seeds_to_decide(msgspec.structs.replace(arm, margin=0.0))
        if seeds:
            (later,) = at_once(values(random, 1, seeds, arm.effect / float(np.std(arm.differences, ddof=1))))
            announced.append(later.verdict == "better")
            other.append(seeds)
    return {
        "same_where_it_is_the_margin": mean(same),
        "decided_of_announced_0.8": mean(announced),
        "seeds_announced": mean(other),
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
    decided = decisions(asked.times)
    print(decided)
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
        RESULTS.write_text(
            json.dumps({"times": asked.times, "without": null, "with": effects, "decisions": decided}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
