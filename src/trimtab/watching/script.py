"""Running an unmodified script, with a handle on every training in it."""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import os
import sys
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from runpy import _run_module_as_main  # type: ignore[attr-defined]
from typing import Any

import torch
from torch import nn

from trimtab.recipe import Refused
from trimtab.records import CodePlace
from trimtab.training.edits import EditSite, site_of
from trimtab.training.find import models_of
from trimtab.training.handle import Training
from trimtab.training.safe import suppressed
from trimtab.training.stage import stage
from trimtab.watching.files import numbers_written
from trimtab.watching.printed import read_along

ALLOWANCE, SHARE = 10.0, 0.05  # seconds of the processor, and of the run, for finding the models of optimizers
_KEPT = {*sys.builtin_module_names, "__main__", "torch", "numpy", "trimtab"} | {  # what Python has when a script begins
    "abc", "codecs", "encodings", "genericpath", "io", "ntpath", "os", "posixpath", "site", "stat", "zipimport", "importlib", "warnings",
}  # fmt: skip
LOST = 120  # what Python ends with if it cannot write out what waits in the outputs
_PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Ending:
    """How a script ended: its exit code and, after an exception, the last line of it.

    ``refused`` when the exception was that of a technique that cannot act here, ``interrupted`` when it was Ctrl-C.
    ``main`` is what it ran as: its variables live as long, as those of a program do.
    """

    exit_code: int = 0
    error: str = ""
    main: Any = field(default=None, repr=False, compare=False)
    refused: bool = False
    interrupted: bool = False


class Search:
    """The time of the processor that looking for models takes: ten seconds, and 5 % of the run."""

    def __init__(self, unfound: Callable[[], None]) -> None:
        self._unfound = unfound
        self._began, self._spent = time.process_time(), 0.0

    def models_of(self, parameters: Sequence[torch.Tensor]) -> tuple[nn.Module, ...] | None:
        """The models, or ``None`` when there is no time to look for them."""
        began = time.process_time()
        if self._spent > ALLOWANCE + SHARE * (began - self._began):
            self._unfound()
            return None
        models = models_of(parameters)
        self._spent += time.process_time() - began
        return models


@contextlib.contextmanager
def trainings_found(
    call: Callable[[Training, CodePlace | None], None], unfound: Callable[[], None] | None = None
) -> Iterator[None]:
    """Inside the block, ``call(training, place)`` for every new training, at the moment its first optimizer is made.

    That is before the first forward pass, before schedulers, before wrapping and compilation take hold: the moment for
    surgery. A further optimizer for a model that is known joins its training. An optimizer of tensors that belong to no model (a learned
    temperature, a perturbation of the inputs) makes a training only where no model is trained.

    Who only watches gives ``unfound``: it is called where a script makes so many optimizers that finding their models would hold it up,
    and these make no training.
    """
    search = Search(unfound).models_of if unfound is not None else models_of
    known: list[Training] = []  # as long as their models live: these may get another optimizer
    early: list[
        weakref.ref[torch.optim.Optimizer]
    ] = []  # those whose own ``__init__`` is not through yet, and has no groups
    sites: weakref.WeakKeyDictionary[Training, EditSite | None] = weakref.WeakKeyDictionary()

    def on_optimizer(optimizer: torch.optim.Optimizer) -> None:
        try:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
        except Exception:
            early.append(weakref.ref(optimizer))
            return
        models = search(parameters)
        if models is None:
            return
        known[:] = [training for training in known if training.models or training.optimizers]
        for training in known:
            mine = {id(p) for o in training.optimizers for group in o.param_groups for p in group["params"]}
            if any(model is known for model in models for known in training.models) or any(
                id(p) in mine for p in parameters
            ):
                training.join(optimizer)
                _find_code(training, sites, sys._getframe(1))
                return
        if not models and any(training.models for training in known):
            return
        for training in known if models else ():
            if not training.models:
                training.undo().close()
        training = Training(models, [optimizer])
        known.append(training)
        _find_code(training, sites, sys._getframe(1))
        call(training, training.code)

    def on_backward() -> None:
        waiting, early[:] = early[:], []
        for reference in waiting:
            if (optimizer := reference()) is not None:
                on_optimizer(optimizer)

    stops = stage.taps.listen("optimizer", on_optimizer), stage.taps.listen("before_backward", on_backward)
    try:
        yield
    finally:
        for stop in stops:
            stop()


def _find_code(training: Training, sites: MutableMapping[Training, EditSite | None], frame: types.FrameType) -> None:
    """Find out where the newest optimizer of a training is made; what is not sure yet shows at the first step."""
    site = None
    with suppressed():  # of what a script holds, anything may raise when it is looked at
        site = site_of(training.models, training.optimizers, frame, sites.get(training))
    sites[training] = site
    training.code = site.place if site is not None else None
    if site is None or site.sure:
        return
    mine = weakref.ref(training)
    stops: list[Callable[[], None]] = []

    def settle(_: torch.optim.Optimizer) -> None:
        stops.pop()()
        if (found := mine()) is not None and sites.get(found) is site:
            found.code = site.settled(found.optimizers)

    stops.append(training.on("before_step", settle))


def run_script(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    on_training: Callable[[Training, CodePlace | None], None],
    on_line: Callable[[str], None] = lambda line: None,
    on_written: Callable[[str, float], None] = lambda name, value: None,
    at_end: Callable[[], None] = lambda: None,
    unfound: Callable[[], None] | None = None,
    file: Path | None = None,
) -> Ending:
    """Run a script (or, with ``module``, a module as ``python -m`` does) as ``__main__`` in this process.

    The script sees its own ``sys.argv``, its folder first on ``sys.path``, and its own standard output; its exit code and
    its traceback are kept. An exception in it is printed as Python would print it, less the frames that are ours.

    Args:
        on_training: is called with every new training and the place in the code.
        on_line: is called with every line of output.
        on_written: is called with every number in the files that the script wrote, when it has ended.
        at_end: is called when the script has ended, before its output is complete.
        unfound: see :func:`trainings_found`.
        file: where the script lies, if that is not what ``target`` says: in a copy of its folder.
    """
    argv, path, streams = sys.argv, list(sys.path), (sys.stdout, sys.stderr)
    main, original = sys.modules["__main__"], (sys.__stdout__, sys.__stderr__)
    place = file or target
    home = str(Path.cwd()) if module else str(Path(place).resolve().parent)
    sys.argv = [target, *arguments]
    sys.path[:1] = [home, *sys.path[:1]] if sys.flags.safe_path else [home]
    finishes = _read_streams(on_line)
    files = contextlib.ExitStack()
    files.enter_context(numbers_written(on_written))
    theirs = _own_files_first(home, again=not module)
    ran: Any = None
    written_out = True
    try:
        with trainings_found(on_training, unfound):
            if module:
                ran = sys.modules["__main__"] = types.ModuleType("__main__")
                ran.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
                _run_module_as_main(target)  # its variables stay where they are, as those of a program do
            else:
                ran = _main(place)
                sys.modules["__main__"] = ran
                exec(_code(place), ran.__dict__)
        outcome = Ending(main=ran)
    except SystemExit as end:
        outcome = _exited(end, ran)
    except KeyboardInterrupt as error:
        _crashed(error, ran)
        outcome = Ending(130, "interrupted (Ctrl-C)", ran, interrupted=True)
    except BaseException as error:
        outcome = _crashed(error, ran)
    finally:
        at_end()
        files.close()
        written_out = _flush()
        for finish in finishes:
            finish()
        sys.argv, sys.path[:] = argv, path
        sys.stdout, sys.stderr = streams
        sys.__stdout__, sys.__stderr__ = original  # type: ignore[misc]
        sys.modules.update({"__main__": main, **theirs})
    return (
        outcome
        if written_out
        else replace(outcome, exit_code=LOST, error=outcome.error or "its output was not all written")
    )


def _own_files_first(home: str, again: bool) -> dict[str, types.ModuleType]:
    """Forget modules that we have imported and that files beside the script have the names of: the script is to get its own. Gives them,
    to be put back. With ``again``, also those of the files themselves, as another run in this process has left them."""
    own = set()
    with contextlib.suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                own.add(entry.name[:-3])
            elif os.path.exists(os.path.join(entry.path, "__init__.py")):
                own.add(entry.name)
    hidden = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        theirs = str(getattr(module, "__file__", None) or home).startswith(home + os.sep)
        if top in own - _KEPT and (again or not theirs):
            hidden[name] = sys.modules.pop(name)
    return hidden


def _read_streams(on_line: Callable[[str], None]) -> list[Callable[[], None]]:
    """Read along what the script writes to its output and to its standard error."""
    finishes = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        ours, finish = read_along(stream, on_line)
        if getattr(sys, f"__{name}__") is stream:
            setattr(sys, f"__{name}__", ours)
        setattr(sys, name, ours)
        finishes.append(finish)
    return finishes


def _flush() -> bool:
    """Write out what waits in the outputs, as Python does at the end of a program; whether that was possible."""
    flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception as error:
            flushed = False
            if stream is sys.stdout:
                told = traceback.TracebackException.from_exception(error)
                _keep_theirs(told)
                _print(f"Exception ignored in: {stream!r}\n", told)
    return flushed


def _main(place: str | Path) -> types.ModuleType:
    """What ``__main__`` is when Python runs a file."""
    module = types.ModuleType("__main__")
    module.__dict__.update(
        __file__=_whole(place),
        __loader__=importlib.machinery.SourceFileLoader("__main__", _whole(place)),
        __builtins__=sys.modules["builtins"],
        __package__=None,
        __annotations__={},
        __cached__=None,
    )
    return module


def _whole(place: str | Path) -> str:
    """A path from the root, as Python makes it: links and what follows them stay."""
    return os.path.join(os.getcwd(), place)


def _code(place: str | Path) -> types.CodeType:
    with io.open_code(_whole(place)) as source:
        return compile(source.read(), _whole(place), "exec", dont_inherit=True)


def _exited(end: SystemExit, main: Any) -> Ending:
    if end.code is None or isinstance(end.code, int):
        code = int(end.code or 0)
        return Ending(code, f"the script ended itself with exit code {code}" if code else "", main)
    with contextlib.suppress(Exception):  # the script has closed its error output, or has none
        if sys.stderr is not None:
            print(end.code, file=sys.stderr)
            sys.stderr.flush()
    return Ending(1, _text(end.code), main)


def _crashed(error: BaseException, main: Any) -> Ending:
    told = traceback.TracebackException.from_exception(error)
    _keep_theirs(told)
    error = error.with_traceback(_theirs(error.__traceback__))
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            _print(told)
    except SystemExit as end:
        return _exited(end, main)
    except BaseException as another:
        failed = traceback.TracebackException.from_exception(another)
        _keep_theirs(failed)
        failed.__context__ = None
        _print("Error in sys.excepthook:\n", failed, "\nOriginal exception was:\n", told)
    if isinstance(error, Refused):
        return Ending(1, str(error), main, refused=True)
    last = _text(*traceback.format_exception_only(error)[-1:]).strip()
    place = f" at {Path(told.stack[-1].filename).name}:{told.stack[-1].lineno}" if told.stack else ""
    return Ending(1, last + place, main)


def _print(*parts: traceback.TracebackException | str) -> None:
    with contextlib.suppress(Exception):  # the script has closed its error output, or has none
        for part in parts if sys.stderr is not None else ():
            print(part if isinstance(part, str) else "".join(part.format()), end="", file=sys.stderr)
        sys.stderr.flush()


def _text(thing: object) -> str:
    """What a script ended with, as a text that every file takes."""
    try:
        return str(thing).encode("utf-8", "replace").decode()
    except Exception:
        return type(thing).__name__


def _theirs(trace: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback from the first frame that is the script's."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_PACKAGE, "<frozen runpy")):
        trace = trace.tb_next
    return trace


def _keep_theirs(told: traceback.TracebackException) -> None:
    """Leave our frames out of a traceback, and out of those of its causes."""
    for one in (told, told.__cause__, told.__context__, *(told.exceptions or ())):
        if one is not None:
            one.stack[:] = [f for f in one.stack if not f.filename.startswith((_PACKAGE, "<frozen runpy"))]
            if one is not told:
                _keep_theirs(one)
