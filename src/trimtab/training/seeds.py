"""Seeds of trials: the same seed gives every arm the same data order and initialization, also in scripts that seed
themselves.

Seed 0 is the script as it stands: what it seeds, it seeds unchanged. Seed k shifts every seed that the script sets by
``k * 1_000_003``, and stands in where it sets none. Splits made with an explicit ``random_state=`` stay: they are data.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

STRIDE = 1_000_003


class _AnyGenerator(type(torch._C.Generator)):  # type: ignore[misc]
    """Lets ``isinstance(x, torch.Generator)`` hold for all generators while the name stands for our subclass."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


@contextlib.contextmanager
def shifted(seed: int) -> Iterator[None]:
    """Seed all global generators with ``seed``, and shift every seed that is set inside the block.

    Reaches ``torch.manual_seed``, ``torch.seed``, ``torch.cuda.manual_seed`` and ``manual_seed_all``, ``torch.Generator``,
    ``random.seed``, ``numpy.random.seed`` and ``numpy.random.default_rng``.

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
    shift = seed * STRIDE
    substitutes = itertools.count(shift + 500_000)

    class Generator(torch._C.Generator, metaclass=_AnyGenerator):
        def manual_seed(self, seed: int) -> torch._C.Generator:
            return super().manual_seed((int(seed) + shift) % 2**64 if shift else int(seed))

        def seed(self) -> int:
            chosen = next(substitutes)
            super().manual_seed(chosen)
            return chosen

    def moved(original: Callable, modulus: int = 2**63) -> Callable:
        @functools.wraps(original)
        def seeded(seed: Any = None, *args: Any, **kwargs: Any) -> Any:
            if seed is None:
                return original(next(substitutes) % modulus)
            try:
                seed = (int(seed) + shift) % modulus if shift else seed
            except (TypeError, ValueError):  # text, bytes, arrays, bit generators: not a plain seed, left alone
                pass
            return original(seed, *args, **kwargs)

        return seeded

    set_torch_seed = torch.manual_seed

    def chosen_for_torch() -> int:
        """In place of ``torch.seed()``, which would take one from the clock."""
        chosen = next(substitutes)
        set_torch_seed(chosen)
        return chosen

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (torch, "manual_seed", moved(torch.manual_seed)),
            (torch.random, "manual_seed", moved(torch.random.manual_seed)),
            (torch, "seed", chosen_for_torch),
            (torch.random, "seed", chosen_for_torch),
            (torch, "Generator", Generator),
            # torch.manual_seed comes through here too and shifts twice on an accelerator: as good as once
            (torch.cuda, "manual_seed", moved(torch.cuda.manual_seed)),
            (torch.cuda, "manual_seed_all", moved(torch.cuda.manual_seed_all)),
            (random, "seed", moved(random.seed)),
            (np.random, "seed", moved(np.random.seed, 2**32)),
            (np.random, "default_rng", moved(np.random.default_rng)),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, stand_in)
        yield
