"""What the ops share: which backend serves a call, activations, and dropout without a stored mask."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from trimtab._kernels import FORCED as FORCED
from trimtab._kernels import kernels as kernels

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda z: z,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
}
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}  # the order of cpp/table.h
DTYPES = (torch.float32, torch.bfloat16)
MASK = 0xFFFFFFFF
_interpreters = torch._C._functorch.peek_interpreter_stack  # of torch.func: vmap, jvp, grad
_dispatch_modes = torch._C._len_torch_dispatch_stack
_keys_of = torch._C._dispatch_keys
_BATCHED: Any = torch._C._parse_dispatch_key("Batched")


def in_transform() -> bool:
    """Whether this runs under a transform of ``torch.func``."""
    return _interpreters() is not None


def why_no_kernel(x: torch.Tensor) -> str:
    """Why the compiled kernels of the CPU do not serve tensors like x; empty where they do.

    They serve dense float32 and bfloat16 tensors on the CPU. Whatever needs to see inside the op goes through torch:
    ``torch.func`` transforms, forward-mode derivatives, tracing and export. ``TRIMTAB_BACKEND=torch`` turns kernels off.
    """
    if kernels is None:
        return "it was not built"
    if x.device.type != "cpu":
        return "the tensor is not on the CPU"
    if x.dtype not in DTYPES:
        return "it computes in float32 and bfloat16"
    if x.numel() == 0:
        return "the tensor is empty"
    if x.layout is not torch.strided:
        return "the tensor is not dense"
    if FORCED == "torch":
        return "TRIMTAB_BACKEND=torch turns it off"
    if torch.compiler.is_compiling():
        return "the model is being exported" if torch.compiler.is_exporting() else ""
    return "" if _readable(x) else "something needs to see inside: torch.func, tracing, forward-mode derivatives"


def backend_of(x: torch.Tensor) -> str:
    """``"cpu"`` if a compiled kernel serves tensors like x, ``"torch"`` if torch's own operations do."""
    return "torch" if why_no_kernel(x) else "cpu"


def _readable(x: torch.Tensor) -> bool:
    """Whether the numbers of x lie at its address, and nothing follows what is done with them."""
    return not (
        type(x) not in (torch.Tensor, torch.nn.Parameter)
        or in_transform()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or _dispatch_modes() > 0
    )


def batched(gradient: torch.Tensor) -> bool:
    """Whether it stands for the rows of a batch (``is_grads_batched=True``, ``jacobian(..., vectorize=True)``), which only torch's
    operations see through."""
    return _keys_of(gradient).has(_BATCHED)


def readable(gradients: tuple[torch.Tensor | None, ...]) -> bool:
    """Whether a kernel can read all gradients that arrived."""
    return all(g is None or (_readable(g) and not batched(g)) for g in gradients)


# Plain norms of fewer entries than this are quicker by torch's own operations, whose calls cost half a kernel's from Python:
# measured forward and backward in cache (benchmarks/norms.py). bfloat16 is absent where torch's sums are too coarse.
SMALL: dict[str, dict[torch.dtype, int]] = {
    "batch": {torch.float32: 1 << 16, torch.bfloat16: 1 << 18},
    "layer": {torch.float32: 1 << 18},
    "group": {torch.float32: 1 << 18, torch.bfloat16: 1 << 18},
    "cross_entropy": {torch.float32: 1 << 14, torch.bfloat16: 1 << 12},
    "instance": {torch.float32: 1 << 16, torch.bfloat16: 1 << 13},
}


def torch_is_better(kind: str, x: torch.Tensor, weight: torch.Tensor | None = None) -> bool:
    """Whether torch's own operation should do a plain norm: where no kernel serves, and where the tensor is small and its weights
    are of its type."""
    small = x.numel() < SMALL[kind].get(x.dtype, 0) and (weight is None or weight.dtype is x.dtype)
    return small or backend_of(x) == "torch"


def of_type(x: torch.Tensor, *tensors: torch.Tensor | None) -> bool:
    """Whether all are of the type of x."""
    for tensor in tensors:  # noqa: SIM110 (twice as fast as all())
        if tensor is not None and tensor.dtype is not x.dtype:
            return False
    return True


def torch_takes(x: torch.Tensor, *tensors: torch.Tensor | None) -> bool:
    """Whether torch's batch norm takes weights and statistics of these types: that of x, or float32 beside a half."""
    if of_type(x, *tensors):
        return True
    wide = all(t is None or t.dtype is torch.float32 for t in tensors)
    return wide and x.dtype in (torch.bfloat16, torch.float16)


def in_widest(norm: Callable[..., torch.Tensor], x: torch.Tensor, *weights: torch.Tensor | None) -> torch.Tensor:
    """norm(x, *weights) by torch, in the widest type among them where they differ, and the result in the type of x.

    Cast to a narrower x, as autocast makes it, weights would get gradients with no more digits than it has.
    """
    if of_type(x, *weights):
        return norm(x, *weights)
    if not (x.is_floating_point() or x.is_complex()):  # cast back to whole numbers, nothing would be left of the result
        raise ValueError(
            f"A norm must get floating-point numbers, and got an input of type {x.dtype}. Convert it first: x.float()."
        )
    widest = functools.reduce(torch.promote_types, [w.dtype for w in weights if w is not None], x.dtype)
    return norm(x.to(widest), *(w if w is None else w.to(widest) for w in weights)).to(x.dtype)


def pointer(tensor: torch.Tensor | None) -> int:
    """The address that a kernel reads or writes; 0 for no tensor. The caller keeps the tensor alive."""
    return 0 if tensor is None else tensor.data_ptr()


def as_float(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Weights as kernels take them: float32, contiguous."""
    if tensor is None or (tensor.dtype is torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.detach().to(torch.float32).contiguous()


CHANNELS_LAST = {(0, 2, 3, 1): torch.channels_last, (0, 2, 3, 4, 1): torch.channels_last_3d}


def memory_order(x: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions of x from the slowest to the fastest in memory, as torch lays out what it computes entry by entry from x;
    None for a contiguous x."""
    if x.is_contiguous():
        return None
    for order in CHANNELS_LAST:  # the usual ones first
        if len(order) == x.dim() and x.permute(order).is_contiguous():
            return order
    strides = torch.empty_like(x, device="meta").stride()  # of a slice or an expanded x too
    found: list[int] = []
    for d in range(x.dim()):  # by comparisons, which a compiler can follow where sizes are symbols; it cannot sort them
        place = d
        while place > 0 and strides[found[place - 1]] < strides[d]:
            place -= 1
        found.insert(place, d)
    return None if found == list(range(x.dim())) else tuple(found)


def inverse(order: tuple[int, ...]) -> list[int]:
    """The permutation that undoes one."""
    return sorted(range(len(order)), key=order.__getitem__)


def in_order(x: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """x laid out with its dimensions in this order of memory; the shape stays."""
    if order is None:
        return x.contiguous()
    return x.permute(order).contiguous().permute(inverse(order))


def laid_out_like(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the memory order of x, which has its shape."""
    return y if y.stride() == x.stride() else in_order(y, memory_order(x))


def memory_format_of(x: torch.Tensor) -> torch.memory_format:
    """channels_last where x is laid out so (and in no simpler way), be it a slice, else contiguous."""
    return CHANNELS_LAST.get(memory_order(x) or (), torch.contiguous_format)


def draw_key(generator: torch.Generator | None = None) -> torch.Tensor:
    """A seed for one dropout mask, from torch's generator unless another is given, so that ``torch.manual_seed`` and activation
    checkpointing (which restores that generator) reproduce the mask."""
    if generator is None:
        return torch.randint(2**62, (1,))
    return torch.randint(2**62, (1,), generator=generator, device=generator.device)


def seed_of(key: torch.Tensor | None) -> int:
    return 0 if key is None else int(key)


def _shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # torch's integers have a sign, which >> would carry along


def hashes(count: int, key: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Of each place in 0..count - 1 a number of 32 bits that depends on the key, as good as drawn.

    The same hash as in ``cpp/epilogue.h``: two rounds of xor-shift and multiply on a counter, whose start and first multiplier are
    the seed's. The key stays a tensor, so that ``vmap`` can give each of its rows one.
    """
    if in_transform():
        key = key.to(device)  # a key for each row: no scalar, as which a tensor of the CPU goes along with any
    z = key.reshape(()) + (0x9E3779B97F4A7C15 - 2**64)  # splitmix64 makes both of the seed
    z = (z ^ _shifted(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shifted(z, 27)) * (0x94D049BB133111EB - 2**64)
    z = z ^ _shifted(z, 31)
    start, multiplier = z & MASK, (z >> 32) & 0x7FFFFFFF | 0x40000001
    i = torch.arange(count, device=device)
    h = (start + (i & MASK) * 0x9E3779B9 + (i >> 32) * 0x85EBCA6B) & MASK
    h = ((h ^ (h >> 16)) * multiplier) & MASK
    return ((h ^ (h >> 15)) * 0x735A2D97) & MASK


def keep_mask(x: torch.Tensor, p: float, key: torch.Tensor) -> torch.Tensor:
    """Which entries of x a dropout keeps: those whose hash of (place in memory, key) reaches p."""
    keep = hashes(x.numel(), key, x.device) >= min(int(p * 2**32), MASK)
    order = memory_order(x)
    if order is None:
        return keep.view(x.shape)
    return keep.view([x.shape[d] for d in order]).permute(inverse(order))


def drop_by_key(x: torch.Tensor, p: float, key: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Inverted dropout with the mask of ``key``, laid out like the tensor ``like``."""
    if key is None:
        return x
    return torch.where(keep_mask(like, p, key), x / (1 - p) if p < 1 else x, 0)


def after(
    z: torch.Tensor,
    residual: torch.Tensor | None,
    activation: str,
    p: float,
    key: torch.Tensor | None,
    like: torch.Tensor,
) -> torch.Tensor:
    """dropout(activation(z + residual)) in torch's operations."""
    if residual is not None:
        z = z + residual
    return drop_by_key(ACTIVATIONS[activation](z), p, key, like)


def like_input(tensor: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """The tensor with the shape, type and layout of x, as kernels take what goes along with x."""
    if tensor is None or (
        tensor.is_contiguous() and x.is_contiguous() and tensor.dtype is x.dtype and tensor.shape == x.shape
    ):
        return tensor
    return tensor.to(x.dtype).expand(x.shape).contiguous(memory_format=memory_format_of(x))


def gradient_room(weights: torch.Tensor | None, wanted: bool) -> torch.Tensor | None:
    """Room for the gradient of float32 weights."""
    return torch.empty_like(weights) if weights is not None and wanted else None


def residual_room(dy: Any, wanted: bool, activation: str, key: torch.Tensor | None) -> torch.Tensor | None:
    """Room for the gradient of the residual; ``dy`` itself where nothing stands between the two."""
    if not wanted:
        return None
    return dy if activation == "none" and key is None else torch.empty_like(dy)


def as_type_of(gradient: torch.Tensor | None, weights: torch.Tensor | None) -> torch.Tensor | None:
    """The gradient in the type of the weights, which need not be float32."""
    if gradient is None or weights is None or gradient.dtype is weights.dtype:
        return gradient
    return gradient.to(weights.dtype)


def without_residual_if_linear(tensors: tuple, results: tuple, settings: Any) -> tuple:
    """(x, weight, bias, residual, ...), the residual only if an activation stands behind it: else its value is not read again.

    ``settings`` have the activation.
    """
    return tensors if settings.activation != "none" else (*tensors[:3], None, *tensors[4:])
