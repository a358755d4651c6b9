"""The compiled part, if it is there and not turned off: ``TRIMTAB_BACKEND=torch`` leaves everything to torch's operations."""

from __future__ import annotations

import importlib
import os
from typing import Any

kernels: Any = None
why_no_kernels = ""
try:
    kernels = importlib.import_module("trimtab._cpu")
except ImportError as error:  # a source tree that was never built: everything works, more slowly
    why_no_kernels = str(error)

asked = os.environ.get("TRIMTAB_CPU", "")
if kernels is not None and asked and asked not in kernels.compiled_for():
    raise ValueError(
        f"TRIMTAB_CPU={asked!r} must be an instruction set that this build has kernels for: {', '.join(kernels.compiled_for())}. "
        "Set it to one of them, or not at all."
    )

FORCED = os.environ.get("TRIMTAB_BACKEND", "")
