"""Whether a budget is a budget: how long treatments take that may take 3, 10 and 50 runs, and what they say at half time of the time left.

Each treats a copy of the script in a folder of its own, as a user would; its progress bar is read off every tenth of a second.

    python benchmarks/treat_budget.py [--save] [SCRIPT ...]

With ``--save`` each script is written as soon as it is known, and those that are written already are taken as they are: delete the file to
measure anew.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from treat_cost import EXAMPLES, ROOT, alone, parser_of, spent

RESULTS = ROOT / "benchmarks" / "results" / "treat_budget.json"
FAULTY = ["cnn_trainer", "gru_dropout", "raw_targets", "vae_digits", "wine_mlp"]
BUDGETS = (3, 10, 50)  # runs
READ = """
import json, sys, threading, time
from trimtab.cli import main
from trimtab.trial import progress

seen, began = [], time.monotonic()
class Read(progress.TrialBar):
    def __enter__(self):
        threading.Thread(target=self.read, daemon=True).start()
        return super().__enter__()
    def read(self):
        while True:
            seen.append((time.monotonic() - began, self.left()))
            time.sleep(0.1)
progress.TrialBar = Read
try:
    main(["treat", *sys.argv[2:]], prog_name="trimtab")
finally:
    json.dump(seen, open(sys.argv[1], "w"))
"""


def treated(script: Path, budget: float) -> dict:
    """Seconds of a treatment, and what it said of the time left when half of them were over."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(script, folder))
        command = [
            sys.executable,
            "-c",
            READ,
            "seen.json",
            "--budget",
            f"{budget:.2f}",
            "--json",
            "found.json",
            copy.name,
        ]
        began = time.perf_counter()
        subprocess.run(
            command,
            cwd=folder,
            env=alone(Path(folder)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - began
        seen = [(at, left) for at, left in json.loads(Path(folder, "seen.json").read_text()) if at >= seconds / 2]
        found = Path(folder, "found.json")
        treatment = json.loads(found.read_text())["treatment"] if found.exists() else {}
    at, left = seen[0] if seen else (0.0, None)
    return {
        "budget": budget, "seconds": seconds, "ratio": seconds / budget, "recipe": treatment.get("recipe"),
        "half_time_says": None if left is None else at + left, "off": None if left is None else (at + left) / seconds - 1,
    }  # fmt: skip


def main() -> None:
    asked = parser_of(__doc__, RESULTS).parse_args()
    scripts = asked.scripts or [
        *(ROOT / "examples" / f"{name}.py" for name in EXAMPLES),
        *(ROOT / "benchmarks" / "faulty" / f"{name}.py" for name in FAULTY),
    ]
    rows = json.loads(RESULTS.read_text()) if asked.save and RESULTS.exists() else []
    for script in scripts:
        if any(row["script"] == script.name for row in rows):
            continue
        plain = min(spent([sys.executable, str(script)], script.parent)[1] for _ in range(2))
        for runs in BUDGETS:
            row = {"script": script.name, "plain_seconds": plain, "runs": runs, **treated(script, runs * plain)}
            rows.append(row)
            off = "nothing" if row["off"] is None else f"{row['off']:+.0%}"
            print(
                f"{row['script']:<24} {runs:3d} runs: {row['seconds']:6.1f} s of {row['budget']:6.1f}, {row['ratio']:.2f}; "
                f"half time was off by {off}; {row['recipe']}",
                flush=True,
            )
        if asked.save:
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    offs = sorted(abs(row["off"]) for row in rows if row["off"] is not None)
    print(
        f"most {max(row['ratio'] for row in rows):.2f} of the budget; half time within 25 % in {sum(off <= 0.25 for off in offs)} of "
        f"{len(rows)}"
    )


if __name__ == "__main__":
    main()
