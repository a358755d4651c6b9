"""The gradients of parameters as clipping sees them: dense real numbers, in groups of one device and type, and their norms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

Parameters = torch.Tensor | Iterable[torch.Tensor]
Groups = list[list[torch.Tensor]]


def with_gradients(parameters: Parameters) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Parameters and their gradients, where there are any numbers; sparse gradients get coalesced."""
    found = []
    for parameter in [parameters] if isinstance(parameters, torch.Tensor) else parameters:
        grad = parameter.grad
        if grad is not None and grad.is_sparse and not grad.is_coalesced():
            grad = parameter.grad = grad.coalesce()
        if grad is not None and (grad.values() if grad.is_sparse else grad).numel():
            found.append((parameter, grad))
    return found


def numbers_of(parameters: Parameters) -> Groups:
    """The numbers of the gradients, in tensors that share their memory; those of one device and type together.

    Only tensors of one device and type are served by one kernel together. Of a sparse gradient these are the rows that it has.
    """
    groups: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for _, grad in with_gradients(parameters):
        dense = grad.values() if grad.is_sparse else grad
        groups[grad.device, grad.dtype].append(torch.view_as_real(dense) if dense.is_complex() else dense)
    return list(groups.values())


def norms_of(groups: Groups, norm_type: float = 2.0) -> torch.Tensor:
    """The norm of each tensor, in the order of the groups, in float64 on the processor."""
    found = []
    for group in groups:
        kind = torch.promote_types(group[0].dtype, torch.float32)
        norms = whole(torch.stack(torch._foreach_norm(group, norm_type, dtype=kind))).to("cpu", torch.float64)
        for place in (
            (~norms.isfinite()).nonzero().flatten().tolist()
        ):  # squares of finite numbers may have been too large
            norms[place] = whole(torch.linalg.vector_norm(group[place], norm_type, dtype=torch.float64)).cpu()
        found.append(norms)
    return torch.cat(found)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is spread over several processes (a ``DTensor``, as FSDP has them), put together; others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of it that lies in this process, to be changed in place; others as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@torch.no_grad()
def grad_norm(parameters: Parameters) -> float:
    """The norm of all gradients together; not finite if one of them is not."""
    groups = numbers_of(parameters)
    return float(torch.linalg.vector_norm(norms_of(groups))) if groups else 0.0
