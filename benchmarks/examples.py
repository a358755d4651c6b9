"""What `trimtab treat` does for every example: the finding, the recipe, and its effect on fresh seeds.

Ten minutes on two cores. Runs each treatment from nothing, in a folder of its own, as a user would.

    python benchmarks/examples.py [--seeds N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def treated(script: Path, seeds: int) -> dict:
    """Treat a copy of the script; what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(script, folder)
        result = Path(folder) / "result.json"
        began = time.perf_counter()
        command = [sys.executable, "-m", "trimtab.cli", "treat", "--seeds", str(seeds), "--json", str(result), copy]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        record = json.loads(result.read_text())
    treatment = record["treatment"]
    confirmation = treatment["confirmation"]
    arm = confirmation["arms"][0] if confirmation else None
    return {
        "script": script.name,
        "finding": next((f["problem"] for f in record["findings"] if f["severity"] != "info"), ""),
        "recipe": treatment["recipe"],
        "metric": record["metric"]["name"],
        "untreated": sum(confirmation["baseline"]) / len(confirmation["baseline"]) if confirmation else None,
        "treated": arm["mean"] if arm else None,
        "effect": treatment["effect"],
        "low": treatment["low"],
        "high": treatment["high"],
        "seeds": len(treatment["seeds"]),
        "exit_code": done.returncode,
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    rows = []
    for script in sorted((ROOT / "examples").glob("*.py")):
        row = treated(script, seeds)
        rows.append(row)
        if row["recipe"]:
            told = f"{row['recipe']}: {row['metric']} {row['untreated']:.3f} -> {row['treated']:.3f}, effect {row['effect']:+.3f} "
            told += f"[{row['low']:.3f}, {row['high']:.3f}] over {row['seeds']} seeds"
        else:
            told = "no rule found a fault"
        print(f"{row['script']:24s} {row['finding'] or 'no finding':20s} {told}, {row['seconds']} s", flush=True)
    out = Path(__file__).parent / "results" / "examples.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
