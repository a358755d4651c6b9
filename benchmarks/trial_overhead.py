"""What a trial costs beside its script: the time from its start to its result, one after another, less that of ``python script.py``.

The trial needs no imports, which its server has done, but a view of files of its own, hooks and a record. "less imports" compares with
the time that the script runs within a trial.

    OMP_NUM_THREADS=1 python benchmarks/trial_overhead.py [--save] [SCRIPT ...]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from treat_cost import EXAMPLES, ROOT, parser_of

from trimtab.trial.engines import LocalEngine
from trimtab.trial.session import Session

RESULTS = ROOT / "benchmarks" / "results" / "trial_overhead.json"
ROUNDS = 5


def plain(script: Path) -> float:
    """Seconds of the script by itself."""
    began = time.perf_counter()
    subprocess.run([sys.executable, script.name], cwd=script.parent, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measured(script: Path) -> dict:
    """Medians over rounds in which the script and a trial of it take turns."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Session(shutil.copy(script, folder), engine=LocalEngine(1)) as session,
    ):
        session.watch()
        rounds = []
        for seed in range(1, ROUNDS + 1):
            alone = plain(Path(folder) / script.name)
            began = time.perf_counter()
            (trial,) = session.trials([""], [seed])[""]
            rounds.append((alone, time.perf_counter() - began, trial.seconds))
        alone, whole, inside = map(statistics.median, zip(*rounds, strict=True))
    return {
        "script": script.name, "plain": alone, "trial": whole, "over_plain": whole - alone, "less_imports": whole - inside,
    }  # fmt: skip


def main() -> None:
    asked = parser_of(__doc__, RESULTS).parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for script in asked.scripts or [ROOT / "examples" / f"{name}.py" for name in EXAMPLES]:
        rows.append(row := measured(script))
        print(
            f"{row['script']:<24} plain {row['plain']:5.2f} s, trial {row['trial']:5.2f} s: {row['over_plain']:+.2f} s, "
            f"less imports {row['less_imports']:+.2f} s",
            flush=True,
        )
    print(f"most {max(row['over_plain'] for row in rows):+.2f} s over the script itself")
    if asked.save:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
