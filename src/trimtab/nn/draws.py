"""What modules share that draw random numbers while training: a generator of their own, and masks and noise of a key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here and now: a second

from trimtab.nn import ops
from trimtab.nn.ops.common import in_order, memory_order


def check_choice(part: str, name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{part}({name}={value!r}): {name} must be one of {', '.join(map(repr, choices))}.")


def check_generator(part: str, generator: Any) -> None:
    """Refuse what is no generator, before the first call does."""
    if generator is not None and not isinstance(generator, torch._C.Generator):
        raise ValueError(
            f"{part}(generator={generator!r}): generator must be a torch.Generator, or None for torch's own: "
            f"torch.Generator().manual_seed(0)."
        )


class OwnGenerator:
    """Mixin of modules whose random numbers come from ``generator``, or from torch's global one if that is ``None``.

    Copies and pickles of the module go on with the same numbers.
    """

    if TYPE_CHECKING:  # torch.jit.script would read them
        generator: torch.Generator | None
        _key: torch.Tensor | None
    else:
        generator = _key = None

    def __prepare_scriptable__(self) -> Any:  # torch.jit.script asks for it
        """What is compiled in the place of the module."""
        raise NotImplementedError(
            f"torch.jit.script cannot compile {type(self).__name__}, whose noise TorchScript has no words for. torch.jit.trace, "
            "torch.export (both in evaluation) and torch.compile can, and torch.jit.script a plain Dropout or AlphaDropout without a "
            "generator."
        )

    def draw_key(self) -> torch.Tensor:
        """The seed of the next mask."""
        if self.generator is None:
            return ops.draw_key()
        # Activation checkpointing runs the forward pass again while gradients are computed. It puts torch's generators back to
        # where they were, but not this one, so the last key serves again: right for a module that is called once a pass.
        if self._key is None or torch._C._current_graph_task_id() == -1:
            self._key = ops.draw_key(self.generator)
        return self._key

    def __getstate__(self) -> dict[str, Any]:
        # generators do not pickle; their state does
        state = {name: value for name, value in self.__dict__.items() if name != "_key"}
        if self.generator is not None:
            state["generator"] = (str(self.generator.device), self.generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if self.generator is not None:
            device, bits = state["generator"]
            self.generator = torch.Generator(device)
            self.generator.set_state(bits)


@_disable_dynamo
def seeded(key: torch.Tensor, device: torch.device) -> torch.Generator:
    """A generator that starts at a key."""
    return torch.Generator(device).manual_seed(int(key))


def bernoulli(shape: torch.Size | tuple[int, ...], p: float, key: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bools that are ``False`` with probability p, each by itself."""
    if p == 0 or p == 1:
        return torch.full(shape, p == 0, device=device)
    return ops.dropout(torch.ones(shape, device=device), p, key) != 0


def exactly(shape: torch.Size | tuple[int, ...], dropped: int, key: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bools of which exactly ``dropped`` are ``False`` in each entry of the first dimension, every choice of them as likely."""
    n = units(shape)
    order = uniform((math.prod(shape) // max(n, 1), n), torch.float32, key, device).argsort(-1)
    return torch.ones_like(order, dtype=torch.bool).scatter(-1, order[:, :dropped], 0).view(shape)


def kept(keep: torch.Tensor, x: torch.Tensor, otherwise: float = 0.0) -> torch.Tensor:
    """x where a mask keeps it, laid out as x is."""
    order = memory_order(x)
    return torch.where(keep if order is None else in_order(keep, order), x, otherwise)


def normal(like: torch.Tensor, deviation: float, key: torch.Tensor) -> torch.Tensor:
    """Noise N(1, deviation^2) with the shape and type of a tensor, the same whatever that one's layout."""
    if (
        torch._C._get_tracing_state() is not None
    ):  # a trace would keep the key as a constant: it draws anew in every call instead
        return 1 + deviation * torch.randn_like(like)
    return _normal(key, like.shape, deviation, like.dtype, like.device)


def uniform(shape: Sequence[int], dtype: torch.dtype, key: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers between 0 and 1."""
    if torch._C._get_tracing_state() is not None:
        return torch.rand(tuple(shape), dtype=dtype, device=device)
    return _uniform(key, shape, dtype, device)


# Ops, since neither a compiler nor vmap can look into what a generator does.


# The vmap of batched gradients forbids random numbers; those of a key are none.
_VMAP: Any = torch._C._parse_dispatch_key("VmapMode")
_no_vmap = torch._C.DispatchKeySet(_VMAP)


@torch.library.custom_op("trimtab::uniform_of_key", mutates_args=())
def _uniform(key: torch.Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch._C._ExcludeDispatchKeyGuard(_no_vmap):
        return torch.rand(tuple(shape), generator=seeded(key, device), dtype=dtype, device=device)


@_uniform.register_fake
def _(key: torch.Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=device)


@torch.library.custom_op("trimtab::normal_of_key", mutates_args=())
def _normal(
    key: torch.Tensor, shape: Sequence[int], deviation: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    with torch._C._ExcludeDispatchKeyGuard(_no_vmap):
        return torch.empty(shape, dtype=dtype, device=device).normal_(1, deviation, generator=seeded(key, device))


@_normal.register_fake
def _(
    key: torch.Tensor, shape: Sequence[int], deviation: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def _rows_of(op: Any) -> Any:
    """Of a batch of keys (``vmap(..., randomness="different")``) each draws its own."""

    def rows(info: Any, dims: tuple, keys: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, int]:
        return torch.stack([op(key, *arguments) for key in keys.movedim(dims[0], 0)]), 0

    return rows


for _op in (_uniform, _normal):
    _op.register_vmap(_rows_of(_op))


def units(shape: torch.Size | tuple[int, ...]) -> int:
    """How many entries a sample has: all but the first dimension, or that one if there is no other."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)
