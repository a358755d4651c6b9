"""Input scale: the size of the features that enter the first layer with weights, and how unlike one another they are."""

from __future__ import annotations

import math

import torch
from torch import nn

from trimtab.records import Measured
from trimtab.signals.signal import Reading, Signal, some, unit_axis
from trimtab.structure import own

MOST = 128  # features of which the condition number is taken
ROWS = 5  # times as many rows as features: fewer make it look far worse than it is
GROWN = 1.25  # times as many rows as at the last time: eigenvalues cost more than all else here
ROUNDING = 1e-13  # of the largest eigenvalue: what is smaller is nothing but rounding


class Inputs(Signal):
    """The scale of the input features as the first layer with weights sees them.

    With ``r_j = sqrt(E[x_j^2])`` for feature j (the last axis; the channel axis for convolutions), constant zero
    features left out: ``input_largest = max_j r_j``, ``input_typical = median_j r_j`` and
    ``input_offset = median_j |E x_j| / std x_j``. For a linear layer the ratio of the first two bounds the condition
    number of its Hessian from below by its square (LeCun et al. 1998, "Efficient BackProp").

    ``input_condition`` is that condition number for the squared error: the largest over the smallest eigenvalue, zeros
    left out, of ``E[(x, 1) (x, 1)^T]``, the 1 being the bias. Over the rows of all sampled steps so far, from five
    times as many rows as features on; of more than 128 features it takes 128, whose condition number is a lower bound
    for that of all.
    """

    measures = (
        Measured(
            "input_largest",
            "input, largest feature",
            "Root mean square of the largest input feature; about 1 is usual.",
        ),
        Measured(
            "input_typical",
            "input, typical feature",
            "Median over the input features of their root mean square; about 1 is usual.",
        ),
        Measured(
            "input_offset",
            "input, offset",
            "Median over the input features of their mean relative to their spread; 0 is centred.",
        ),
        Measured(
            "input_condition",
            "input, condition number",
            "How unlike the input features are in size and direction: 1 is ideal, and gradient descent takes as many more steps as "
            "this is larger.",
        ),
    )
    cost = "one pass over the input batch, and products of up to 128 features with each other over 65 536 entries"

    def __init__(self) -> None:
        self._reading: dict[str, torch.Tensor] = {}
        self._done = False
        self._products = self._sums = torch.zeros(0, dtype=torch.float64)
        self._rows = self._last = 0

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if self._done or not own(module):
            return
        self._done = True
        x = inputs[0] if inputs else None
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 2 or x.shape[0] < 2:
            return
        axis = unit_axis(module, x)
        self._add(some(x).movedim(axis, -1).flatten(0, -2))
        x = x.detach().float().movedim(axis, -1).flatten(0, -2)
        size = x.square().mean(0).sqrt()
        size, mean, spread = size[size > 0], x.mean(0), x.std(0)
        if size.numel():
            offset = (mean.abs() / spread)[spread > 0]
            self._reading = {"input_largest": size.max(), "input_typical": size.median()}
            self._reading |= {"input_offset": offset.median()} if offset.numel() else {}

    def _add(self, rows: torch.Tensor) -> None:
        """Second moments in float64: the smallest eigenvalue is often less than float32's rounding of the largest."""
        few = rows[:, :: -(-rows.shape[1] // MOST)].cpu().double()
        sums = few.sum(0)
        if not math.isfinite(sums.sum()):
            return
        if sums.shape != self._sums.shape:
            self._sums, self._products = torch.zeros_like(sums), torch.zeros(len(sums), len(sums), dtype=sums.dtype)
            self._rows = self._last = 0
        self._sums += sums
        self._products.addmm_(few.T, few)
        self._rows += len(few)

    def read(self) -> Reading:
        reading = {name: float(value) for name, value in self._reading.items()}
        if self._done and self._rows >= max(ROWS * len(self._sums), GROWN * self._last, 1):
            self._last = self._rows
            bias = torch.cat([self._sums, self._sums.new_tensor([self._rows])])
            moments = torch.cat([torch.cat([self._products, self._sums[None]]), bias[:, None]], 1)
            eigenvalues = torch.linalg.eigvalsh(moments)
            least = eigenvalues[eigenvalues > ROUNDING * eigenvalues[-1]]
            reading["input_condition"] = float(eigenvalues[-1] / least[0])
        self._reading, self._done = {}, False
        return reading
