"""Copies of modules, also of those that hold tensors which are computed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Values(TorchFunctionMode):
    """Copies what a graph computed as the value that it has: torch refuses to copy it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            gone = torch._C._functorch.is_functorch_wrapped_tensor(
                tensor
            )  # left behind by vmap: it has no value any more
            if gone or not tensor.is_leaf:
                return memo.setdefault(id(tensor), torch.empty(0) if gone else tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def copied_module(module: nn.Module, memo: dict[int, Any] | None = None) -> Any:
    """A copy of a module as ``copy.deepcopy`` makes it, also where it holds tensors that are computed.

    Weights that a hook computes before each call (``torch.nn.utils.weight_norm`` and ``spectral_norm``, ``prune``) are computed
    anew in the copy; what a model keeps of its last call has the same value there, without its graph.

    Args:
        module: what is copied.
        memo: what stands for objects in the copy, by their ``id``.

    Raises:
        ValueError: for a module that holds what cannot be copied, such as a lock or an open file.

    >>> layer = torch.nn.utils.prune.l1_unstructured(nn.Linear(2, 3), "weight", 0.5)
    >>> x = torch.ones(1, 2)
    >>> torch.equal(copied_module(layer)(x), layer(x))
    True
    """
    try:
        with _Values():
            return copy.deepcopy(module, {} if memo is None else memo)
    except Exception as error:  # foreign code is copied
        raise ValueError(
            f"a copy of this {type(module).__name__} cannot be made ({type(error).__name__}: {error})"
        ) from error
