"""The progress bar of trials."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from trimtab.records import Trial
from trimtab.trial.session import Progress

_WIDTH = 44  # of the newest result, so that the line does not jump


class TrialBar:
    """Draws what a session tells: the stage, how many trials of it are done, and the newest one's result.

    Where the console is no terminal, it prints one line a stage instead.
    """

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[latest]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._console = console
        self._task: TaskID | None = None
        self._text, self._total, self._done, self._since = "", 0, 0, 0.0
        self._failures: set[tuple[str, str]] = set()

    def __enter__(self) -> TrialBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage()
        self._bar.stop()

    def stage(self, text: str, total: int) -> None:
        self._end_stage()
        self._text, self._total, self._done, self._since = text, total, 0, time.monotonic()
        self._task = self._bar.add_task(text, total=total, latest="")

    def _end_stage(self) -> None:
        if self._text and not self._console.is_terminal:
            seconds = time.monotonic() - self._since
            self._console.print(
                f"{self._text}: {self._done} of {self._total} done in {seconds:.0f} s", highlight=False, markup=False
            )
        self._text = ""

    def advance(self, trial: Trial, from_store: bool) -> None:
        if self._task is None:
            return
        self._done += 1
        result = f"{trial.value:.4g}" if trial.status == "ok" else trial.status.replace("_", " ")
        recipe = trial.recipe or "untreated"
        end = f" seed {trial.seed}: {result}{' (kept)' if from_store else ''}"
        if len(recipe) + len(end) > _WIDTH:
            recipe = recipe[: _WIDTH - len(end) - 3] + "..."
        self._bar.update(self._task, advance=1, latest=escape(recipe + end))
        reason = (trial.recipe, trial.error)
        if trial.status == "failed" and reason not in self._failures:
            self._failures.add(reason)
            said = f"{trial.recipe or 'untreated'}, seed {trial.seed}, failed: {trial.error}"
            self._console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def shown(progress: Progress | None) -> Iterator[Progress | None]:
    """The progress that was given; else a bar while the block lasts, if standard error is a terminal."""
    console = Console(stderr=True)
    if progress is not None or not console.is_terminal:
        yield progress
        return
    with TrialBar(console) as bar:
        yield bar
