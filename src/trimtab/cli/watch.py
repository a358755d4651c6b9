"""``trimtab watch SCRIPT``: run a script as it is, and say what was wrong."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from trimtab.cli.children import children_counted, no_training
from trimtab.cli.common import (
    OF_SCRIPT,
    aside,
    make_script,
    noted,
    owns_process,
    result_options,
    script_arguments,
    told_plainly,
    undisturbed,
)
from trimtab.cli.telling import as_json, say, tell, write_result

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.records import Asked
    from trimtab.store import Store
    from trimtab.watching import Recorder
    from trimtab.watching.script import Ending


@click.command("watch", short_help="Run SCRIPT unchanged, watch it, and diagnose it.", context_settings=OF_SCRIPT)
@click.option(
    "--every",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Measure layers and gradients every N steps.",
)
@result_options
@script_arguments
def command(
    script: str, arguments: tuple[str, ...], module: bool, metric: Asked, html_file: Path | None,
    json_file: Path | None, every: int,
) -> None:  # fmt: skip
    """Run SCRIPT unchanged, watch it, and diagnose it.

    Everything after SCRIPT belongs to the script. Its output goes where it always goes and its exit code is kept; what
    trimtab has to say goes to standard error, to a report, and to .trimtab/ beside the script.
    """
    with aside() as file, told_plainly():
        _watch(file, script, arguments, module, metric, html_file, json_file, every)


def _watch(
    file: TextIO, script: str, arguments: tuple[str, ...], module: bool, metric: Asked, html_file: Path | None,
    json_file: Path | None, every: int,
) -> NoReturn:  # fmt: skip
    from rich.console import Console

    from trimtab.store import Store, StoreError
    from trimtab.trial.surroundings import end_as_python_would
    from trimtab.watching import Recorder, WatchWarning, run_script

    console = Console(file=file)
    subject = make_script(script, arguments, module)
    folder = subject.folder.resolve()  # now: the script may change the current folder
    process, ours = os.getpid(), owns_process()
    store = None
    if _rank() == 0:  # under a launcher every process watches, and the first one reports
        try:
            store = Store(folder)
        except StoreError as error:
            say(
                console,
                f"{error} This run is watched all the same; its record stays in memory until it is told.",
                "yellow",
            )
    recorder = Recorder(subject.label, store, metric, every=every)
    with noted(console, WatchWarning), children_counted() as children:
        outcome = run_script(
            script, arguments, module=module,
            on_training=recorder.guard(recorder.watch), on_line=recorder.guard(recorder.line, "printed numbers"),
            on_written=recorder.guard(recorder.written, "written numbers"),
            at_end=functools.partial(end_as_python_would, math.inf) if ours else lambda: None,
            unfound=functools.partial(
                recorder.guard.leave_out, "some of the many trainings", "finding their models would hold the script up"
            ),
        )  # fmt: skip
        if ours:  # alarms that the script has set are for it
            signal.setitimer(signal.ITIMER_REAL, 0)
        if os.getpid() == process:  # else the script has forked, and this is the end of its child
            with contextlib.suppress(KeyboardInterrupt), undisturbed(WatchWarning):
                try:
                    recorder.exit_code, recorder.error = outcome.exit_code, outcome.error
                    _tell(
                        console, store, recorder, outcome, metric, folder, html_file, json_file,
                        functools.partial(no_training, children, recorder.compiled, script, arguments, module),
                    )  # fmt: skip
                except Exception as error:  # nothing of ours changes how the script ends
                    say(console, f"What was seen could not be told ({type(error).__name__}: {error}).", "red")
    if outcome.interrupted and ours:  # which whoever has started it may want to know, as of every program
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(outcome.exit_code)


def _tell(
    console: Console, store: Store | None, recorder: Recorder, outcome: Ending, metric: Asked, folder: Path,
    html_file: Path | None, json_file: Path | None, why_nothing: Callable[[], str],
) -> None:  # fmt: skip
    from trimtab.doctor import diagnose
    from trimtab.quantities import unanswered
    from trimtab.records import Story

    run = recorder.close()
    kept = store is not None and recorder.store is not None
    if store is not None:
        store.close()  # what waits beside the file becomes part of it
    elif _rank():
        return
    if outcome.error:
        say(console, f"The script did not end well: {outcome.error}. What was recorded until then is kept.", "red")
    if store is not None and not kept:
        say(console, f"{store.path} could not take the whole record; what is said here was kept in memory.", "yellow")
    if metric.metric is not None and run.metric is None and run.main is not None:
        say(console, unanswered(metric, run), "yellow")
    if run.main is None or run.main.steps == 0:
        if not run.unwatched:
            say(console, why_nothing(), "yellow")
        if json_file:
            write_result(console, json_file, as_json(Story(run)))
    else:
        tell(console, folder, html_file, json_file, Story(run, diagnose(run)), kept=kept)
    if run.unwatched:
        say(console, f"Not watched: {'; '.join(run.unwatched)}.", "yellow")


def _rank() -> int:
    """The number of this process among those of a launcher: torchrun and its like, Open MPI, MPICH, Slurm."""
    for variable in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"):
        if (said := os.environ.get(variable, "")).isdecimal():
            return int(said)
    return 0
