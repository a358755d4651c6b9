"""Edits that a program makes by itself, kept only if they are proven: the numbers of a script, one at a time, again and again.

python examples/edits/night.py train.py 20      # 20 edits; kept.py is what has come of it
trimtab log night.jsonl --html night.html
"""

import random
import re
import shutil
import sys
from pathlib import Path

import trimtab as tt


def main(script: str, edits: int) -> None:
    draw, folder = random.Random(0), Path(script).resolve().parent
    best = Path(shutil.copy(script, folder / "kept.py"))
    for number in range(1, edits + 1):
        source = best.read_text()
        found = draw.choice(list(re.finditer(r"(?<=[=(, ])\d+\.?\d*(?:e-?\d+)?(?=[,)\s])", source)))
        value = draw.choice((0.3, 0.5, 2, 3)) * float(found[0])
        changed = f"{value:.3g}" if re.search(r"[.e]", found[0]) else str(max(1, round(value)))
        edited = folder / f"edit_{number}.py"
        edited.write_text(source[: found.start()] + changed + source[found.end() :])
        arm = tt.compare(best, against=edited, log=folder / "night.jsonl").arms[0]
        print(
            f"{number:3d}  {found[0]} -> {changed}: {arm.verdict}, {arm.effect:+.4g} over {len(arm.seeds)} seeds",
            flush=True,
        )
        if arm.verdict == "better":
            edited.replace(best)
        edited.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
