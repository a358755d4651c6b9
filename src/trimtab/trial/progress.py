"""The progress bar of trials."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from trimtab.records import Trial
from trimtab.trial.terms import Progress

_WIDTH = 64  # of the newest result, so that the line does not jump
_CONTROL = {
    code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0))
}  # what a recorded text must not do to a terminal


def seconds_left(left: int, each: float, workers: int, since: float) -> float | None:
    """How long the trials that are left will take.

    They run side by side, so they end in rounds of ``workers``; the present round has gone on ``since`` the last trial ended. It
    may take longer than ``each`` trial took until now, and then nothing is known of its end.

    >>> [seconds_left(3, 60.0, 2, since) for since in (0, 50, 70)], seconds_left(2, 60.0, 2, 70)
    ([120.0, 70.0, 60.0], None)
    """
    rounds = math.ceil(left / max(workers, 1))
    rest = max((rounds - 1) * each, 0.0) + max(each - since, 0.0)
    return rest if rest > 0 else None


class TrialBar:
    """Draws what a session tells: the stage, how many trials of it are done, how long the others will take, and the newest result.

    Where the console is no terminal, it prints one line a stage instead.

    Args:
        console: where to draw.
        workers: how many trials run at a time; read from the trials themselves if ``None``.
        clock: tells the time in seconds.
    """

    def __init__(
        self, console: Console, workers: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bar = Bar(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Left(self),
            TextColumn("[dim]{task.fields[latest]}"),
            console=console,
            disable=not console.is_terminal,
            get_time=clock,
        )
        self._console, self._workers, self._clock = console, workers, clock
        self._task: TaskID | None = None
        self._text, self._total, self._done, self._since = "", 0, 0, 0.0
        self._after = 0.0  # seconds that later stages will take
        self._last = 0.0  # when the newest trial ended
        self._each = math.nan  # seconds of a trial, in this stage or before
        self._took: list[float] = []  # seconds of the trials that ran in this stage
        self._failures: set[tuple[str, str]] = set()

    def __enter__(self) -> TrialBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage()
        self._bar.stop()

    def stage(self, text: str, total: int, each: float = 0.0, after: float = 0.0) -> None:
        self._end_stage()
        self._text, self._total, self._done, self._took = text, total, 0, []
        self._each, self._after = each or self._each, after
        self._since = self._last = self._clock()
        self._task = self._bar.add_task(text, total=total, latest="")

    def _end_stage(self) -> None:
        if self._text and not self._console.is_terminal:
            seconds = self._clock() - self._since
            self._console.print(
                f"{self._text}: {self._done} of {self._total} done in {seconds:.0f} s", highlight=False, markup=False
            )
        elif self._task is not None and self._done < self._total:  # the time was over: nothing of it goes on
            self._bar.update(self._task, latest="the rest was left out")
            self._bar.stop_task(self._task)
        self._text, self._task = "", None

    def running(self, recipe: str, seed: int, step: int, of: int, loss: float) -> None:
        if self._task is not None:
            self._show(recipe, f" seed {seed}: {step:,}{f'/{of:,}' if of else ''} steps, loss {loss:.3g}")

    def _show(self, recipe: str, end: str, advance: int = 0) -> None:
        assert self._task is not None
        recipe = recipe or "untreated"
        if len(recipe) + len(end) > _WIDTH:
            left = max(0, _WIDTH - len(end) - 3)  # its end tells more than its middle: lr_s...r=1000)
            recipe = f"{recipe[: left // 3]}...{recipe[len(recipe) - (left - left // 3) :]}"
        self._bar.update(self._task, advance=advance, latest=escape(recipe + end))

    def advance(self, trial: Trial, from_store: bool) -> None:
        if self._task is None:
            return
        self._done += 1
        if not from_store:
            self._last = self._clock()
            self._took.append(trial.seconds or self._last - self._since)
            self._each = sum(self._took) / len(self._took)
        result = f"{trial.value:.4g}" if trial.status == "ok" else trial.status.replace("_", " ")
        self._show(trial.recipe, f" seed {trial.seed}: {result}{' (kept)' if from_store else ''}", advance=1)
        reason = (trial.recipe, trial.error)
        if trial.status == "failed" and reason not in self._failures:
            self._failures.add(reason)
            said = f"{trial.recipe or 'untreated'}, seed {trial.seed}, failed: {trial.error}".translate(_CONTROL)
            self._console.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        if self._done >= self._total:  # what is said now follows from it
            self._end_stage()
        self._console.print(sentence.translate(_CONTROL), highlight=False, markup=False, soft_wrap=True)

    def left(self) -> float | None:
        """How many seconds the present stage and those behind it will take; ``None`` where that is not known."""
        if math.isnan(self._each) or (self._done >= self._total and not self._after):
            return None
        workers = self._workers or 1
        if not self._workers and self._took and self._last > self._since:  # so many went side by side
            workers = max(1, round(sum(self._took) / (self._last - self._since)))
        left = self._total - self._done
        stage = seconds_left(left, self._each, workers, self._clock() - self._last) if left else 0.0
        return (stage or 0.0) + self._after or None


class _Left(ProgressColumn):
    """The time until all is over, as far as is known; nothing beside a stage that is over."""

    def __init__(self, bar: TrialBar) -> None:
        super().__init__()
        self._of = bar

    def render(self, task: Task) -> Text:
        if task.id != self._of._task or (task.finished and not self._of._after):
            return Text("")
        seconds = self._of.left()
        if seconds is None:
            return Text("--:--", style="progress.remaining")
        whole = math.ceil(seconds)
        hours = f"{whole // 3600}:" if whole >= 3600 else ""
        return Text(f"{hours}{whole // 60 % 60:02d}:{whole % 60:02d}", style="progress.remaining")


@contextlib.contextmanager
def shown_bar(workers: int) -> Iterator[Progress | None]:
    """A bar while the block lasts, if standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with TrialBar(console, workers) as bar:
        yield bar
