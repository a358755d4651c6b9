"""Input scale: the size of the features that enter the first layer with weights, and how unlike one another they are."""

from __future__ import annotations

import torch
from torch import nn

from trimtab.signals.signal import Reading, Signal, unit_axis


class Inputs(Signal):
    """The scale of the input features as the first layer with weights sees them.

    With ``r_j = sqrt(E[x_j^2])`` for feature j (the last axis; the channel axis for convolutions), constant zero features
    left out: ``input_largest = max_j r_j``, ``input_typical = median_j r_j`` and
    ``input_offset = median_j |E x_j| / std x_j``. For a linear layer the ratio of the first two bounds the condition number
    of its Hessian from below by its square (LeCun et al. 1998, "Efficient BackProp").
    """

    measures = {
        "input_largest": "root mean square of the largest input feature",
        "input_typical": "median over features of the root mean square",
        "input_offset": "median over features of |mean| / standard deviation",
    }
    cost = "one pass over the input batch"

    def __init__(self) -> None:
        self._reading: dict[str, torch.Tensor] = {}
        self._done = False

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if self._done or not any(True for _ in module.parameters(recurse=False)):
            return
        self._done = True
        x = inputs[0] if inputs else None
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 2 or x.shape[0] < 2:
            return
        x = x.detach().float().movedim(unit_axis(module, x), -1).flatten(0, -2)
        size = x.square().mean(0).sqrt()
        size, mean, spread = size[size > 0], x.mean(0), x.std(0)
        if size.numel():
            offset = (mean.abs() / spread)[spread > 0]
            self._reading = {"input_largest": size.max(), "input_typical": size.median()}
            self._reading |= {"input_offset": offset.median()} if offset.numel() else {}

    def read(self) -> Reading:
        reading = {name: float(value) for name, value in self._reading.items()}
        self._reading, self._done = {}, False
        return reading
