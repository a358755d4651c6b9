"""Running an unmodified script, with a handle on every training in it."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab.records import CodePlace
from trimtab.training import taps
from trimtab.training.evaluations import Printed
from trimtab.training.find import code_place, models_of
from trimtab.training.handle import Training

_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Outcome:
    """How a script ended: its exit code and, after an exception, the last line of it."""

    exit_code: int = 0
    error: str = ""


@contextlib.contextmanager
def trainings_found(call: Callable[[Training, CodePlace | None], None]) -> Iterator[None]:
    """Inside the block, ``call(training, place)`` for every new training, at the moment its first optimizer is made.

    That is before the first forward pass, before schedulers, before wrapping and compilation take hold: the moment for
    surgery. A further optimizer for a model that is known joins its training.
    """
    known: list[weakref.ref[Training]] = []

    def on_optimizer(optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        models = models_of(parameters)
        for training in filter(None, (reference() for reference in known)):
            mine = {id(p) for o in training.optimizers for group in o.param_groups for p in group["params"]}
            if any(model in training.models for model in models) or any(id(p) in mine for p in parameters):
                training.join(optimizer)
                return
        training = Training(models, [optimizer])
        known.append(weakref.ref(training))
        call(training, code_place(training.model, sys._getframe(1)))

    stop = taps.listen("optimizer", on_optimizer)
    try:
        yield
    finally:
        stop()


def run_script(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    on_training: Callable[[Training, CodePlace | None], None],
    on_line: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a script (or, with ``module``, a module as ``python -m`` does) as ``__main__`` in this process.

    The script sees its own ``sys.argv``, its folder first on ``sys.path``, and its own standard output; its exit code and
    its traceback are kept. An exception in it is printed as Python would print it, less the frames that are ours.
    """
    argv, path, stdout = sys.argv, list(sys.path), sys.stdout
    sys.argv = [target, *arguments]
    home = str(Path.cwd()) if module else str(Path(target).resolve().parent)
    sys.path[:1] = [home, *sys.path[:1]] if sys.flags.safe_path else [home]
    printed = sys.stdout = Printed(stdout, on_line)
    try:
        with trainings_found(on_training):
            if module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
        return Outcome()
    except SystemExit as end:
        return _exited(end)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Outcome(130, "interrupted (Ctrl-C)")
    except BaseException as error:
        return _crashed(error)
    finally:
        printed.finish()
        sys.stdout.flush()
        sys.argv, sys.path[:], sys.stdout = argv, path, stdout


def _exited(end: SystemExit) -> Outcome:
    if end.code is None or isinstance(end.code, int):
        code = int(end.code or 0)
        return Outcome(code, f"the script ended itself with exit code {code}" if code else "")
    print(end.code, file=sys.stderr)
    return Outcome(1, str(end.code))


def _crashed(error: BaseException) -> Outcome:
    told = traceback.TracebackException.from_exception(error)
    _keep_theirs(told)
    print("".join(told.format()), end="", file=sys.stderr)
    sys.stderr.flush()
    last = traceback.format_exception_only(error)[-1].strip()
    place = f" at {Path(told.stack[-1].filename).name}:{told.stack[-1].lineno}" if told.stack else ""
    return Outcome(1, last + place)


def _keep_theirs(told: traceback.TracebackException) -> None:
    """Leave our frames out of a traceback, and out of those of its causes."""
    for one in (told, told.__cause__, told.__context__, *(told.exceptions or ())):
        if one is not None:
            one.stack[:] = [f for f in one.stack if not f.filename.startswith((_PACKAGE, "<frozen runpy"))]
            if one is not told:
                _keep_theirs(one)
