"""A process that has all imports done, and forks another one for every line that it reads: a script alone, or watched.

What is forked ends as every process of Python ends; the server tells how, as ``subprocess`` does.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import sys
import time
import types

LIMIT = 100.0  # seconds for one process


def become(job: dict) -> None:
    """Be the process that was asked for, up to its first line."""
    os.chdir(job["folder"])
    for number, path in enumerate((os.devnull, job["out"], job["err"])):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    as_python_would(job["folder"], dict(os.environ), job["command"], ("utf-8", "strict"))
    threading.current_thread()  # the one that goes on is the main one


def alone(command: list[str]) -> None:
    """What ``python train.py`` does: the very function of Python's that runs a file."""
    script, *_ = sys.argv = command
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["__main__"].__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    ctypes.pythonapi.PyRun_SimpleFileExFlags.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    path = os.path.abspath(script).encode()
    if ctypes.pythonapi.PyRun_SimpleFileExFlags(libc.fopen(path, b"rb"), path, 1, None):
        if sys.last_type is KeyboardInterrupt:  # Python ends by the signal then
            atexit._run_exitfuncs()
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        raise SystemExit(1)


def watched(command: list[str]) -> None:
    """What ``trimtab watch train.py`` does."""
    sys.argv = ["trimtab", "watch", *command]
    sys.path[0] = os.path.dirname(sys.executable)
    sys.argv[0] = os.path.join(sys.path[0], "trimtab")
    main()


def end_of(child: int) -> int:
    """The exit code of a process; one that hangs is killed."""
    late = time.monotonic() + LIMIT
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > late:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    import threading

    import trimtab.report.page
    import trimtab.report.plots.curves
    import trimtab.trial.engines.preload  # noqa: F401
    from trimtab.cli import main
    from trimtab.trial.surroundings import as_python_would

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            task = json.loads(line)
            become(task)
            (watched if task["watch"] else alone)(task["command"])
            break
        print(end_of(child), flush=True)
