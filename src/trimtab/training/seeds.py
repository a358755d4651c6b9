"""Seeds of trials: the same seed gives every arm the same data order and initialization, also in scripts that seed
themselves.

Seed 0 is the script as it stands: what it seeds, it seeds unchanged. Seed k shifts every seed that the script sets by
``k * 1_000_003``, and stands in where it sets none. Splits made with an explicit ``random_state=`` stay: they are data.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import torch

from trimtab.training.stage import stage

STRIDE = 1_000_003
BEHIND = 600_000  # what the global generators are seeded with behind the first optimizer, where a part varies alone

# These seed from random numbers that were drawn before, or from a seed that was set: from what is shifted already.
_DERIVED = (
    *("torch/utils/data/_utils/worker.py", "torch/utils/data/sampler.py", "torch/utils/data/dataloader.py"),
    "trimtab/training/handle.py",
)
_BETWEEN = (
    *("torch/random.py", "torch/cuda/random.py", "torch/mps/__init__.py", "torch/xpu/random.py"),
    *("torch/_compile.py", "torch/_dynamo/eval_frame.py"),
)


@contextlib.contextmanager
def shifted(seed: int, varies: str = "") -> Iterator[None]:
    """Seed all global generators with ``seed``, and shift every seed that is set inside the block.

    Reaches ``torch.manual_seed``, ``torch.seed`` and every ``torch.Generator``, ``random.seed``, ``numpy.random.seed`` and
    ``numpy.random.default_rng``. A script that sets its seeds ``k * 1_000_003`` higher by itself draws the same numbers.

    A part of what is random can vary alone. With ``varies="init"`` it is what the global generators give until the first optimizer is made:
    there they are seeded with fixed numbers, and what the script seeds from then on is not shifted, as generators of its own are not at
    all. With ``varies="order"`` it is the rest: the global generators depend on ``seed`` from there on, and generators of its own always.

    >>> def draw():
    ...     torch.manual_seed(7)  # as a script does
    ...     return torch.rand(1).item()
    >>> plain = draw()
    >>> with shifted(0):
    ...     draw() == plain
    True
    >>> with shifted(1):
    ...     draw() == plain
    False
    """
    own = 0 if varies == "init" else seed * STRIDE  # for generators that the script makes
    common = 0 if varies == "order" else seed * STRIDE  # for the global ones, now
    substitutes = itertools.count(500_000)

    def moved(original: Callable, shift_now: Callable[[], int], modulus: int = 2**63) -> Callable:
        @functools.wraps(original)
        def seeded(seed: Any = None, *args: Any, **kwargs: Any) -> Any:
            shift = shift_now()
            if seed is None:
                return original((next(substitutes) + shift) % modulus)
            try:
                seed = (int(seed) + shift) % modulus if shift and not _derived(sys._getframe(1)) else seed
            except (TypeError, ValueError):  # text, bytes, arrays, bit generators: not a plain seed, left alone
                pass
            return original(seed, *args, **kwargs)

        return seeded

    set_seed, get_seed = torch._C.Generator.manual_seed, torch._C.Generator.initial_seed

    def shift_of(generator: torch._C.Generator) -> int:
        return common if _is_global(generator) else own

    def manual_seed(self: torch._C.Generator, seed: int) -> torch._C.Generator:
        """Set the seed of a generator; in a trial it is shifted by that of the trial."""
        shift = shift_of(self)
        if not shift or _derived(sys._getframe(1)):
            return set_seed(self, seed)
        return set_seed(self, (int(seed) + shift) % 2**64)

    def initial_seed(self: torch._C.Generator) -> int:
        """The seed that was set; in a trial before it was shifted, since others are made of it, which are shifted themselves."""
        value, shift = get_seed(self), shift_of(self)
        return value if not shift or _derived(sys._getframe(1)) else (value - shift) % 2**64

    def chosen(self: torch._C.Generator) -> int:
        """In place of a seed from the clock."""
        number = next(substitutes) + shift_of(self)
        set_seed(self, number)
        return number

    pending = bool(varies)

    def made(optimizer: torch.optim.Optimizer) -> None:
        """The first optimizer of the run is there: the other part begins."""
        nonlocal common, pending
        if pending:
            pending, common = False, seed * STRIDE - common
            for set_global in (torch.manual_seed, random.seed, np.random.seed):
                set_global(BEHIND)

    first = 0 if varies == "order" else seed
    torch.manual_seed(first + common)  # which says that its seed is this one
    random.seed(first)
    np.random.seed(first)
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (random, "seed", moved(random.seed, lambda: common)),
            (np.random, "seed", moved(np.random.seed, lambda: common, 2**32)),
            (np.random, "default_rng", moved(np.random.default_rng, lambda: own)),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, stand_in)
        stack.enter_context(
            _methods(torch._C.Generator, manual_seed=manual_seed, initial_seed=initial_seed, seed=chosen)
        )
        if varies:
            stack.callback(stage.taps.listen("optimizer", made))
        yield


def _is_global(generator: torch._C.Generator) -> bool:
    return generator is torch.default_generator or any(generator is one for one in torch.cuda.default_generators)


@contextlib.contextmanager
def _methods(kind: type, **stand_ins: Callable) -> Iterator[None]:
    """Replace methods of a class that is not made in Python and does not let itself be changed.

    A subclass would do for the script, but not for PyTorch: its compiler takes generators of this very class only.
    """
    (table,) = (one for one in gc.get_referents(kind.__dict__) if isinstance(one, dict))
    before = {name: table[name] for name in stand_ins}

    def put(methods: dict[str, Any]) -> None:
        table.update(methods)
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))

    put(stand_ins)
    try:
        yield
    finally:
        put(before)


def _derived(frame: FrameType | None) -> bool:
    """Whether a seed is set by code of PyTorch's that has drawn it."""
    while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.endswith(_DERIVED)
