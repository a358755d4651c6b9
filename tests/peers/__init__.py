"""Our parts under the peers' own tests: torch's databases of what it checks of every module and optimizer, with our classes in
the place of torch's. `make peers` runs them in full, `make test` a part. What differs on purpose stands in one list a file."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch


def torchs(name: str) -> ModuleType:
    """A module of ``torch.testing._internal``: ``common_modules``, ``common_optimizers``, ``common_methods_invocations``.

    It takes seconds to load, so ask for it in a test, not where tests are collected. Loading it reads the command line, forbids
    setting torch's flags, and wraps scripted functions; none of this is for the tests that follow in the process.
    """
    arguments, flags = sys.argv, "__allow_nonbracketed_mutation_flag"
    allowed = getattr(torch.backends, flags)
    scripted = {kind: kind.__call__ for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod)}
    sys.argv = arguments[:1]
    try:
        return importlib.import_module(f"torch.testing._internal.{name}")
    finally:
        sys.argv = arguments
        setattr(torch.backends, flags, allowed)
        for kind, call in scripted.items():
            kind.__call__ = call  # type: ignore[method-assign]
