"""``trimtab report [SCRIPT|RUN]``: the report of a recorded run, again."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.common import EXISTING_FOLDER, FILE, told_plainly
from trimtab.cli.telling import say, show, shown
from trimtab.user_folders import last_store

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.records import RunRecord
    from trimtab.store import Listed, Store


@click.command("report", short_help="Show a recorded run and its treatment again.")
@click.argument("what", required=False, metavar="[SCRIPT|RUN]")
@click.option(
    "--store",
    "folder",
    type=EXISTING_FOLDER,
    metavar="FOLDER",
    help="The folder that holds the records. [default: .trimtab here, else the one used last]",
)
@click.option(
    "--html",
    "html_file",
    type=FILE,
    metavar="FILE",
    help="Where the report goes. [default: report.html and reports/RUN.html in the store]",
)
@click.option("--json", "json_file", type=FILE, metavar="FILE", help="Write the result there, machine-readable.")
@click.option("--list", "listing", is_flag=True, help="List the recorded runs and stop.")
def command(
    what: str | None, folder: Path | None, html_file: Path | None, json_file: Path | None, listing: bool
) -> None:  # fmt: skip
    """Diagnose a recorded run once more, with what was tried on it, and write its report.

    That is the newest run, the newest one of SCRIPT, or RUN, whose name --list shows. Records are kept in .trimtab/ beside a
    watched script; without SCRIPT and --store they are those of this folder, or where it has none, those used last.
    """
    from rich.console import Console

    from trimtab.store import Store

    out, errors = Console(), Console(stderr=True)
    path = Path(what) if what is not None and (what.endswith(".py") or os.path.exists(what)) else None
    script = path if path is not None and not os.path.isdir(path) else None
    with told_plainly():
        place = _place(errors, folder, path, what)
        with Store.reading(place) as store:
            if listing:
                for listed in store.listed():
                    if script is None or _is_of(listed.run, script):
                        say(out, _told(listed))
            else:
                run = store.run(_newest_of(store, script) if script is not None else what if path is None else None)
                outcomes, newest = store.outcomes(run.id), run.id == store.runs()[-1]
            for sentence in store.skipped:
                say(errors, sentence, "yellow")
    if not listing:
        from trimtab.doctor import diagnose
        from trimtab.records import Story

        story = Story(run, diagnose(run), outcomes[0] if outcomes else None, outcomes[1:])
        show(out, place, html_file, json_file, story, newest)


def _place(errors: Console, folder: Path | None, path: Path | None, run: str | None) -> Path:
    """The folder of the store that is meant."""
    from trimtab.store import FOLDER as NAME

    if folder is not None:
        if folder.is_dir():
            return folder
        raise click.UsageError(
            f"There is no folder {shown(folder)!r}. Records are kept in .trimtab beside a watched script: --store FOLDER/.trimtab"
        )
    if path is not None:
        if not os.path.exists(path):
            raise click.UsageError(f"{str(path)[:100]!r} does not exist.")
        found = [path, path / NAME] if path.is_dir() else [path.resolve().parent / NAME]
        for one in found:
            if _is_store(one):
                return one
        raise click.UsageError(f"Nothing is recorded of {str(path)!r} yet. Record it: trimtab watch {path}")
    here, last = Path(NAME), last_store()
    if _is_store(here) and (run is None or last is None or _holds(here, run) or not _holds(last, run)):
        return here
    if last is None or not _is_store(last):
        raise click.UsageError(
            "There is no record in this folder, and none is remembered from elsewhere. Records are kept in .trimtab beside a "
            "watched script: trimtab report SCRIPT, or --store FOLDER/.trimtab"
        )
    say(errors, f"From {shown(last)}, where trimtab worked last.", "dim")
    return last


def _is_store(folder: Path) -> bool:
    return (folder / "runs.db").is_file()


def _holds(folder: Path, run: str) -> bool:
    from trimtab.store import Store, StoreError

    try:
        with Store.reading(folder) as store:
            return run in store.runs()
    except StoreError:
        return False


def _is_of(run: RunRecord, script: Path) -> bool:
    """Whether a run is one of that script, with whatever arguments, as a file or as a module."""
    script = Path(str(script).encode(errors="replace").decode())  # as records have it
    if run.subject.startswith("-m "):
        return run.subject.split(" ")[1].rpartition(".")[2] in (script.stem, script.resolve().parent.name)
    words = run.subject.split(" ")  # a name may have spaces in it
    return any(Path(" ".join(words[:end])).name == script.name for end in range(1, len(words) + 1))


def _newest_of(store: Store, script: Path) -> str:
    """The newest run of a script."""
    heads = list(store.heads())
    found = [run.id for run in heads if _is_of(run, script)]
    if not found:
        subjects = ", ".join(dict.fromkeys(run.subject for run in heads)) or "nothing yet"
        raise click.UsageError(f"{shown(store.path)} has no run of {script.name}. It has runs of: {subjects}.")
    return found[-1]


def _told(listed: Listed) -> str:
    """A run in a list: what it was, and below it what is wrong and what was tried."""
    from trimtab.report.words import SEVERITIES, UNFINISHED, count, judge, number

    run, metric = listed.run, listed.run.metric
    parts = [run.subject, count(listed.steps, "step") if run.trainings else "no training seen"]
    if metric is not None and not math.isnan(listed.value):
        parts.append(f"{judge(metric)} {number(listed.value)}")
    if not run.finished:
        parts.append(UNFINISHED)
    parts += filter(None, [run.error])
    lines = [f"{run.id}  {', '.join(parts)}"]
    if listed.findings is None and run.trainings:
        lines.append("not diagnosed yet")
    if listed.findings:
        gravest = min(listed.findings, key=lambda finding: SEVERITIES.index(finding.severity))
        more = len(listed.findings) - 1
        lines.append(f"{gravest.severity}: {gravest.title}{f' (and {more} more)' if more else ''}")
    if listed.outcomes:
        lines.append(f"with a {' and a '.join(listed.outcomes)}")
    return "\n    ".join(lines)
