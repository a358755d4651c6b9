"""A stretch of training that leaves no trace: models, optimizers, loaders and all random generators are put back."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

GROUP = "optimization"
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_PARTS = ("sampler", "batch_sampler", "dataset", "transform", "transforms", "base_dataloader")


@contextlib.contextmanager
def unchanged(*things: Any) -> Iterator[None]:
    """Inside the block anything may be trained; afterwards everything is, bit for bit, as it was.

    Also after an exception and Ctrl-C. What is put back, in place, so that every reference to it stays good:

    * of a model: values of parameters and buffers (also of those that no ``state_dict`` has), gradients (also that
      there is none), ``requires_grad``, the mode of every submodule, hooks, and what submodules have as plain
      attributes: numbers, tensors, arrays, lists, dicts, generators;
    * of an optimizer: its state, every value of its groups, what schedulers have noted on it;
    * of a data loader, its samplers, its data set and their transforms: generators and attributes, without a copy of
      the data; its persistent workers are left alone, others work inside of the block;
    * generators (of torch, numpy and Python) given by themselves; of any other object (a scheduler, a scaler) its plain
      attributes;
    * and always the random state of torch (on the CPU and on all CUDA devices), numpy and Python.

    It takes the memory of a second copy of models, optimizers and gradients, and is meant for between two updates: a
    graph that waits for its backward is of no use afterwards. Objects of other classes inside of modules are not
    looked into.

    Raises:
        ValueError: for a lazy module that has not seen a batch yet.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> before = model[0].weight.clone(), model[1].running_mean.clone(), torch.get_rng_state()
    >>> with unchanged(model, optimizer):
    ...     model(torch.randn(8, 2)).sum().backward()
    ...     optimizer.step()
    >>> now = model[0].weight, model[1].running_mean, torch.get_rng_state()
    >>> all(map(torch.equal, before, now)), model[0].weight.grad, len(optimizer.state)
    (True, None, 0)
    """
    with contextlib.ExitStack() as put_back:  # which goes on when one thing cannot be put back, or at another Ctrl-C
        put_back.callback(random.setstate, random.getstate())
        put_back.callback(np.random.set_state, np.random.get_state())
        put_back.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            put_back.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        keeper = _Keeper(put_back.callback)
        for thing in things:
            keeper.keep_thing(thing)
        yield


class _Keeper:
    """Walks through things, and notes for everything that can change how to put it back."""

    def __init__(self, note: Callable[..., Any]) -> None:
        self._note = note
        self._seen: dict[int, Any] = {}

    def keep_thing(self, thing: Any) -> None:
        """Something that was asked for: its attributes, whatever its class."""
        if isinstance(thing, (*_GENERATORS, torch.Tensor, nn.Module)) or not hasattr(thing, "__dict__"):
            self.keep(thing)
        elif hasattr(type(thing), "__iter__"):
            self._data(thing)
        elif self._is_new(thing):
            self.keep(vars(thing))

    def keep(self, value: Any) -> None:
        """Something that was found; objects of unknown classes are left alone."""
        if isinstance(value, _PLAIN) or not self._is_new(value):
            return
        if isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, dict):
            self._note(_refill, value, dict(value))
            self._all(value.values())
        elif isinstance(value, (list, deque)):
            self._note(_write, value, list(value))
            self._all(value)
        elif isinstance(value, (tuple, frozenset)):
            self._all(value)
        elif isinstance(value, set):
            self._note(_exchange, value, set(value))
        elif isinstance(value, np.ndarray):
            self._note(np.copyto, value, value.copy())
        elif isinstance(value, _GENERATORS):
            self._generator(value)
        elif isinstance(value, (nn.Module, torch.optim.Optimizer)):
            self.keep(vars(value))

    def _all(self, values: Any) -> None:
        for value in tuple(values):
            self.keep(value)

    def _is_new(self, thing: Any) -> bool:
        if id(thing) in self._seen:
            return False
        self._seen[id(thing)] = thing  # so that no other thing gets its id
        return True

    def _tensor(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise ValueError(
                "unchanged(...) got a lazy module, whose parameters have no shape yet. Run the model on one batch first."
            )
        if tensor.is_inference() or not tensor.is_leaf or _overlaps(tensor):
            return  # training cannot change it in place
        self._note(_copy, tensor, tensor.detach().clone())
        self._note(tensor.requires_grad_, tensor.requires_grad)
        self._note(setattr, tensor, "grad", tensor.grad)
        if tensor.grad is not None:
            self.keep(tensor.grad)

    def _generator(self, generator: Any) -> None:
        if isinstance(generator, torch.Generator):
            self._note(generator.set_state, generator.get_state())
        elif isinstance(generator, np.random.Generator):
            self._note(setattr, generator.bit_generator, "state", generator.bit_generator.state)
        elif isinstance(generator, np.random.RandomState):
            self._note(generator.set_state, generator.get_state())
        else:
            self._note(generator.setstate, generator.getstate())

    def _data(self, source: Any) -> None:
        """A data loader and what it is made of: generators and attributes, but none of the data."""
        if isinstance(source, nn.Module):
            self.keep(source)
        if not hasattr(source, "__dict__") or not self._is_new(source):
            return
        own = vars(source)
        self._note(_refill, own, dict(own))
        if isinstance(source, DataLoader) and source.persistent_workers:
            self._note(_end_workers, source)
            source._iterator = None
        self._all(value for value in own.values() if isinstance(value, _GENERATORS))
        for name in _PARTS:
            self._data(own.get(name))
        for step in own.get("transforms", ()) if isinstance(own.get("transforms"), (list, tuple)) else ():
            self._data(step)


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether several entries share one place (``expand``): nothing can write there."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


@torch.no_grad()
def _copy(tensor: torch.Tensor, value: torch.Tensor) -> None:
    tensor.copy_(value)


def _refill(own: dict, kept: dict) -> None:
    if [id(key) for key in own] != [id(key) for key in kept]:  # their order is that of parameters
        own.clear()
    own.update(kept)


def _write(own: Any, kept: list) -> None:
    if isinstance(own, list):
        own[:] = kept
    else:
        own.clear()
        own.extend(kept)


def _exchange(own: set, kept: set) -> None:
    own.clear()
    own.update(kept)


def _end_workers(loader: Any) -> None:
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
