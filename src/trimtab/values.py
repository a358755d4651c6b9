"""Numbers among the arguments of parts."""

from __future__ import annotations

import math
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
