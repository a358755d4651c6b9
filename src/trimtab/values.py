"""Numbers among the arguments of parts."""

from __future__ import annotations

import math
import numbers
from typing import Any


def as_number(value: Any) -> float:
    """A number, or a tensor of one; NaN, which no bound lets through, for what is none.

    >>> as_number(2), as_number("2"), as_number(None), as_number(True)
    (2.0, nan, nan, nan)
    """
    if isinstance(value, (str, bytes, bool)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """Whether a value is a whole number, NumPy's too, and not below the least one.

    >>> is_whole(2, 1), is_whole(0, 1), is_whole(2.0), is_whole(True)
    (True, False, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least
