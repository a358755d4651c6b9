"""Messages for wrong arguments that several parts share."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trimtab.nn.ops import ACTIVATIONS

REDUCTIONS = ("mean", "sum", "none")
INSIDE: dict[str, Callable[[float], bool]] = {
    "[0, 1]": lambda v: 0 <= v <= 1,
    "[0, 1)": lambda v: 0 <= v < 1,
    "(0, 1)": lambda v: 0 < v < 1,
    "(0, 1]": lambda v: 0 < v <= 1,
    "[0, inf)": lambda v: 0 <= v < math.inf,
    "(0, inf)": lambda v: 0 < v < math.inf,
    "(-inf, inf)": lambda v: -math.inf < v < math.inf,
}


def check_number(part: str, name: str, given: Any, inside: str = "", why: str = "") -> None:
    """``given`` must be a number, and lie in the interval ``inside`` if there is one; ``why`` says what it is."""
    number = type(given) in (float, int) or (
        isinstance(given, numbers.Real | torch.SymFloat | torch.SymInt) and not isinstance(given, bool)
    )
    number = number or (isinstance(given, torch.Tensor) and given.numel() == 1)
    if number and (not inside or INSIDE[inside](given)):
        return
    must = "must be a finite number" if inside == "(-inf, inf)" else "must be a number"
    if inside and inside != "(-inf, inf)":
        must = f"must {'lie' if number else 'be a number'} in {inside}"
    raise ValueError(f"{part}({name}={given!r}): {name} {why + ' and ' if why else ''}{must}.")


def check_count(part: str, name: str, given: Any, least: int = 1, why: str = "") -> None:
    """``given`` must be a whole number that is not below ``least``; ``why`` says of what."""
    try:
        fits = not isinstance(given, bool) and operator.index(given) >= least
    except TypeError:
        fits = False
    if not fits:
        must = f"must be a whole number, {least} or more"
        raise ValueError(f"{part}({name}={given!r}): {name} {why + ' and ' if why else ''}{must}.")


def check_eps(part: str, eps: Any) -> None:
    """What is added to a variance."""
    if type(eps) is not float or not 0 <= eps < math.inf:  # asked in every call of a function
        check_number(part, "eps", eps, "[0, inf)", "is added to the variance, inside the root,")


def check_sizes(part: str, shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape as a tuple; an int means one dimension."""
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    for size in sizes:
        check_count(part, name, size, 0)
    return sizes


def check_shape(part: str, normalized_shape: Any) -> tuple[int, ...]:
    """The last dimensions of an input, as a tuple; an int means one."""
    try:
        shape = check_sizes(part, normalized_shape)
    except ValueError:
        shape = ()
    if not shape:
        raise ValueError(
            f"{part}({normalized_shape!r}): normalized_shape must be the last dimension of the input, as {part}(256), or the last "
            f"dimensions, as {part}((3, 4)): whole numbers, at least one of them, and none negative."
        )
    return shape


def check_momentum(part: str, momentum: Any, none: bool = True) -> None:
    """The share of the new value in running statistics: one number, a pair, or ``None`` where that has a meaning."""
    if momentum is None and none:
        return
    pair = momentum if isinstance(momentum, tuple) else (momentum, momentum)
    try:
        for share in pair:
            check_number(part, "momentum", share, "[0, 1]")
        fits = len(pair) == 2
    except ValueError:
        fits = False
    if not fits:
        mean = ", or None for the mean over all batches" if none else ""
        raise ValueError(
            f"{part}(momentum={momentum!r}): momentum is the share of the new value in running statistics. It must be a number in "
            f"[0, 1], or a pair of them, one for each of the two{mean}."
        )


def check_reduction(part: str, reduction: Any) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"{part}(reduction={reduction!r}): reduction must be mean, sum or none.")


def check_class_losses(part: str, weight: Any, ignore_index: Any, reduction: Any) -> None:
    """What losses of classes have in common."""
    if weight is not None and (not isinstance(weight, torch.Tensor) or weight.dim() != 1):
        given = f"a tensor of shape {tuple(weight.shape)}" if isinstance(weight, torch.Tensor) else repr(weight)
        raise ValueError(f"{part}(weight=...) got {given}. It must be a tensor with one factor for each class.")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise ValueError(
            f"{part}(ignore_index={ignore_index!r}): ignore_index is the class that is left out and must be a whole number."
        )
    check_reduction(part, reduction)


def check_activation(part: str, activation: Any, or_function: bool = False) -> None:
    if (isinstance(activation, str) and activation in ACTIVATIONS) or (or_function and callable(activation)):
        return
    function = ", or a function" if or_function else ""
    raise ValueError(
        f"{part}(activation={activation!r}): activation must be one of {', '.join(ACTIVATIONS)}{function}."
    )


def check_p(part: str, name: str, p: float) -> None:
    check_number(part, name, p, "[0, 1]", "is the probability of dropping an entry")


def check_after(part: str, activation: str, dropout: float) -> None:
    """What follows a norm in the same pass."""
    check_activation(part, activation)
    check_p(part, "dropout", dropout)


def check_channels(part: str, x: torch.Tensor, channels: int, dims: tuple[int, ...]) -> None:
    if x.dim() not in dims:
        counts, forms = " or ".join(map(str, dims)), " or ".join(FORMS[dim] for dim in dims)
        raise ValueError(
            f"{part} got an input of shape {tuple(x.shape)}. It must have {counts} dimensions: {forms}."
            f"{_sibling(part, x.dim())}"
        )
    if x.shape[1] != channels:
        raise ValueError(
            f"{part}({channels}) got an input of shape {tuple(x.shape)}, which has {x.shape[1]} channels. "
            f"The second dimension must equal num_features. Did you mean {part}({x.shape[1]})?{channels_last(x, channels)}"
        )


FORMS = {2: "(N, C)", 3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}


def _sibling(part: str, dim: int) -> str:
    """The class of the same name that does take so many dimensions, if there is one."""
    positions = max(1, dim - 2)  # each such class comes for one to three
    batched = dim > 2 or (dim == 2 and "Batch" in part)  # other norms take (C, L) for one sample
    fits = part[-2:] in ("1d", "2d", "3d") and batched and positions <= 3
    return f" Did you mean {part[:-2]}{positions}d?" if fits else ""


def channels_last(x: torch.Tensor, channels: int) -> str:
    """The end of a message about the second dimension, where the channels seem to stand last."""
    if x.dim() < 3 or x.shape[-1] != channels:
        return ""
    return f" Or do the channels stand last, where there are {channels}? Then give it input.movedim(-1, 1)."


def check_trailing(part: str, x: torch.Tensor, normalized_shape: tuple[int, ...]) -> None:
    if tuple(x.shape[-len(normalized_shape) :]) != normalized_shape:
        given = tuple(x.shape[-len(normalized_shape) :])

        def call(shape: tuple[int, ...]) -> str:
            if part.islower():  # a function
                return f"{part}(input, {shape})"
            return f"{part}({shape[0] if len(shape) == 1 else shape})"

        raise ValueError(
            f"{call(normalized_shape)} got an input of shape {tuple(x.shape)}. Its last dimensions must equal "
            f"normalized_shape." + (f" Did you mean {call(given)}?" if given else "")
        )


def check_floating(part: str, x: torch.Tensor) -> None:
    if not (x.is_floating_point() or x.is_complex()):  # cast back to whole numbers, nothing would be left of the result
        raise ValueError(
            f"{part} must get floating-point numbers, and got an input of type {x.dtype}. Convert it first: input.float()."
        )


def check_residual(part: str, x: torch.Tensor, residual: torch.Tensor | None) -> None:
    if residual is not None and residual.shape != x.shape:
        try:
            fits = torch.broadcast_shapes(residual.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        raise ValueError(
            f"{part} got an input of shape {tuple(x.shape)} and a residual of shape {tuple(residual.shape)}. "
            "They are added, so their shapes must be equal."
            + (" To broadcast it, give residual.expand_as(input)." if fits else "")
        )


def check_mask(part: str, x: torch.Tensor, mask: torch.Tensor | None) -> None:
    if mask is None:
        return
    if mask.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"{part} got an input of shape {tuple(x.shape)} and a mask of shape {tuple(mask.shape)}. "
            f"The mask says which positions count: its shape must be {(x.shape[0], *x.shape[2:])}."
        )
    if mask.dtype is not torch.bool:
        raise ValueError(
            f"{part} got a mask of type {str(mask.dtype).removeprefix('torch.')}. The mask says which positions count and must "
            "be of bools: mask.bool()."
        )


def check_entries(part: str, x: torch.Tensor, shape: torch.Size, **tensors: torch.Tensor | None) -> None:
    """Weights and statistics must fit before a kernel, which reads memory by their address, gets to see them."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{part} got an input of shape {tuple(x.shape)} and a {name} of shape {tuple(tensor.shape)}. "
                f"The shape of the {name} must be {tuple(shape)}."
            )


def check_groups(part: str, x: torch.Tensor, num_groups: int) -> None:
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"{part}(num_groups={num_groups}) got an input of shape {tuple(x.shape)}. Its second dimension, the channels, must "
            f"be a multiple of num_groups. {divisors(x.shape[1])}"
        )


def divisors(channels: int) -> str:
    """The end of a message about a number of groups."""
    fitting = [groups for groups in range(1, channels + 1) if channels % groups == 0]
    return f"{channels} channels divide into {', '.join(map(str, fitting))} groups."


def check_has_channels(part: str, x: torch.Tensor, at_least: int = 2) -> None:
    if x.dim() < at_least:
        raise ValueError(
            f"{part} got an input of shape {tuple(x.shape)}. It must be (N, C, ...), with {at_least} dimensions or more."
        )


def extra(activation: str, dropout: float) -> str:
    """What a norm's repr says about what follows it: nothing where nothing does."""
    return (f", activation={activation}" if activation != "none" else "") + (f", dropout={dropout}" if dropout else "")
