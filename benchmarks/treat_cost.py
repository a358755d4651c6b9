"""What a treatment costs: processor time of everything, over that of one plain run of the script.

Runs every script plainly, treats it from nothing in a folder of its own, as a user would, and with ``--thorough`` for what there was
to find. All that a command starts is counted, also what it kills. One thread for each process, so that waiting is not work.

    python benchmarks/treat_cost.py [--thorough] [--budget RUNS ...] [SCRIPT ...]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ["deep_sigmoid", "exploding_rnn", "overfitting", "unscaled_inputs", "wrong_learning_rate"]
RESULTS = ROOT / "benchmarks" / "results" / "treat_cost.json"
STATE = "state"  # what a treatment would remember for others of the user


def alone(folder: Path) -> dict[str, str]:
    """The environment of a treatment that shares its folder, its memory and its processors with no other."""
    return os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder / STATE)}


def spent(command: list[str], folder: Path) -> tuple[float, float, int]:
    """Processor seconds and seconds of a command with all its descendants, and its exit code."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: those that outlive their parent become ours
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(
        command, cwd=folder, env=alone(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode
    seconds = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds, code


def treated(script: Path, *options: str) -> dict:
    """A treatment of a copy of the script."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(script, folder))
        command = [sys.executable, "-m", "trimtab.cli", "treat", "--json", "found.json", *options, copy.name]
        processor, seconds, code = spent(command, Path(folder))
        found = json.loads((Path(folder) / "found.json").read_text())["treatment"]
    return {
        "processor": processor, "seconds": seconds, "exit_code": code, "recipe": found["recipe"], "effect": found["effect"],
        "low": found["low"], "high": found["high"], "seeds": len(found["seeds"]), "metric": found["metric"]["name"],
    }  # fmt: skip


def parser_of(about: str | None, results: Path) -> argparse.ArgumentParser:
    """The command line of a benchmark over scripts."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--save", action="store_true", help=f"Write {results.relative_to(ROOT)}.")
    parser.add_argument("scripts", nargs="*", type=Path)
    return parser


def main() -> None:
    parser = parser_of(__doc__, RESULTS)
    parser.add_argument("--thorough", action="store_true", help="Also what there was to find, which takes long.")
    asked = parser.parse_args()
    scripts = asked.scripts or [ROOT / "examples" / f"{name}.py" for name in EXAMPLES]
    rows = []
    for script in scripts:
        plain = [spent([sys.executable, str(script)], script.parent) for _ in range(2)]
        row = {
            "script": script.name,
            "plain": min(one[0] for one in plain),
            "plain_seconds": min(one[1] for one in plain),
        }
        row |= treated(script)
        row["runs"] = row["processor"] / row["plain"]
        if asked.thorough:
            row["thorough"] = treated(script, "--thorough")
        rows.append(row)
        told = f"{row['script']:<24} {row['runs']:5.1f} runs, {row['seconds']:4.0f} s (plain {row['plain_seconds']:.1f} s): {row['recipe']} {row['effect']}"
        if asked.thorough:
            best = row["thorough"]
            told += f"; thorough {best['processor'] / row['plain']:.0f} runs, {best['seconds']:.0f} s: {best['recipe']} {best['effect']}"
        print(told, flush=True)
    print(
        f"median {statistics.median(row['runs'] for row in rows):.1f} runs, most {max(row['runs'] for row in rows):.1f}"
    )
    if asked.save:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
