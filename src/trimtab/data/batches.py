"""Batches of many kinds, and the input in them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

CHUNK = 1 << 17  # entries that are turned into float64 at a time: 1 MB, which stays in the cache


def batches_of(data: Any, most: int | None, name: str) -> Iterator[Any]:
    """The first batches of the data, or all; where standard error is a terminal, with a bar on it.

    A tensor or an array is one batch. Unlike ``islice``, this asks for no batch that it does not give.
    """
    if most is not None and most < 1:
        raise ValueError(f"{name}.fit(batches={most}): batches must be 1 or more, or None for all.")
    if is_array(data) or isinstance(data, Mapping):
        yield data
        return
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise ValueError(
            f"{name}.fit got {type(data).__name__}. It takes a tensor, an array, or what gives batches: a DataLoader, a list, a "
            "generator."
        )
    shown = _with_bar(data, name) if sys.stderr.isatty() else iter(data)
    for number, batch in enumerate(shown, 1):
        yield batch
        if number == most:
            return


def _with_bar(data: Any, name: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    try:
        total = len(data)
    except TypeError:  # generators, loaders of iterable data sets
        total = None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(data, total=total, description=f"fitting {name}")


def input_of(batch: Any, key: Any, features: int, axis: int, name: str) -> Any:
    """The tensor or array of a batch that is the input: see ``Preprocessing.fit``."""
    if key is not None and isinstance(batch, (Mapping, tuple, list)):
        batch = batch[key]
    elif isinstance(batch, Mapping):
        entries = {key: _array(value) for key, value in batch.items() if is_array(value)}
        fitting = [v for v in entries.values() if -v.ndim <= axis < v.ndim and v.shape[axis] == features]
        if not fitting:
            shapes = ", ".join(f"{key!r} of shape {tuple(v.shape)}" for key, v in entries.items()) or "no arrays"
            raise ValueError(
                f"{name}({features}) got a dict with {shapes}, none of which has {features} features on axis {axis}. Say which "
                "entry is the input: key='...'."
            )
        batch = fitting[0]
    else:
        while isinstance(batch, (tuple, list)) and batch:
            batch = batch[0]
    if not is_array(batch):
        raise ValueError(
            f"{name} cannot learn from a batch of type {type(batch).__name__}. Batches must be tensors, arrays, tuples or lists "
            "that start with one, or dicts of them."
        )
    return _array(batch)


def in_pieces(x: Any, axis: int) -> Iterator[torch.Tensor]:
    """A tensor or array as tensors of a bounded number of rows, so that a file that is mapped into memory need not fit there."""
    rows = max(1, CHUNK // max(1, math.prod(x.shape[1:])))
    whole = x.ndim < 2 or axis % x.ndim == 0 or len(x) <= rows
    for piece in [x] if whole else (x[start : start + rows] for start in range(0, len(x), rows)):
        # a copy of an array, which may be read-only
        yield piece.detach() if isinstance(piece, torch.Tensor) else torch.from_numpy(np.array(piece))


def is_array(value: Any) -> bool:
    """Whether it is a tensor, or an array to numpy."""
    return isinstance(value, torch.Tensor) or hasattr(value, "__array__")


def _array(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor) else np.asarray(value)
