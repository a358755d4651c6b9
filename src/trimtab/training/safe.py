"""Errors of ours in the midst of the script, and those of the script in the midst of ours."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import CodeType
from typing import Any


@contextlib.contextmanager
def suppressed() -> Iterator[None]:
    """Around what is our own: an error in it is nobody's affair."""
    try:
        yield
    except Exception as error:
        if of_script(error):
            raise


class theirs:
    """Around calls of those who listen to a training: their errors may be meant to end it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            error._of_a_listener = True  # type: ignore[attr-defined]


def of_listener(error: BaseException) -> bool:
    """Whether it was raised by one who listens to a training."""
    return getattr(error, "_of_a_listener", False)


def of_script(error: BaseException) -> bool:
    """Whether it was raised by a handler of signals, which may run at any moment: an alarm of the script, not an error of ours."""
    trace, raised = error.__traceback__, set[CodeType]()
    while trace is not None:
        raised.add(trace.tb_frame.f_code)
        trace = trace.tb_next
    return any(code in raised for code in _handlers())


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        function = getattr(handler, "__func__", handler)
        function = function if hasattr(function, "__code__") else type(handler).__call__
        if isinstance(code := getattr(function, "__code__", None), CodeType):
            yield code
