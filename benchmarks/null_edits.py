"""Edits that change nothing, on real trainings: how often ``compare`` calls one better, beside keep-if-better.

200 edits of three small scripts: a comment, a variable under another name, two independent lines in the other order, and a random number
that is drawn and not used, which leaves all others different. Each is compared with its script over five seeds, as ``trimtab compare`` does by
default; keep-if-better runs both once, on seed 0.

    python benchmarks/null_edits.py [--save] [--edits N]
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

from small import SCRIPT

import trimtab as tt
from trimtab.trial.engines import LocalEngine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "null_edits.json"
KINDS = ("comment", "name", "order", "draw")
SCRIPTS = {
    data: SCRIPT.format(data=data, rate=rate, width=16)
    for data, rate in (("digits", 0.02), ("wine", 0.02), ("breast_cancer", 0.01))
}


def edited(source: str, kind: str, draw: random.Random) -> str:
    """The script with an edit of this kind somewhere."""
    lines = source.splitlines()
    simple = [
        i
        for i, line in enumerate(lines)
        if i > 3 and line and not line.startswith((" ", "for", "with", "import", "from"))
    ]
    at = draw.choice(simple)
    if kind == "comment":
        lines.insert(at, f"# note {draw.random()}")
    elif kind == "draw":
        lines.insert(at + 1, f"torch.rand({draw.randint(1, 5)})")
    elif kind == "name":
        old = draw.choice(("rate", "width", "epochs", "order", "train", "held_out", "criterion", "batch", "loss"))
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == old:
                node.id = f"{old}_{at}"
        return ast.unparse(tree) + "\n"
    else:
        settings = [i for i in simple if lines[i].startswith(("rate", "width", "epochs"))]
        one, other = draw.sample(settings, 2)
        lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines) + f"\n# {draw.random()}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help=f"Write {RESULTS.relative_to(ROOT)}.")
    parser.add_argument("--edits", type=int, default=200, metavar="N")
    asked = parser.parse_args()
    draw = random.Random(0)
    verdicts: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    kept: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, source in SCRIPTS.items():
            (Path(folder) / f"{name}.py").write_text(source)
        for number in range(asked.edits):
            kind, data = KINDS[number % len(KINDS)], list(SCRIPTS)[number % len(SCRIPTS)]
            edit = Path(folder) / f"edit_{number}.py"
            edit.write_text(edited(SCRIPTS[data], kind, draw))
            (arm,) = (found := tt.compare(Path(folder) / f"{data}.py", against=edit, engine=LocalEngine(2))).arms
            verdicts[kind][arm.verdict] += 1
            first = [trial.value for trial in found.trials if trial.recipe and trial.seed == 0]
            kept[kind] += bool(arm.differences) and first[0] < found.baseline[0]
            print(number, kind, data, arm.verdict, f"{arm.effect:+.3g}", flush=True)
    better = sum(count["better"] for count in verdicts.values())
    print(f"{better} of {asked.edits} called better, {sum(kept.values())} by keep-if-better; by kind: {verdicts}")
    if asked.save:
        said = {"edits": asked.edits, "better": better, "kept_if_better": sum(kept.values()), "verdicts": verdicts}
        RESULTS.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
