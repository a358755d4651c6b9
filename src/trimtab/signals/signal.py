"""What all signals share: the moments of a sampled step at which they may look, and how they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from trimtab.records import Measured

Reading = Mapping[str, float | Mapping[str, float]]
"""What a signal read in one step: a number (a series of the record, or one of the training) or a number per layer (a profile)."""

THIN = 4096


class Signal:
    """One measured quantity of a training.

    On a sampled step the watch calls, in this order, :meth:`forward` for every layer that runs with gradients,
    :meth:`loss` for every loss of theirs, :meth:`gradients` when they are complete, :meth:`before_step` and
    :meth:`after_step` around the update, :meth:`trained` and :meth:`read`. Tensors are handed over as they are: a signal must neither
    change nor keep them, and must draw no random number. Derive, implement what is needed, and add one line to
    ``signals/__init__.py``.

    Class attributes:
        measures: the series and profiles it reads, with their titles and meanings; the record of a run carries them.
        cost: what it costs on a sampled step, in words.
        remembers: whether what it reads is counted over steps, so that it is read again without a new one.
        alone: whether :meth:`loss` is told only where a run has one model and one optimizer; else it may be the loss of another network.
    """

    measures: ClassVar[tuple[Measured, ...]] = ()
    cost: ClassVar[str] = ""
    remembers: ClassVar[bool] = False
    alone: ClassVar[bool] = True

    def forward(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        """A layer has run; called once a step and layer, with the first tensor of its output."""

    def loss(self, name: str, output: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        """A loss of ``torch.nn.functional`` was evaluated, with this value (shape ``()`` unless it is not reduced)."""

    def gradients(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Gradients of this step are complete, and no update has been made."""

    def before_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        """An optimizer is about to change these parameters."""

    def after_step(self, parameters: Sequence[tuple[str, torch.Tensor]]) -> None:
        """It has changed them."""

    def trained(self, loss: torch.Tensor) -> None:
        """The step is complete: the number whose gradient it applied, where there is one."""

    def read(self) -> Reading:
        """The numbers of this step; forgets them."""
        return {}


def thin(tensor: torch.Tensor, most: int = THIN) -> torch.Tensor:
    """A copy of at most ``most`` evenly spaced entries, flat and in float32: enough to estimate a norm or a ratio."""
    flat = tensor.detach().reshape(-1)
    stride = -(-flat.numel() // most) if flat.numel() > most else 1
    return flat[::stride].float().clone()


def some(output: torch.Tensor, most: int = 1 << 16) -> torch.Tensor:
    """The first samples of a layer's output, as many as ``most`` entries hold, and one at least: a view, not a copy."""
    return output.detach()[: max(1, most * output.shape[0] // max(1, output.numel()))]


def norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """The Euclidean norms of several tensors, fetched from the device in one transfer."""
    if not tensors:
        return []
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    # float64 on the way out of 16-bit tensors: their squares overflow
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in dense]
    return torch.stack([n.double().to(wide[0].device) for n in torch._foreach_norm(wide)]).tolist()


def unit_axis(module: nn.Module, output: torch.Tensor) -> int:
    """The axis of ``output`` along which the module's units (channels) lie: 1 for convolutions and BatchNorm, else last."""
    channels_second = isinstance(
        module,
        (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm),
    )
    return 1 if channels_second and output.ndim > 1 else output.ndim - 1
