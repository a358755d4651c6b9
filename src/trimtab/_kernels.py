"""The compiled part, if it is there and not turned off, and which backend computes an op.

``TRIMTAB_BACKEND=torch`` leaves everything to torch's operations.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

why_no_kernels = ""
if TYPE_CHECKING:  # the stub has the names and types of all arguments
    import trimtab._cpu as _cpu

    kernels = _cpu
else:
    try:
        kernels = importlib.import_module("trimtab._cpu")
    except ImportError as error:  # a source tree that was never built: everything works, more slowly
        kernels, why_no_kernels = None, str(error)


def compiled(name: str) -> Any:
    """A kernel by its name; ``None`` where it was not built."""
    return getattr(kernels, name, None)


asked = os.environ.get("TRIMTAB_CPU", "")
if kernels is not None and asked and asked not in kernels.compiled_for():
    raise ValueError(
        f"TRIMTAB_CPU={asked!r} must be an instruction set that this build has kernels for: {', '.join(kernels.compiled_for())}. "
        "Set it to one of them, or not at all."
    )

FORCED = os.environ.get("TRIMTAB_BACKEND", "")
if FORCED not in ("", "torch"):
    raise ValueError(
        f"TRIMTAB_BACKEND={FORCED!r} must be torch, which leaves everything to torch's operations, or not be set at all."
    )


@dataclass(frozen=True)
class Kernel:
    """How a backend computes an op.

    Attributes:
        why_not: why it does not serve these arguments, or an empty text where it does. Asked on every call: it must be quick.
        forward: computes the op.
        backward: computes its derivatives, of an op that has some.
    """

    why_not: Callable[..., str]
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None


class Op:
    """An op that backends can compute; where none serves, torch's operations do.

    Args:
        name: by which ``trimtab info`` tells of it.
        backends: each backend's way by its name; the first one that serves is taken.
        probe: what the backends would be asked of, for a tensor like this one.
    """

    def __init__(
        self, name: str, backends: Mapping[str, Kernel], probe: Callable[[Any], tuple] = lambda x: (x,)
    ) -> None:
        self.name, self.backends, self.probe = name, dict(backends), probe

    def serving(self, *what: Any) -> Kernel | None:
        """The kernel that computes this; ``None`` for torch's operations."""
        for kernel in self.backends.values():
            if not kernel.why_not(*what):
                return kernel
        return None

    def explain(self, x: Any) -> tuple[str, dict[str, str]]:
        """The backend that computes the op for tensors like x, and why those before it do not serve."""
        reasons: dict[str, str] = {}
        for name, kernel in self.backends.items():
            if not (reason := kernel.why_not(*self.probe(x))):
                return name, reasons
            reasons[name] = reason
        return "torch", reasons
