"""Models of many seeds on each other: how they are made, trained in one pass, and compared with what each does by itself."""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
import math
import pickle
import random
import sys
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from trimtab.training import Training, shifted
from trimtab.training.loop import Pair, batches, held_out_loss
from trimtab.training.stage import Hearer, stage
from trimtab.trial.run import Job
from trimtab.trial.subjects import Task

TRIED = 3  # steps that are made both ways
ITEMS = 1000  # of a container that are looked at
BESIDE = 0.3  # seconds that a trial takes beside its steps
CLOSE = 1e-4  # of the largest entry: what a sum in another order may change
SAME = 1e-6  # of the largest entry: what one step may, from equal weights and gradients
OPTIMIZERS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "WindowAdadelta", "RMSprop")
"""Those of torch and of ours that move each entry of a weight by itself."""
RANDOM = "random numbers are drawn while it trains"


class CannotStackError(Exception):
    """Trials that have to run by themselves, with the reason."""


@dataclass
class Seed:
    """What the trial of one seed begins with; ``order`` draws its batches."""

    number: int
    train: Pair
    held_out: Pair
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it begins with, in numbers."""
        return [*self.train, *self.held_out, *self.model.parameters(), *self.model.buffers(), self.order.get_state()]


def begun(task: Task, numbers: Sequence[int], hosts: int) -> tuple[list[Seed], list[Seed]]:
    """Each seed as its trial begins, and the first made some more times, to host stacks: what it has then must not come of those in between."""
    seeds: list[Seed] = []
    ear, optimizers = Ear(), list[torch.optim.Optimizer]()
    for number in (*numbers, *[numbers[0]] * hosts):
        optimizers.clear()
        with contextlib.ExitStack() as ends:
            ends.callback(stage.hear(ear))
            ends.callback(stage.taps.listen("optimizer", optimizers.append))
            with shifted(number):
                (train, held_out), model, optimizer = task.made()
                order = torch.Generator().set_state(torch.get_rng_state())
            stage.close_evaluations(over=True)
        if ear.taken() or len(optimizers) != 1 or optimizers[0] is not optimizer:
            raise CannotStackError("something else is trained or evaluated before")
        if not all(isinstance(one, torch.Tensor) for one in (*train, *held_out)):
            raise CannotStackError("its data are not tensors")
        first = (seeds[0].train, seeds[0].held_out) if seeds else (None, None)
        train, held_out = map(_own, (train, held_out), first)
        seeds.append(Seed(number, train, held_out, model, optimizer, order))
    seeds, made_again = seeds[: len(numbers)], seeds[len(numbers) :]
    for one in made_again:
        if len(one.tensors) != len(seeds[0].tensors) or not all(map(_equal, seeds[0].tensors, one.tensors)):
            raise CannotStackError("its functions give something else when they are called once more in a process")
    return seeds, made_again


def _own(pair: Pair, first: Pair | None) -> Pair:
    """Tensors that nobody else writes to; those of the first seed, where they are the same."""
    if first is None:
        return pair[0].clone(), pair[1].clone()
    inputs, targets = (of if _equal(one, of) else one.clone() for one, of in zip(pair, first, strict=True))
    return inputs, targets


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


class Stacked:
    """The models of all seeds in one: ``host``, one more of them. Its parameters are stacked by :meth:`stack`, in place: who has looked at
    them before, an optimizer or a technique, has found what each model has, and goes on with all.

    Attributes:
        model: has the parameters, and is never called: its copy is.
        optimizer: the host's own.
    """

    def __init__(self, task: Task, seeds: Sequence[Seed], host: Seed) -> None:
        for seed in seeds:
            _check(seed, seeds[0])
        self.model, self.optimizer = host.model, host.optimizer
        self._seeds = seeds
        self._called = called = copy.deepcopy(host.model)
        self._parameters, self._buffers = dict(host.model.named_parameters()), dict(host.model.named_buffers())
        self._inputs, inputs = _joined([seed.train[0] for seed in seeds])
        self._targets, targets = _joined([seed.train[1] for seed in seeds])
        self._held_out, held_out = _joined([seed.held_out[0] for seed in seeds])
        self._own, self._rows = (inputs is not None, targets is not None), torch.arange(len(seeds)).unsqueeze(1)

        def output(parameters: Any, buffers: Any, x: torch.Tensor) -> torch.Tensor:
            return functional_call(called, (parameters, buffers), (x,))

        self._losses = vmap(lambda parameters, buffers, x, y: task.loss(output(parameters, buffers, x), y))
        self._outputs = vmap(output, in_dims=(0, 0, held_out))

    def stack(self) -> None:
        """Put the parameters and buffers of all seeds, and what their optimizers keep of them, in the place of the host's."""
        models = [seed.model for seed in self._seeds]
        parameters = [dict(model.named_parameters()) for model in models]
        buffers = [dict(model.named_buffers()) for model in models]
        for name, host in self._parameters.items():
            kept = [seed.optimizer.state.get(of[name], {}) for seed, of in zip(self._seeds, parameters, strict=True)]
            for key in (key for key in kept[0] if key != "step"):
                self.optimizer.state[host][key] = torch.stack([state[key] for state in kept])
            host.data = torch.stack([of[name].detach() for of in parameters])
        self._buffers = {name: torch.stack([of[name] for of in buffers]) for name in self._buffers}

    def backward(self, places: torch.Tensor) -> torch.Tensor:
        """Put the gradients of one batch in place; the loss of each seed. ``places`` are those of the samples, (seeds, batch)."""
        self._called.train()
        self.optimizer.zero_grad()
        x, y = (
            data[self._rows, places] if own else data[places]
            for data, own in zip((self._inputs, self._targets), self._own, strict=True)
        )
        losses = self._losses(self._parameters, self._buffers, x, y)
        losses.backward(torch.ones_like(losses))  # their sum would be taken for the loss of the training
        return losses.detach()

    def held_out_outputs(self) -> torch.Tensor:
        """What each seed gives for the data that it is not trained on."""
        self._called.eval()
        with torch.no_grad():
            return self._outputs(self._parameters, self._buffers, self._held_out)

    def of(self, place: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """The parameters of one seed and their gradients, and its buffers."""
        for name, one in self._parameters.items():
            yield name, one.detach()[place], None if one.grad is None else one.grad[place]
        for name, buffer in self._buffers.items():
            yield name, buffer[place], None


def _joined(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, int | None]:
    """The one tensor that all seeds have, or theirs along a new first axis; and that axis."""
    if all(one is tensors[0] for one in tensors):
        return tensors[0], None
    return torch.stack(list(tensors)), 0


def _check(seed: Seed, first: Seed) -> None:
    """Refuse what a stack would not do as the seed does by itself."""
    model, optimizer, kind = seed.model, seed.optimizer, type(seed.optimizer)
    if _shape(seed) != _shape(first):
        raise CannotStackError("its models or its optimizers differ from seed to seed")
    hooks: list[Any] = [one._backward_hooks or one._backward_pre_hooks for one in model.modules()]
    hooks += [one._backward_hooks or one._post_accumulate_grad_hooks for one in model.parameters()]
    hooks += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, "step" in vars(optimizer)]
    if any(hooks):
        raise CannotStackError("something is hooked into its gradients or its steps")
    if kind.__name__ not in OPTIMIZERS or not kind.__module__.startswith(("torch.optim.", "trimtab.optim.")):
        raise CannotStackError(f"{kind.__name__} is not known to move each entry of a weight by itself")
    if any(group.get("nonfinite", "mask") != "mask" for group in optimizer.param_groups):
        raise CannotStackError(f"its {kind.__name__} leaves out whole steps")
    known = {id(one) for one in model.parameters()}
    if not all(id(one) in known for group in optimizer.param_groups for one in group["params"]):
        raise CannotStackError(f"its {kind.__name__} trains tensors that are no parameters of the model")


def _shape(seed: Seed) -> tuple:
    """What has to be the same for all seeds of a stack."""
    parameters = {id(one): name for name, one in seed.model.named_parameters()}
    groups = [
        {**group, "params": [parameters.get(id(one)) for one in group["params"]]}
        for group in seed.optimizer.param_groups
    ]
    tensors = [
        (name, one.shape, one.dtype, one.device, one.requires_grad)
        for name, one in (*seed.model.named_parameters(), *seed.model.named_buffers())
    ]
    return type(seed.optimizer), groups, tensors


def epoch(task: Task, seeds: Sequence[Seed]) -> Iterator[torch.Tensor]:
    """The places of the samples of each batch, (seeds, batch), each seed's in its own order."""
    drawn = [batches(len(seed.train[0]), task.batch_size, seed.order) for seed in seeds]
    return map(torch.stack, zip(*drawn, strict=True))


def try_both_ways(stacked: Stacked, task: Task, job: Job, seeds: Sequence[Seed]) -> None:
    """Make the first steps of every seed both ways, and evaluate it. The models of the seeds, which are not used any more, go along.

    Losses and gradients come of equal weights, and steps of equal gradients, so that each may differ by its own rounding only.
    """
    before, orders = drawn(), [seed.order.get_state() for seed in seeds]
    pairs = [(one.model, one.optimizer) for one in seeds] + [(stacked.model, stacked.optimizer)]
    trainings = [Training([model], [optimizer]).apply(job.recipe) for model, optimizer in pairs if job.recipe]
    stacked.stack()
    ours, theirs = _Clock(), _Clock()
    for places in itertools.islice(epoch(task, seeds), TRIED):
        with ours:
            losses = stacked.backward(places)
        for place, seed in enumerate(seeds):
            with theirs:
                seed.model.train()
                seed.optimizer.zero_grad()
                inputs, targets = (one[places[place]] for one in seed.train)
                loss = task.loss(seed.model(inputs), targets)
                loss.backward()
            _compare("loss", losses[place], loss.detach(), CLOSE)
            its = dict(seed.model.named_parameters())
            scale = max((_largest(one.grad) for one in its.values() if one.grad is not None), default=0.0)
            for name, _, gradient in stacked.of(place):
                if name in its:
                    _compare(f"gradient of {name}", gradient, its[name].grad, CLOSE, scale)
                    its[name].grad = None if gradient is None else gradient.clone()
            seed.optimizer.step()
        stacked.optimizer.step()
        for place, seed in enumerate(seeds):
            weights, others = dict(seed.model.named_parameters()), dict(seed.model.named_buffers())
            for name, tensor, _ in stacked.of(place):
                _compare(name, tensor, weights.get(name, others.get(name)), SAME if name in weights else CLOSE)
    for seed, output in zip(seeds, stacked.held_out_outputs(), strict=True):
        seed.model.eval()
        by_itself = held_out_loss(seed.model, seed.held_out, task.loss)
        _compare("held-out loss", torch.tensor(loss_of(task, seed, output)), torch.tensor(by_itself), CLOSE)
    for training in trainings:
        training.close()
    if drawn() != before:
        raise CannotStackError(RANDOM)
    whole = task.epochs * math.ceil(len(seeds[0].train[0]) / task.batch_size)
    steps = min(whole, job.steps or whole)
    if steps * ours.shortest > len(seeds) * (BESIDE + steps * theirs.shortest):
        raise CannotStackError("its steps take no less time together than one after the other")
    for seed, order in zip(seeds, orders, strict=True):
        seed.order.set_state(order)


def _compare(
    what: str, ours: torch.Tensor | None, theirs: torch.Tensor | None, share: float, scale: float = 0.0
) -> None:
    """Refuse numbers that differ by more than a share of their largest entry, or of ``scale``."""
    if ours is None and theirs is None:
        return
    if ours is not None and theirs is not None and ours.shape == theirs.shape:
        bound = share * max(scale, _largest(theirs))
        if torch.allclose(ours.detach().double(), theirs.detach().double(), rtol=0.0, atol=bound, equal_nan=True):
            return
    raise CannotStackError(f"stacked, its {what} is another one in the first steps")


class _Clock:
    """The shortest of several times, of the processor: the first one of something has more to do."""

    shortest = math.inf

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.shortest = min(self.shortest, time.process_time() - self._began)


def _largest(tensor: torch.Tensor) -> float:
    """The largest finite entry, by its size."""
    return tensor.detach().double().nan_to_num(0.0, 0.0, 0.0).abs().max().item() if tensor.numel() else 0.0


def loss_of(task: Task, seed: Seed, output: torch.Tensor) -> float:
    """The held-out loss of one seed, from what its model gives."""
    return held_out_loss(lambda inputs: output, seed.held_out, task.loss)


class Ear(Hearer):
    """Hears what is measured at an evaluation."""

    def __init__(self) -> None:
        self._heard: list[tuple[str, float]] = []

    def evaluation(self, training: Any, name: str, value: float) -> None:
        self._heard.append((name, value))

    def taken(self) -> list[tuple[str, float]]:
        """What was heard since this was asked last."""
        heard, self._heard = self._heard, []
        return heard


def kept_by(task: Task, model: nn.Module) -> tuple:
    """What the functions of a task may count on: the state of what can be called, and all numbers that the modules which they are from, and
    their classes and containers, hold."""
    called = [getattr(one, "func", one) for one in (task.model, task.data, task.loss, task.optimizer)]
    names = {getattr(one, "__module__", "") for one in (*called, *(type(part) for part in model.modules()))}
    modules = [sys.modules[name] for name in sorted(names & sys.modules.keys()) if not name.startswith("torch.")]
    return pickle.dumps(task), [numbers_in(vars(one), {one.__name__ for one in modules}) for one in modules]


def numbers_in(what: Any, own: set[str], deep: int = 4) -> Any:
    """The numbers and texts in containers, and in objects and classes of the modules named ``own``, as they are now.

    >>> numbers_in({"seen": 3, "all": [1.5, {"loss": 2}], "model": torch.nn.Linear(1, 1)}, set())
    (('seen', 3), ('all', ((0, 1.5), (1, (('loss', 2),)))))
    """
    if isinstance(what, (int, float, str, bytes)):
        return what
    if not deep:
        return None
    if isinstance(what, (list, tuple, collections.deque)):
        what = dict(enumerate(what))
    elif isinstance(what, (set, frozenset)):
        what = dict.fromkeys(map(repr, what), True)
    elif isinstance(what, (type, types.FunctionType)) or not isinstance(what, Mapping):
        kind = what if isinstance(what, (type, types.FunctionType)) else type(what)
        if kind.__module__ not in own or isinstance(what, nn.Module):
            return None
        what = dict(getattr(what, "__dict__", {}))
        cells = getattr(kind, "__closure__", None) or ()
        what |= {f"closure {n}": cell.cell_contents for n, cell in enumerate(cells) if has_contents(cell)}
    found = ((key, numbers_in(value, own, deep - 1)) for key, value in list(what.items())[:ITEMS])
    return tuple((key, value) for key, value in found if value is not None)


def has_contents(cell: Any) -> bool:
    """Whether a variable that a function shares has a value."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def drawn() -> tuple:
    """Where the random generators stand that all code of this process shares."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2], torch.get_rng_state().numpy().tobytes()
