"""Targets: what the losses of a training say of its task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from trimtab.reading.losses import LOSSES
from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal

COLUMNS = 4096  # outputs, or classes, that are told apart at most
CLOSE = 0.1  # of a loss: what is trained on may have so much besides, such as a penalty
IGNORED = -100  # torch's mark of a target that does not count


class Targets(Signal):
    """How many targets a batch has, of how many classes, and what answering without looking would cost.

    ``constant_loss`` is the loss of the best answer that ignores the input, over all targets seen so far: the entropy of the
    class frequencies for cross entropy, :math:`-\\sum_k p_k \\log p_k`, that of the mean target for binary cross entropy and the
    variance of the targets for the squared error, both as means over the outputs. A training that stays there has learned nothing from its
    inputs. It is said only of a plain mean over all targets, and only where the training starts from it: a loss that is divided,
    weighed, smoothed or summed up, or one part of several, is of another size.
    """

    measures = (
        Measured("batch_size", "batch size", "Targets of one loss.", of="training"),
        Measured("classes", "classes", "That a target can be of.", of="training"),
        Measured("constant_loss", "constant loss", "Of the best answer that ignores the input.", of="training"),
    )
    cost = "the loss of one batch, and sums over its targets"
    alone = False

    def __init__(self) -> None:
        self._known: dict[tuple, _Sums] = {}  # of the targets, by loss and outputs
        self._value: torch.Tensor | None = None  # what the loss function gave on this step
        self._comparable: bool | None = None  # with what was trained on
        self._read: dict[str, float] = {}

    def loss(self, name: str, output: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        if target.ndim:
            self._read["batch_size"] = float(target.shape[0])
        if LOSSES[name].likelihood and output.ndim > 1 and not target.is_floating_point():
            self._read["classes"] = float(output.shape[1])
        self._value = value.detach().mean() if value.is_floating_point() else None
        losses = plain_losses(name, output.detach(), target)
        if (
            losses is None
            or self._value is None
            or not bool(torch.isclose(losses.mean(), self._value.to(losses), rtol=1e-3))
        ):
            self._comparable = self._comparable or False
            return
        constant = self._constant(name, output, target)
        if constant is not None:
            self._read["constant_loss"] = constant

    def _constant(self, name: str, output: torch.Tensor, target: torch.Tensor) -> float | None:
        """What the best constant answer would have had."""
        if LOSSES[name].likelihood:
            rows = F.one_hot(target[target != IGNORED].reshape(-1), output.shape[1])
        else:
            rows = target.reshape(len(target), -1)
        if not 0 < rows.shape[1] <= COLUMNS or not len(rows):
            return None
        key = (name, rows.shape[1])
        if key not in self._known:
            self._known[key] = _Sums(
                rows[0].double().cpu() if name == "mse_loss" else torch.zeros(rows.shape[1]).double()
            )
        known = self._known[key].with_rows(rows.detach().double().cpu())
        if name == "mse_loss":
            return float(known.variance.mean())
        shares = known.mean if LOSSES[name].likelihood else torch.stack([known.mean, 1 - known.mean])
        entropy = -torch.xlogy(shares, shares).sum(0)
        return float(entropy.mean())

    def trained(self, loss: torch.Tensor) -> None:
        if self._comparable is None and self._value is not None:
            value, trained = float(self._value), float(loss)
            self._comparable = abs(trained - value) <= CLOSE * abs(value)
        self._value = None

    def read(self) -> Reading:
        read, self._read = self._read, {}
        if not self._comparable:
            read["constant_loss"] = math.nan  # what was said before a loss was compared does not hold
        return read


def plain_losses(name: str, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """The loss of each target that counts, without weights, smoothing or a mark of our own; ``None`` for losses that are not followed."""
    if LOSSES[name].likelihood and output.ndim > 1 and not target.is_floating_point():
        counts = target != IGNORED
        logs = output.float().log_softmax(1) if name == "cross_entropy" else output.float()
        return -logs.gather(1, torch.where(counts, target, 0).unsqueeze(1)).squeeze(1)[counts]
    if output.shape != target.shape or not target.is_floating_point() or target.numel() < 2 or not target.ndim:
        return None
    output, target = output.float(), target.detach().float()
    if name == "mse_loss":
        return (output - target).square()
    if name == "binary_cross_entropy_with_logits":
        return F.softplus(output) - output * target
    if name == "binary_cross_entropy":
        return -(target * output.log().clamp(min=-100) + (1 - target) * (1 - output).log().clamp(min=-100))
    return None


@dataclass
class _Sums:
    """Sums over the rows of a table, of their distances from one row, which keeps them small."""

    origin: torch.Tensor
    count: int = 0
    total: torch.Tensor | float = 0.0
    squares: torch.Tensor | float = 0.0

    def with_rows(self, rows: torch.Tensor) -> _Sums:
        moved = rows - self.origin
        self.count += len(rows)
        self.total = self.total + moved.sum(0)
        self.squares = self.squares + moved.square().sum(0)
        return self

    @property
    def mean(self) -> torch.Tensor:
        return self.origin + self.total / self.count

    @property
    def variance(self) -> torch.Tensor:
        return torch.as_tensor(self.squares / self.count - (self.total / self.count) ** 2)
