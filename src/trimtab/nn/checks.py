"""Messages for wrong arguments that several norms share."""

from __future__ import annotations

import torch

from trimtab.nn.ops import ACTIVATIONS


def check_activation(part: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{part}(activation={activation!r}): activation must be one of {', '.join(ACTIVATIONS)}.")


def check_p(part: str, name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{part}({name}={p}): {name} is the probability of dropping an entry and must lie in [0, 1].")


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
    from trimtab import nn

    meant = f"{part[:-2]}{max(1, dim - 2)}d"
    batched = dim > 2 or (dim == 2 and "Batch" in part)  # other norms take (C, L) for one sample
    return f" Did you mean {meant}?" if part[-2:] in ("1d", "2d", "3d") and batched and hasattr(nn, meant) else ""


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
