"""Counting the processes that a script starts, to be able to say why no training was seen."""

from __future__ import annotations

import functools
import multiprocessing.process
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Children:
    """How many processes were started: copies of the script (``multiprocessing``), and other programs (``subprocess``)."""

    copies: int = 0
    programs: int = 0


@contextmanager
def children_counted() -> Iterator[Children]:
    """Counts while the block lasts."""
    found = Children()
    start, begin = multiprocessing.process.BaseProcess.start, subprocess.Popen.__init__

    def counted(call: Callable[..., None], kind: str) -> Callable[..., None]:
        @functools.wraps(call)
        def counting(*args: Any, **kwargs: Any) -> None:
            call(*args, **kwargs)
            setattr(found, kind, getattr(found, kind) + 1)

        return counting

    multiprocessing.process.BaseProcess.start = counted(start, "copies")  # type: ignore[method-assign]
    subprocess.Popen.__init__ = counted(begin, "programs")  # type: ignore[method-assign]
    try:
        yield found
    finally:
        multiprocessing.process.BaseProcess.start = start  # type: ignore[method-assign]
        subprocess.Popen.__init__ = begin  # type: ignore[method-assign]


def no_training(children: Children, compiles: bool, script: str, arguments: Sequence[str], module: bool) -> str:
    """Why no training was seen, and what to do; ``compiles`` says that the script has called ``torch.compile``."""
    this = shlex.join(["trimtab", "watch", *["-m"] * module, script, *arguments])
    if children.copies:
        return (
            f"No training was seen: the script made no torch.optim step in this process, but it started {_count(children.copies)}, and "
            "trimtab sees the process that it runs in. If they train: let the script train in one process (world size 1) and watch "
            f"that, or let a launcher start each of them: torchrun --nproc_per_node {children.copies} -m {this}"
        )
    if children.programs:
        return (
            f"No training was seen: the script made no torch.optim step in this process, but it started {_count(children.programs)}, and "
            "trimtab sees the process that it runs in. If one of them trains, put it there in the place of python: trimtab watch train.py"
        )
    if compiles:
        return (
            "No training was seen: the script compiles code, and steps that are made inside of it are not seen. Compile the model or the "
            f"loss instead of the whole step, or watch it as it is written: TORCH_COMPILE_DISABLE=1 {this}"
        )
    return (
        "No training was seen: the script made no torch.optim step. trimtab sees trainings that call backward() and "
        "optimizer.step()."
    )


def _count(processes: int) -> str:
    return "1 child process" if processes == 1 else f"{processes} child processes"
