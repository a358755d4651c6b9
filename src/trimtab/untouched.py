"""What leaves no trace: a stretch of training after which everything is put back, calls that are none of the training's, and the random
numbers of a call made again."""

from __future__ import annotations

import contextlib
import operator
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
_PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
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

    It takes the memory of a second copy of models, optimizers and gradients. A graph that waits for its backward stays good, unless
    an optimizer stepped inside. Objects of other classes inside of modules are not looked into.

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
    keeper = _Keeper()
    keeper.note(Draws().put_back)
    try:
        for thing in things:
            keeper.keep_thing(thing)
        yield
    finally:
        keeper.put_back()


class Draws:
    """Where all random numbers came from when this was made: torch's generators (of the CPU and of all CUDA devices), numpy's and Python's,
    and those given. As a context it leaves them there.

    >>> draws = Draws()
    >>> one = torch.rand(3)
    >>> draws.put_back()
    >>> torch.equal(torch.rand(3), one)
    True
    """

    def __init__(self, *generators: Any) -> None:
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._others = [_state_of(generator) for generator in generators]

    def put_back(self) -> None:
        """Let the same random numbers be drawn once more."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        for put, *state in self._others:
            put(*state)

    def __enter__(self) -> Draws:
        return self

    def __exit__(self, *error: object) -> None:
        self.put_back()


def generators_in(model: nn.Module) -> list[Any]:
    """The random generators of their own that modules draw from, also those in lists."""
    own, found = set(_GENERATORS), []
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in own:
                found.append(value)
            elif type(value) in (list, tuple):
                found += [one for one in value if type(one) in own]
    return found


@contextlib.contextmanager
def beside_training(model: nn.Module) -> Iterator[None]:
    """Around calls of a model that are none of its training's: nothing is kept for a backward pass; afterwards every module is in its mode.

    Gradients are enabled inside, since modules that a technique put in take their absence for an evaluation; but no parameter asks for one.

    >>> model = nn.Dropout()
    >>> with beside_training(model):
    ...     _ = model.eval()
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def precision_now(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Makes the context of mixed precision that holds now. Without its cache: that has the weights as they were at first."""
    on, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    def again() -> contextlib.AbstractContextManager[Any]:
        if on:
            return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
        on_now = torch.is_autocast_enabled(device.type)
        return torch.autocast(device.type, enabled=False) if on_now else contextlib.nullcontext()

    return again


class _Keeper:
    """Walks through things, and notes for everything that can change how to put it back."""

    def __init__(self) -> None:
        self._notes: list[tuple[Any, ...]] = []
        self._empty: list[dict] = []  # most of what modules have
        self._seen: dict[int, Any] = {}

    def note(self, *how: Any) -> None:
        """A function, and what it is called with to put something back."""
        self._notes.append(how)

    def put_back(self) -> None:
        """Put all of it back, the last first; also where one thing cannot be put back, or at another Ctrl-C."""
        problem: BaseException | None = None
        self._notes += ((own.clear,) for own in self._empty if own)
        with torch.no_grad():
            while self._notes:
                try:
                    put, *how = self._notes[-1]
                    put(*how)
                except BaseException as error:  # what is left is put back all the same
                    problem = problem or error
                self._notes.pop()
        if problem is not None:
            raise problem

    def keep_thing(self, thing: Any) -> None:
        """Something that was asked for: its attributes, whatever its class."""
        if isinstance(thing, (*_GENERATORS, torch.Tensor, nn.Module)) or not hasattr(thing, "__dict__"):
            self.keep(thing)
        elif hasattr(type(thing), "__iter__"):
            self._data(thing)
        elif self._is_new(thing):
            self.keep(vars(thing))

    def keep(self, found: Any) -> None:
        """Something that was found, and what is in it; objects of unknown classes are left alone."""
        left, seen, note = [found], self._seen, self._notes.append
        while left:
            value = left.pop()
            if type(value) in _PLAIN or id(value) in seen:
                continue
            seen[id(value)] = value  # so that no other thing gets its id
            if isinstance(value, dict):
                if value:
                    note((_refill, value, dict(value)))
                    left += value.values()
                    for (
                        key,
                        one,
                    ) in value.items():  # of a graph: to be added to in place, a copy of it stands there meanwhile
                        if isinstance(one, torch.Tensor) and not one.is_leaf and not one.is_inference():
                            with torch.enable_grad():
                                value[key] = one.clone()
                else:
                    self._empty.append(value)
            elif isinstance(value, torch.Tensor):
                self._tensor(value)
            elif isinstance(value, (nn.Module, torch.optim.Optimizer)):
                left.append(vars(value))
            elif isinstance(value, (list, deque)):
                note((_write, value, list(value)))
                left += value
            elif isinstance(value, (tuple, frozenset)):
                left += value
            elif isinstance(value, set):
                note((_exchange, value, set(value)))
            elif isinstance(value, np.ndarray):
                note((np.copyto, value, value.copy()))
            elif isinstance(value, _GENERATORS):
                note(_state_of(value))

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
        self.note(_copy, tensor, tensor.detach().clone())
        self.note(tensor.requires_grad_, tensor.requires_grad)
        self.note(setattr, tensor, "grad", tensor.grad)
        if tensor.grad is not None:
            self.keep(tensor.grad)

    def _data(self, source: Any) -> None:
        """A data loader and what it is made of: generators and attributes, but none of the data."""
        if isinstance(source, nn.Module):
            self.keep(source)
        if not hasattr(source, "__dict__") or not self._is_new(source):
            return
        own = vars(source)
        self.note(_refill, own, dict(own))
        if isinstance(source, DataLoader) and source.persistent_workers:
            self.note(_end_workers, source)
            source._iterator = None
        for value in own.values():
            if isinstance(value, _GENERATORS):
                self.keep(value)
        for name in _PARTS:
            self._data(own.get(name))
        for step in own.get("transforms", ()) if isinstance(own.get("transforms"), (list, tuple)) else ():
            self._data(step)


def _state_of(generator: Any) -> tuple[Any, ...]:
    """How to bring a generator back to where it is now: a function, and what it is to be called with."""
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        return generator.set_state, generator.get_state()
    if isinstance(generator, np.random.Generator):
        return setattr, generator.bit_generator, "state", generator.bit_generator.state
    return generator.setstate, generator.getstate()


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether several entries share one place (``expand``): nothing can write there."""
    return tensor.layout == torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _copy(tensor: torch.Tensor, value: torch.Tensor) -> None:
    # Written uncounted, where that can be: graphs that wait for their backward were made with this value and stay good.
    (tensor.data if tensor.layout == torch.strided else tensor).copy_(value)


def _refill(own: dict, kept: dict) -> None:
    if len(own) != len(kept) or any(map(operator.is_not, own, kept)):
        own.clear()  # the order of keys is that of parameters
    if type(own) is dict:
        own.update(kept)
        return
    for key, value in kept.items():  # to update a Counter is to add
        own[key] = value


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
