"""Looking at the script's tensors without taking part in its computations: whether they have numbers, and reckoning with them unseen."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_TRACING = tuple(
    getattr(torch._C._TorchDispatchModeKey, name)
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if hasattr(torch._C._TorchDispatchModeKey, name)
)


class apart:
    """Inside, what is computed is ours alone: modes of the script (another default device, counters of operations) do not see it."""

    __slots__ = ("_function", "_modes")

    def __enter__(self) -> None:
        self._function = torch._C.DisableTorchFunction()
        self._function.__enter__()
        self._modes = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else None
        if self._modes is not None:
            self._modes.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._modes is not None:
            self._modes.__exit__(*error)
        self._function.__exit__(*error)


def transformed() -> bool:
    """Whether a function transform or a trace is going on: what passes has no values, or is code."""
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and any(
        torch._C._get_dispatch_mode(mode) is not None for mode in _TRACING
    )


def has_values(tensor: Any) -> bool:
    """Whether a tensor is an ordinary one, whose numbers may be read and reckoned with.

    Not so on the meta device; nor one that does its operations itself (sharded, fake, noisy, counting), or is nested.
    """
    ordinary = type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
    return bool(ordinary and not tensor.is_meta and not tensor.is_nested)
