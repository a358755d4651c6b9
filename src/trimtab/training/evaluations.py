"""Evaluations of a training: losses that are not trained on, and the accuracies that go with them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from trimtab.reading.losses import LOSSES
from trimtab.training.places import CallPlace, Places


class Uses:
    """Which places of a script train and which evaluate.

    Whether a number is trained on shows when gradients come back to it, which is too late to ask. So a place is believed at first:
    what runs without gradients or in evaluation mode evaluates, and so does, after the first step, every new one whose
    code does not speak of training. A place whose number a gradient has come back to trains, whatever it looks like.
    """

    def __init__(self) -> None:
        self.trains: set[tuple] = set()
        self.stepped = False  # since a place was known to train
        self.sure: set[tuple] = set()  # places that evaluate with gradients, to which none came back for two steps

    def evaluates(self, place: CallPlace, training_mode: bool = True) -> bool:
        """Whether what happens at this place now is an evaluation, as far as can be told."""
        if not torch.is_grad_enabled():
            return True
        if place.key in self.trains:
            return False
        return not training_mode or (self.stepped and place.split != "train")

    def step(self) -> None:
        """A step is being made."""
        self.stepped = self.stepped or bool(self.trains)

    def follow(self, place: CallPlace, value: torch.Tensor) -> None:
        """Hear of it when a gradient comes back to a value of this place."""
        if place.key in self.trains or place.key in self.sure or not value.requires_grad:
            return
        trains, key = self.trains, place.key  # the hook must not keep more alive than it needs

        def came_back(gradient: torch.Tensor) -> None:
            trains.add(key)

        came_back.__torch_unserializable__ = True  # type: ignore[attr-defined]  # a loss that is saved warns of others
        value.register_hook(came_back)


@dataclass(frozen=True)
class Predictions:
    """Of one whole evaluation: which samples were predicted right, shape ``(N,)``, and what stands for their targets, in turn."""

    right: torch.Tensor
    targets: str


Hits = tuple[torch.Tensor, torch.Tensor]  # which predictions are right, and which count, both of bools
MOST = 1_000_000  # samples of which predictions are kept
TOGETHER = 64  # batches whose shares are reckoned at once
KEPT = 4096  # predictions of a batch that are kept for that


@dataclass
class _Sum:
    """Running means of one stream of evaluations, weighted by the number of samples.

    Of a batch that was just evaluated it keeps small tensors of its own: reckoning with many at once costs little more than with one.
    """

    losses: list[torch.Tensor | float] = field(
        default_factory=list
    )  # numbers of an accelerator are waited for at the end
    shares: list[torch.Tensor] = field(default_factory=list)  # of right predictions, of one batch or several
    hits: list[Hits] = field(default_factory=list)  # of the batches since
    judged: int = 0  # batches with shares or hits
    counts: list[int] = field(default_factory=list)
    doubtful: bool = False  # it was made with gradients, and one may come back yet
    steps: int = 0  # that it has waited for that
    keeps: bool = False  # whether each prediction is kept, and its target
    made: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def keep(self, hits: Hits, target: torch.Tensor) -> None:
        """The predictions of one batch, where they are: an accelerator is not waited for."""
        if hits[0].ndim != 1 or sum(self.counts) > MOST:  # pixels and words are no samples
            self.keeps = False
            self.made.clear()
        else:
            self.made.append((*hits, target.detach().clone()))

    def predictions(self) -> Predictions | None:
        """All of them; ``None`` where they are not kept, or not of every batch."""
        if not self.keeps or self.judged != len(self.counts):
            return None
        right, counts, targets = (torch.cat(parts).cpu() for parts in zip(*self.made, strict=True))
        digest = hashlib.sha256(targets.to(torch.float32).numpy().tobytes())
        return Predictions(right[counts], digest.hexdigest()[:16])

    def add(self, value: torch.Tensor, count: int, hits: Hits | None) -> None:
        """One batch, of ``count`` samples."""
        if value.numel() != 1:
            value = value.detach().double().mean()
        self.losses.append(value.item() if value.is_cpu else value.detach().double().reshape(()).clone())
        self.counts.append(count)
        if hits is not None:
            self.hits.append(hits)
            self.judged += 1
            if len(self.hits) >= TOGETHER or hits[0].numel() > KEPT:
                self._reckon()

    def _reckon(self) -> None:
        if self.hits:
            self.shares.append(_shares(self.hits))
            self.hits.clear()

    def means(self) -> Iterator[tuple[str, float]]:
        """``("loss", 0.31), ("accuracy", 0.92)``"""
        weights = torch.tensor(self.counts, dtype=torch.float64)
        weights /= weights.sum()
        tensors = [value for value in self.losses if isinstance(value, torch.Tensor)]
        waited = iter(torch.stack(tensors).tolist() if tensors else ())
        losses = [next(waited) if isinstance(value, torch.Tensor) else value for value in self.losses]
        yield "loss", float(torch.tensor(losses, dtype=torch.float64) @ weights)
        self._reckon()
        if self.judged == len(self.counts):
            yield "accuracy", float(torch.cat(self.shares).double().cpu() @ weights)


class PlaceNames:
    """Names for the places where a training is evaluated: ``val``, ``test``, ``val 2`` ..."""

    def __init__(self) -> None:
        self._names: dict[tuple, str] = {}

    def of(self, key: tuple) -> str:
        """The name of a place, by the key of a :class:`CallPlace`."""
        if key not in self._names:
            taken = sum(name.split()[0] == key[0] for name in self._names.values())
            self._names[key] = f"{key[0]} {taken + 1}" if taken else key[0]
        return self._names[key]


class Evaluations:
    """Gathers the evaluated losses between two updates into one evaluation per place in the code (see :class:`Places`)."""

    def __init__(self) -> None:
        self.places = Places()
        self.uses = Uses()
        self._sums: dict[tuple[tuple, bool], _Sum] = {}  # by place, and whether gradients were recorded
        self._lock = threading.RLock()  # models may be evaluated in threads
        self.keeps = False  # whether single predictions are asked for
        self.predictions: dict[tuple, Predictions] = {}  # of the last whole evaluation, by the key of its place

    def add(
        self,
        name: str,
        output: Any,
        target: Any,
        value: torch.Tensor,
        kwargs: dict[str, Any],
        frame: FrameType | None,
        training_mode: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Take in one loss call, unless it is trained on; whether it was taken. Cheap: the numbers stay tensors until they are asked for.

        ``frame`` is where it was called, ``training_mode()`` whether the model is in training mode.
        """
        graph = torch.is_grad_enabled()
        if not isinstance(target, torch.Tensor) or not isinstance(output, torch.Tensor) or value.requires_grad != graph:
            return False
        with self._lock:
            return self._add(name, output, target, value, kwargs, frame, training_mode)

    def _add(
        self, name: str, output: Any, target: Any, value: torch.Tensor, kwargs: dict[str, Any], frame: FrameType | None,
        training_mode: Callable[[], bool],
    ) -> bool:  # fmt: skip
        graph = value.requires_grad
        place = self.places.at(frame)
        if graph:
            self.uses.follow(place, value)
            if not self.uses.evaluates(place, training_mode()):
                return False
        elif place.split == "train" and place.by_function and not training_mode():
            place = place.unnamed  # def train(...) trains and evaluates in the end
        stream = self._sums.get((place.key, graph))
        if stream is None:
            stream = self._sums[place.key, graph] = _Sum(keeps=self.keeps)
        stream.doubtful = graph and place.key not in self.uses.sure
        count = max(1, target.shape[0] if target.ndim else 1)
        if kwargs.get("reduction") == "sum" or kwargs.get("size_average") is False:
            among = LOSSES[name].target == "classes" and not target.is_floating_point()
            value = value.detach() / (int((target != kwargs.get("ignore_index", -100)).sum()) if among else count)
        hits = _hits(name, output.detach(), target, kwargs.get("ignore_index", -100))
        stream.add(value, count, hits)
        if stream.keeps and hits is not None:
            stream.keep(hits, target)
        return True

    def close(self, over: bool = False) -> Iterator[tuple[tuple, str, float]]:
        """The finished evaluations, by the key of their place: ``(key, "loss", 0.31), (key, "accuracy", 0.92)``; begins anew.

        Those that may yet be trained on wait, unless all is ``over``.
        """
        with self._lock:
            finished = [at for at, stream in self._sums.items() if not stream.doubtful or over]
            streams = [(key, graph, self._sums.pop((key, graph))) for key, graph in finished]
        for key, graph, stream in streams:
            if not (graph and key in self.uses.trains):
                if (made := stream.predictions()) is not None:
                    self.predictions[key] = made
                yield from ((key, what, value) for what, value in stream.means())

    def step(self) -> None:
        """A step begins: no gradient comes back any more to what was evaluated two steps ago."""
        self.uses.step()
        for (key, graph), stream in list(self._sums.items()):
            if graph and key in self.uses.trains:
                del self._sums[key, graph]
            elif stream.doubtful and stream.steps:
                self.uses.sure.add(key)
                stream.doubtful = False
            stream.steps += 1


def accuracy(name: str, output: torch.Tensor, target: torch.Tensor, ignore: int = -100) -> torch.Tensor | None:
    """The share of right predictions where the loss is a classification's and the targets are classes, else ``None``.

    Shapes: ``output`` (N, C, ...) with ``target`` (N, ...) of class indices for the (cross-entropy) losses over classes;
    equal shapes with 0/1 targets for the binary ones.
    """
    hits = _hits(name, output.detach(), target, ignore)
    return None if hits is None else _share(hits)


def _hits(name: str, output: torch.Tensor, target: torch.Tensor, ignore: int) -> Hits | None:
    """Of an output without a graph."""
    meant = LOSSES[name].target
    if meant == "classes" and not target.is_floating_point():
        return torch.eq(output.argmax(1 if output.ndim > 1 else 0), target), torch.ne(target, ignore)
    if meant == "binary" and output.shape == target.shape:
        if not bool(((target == 0) | (target == 1)).all()):
            return None
        right = (output > (0.0 if LOSSES[name].output == "binary_logits" else 0.5)) == (target > 0.5)
        return right, torch.ones_like(right)
    return None


def _share(hits: Hits) -> torch.Tensor:
    right, counts = hits
    return (right & counts).sum().float() / counts.sum().float()


def _shares(hits: list[Hits]) -> torch.Tensor:
    """The share of each batch; those of one size are reckoned at once."""
    if len({right.shape for right, _ in hits}) > 1:
        return torch.stack([_share(one) for one in hits])
    right, counts = (torch.stack(some).reshape(len(hits), -1) for some in zip(*hits, strict=True))
    return (right & counts).sum(1).float() / counts.sum(1).float()
