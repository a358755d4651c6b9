"""What the commands share: the script's own command line, their options, and how errors are told."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import io
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from trimtab.cli import BEGAN
from trimtab.cli.launchers import refuse_launcher
from trimtab.cli.telling import say, say_kept, tell
from trimtab.report.words import printable
from trimtab.user_folders import remember_store

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.records import Asked
    from trimtab.trial.session import Session
    from trimtab.trial.subjects import Script

CLOSING = 1.5  # seconds for the summary and the page, behind the last trial, at least: the start took about as long
# Everything after SCRIPT belongs to the script, options too.
OF_SCRIPT = {"allow_interspersed_args": False, "ignore_unknown_options": False}


OpenSession = Callable[[], contextlib.AbstractContextManager["Session"]]


class _Place(click.Path):
    """A path, absolute from the start: a script under watch may change the current folder. Links stay links."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            path = Path(os.path.abspath(os.fspath(super().convert(value, param, ctx))))  # type: ignore[arg-type]
            path.exists()  # raises for what no file can be called
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.fail(f"{repr(value)[:60]} cannot be the name of a file ({reason}).")
        return path


DEEP = 1000  # the limit of recursion that Python begins with
FILE = _Place(path_type=Path, dir_okay=False)
EXISTING_FOLDER = _Place(path_type=Path)


class _Aside(io.TextIOWrapper):
    """A text file that takes what it can: that a message cannot be written is no reason to fail."""

    def __init__(self, number: int, encoding: str) -> None:
        super().__init__(io.FileIO(number, "w"), encoding, "backslashreplace", write_through=True)
        self._file = os.fstat(number)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(
                self._file, os.fstat(self.fileno())
            ):  # a script may have closed it, and given its number away
                return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


@contextlib.contextmanager
def aside() -> Iterator[TextIO]:
    """Where standard error goes now, for what is said when a script may have closed it or sent it elsewhere."""
    if sys.stderr is None:
        number, encoding = os.open(os.devnull, os.O_WRONLY), "utf-8"
    else:
        try:
            number, encoding = os.dup(sys.stderr.fileno()), sys.stderr.encoding
        except (OSError, ValueError):  # no file: it lies in memory, as in tests and notebooks
            yield sys.stderr
            return
    with _Aside(number, encoding) as file:
        yield file


def owns_process() -> bool:
    """Whether the process is ours to end. Tests and notebooks call a command from a program of theirs, with outputs of theirs."""
    return sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__


@contextlib.contextmanager
def undisturbed(ours: type[Warning]) -> Iterator[None]:
    """For what we do when a script has ended: its settings of logging, warnings, numbers and recursion are not for us."""
    import numpy as np

    disabled, deepest = logging.root.manager.disable, sys.getrecursionlimit()
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(max(deepest, DEEP))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ours)
            yield
    finally:
        logging.disable(disabled)
        sys.setrecursionlimit(deepest)


def script_arguments(command: Callable) -> Callable:
    """``[-m] SCRIPT [ARGS]...``"""
    command = click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")(command)
    command = click.argument("script")(command)
    return click.option("-m", "module", is_flag=True, help="SCRIPT is a module, run as python -m does.")(command)


def result_options(command: Callable) -> Callable:
    """``--metric`` and its kin, which become one ``metric: Asked``; ``--html``, ``--json``"""
    command = click.option(
        "--json", "json_file", type=FILE, metavar="FILE", help="Write the result there, machine-readable."
    )(command)
    command = click.option(
        "--html",
        "html_file",
        type=FILE,
        metavar="FILE",
        help="Where the report goes. [default: .trimtab/report.html beside SCRIPT]",
    )(command)
    for flag, help in (
        ("--best", "Judge by the best value of the metric in a run, not by the last."),
        ("--maximize", "More is better, whatever the metric is called."),
        ("--minimize", "Less is better, whatever the metric is called."),
    ):
        command = click.option(flag, is_flag=True, help=help)(command)
    command = click.option(
        "--metric",
        metavar="REGEX|NAME",
        callback=_pattern,
        help="Judge by what this reads from the output, for example 'acc=([0-9.]+)', or by a number of that name. "
        "[default: what the script says of held-out data]",
    )(command)

    @functools.wraps(command)
    def with_asked(*args: Any, metric: str | None, minimize: bool, maximize: bool, best: bool, **options: Any) -> Any:
        from trimtab.records import Asked

        if minimize and maximize:
            raise click.UsageError("--minimize and --maximize exclude each other.")
        goal: Any = "min" if minimize else "max" if maximize else None
        return command(*args, metric=Asked(metric=metric, goal=goal, best=best), **options)

    return with_asked


def trial_command(body: Callable) -> Callable:
    """For a verb of trials: the options and arguments that all have, a session made of them, and its result told.

    The body gets ``open_session``, which makes the session, and the options of the verb; it gives the watched run and the outcome.
    """

    @functools.wraps(body)
    def command(
        script: str, arguments: tuple[str, ...], module: bool, metric: Asked, html_file: Path | None, json_file: Path | None,
        budget: float, workers: int | None, steps: int | None, fraction: float, keep_files: bool, fresh: bool,
        by_verdict: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        atexit.register(gc.freeze)  # at its end Python collects garbage, of all modules, for a second
        began = click.get_current_context().meta.get(BEGAN, time.monotonic())
        if steps and fraction < 1:
            raise click.UsageError("--steps and --fraction exclude each other.")
        subject = make_script(script, arguments, module)
        from rich.console import Console

        from trimtab.doctor import diagnose
        from trimtab.records import Story
        from trimtab.report.outcomes import telling_of
        from trimtab.trial.engines import LocalEngine
        from trimtab.trial.progress import TrialBar
        from trimtab.trial.session import Session

        errors, out = Console(stderr=True), Console()
        opened: list[Session] = []

        @contextlib.contextmanager
        def open_session() -> Iterator[Session]:
            engine = LocalEngine(workers, keep_files)
            bar = TrialBar(errors, engine.workers)
            closing = max(CLOSING, time.monotonic() - began)
            with (
                bar,
                Session(subject, metric, engine, bar, budget, steps or 0, fraction, fresh, began, closing) as session,
            ):
                opened.append(session)
                yield session

        with trials_told(errors):
            run, outcome = body(open_session, **options)
            (session,) = opened
            findings = getattr(outcome, "findings", None)
            story = Story(run, diagnose(run) if findings is None else findings, outcome)
            tell(out, subject.folder, html_file, json_file, story, kept=session.store is not None)
            say_kept(out, session.reused)
        sys.exit(telling_of(outcome).exit_code(outcome, by_verdict))

    made: Callable = result_options(script_arguments(command))
    for option in (
        click.option("--keep-files", is_flag=True, help="Keep what each trial wrote, in .trimtab/trials/."),
        click.option("--fresh", is_flag=True, help="Run everything again, also trials kept from before."),
        click.option(
            "--workers", type=click.IntRange(1), metavar="N", help="Trials at a time. [default: by the number of cores]"
        ),
        click.option(
            "--fraction",
            type=click.FloatRange(0, 1, min_open=True),
            default=1.0,
            metavar="SHARE",
            help="End every run after this share of a whole one: 0.2.",
        ),
        click.option("--steps", type=click.IntRange(1), metavar="N", help="End every run after N optimizer steps."),
        click.option("--budget", callback=seconds, metavar="TIME", help="All of it ends by then: 90s, 3m, 1h."),
    ):
        made = option(made)
    return made


def _pattern(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from trimtab.recipe import quoted
    from trimtab.records import groups as groups_of

    shown = quoted(value)
    try:
        groups = groups_of(value)
    except ValueError as error:
        raise click.BadParameter(f"{shown} is not a regular expression ({error}).") from None
    if groups == 0 and re.fullmatch(r"[\w /.@-]+", value):
        return value
    if groups != 1:
        has = {0: "no group", 1: "1 group"}.get(groups, f"{groups} groups")
        raise click.BadParameter(
            f"{shown} has {has}; it must have exactly one, around the number: 'acc=([0-9.]+)'. (?:...) groups without counting."
        )
    return value


def seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float:
    """A time such as ``90``, ``90s``, ``3m`` or ``1.5h``, in seconds."""
    if value is None:
        return float("inf")
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([smh]?)", value.strip())
    if not match or float(match[1]) <= 0:
        raise click.BadParameter(f"{repr(value)[:60]} is not a time. Write seconds, minutes or hours: 90s, 3m, 1.5h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def make_script(script: str, arguments: tuple[str, ...], module: bool) -> Script:
    """The subject of a command, whose store is remembered as the one used last."""
    refuse_launcher(script, arguments, module)
    from trimtab.trial.subjects import Script, SubjectError

    try:
        subject = Script(script, tuple(arguments), module)
    except SubjectError as error:
        raise click.UsageError(printable(str(error))) from None
    remember_store(subject.folder)
    return subject


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """Errors that are about the user's input or script end the command with their message, not with a traceback."""
    from trimtab.recipe import RecipeError
    from trimtab.store import StoreError

    try:
        yield
    except RecipeError as error:
        raise click.UsageError(printable(str(error))) from None
    except StoreError as error:
        raise click.ClickException(printable(str(error))) from None


@contextlib.contextmanager
def noted(console: Console, kind: type[Warning]) -> Iterator[None]:
    """Warnings of our own as plain sentences; all others as they would be."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, kind):
            say(console, str(message), "yellow")
        else:
            usual(message, category, *place)

    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextlib.contextmanager
def trials_told(console: Console) -> Iterator[None]:
    """:func:`told_plainly` for commands that run trials: notes of the session as plain lines, Ctrl-C without a traceback."""
    from trimtab.trial.kept import StoreWarning
    from trimtab.trial.session import TrialError

    with noted(console, StoreWarning), told_plainly():
        try:
            yield
        except TrialError as error:
            raise click.ClickException(printable(f"{error}{_misplaced()}")) from None
        except KeyboardInterrupt:
            say(
                console,
                "Interrupted. Finished trials are kept: start the same command again and it goes on from here.",
                "yellow",
            )
            raise SystemExit(130) from None


def _misplaced() -> str:
    """A hint for options of ours that stand behind SCRIPT and so were given to the script."""
    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    ours = {name for parameter in context.command.params for name in parameter.opts if name.startswith("--")}
    given = [a.split("=")[0] for a in context.params.get("arguments", ())]
    wrong = [option for option in dict.fromkeys(given) if option in ours]
    if not wrong:
        return ""
    return (
        f"\n{' and '.join(wrong)} stood behind the script and so belonged to it. For trimtab, write it before: "
        f"trimtab {context.command.name} {wrong[0]} ... {context.params['script']}"
    )
