"""The surroundings of a trial: those that ``python script.py`` would have, and a word that it is a trial.

Trials are forked from a server that has the imports done. What of this shows in a process, and would not in one that Python started for
the script, is put right here before the script begins.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import itertools
import math
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.watching.late import when_imported

TRIAL = {"TRIMTAB_TRIAL": "1"}
"""How a script can tell that it runs in a trial."""

QUIET = {
    "WANDB_MODE": "disabled",
    "COMET_START_ONLINE": "0",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "NEPTUNE_MODE": "debug",
    "CLEARML_OFFLINE_MODE": "1",
    "TRAINS_OFFLINE_MODE": "1",
    "SWANLAB_MODE": "disabled",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What keeps the well-known trackers from uploading the runs of trials."""

# What a program's own process is: Python hides the class, and this is read where a process is not a worker yet.
_MAIN = type(multiprocessing.process.current_process())
_REMOTE = ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
WAIT = 30.0  # seconds for threads that the script has left running at its end


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a trial, out of that of the command."""
    return {name: value for name, value in own.items() if name not in _REMOTE} | QUIET | TRIAL


def as_python_would(
    directory: str, variables: Mapping[str, str], command: Sequence[str], streams: tuple[str, str]
) -> None:
    """Make this process look as if Python had started it.

    Args:
        directory: where the command was given.
        variables: the environment.
        command: what would be ``sys.orig_argv``.
        streams: the encoding of the output, and how it treats what it cannot encode.
    """
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    sys.orig_argv = [sys.executable, *command]
    _signals()
    _multiprocessing()
    _standard_input(*streams)
    _quiet_mlflow()
    _quiet_wandb()


def _signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGCHLD", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _multiprocessing() -> None:
    """The process is nobody's child as far as ``multiprocessing`` knows, and no start method has been chosen."""
    import multiprocessing.context
    import multiprocessing.forkserver
    import multiprocessing.process
    import multiprocessing.resource_tracker

    process: Any = multiprocessing.process
    process._current_process = _MAIN()
    process._parent_process = None
    process._children = set()
    process._process_counter = itertools.count(1)
    context: Any = multiprocessing.context
    context._default_context._actual_context = None
    for module, kind, name, pipe in (
        (multiprocessing.resource_tracker, "ResourceTracker", "_resource_tracker", "_fd"),
        # As long as somebody holds the other end of this pipe, the server of the trials lives on.
        (multiprocessing.forkserver, "ForkServer", "_forkserver", "_forkserver_alive_fd"),
    ):
        old, new = getattr(module, name), getattr(module, kind)()
        if getattr(old, pipe, None) is not None:
            with contextlib.suppress(OSError):
                os.close(getattr(old, pipe))
        for public, value in list(vars(module).items()):  # functions of the module are methods of the one object
            if getattr(value, "__self__", None) is old:
                setattr(module, public, getattr(new, value.__name__))
        setattr(module, name, new)


def _standard_input(encoding: str, errors: str) -> None:
    """Nothing comes in, as with ``< /dev/null``."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    raw = io.FileIO(0, "r", closefd=False)
    raw.name = "<stdin>"
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw), encoding, errors)
    sys.stdin.mode = "r"  # type: ignore[misc]
    sys.__stdin__ = sys.stdin  # type: ignore[misc]


def _quiet_mlflow() -> None:
    """Runs go where they go without a server: into the folder."""

    def here(module: Any) -> None:
        original = module.set_tracking_uri

        @functools.wraps(original)
        def set_tracking_uri(uri: Any) -> None:
            if not str(uri).startswith(("http", "databricks")):
                original(uri)

        module.set_tracking_uri = set_tracking_uri

    when_imported("mlflow", here)


def _quiet_wandb() -> None:
    """Also a script that asks for a mode by itself gets the one of a trial."""

    def disabled(module: Any) -> None:
        original = module.init

        @functools.wraps(original)
        def init(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **{**kwargs, "mode": "disabled"})

        module.init = init

    when_imported("wandb", disabled)


def end_as_python_would(wait: float = WAIT) -> None:
    """What Python does when a program has come to its end: wait for its threads, and call what was registered with ``atexit``.

    Args:
        wait: seconds for the threads; Python waits as long as they run.
    """
    end = time.monotonic() + wait
    for call in reversed(getattr(threading, "_threading_atexits", [])):  # pools wake their threads, which then end
        with contextlib.suppress(Exception):
            call()
    with contextlib.suppress(KeyboardInterrupt):  # then Python waits no longer, and goes on to its end
        for thread in _running():
            thread.join(None if wait == math.inf else max(0.0, end - time.monotonic()))
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()


def _running() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
