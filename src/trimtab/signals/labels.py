"""Labels: whether the classes in a batch are more alike than in a batch of shuffled data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from trimtab.reading.losses import LOSSES
from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal

GROWN = 1.1  # times as many rows as at the last reading
LEAST = 8  # samples of a row of the table; smaller batches are put together


class Labels(Signal):
    """How much of the order of the data is an order of classes.

    ``label_grouping = (A - P) / (1 - P)`` with A the chance that two samples of one batch are of one class, and P that
    of any two samples: 0 for shuffled data, 1 where every batch has one class only. ``label_grouping_p`` is the chance
    that shuffling leaves as much: with ``n_bk`` samples of class k in sampled batch b, the statistic
    ``X^2 = sum_bk (n_bk - n_b n_k / n)^2 / (n_b n_k / n)`` has a known mean and variance when all orders are alike
    (Haldane 1940), and its tail is taken to be that of the gamma distribution that has both. Over all sampled steps so
    far, the first loss of each, where its targets are one class index for each sample.
    """

    measures = (
        Measured(
            "label_grouping",
            "label grouping",
            "How alike the classes in a batch are: 0 as in shuffled data, 1 one class in each batch.",
        ),
        Measured(
            "label_grouping_p",
            "label grouping, by chance",
            "Probability that shuffled data would have batches so unlike each other.",
        ),
    )
    cost = "counts of the classes of one batch"

    def __init__(self) -> None:
        self._sizes: tuple[int, ...] = ()  # of the first input of this step, where its samples may lie
        self._done = False
        self._row = np.zeros(0)  # counts that are too few for a row yet
        self._classes = np.zeros(0)  # n_k
        self._squares = np.zeros(0)  # sum_b n_bk^2 / n_b
        self._rows = self._last = 0
        self._inverse = self._alike = self._pairs = 0.0  # sums over rows of 1 / n_b, and of pairs of samples

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if not self._sizes and inputs and isinstance(inputs[0], torch.Tensor):
            self._sizes = tuple(inputs[0].shape[:2])

    def loss(self, name: str, output: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        if self._done:  # a second loss may be of another head
            return
        self._done = True
        counts = class_counts(name, output, target)
        # Tokens of a text, or pixels, are not shuffled one by one: more targets than samples.
        if counts is None or target.numel() not in self._sizes:
            return
        if len(self._classes) != len(counts):
            if len(self._classes):
                return
            self._row, self._classes, self._squares = (np.zeros(len(counts)) for _ in range(3))
        self._row += counts
        size = float(self._row.sum())
        if size < LEAST:
            return
        self._classes += self._row
        self._squares += self._row**2 / size
        self._rows += 1
        self._inverse += 1 / size
        self._alike += float((self._row * (self._row - 1)).sum())
        self._pairs += size * (size - 1)
        self._row = np.zeros(len(counts))

    def read(self) -> Reading:
        self._sizes, self._done = (), False
        if self._rows < max(2, GROWN * self._last):
            return {}
        present = self._classes > 0
        classes, n = self._classes[present], float(self._classes.sum())
        if len(classes) < 2:
            return {}
        self._last = self._rows
        shuffled = float((classes * (classes - 1)).sum()) / (n * (n - 1))
        found = n * (float((self._squares[present] / classes).sum()) - 1)
        return {
            "label_grouping": (self._alike / self._pairs - shuffled) / (1 - shuffled),
            "label_grouping_p": tail(found, n, self._rows, self._inverse, len(classes), float((1 / classes).sum())),
        }


def class_counts(name: str, output: torch.Tensor, target: Any) -> np.ndarray | None:
    """How many samples of each class, where targets are classes; ``None`` for other losses."""
    meant = LOSSES[name].target
    if meant == "classes":
        if output.ndim == 2 and target.ndim == 1 and not target.is_floating_point():
            labels = target.cpu().numpy()
            return np.bincount(labels[labels >= 0], minlength=output.shape[1])
    elif meant == "binary" and output.shape == target.shape:
        labels = target.detach().reshape(-1).float().cpu().numpy()
        if ((labels == 0) | (labels == 1)).all():
            return np.bincount(labels.astype(int), minlength=2)
    return None


def tail(found: float, n: float, rows: int, inverse_rows: float, columns: int, inverse_columns: float) -> float:
    """The probability of a chi-square statistic of at least ``found`` when the margins of a table of n samples are
    fixed.

    Its exact mean and variance (Haldane 1940, in Dawson's form), with the gamma distribution of that mean and variance.
    ``inverse_rows`` and ``inverse_columns`` are the sums of 1 over the margins.
    """
    if n < 4:
        return 1.0
    of_rows, of_columns = ((k - 1) * (n - k) / (n - 1) for k in (rows, columns))
    uneven_rows = (n * inverse_rows - rows**2) / (n - 2)
    uneven_columns = (n * inverse_columns - columns**2) / (n - 2)
    mean = n / (n - 1) * (rows - 1) * (columns - 1)
    variance = 2 * n / (n - 3) * (of_rows - uneven_rows) * (of_columns - uneven_columns)
    variance += n**2 / (n - 1) * uneven_rows * uneven_columns
    if variance <= 0:
        return 1.0
    shape, x = torch.tensor([mean**2 / variance, max(0.0, found * mean / variance)], dtype=torch.float64)
    return float(torch.special.gammaincc(shape, x))
