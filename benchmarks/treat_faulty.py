"""What a treatment is worth: twenty faulty scripts, treated from nothing, against two searches that may spend as much and diagnose nothing.

The searches draw recipes from the same catalogue, a technique with its default settings (or none) and a factor for the learning rate
from 0.03 to 30: one at random, the other by Optuna's default sampler. Each is whole runs on one seed until the processor time is spent
that the treatment took besides its confirmation; what a script refuses costs them nothing. The best of each, by the mean of its last
quarter of evaluations, then runs on the fresh seeds on which the treatment was confirmed.

A difference is that of the means over these seeds, of the logarithms where less is better, and a part of the range from untreated to
the best of the three (of the spread of the untreated seeds, if that is wider). A seed that diverged counts as the worst one that did not.

    python benchmarks/treat_faulty.py [--save [--fresh]] [--only NAME ...]

With ``--save`` each script is written as soon as it is known, and those that are written already are taken as they are: a run that was
ended goes on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import datetime
import hashlib
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from treat_cost import ROOT, STATE, spent

FAULTY = ROOT / "benchmarks" / "faulty"
RESULTS = ROOT / "benchmarks" / "results" / "treat_faulty.json"
SHIPPED = ROOT / "src" / "trimtab" / "trial" / "successes.json"
RIVALS = ("random", "tpe")
FACTORS = (0.03, 30.0)
STEPS = ("steps",)  # what a technique may ask for that is no choice: the steps of the run
FRESH = (1000, 1001, 1002)  # seeds of the searches' bests where the treatment confirms nothing
START = 0.3  # processor seconds of a trial besides its steps
LIMIT = 30  # runs that a treatment should not cost more than
TIE = 0.05  # of the range

Search = Generator[str, "float | None", None]
"""Yields recipes, and is sent how good each was: more is better, ``None`` if it ended with no number."""


# -- the searches, each in a process of its own ----------------------------------------------------------------------


def random_search(techniques: Sequence[str], seed: int) -> Search:
    draw = random.Random(seed)
    low, high = map(math.log, FACTORS)
    while True:
        yield scaled(draw.choice(techniques), math.exp(draw.uniform(low, high)))


def tpe_search(techniques: Sequence[str], seed: int) -> Search:
    from trimtab.trial.search import require_optuna

    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    while True:
        trial = study.ask()
        technique = trial.suggest_categorical("technique", techniques)
        good = yield scaled(technique, trial.suggest_float("factor", *FACTORS, log=True))
        if good is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, good)


def scaled(technique: str, factor: float) -> str:
    return ", ".join(filter(None, (technique, f"lr_scale(factor={factor:.3g})")))


def catalogue(steps: int) -> list[str]:
    """Every technique with its default settings, and none; without those that cannot do with them, or are the factor itself."""
    from trimtab.recipe import Technique, load_techniques

    load_techniques()
    listed = [""]
    for name, cls in sorted(Technique.registry.items()):
        without = dataclasses.MISSING
        asked = [one.name for one in dataclasses.fields(cls) if one.default is one.default_factory is without]
        if all(one in STEPS for one in asked):
            listed.append(f"{name}({', '.join(f'{one}={steps}' for one in asked)})")
    return listed


def processor() -> float:
    """Processor seconds of this process and all that it started, also of what has ended."""
    own, ticks = os.getpid(), os.sysconf("SC_CLK_TCK")
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        one = int(path.parent.name)
        parents[one], used[one] = int(fields[1]), sum(map(int, fields[11:15]))

    def ours(one: int) -> bool:
        while one not in (own, 0):
            one = parents.get(one, 0)
        return one == own

    return sum(ticked for one, ticked in used.items() if ours(one)) / ticks


def searched(rival: str, script: Path, budget: float, seeds: Sequence[int]) -> dict:
    """What a search finds within a budget of processor seconds, and how that does on fresh seeds."""
    from trimtab.recipe import Recipe, RecipeError
    from trimtab.records import Metric, Series, Trial
    from trimtab.trial.engines import LocalEngine
    from trimtab.trial.session import Session
    from trimtab.trial.terms import Silent

    def good(trial: Trial, metric: Metric) -> float | None:
        values = trial.curves.get(metric.name, Series()).values
        if trial.status != "ok" or not values:
            return None
        level = trial.value if metric.best else statistics.fmean(values[-max(1, len(values) // 4) :])
        if not math.isfinite(level):
            return None
        return level if metric.goal == "max" else -level

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: those that outlive their parent are counted here
    with Session(str(script), engine=LocalEngine(workers=1), progress=Silent()) as session:
        run = session.watch()
        assert session.metric is not None and run.main is not None
        metric = session.metric
        untreated = good(session.trials([""], [0])[""][0], metric)
        propose = {"random": random_search, "tpe": tpe_search}[rival]
        search = propose(catalogue(run.main.steps), zlib.crc32(script.name.encode()))
        best, highest = "", untreated
        tried, refused, free, told = 0, 0, 0.0, None
        while (before := processor()) - free < budget:
            recipe = search.send(told)
            try:
                Recipe.parse(recipe)
            except RecipeError:  # its parts clash
                told = None
                continue
            trial = session.trials(["", recipe], [0])[recipe][0]
            if trial.status == "no_effect":
                refused, free, told = refused + 1, free + processor() - before, untreated
                continue
            tried, told = tried + 1, good(trial, metric)
            if told is not None and (highest is None or told > highest):
                best, highest = recipe, told
        used = processor() - free
        trials = session.trials(["", best], seeds)
    return {
        "processor": used, "budget": budget, "tried": tried, "refused": refused, "recipe": best,
        "values": [finite(trial.value) for trial in trials[best]], "untreated": [finite(trial.value) for trial in trials[""]],
    }  # fmt: skip


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -- a script ---------------------------------------------------------------------------------------------------------


def treated(script: Path) -> dict:
    """A treatment of a copy of the script, what judged it, and what it cost without its confirmation."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(script, folder))
        command = [sys.executable, "-m", "trimtab.cli", "treat", "--json", "found.json", copy.name]
        processor, seconds, code = spent(command, Path(folder))
        if code not in (0, 3):
            raise SystemExit(f"trimtab treat {script.name} ended with exit code {code}.")
        told = json.loads((Path(folder) / "found.json").read_text())
        remembered = Path(folder) / STATE / "trimtab" / "successes.json"
        shown = json.loads(remembered.read_text()) if remembered.exists() else {}
    found, steps = told["treatment"], sum(one["steps"] for one in told["trainings"])
    confirmation = found["confirmation"] or {"seeds": FRESH, "trials": []}
    trials = confirmation["trials"]
    confirming = sum(one["step_seconds"] * steps + START for one in trials)
    return {
        "metric": found["metric"]["name"], "goal": found["metric"]["goal"],
        "findings": [f"{one['severity']}: {one['problem']}" for one in told["findings"]],
        "processor": processor, "seconds": seconds, "exit_code": code, "confirming": confirming,
        "raced": len(found["race"] or ()), "shown": next(iter(shown.values()), None), "recipe": found["recipe"] if trials else "", "standing": found["standing"],
        "effect": found["effect"], "low": found["low"], "high": found["high"],
        "seeds": list(confirmation["seeds"]), "values": [one["value"] for one in trials if one["recipe"]],
    }  # fmt: skip


def against(rival: str, script: Path, budget: float, seeds: Sequence[int]) -> dict:
    """:func:`searched` in a process of its own, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(script, folder))
        command = [sys.executable, __file__, str(copy), "--rival", rival, "--budget", str(budget), "--seeds"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [*command, *map(str, seeds)], capture_output=True, text=True, cwd=folder, env=environment
        )
    if ended.returncode:
        raise SystemExit(f"The search {rival!r} on {script.name} failed:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def row_of(script: Path, least: float) -> dict:
    """All that is measured of a script."""
    plain = [spent([sys.executable, str(script)], script.parent) for _ in range(2)]
    row = {
        "script": script.stem,
        "digest": digest(script),
        "plain": min(one[0] for one in plain),
        "plain_seconds": min(one[1] for one in plain),
    }
    print(f"{script.stem}: plain {row['plain']:.1f} s", flush=True)
    treat = row["treat"] = treated(script)
    treat["runs"] = treat["processor"] / row["plain"]
    effect = "" if treat["effect"] is None else f" {treat['effect']:+.3g}"
    print(
        f"  treat   {treat['runs']:5.1f} runs, {treat['seconds']:4.0f} s: {treat['recipe'] or 'nothing'}{effect} {treat['standing'] or ''}",
        flush=True,
    )
    budget = max(treat["processor"] - treat["confirming"], least * row["plain"])
    with ThreadPoolExecutor(len(RIVALS)) as pool:  # as a treatment has two trials at a time
        found = list(pool.map(lambda rival: against(rival, script, budget, treat["seeds"]), RIVALS))
    row["untreated"] = found[0]["untreated"]
    treat["values"] = treat["values"] or row["untreated"]
    row |= dict(zip(RIVALS, found, strict=True))
    row["ahead"] = ahead(row)
    for rival in RIVALS:
        one = row[rival]
        print(
            f"  {rival:<7} {one['processor'] / row['plain']:5.1f} runs, {one['tried']:2d} tried, {one['refused']:2d} refused: "
            f"{one['recipe'] or 'nothing'}; treat is ahead by {row['ahead'][rival]:+.2f} of the range",
            flush=True,
        )
    return row


def ahead(row: dict) -> dict[str, float]:
    """How far the treatment is ahead of each search, as a part of the range."""
    less = row["treat"]["goal"] == "min"
    arms = {"untreated": row["untreated"], **{name: row[name]["values"] for name in ("treat", *RIVALS)}}
    known = [value for values in arms.values() for value in values if value is not None]
    if not known:
        return dict.fromkeys(RIVALS, 0.0)
    worst = (max if less else min)(known)
    logarithmic = less and min(known) > 0

    def better(value: float | None) -> float:
        value = worst if value is None else value
        return -(math.log(value) if logarithmic else value) if less else value

    oriented = {name: [better(value) for value in values] for name, values in arms.items()}
    means = {name: statistics.fmean(values) for name, values in oriented.items()}
    spread = statistics.stdev(oriented["untreated"])
    scale = max(max(means.values()) - means["untreated"], spread) or 1.0
    return {rival: (means["treat"] - means[rival]) / scale for rival in RIVALS}


def digest(script: Path) -> str:
    return hashlib.sha256(script.read_bytes()).hexdigest()[:12]


# -- all of them ------------------------------------------------------------------------------------------------------


def summary(rows: Sequence[dict]) -> dict:
    """What the rows say together; ``p`` are two-sided, of Wilcoxon's signed ranks and of the signs of what is no tie."""
    from scipy.stats import binomtest, wilcoxon

    runs = [row["treat"]["runs"] for row in rows]
    said: dict = {
        "scripts": len(rows),
        "median_runs": statistics.median(runs),
        "most_runs": max(runs),
        f"over_{LIMIT}_runs": sum(one > LIMIT for one in runs),
        "proven": sum(row["treat"]["standing"] in ("proven", "rescued") for row in rows),
        "nothing_tried": sum(not row["treat"]["raced"] for row in rows),
    }
    for rival in RIVALS:
        by = [row["ahead"][rival] for row in rows]
        wins, losses = sum(one > TIE for one in by), sum(one < -TIE for one in by)
        said[rival] = {
            "wins": wins,
            "ties": len(by) - wins - losses,
            "losses": losses,
            "median_ahead": statistics.median(by),
            "mean_ahead": statistics.fmean(by),
            "p_wilcoxon": float(wilcoxon(by).pvalue) if any(by) else 1.0,
            "p_sign": float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        }
    return said


def written(rows: Sequence[dict]) -> None:
    import torch

    about = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    together = {"rows": sorted(rows, key=lambda row: row["script"]), "summary": summary(rows), **about}
    RESULTS.write_text(json.dumps(together, indent=1) + "\n")


def shipped() -> None:
    """Ship what the races have shown of each remedy."""
    rows = json.loads(RESULTS.read_text())["rows"]
    shown = {f"{row['script']}.py": row["treat"]["shown"] for row in rows if row["treat"]["shown"]}
    SHIPPED.write_text(json.dumps(shown, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="These scripts, also if they are written already.")
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--fresh", action="store_true", help="Measure again what is written already.")
    parser.add_argument(
        "--ship", action="store_true", help=f"Write what is saved to {SHIPPED.relative_to(ROOT)}, and end."
    )
    parser.add_argument(
        "--least",
        type=float,
        default=0.0,
        metavar="RUNS",
        help="The searches get so many runs, also if treat took fewer.",
    )
    for name, kind in (("script", Path), ("--rival", str), ("--budget", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS, **({"nargs": "?"} if name == "script" else {}))
    parser.add_argument("--seeds", type=int, nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ship:
        shipped()
        return
    if asked.rival:
        print(json.dumps(searched(asked.rival, asked.script, asked.budget, asked.seeds)))
        return
    from trimtab.trial.search import require_optuna

    require_optuna()  # before an hour is spent
    scripts = {path.stem: path for path in sorted(FAULTY.glob("*.py"))}
    if unknown := set(asked.only or ()) - set(scripts):
        parser.error(f"There is no {', '.join(sorted(unknown))} in {FAULTY}. There are: {', '.join(scripts)}.")
    kept = json.loads(RESULTS.read_text())["rows"] if asked.save and RESULTS.exists() else []
    current = {name: digest(path) for name, path in scripts.items()}
    rows = {row["script"]: row for row in kept if row["digest"] == current.get(row["script"])}
    for name in asked.only or scripts:
        if name in rows and not (asked.only or asked.fresh):
            continue
        rows[name] = row_of(scripts[name], asked.least)
        if asked.save:
            written(list(rows.values()))
    together = summary(list(rows.values()))
    print(
        f"{together['scripts']} scripts: median {together['median_runs']:.1f} runs, most {together['most_runs']:.1f}, "
        f"{together[f'over_{LIMIT}_runs']} over {LIMIT}; proven on {together['proven']}, nothing tried on {together['nothing_tried']}"
    )
    for rival in RIVALS:
        one = together[rival]
        print(
            f"against {rival}: {one['wins']} better, {one['ties']} as good, {one['losses']} worse, ahead by {one['median_ahead']:+.2f} of the "
            f"range in the median, {one['mean_ahead']:+.2f} on average; p = {one['p_wilcoxon']:.3g} (signed ranks), {one['p_sign']:.3g} (signs)"
        )


if __name__ == "__main__":
    main()
