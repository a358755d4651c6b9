"""The time that looking at a run may take."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

SHARE = 0.015  # of the run's time that measuring may take
ALLOWANCE = 0.1  # seconds that it may take beyond that


class Budget:
    """A share of the time since it was made, and an allowance to begin with.

    Args:
        share: the part of the time that may be spent.
        allowance: seconds that may be spent beyond that.
        clock: gives the time in seconds.

    >>> times = iter([0.0, 10.0, 13.0, 15.0])
    >>> budget = Budget(share=0.1, allowance=0.0, clock=lambda: next(times))
    >>> with budget.spending():  # from 10 s to 13 s
    ...     pass
    >>> budget.late(30)  # at 15 s: 3 s are a tenth of 30 s, and the 30 steps until now have taken 15 s
    30
    """

    def __init__(
        self, share: float | None = None, allowance: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._share = SHARE if share is None else share
        self._allowance = ALLOWANCE if allowance is None else allowance
        self._clock = clock
        self._spent, self._began = 0.0, clock()

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """What is done inside is paid for."""
        began = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - began

    def late(self, step: int) -> int:
        """How many steps to wait, at the pace of the steps so far, until what was spent is no more than what may be."""
        elapsed = self._clock() - self._began
        wait = (self._spent - self._allowance) / self._share - elapsed
        return math.ceil(wait * max(1, step) / elapsed) if wait > 0 else 0
