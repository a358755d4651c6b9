"""Targets: what the losses of a training say of its task."""

from __future__ import annotations

import math

import torch

from trimtab.reading.losses import LOSSES
from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal


class Targets(Signal):
    """How many targets a batch has, of how many classes, and what answering without looking would cost.

    ``constant_loss`` is the loss of the best answer that ignores the input: the entropy of the class frequencies,
    ``-sum_k p_k log p_k``, or the variance of the targets; over all targets seen so far. A training that stays there has learned
    nothing from its inputs. It is said only where the training starts from what the loss function gave: a loss that is divided,
    weighed or summed up, or one part of several, is of another size.
    """

    measures = (
        Measured("batch_size", "batch size", "Targets of one loss.", of="training"),
        Measured("classes", "classes", "That a target can be of.", of="training"),
        Measured("constant_loss", "constant loss", "Of the best answer that ignores the input.", of="training"),
    )
    cost = "counts of the classes, or two sums, of the targets of one batch"
    alone = False

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], torch.Tensor] = {}  # of the targets, by task: class counts, or moments
        self._value: torch.Tensor | None = None  # what the loss function gave on this step
        self._comparable: bool | None = None  # with what was trained on
        self._read: dict[str, float] = {}

    def loss(self, name: str, output: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        if target.ndim:
            self._read["batch_size"] = float(target.shape[0])
        self._value = value.detach() if value.numel() == 1 else None
        if LOSSES[name].likelihood and output.ndim > 1 and not target.is_floating_point():
            self._read["classes"] = float(output.shape[1])
            known = self._with(name, torch.bincount(target[target >= 0].reshape(-1).cpu(), minlength=output.shape[1]))
            shares = known[known > 0] / known.sum()
            self._read["constant_loss"] = float(-(shares * shares.log()).sum())
        elif name == "mse_loss" and target.numel() > 1 and target.is_floating_point():
            numbers = target.detach().double()
            moments = [torch.tensor(float(target.numel())), numbers.sum().cpu(), numbers.square().sum().cpu()]
            count, total, squares = self._with(name, torch.stack(moments)).tolist()
            self._read["constant_loss"] = squares / count - (total / count) ** 2

    def _with(self, name: str, more: torch.Tensor) -> torch.Tensor:
        """What is known of the targets of one task; a head with other classes begins another."""
        key = (name, len(more))
        self._known[key] = more + self._known.get(key, torch.zeros_like(more))
        return self._known[key]

    def trained(self, loss: torch.Tensor) -> None:
        if self._comparable is None and self._value is not None:
            value, trained = float(self._value), float(loss)
            self._comparable = 0.5 * abs(value) <= abs(trained) <= 2 * abs(value)
        self._value = None

    def read(self) -> Reading:
        read, self._read = self._read, {}
        if self._comparable is False:
            read["constant_loss"] = math.nan  # what was said before a loss was compared does not hold
        return read
