"""Batch normalization: its running statistics estimated anew."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab.untouched import beside_training

GROUP = "normalization"


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    statistics: str = "population",
    batches: int | None = None,
    *,
    call: Callable[[nn.Module, Any], Any] | None = None,
) -> int:
    r"""Re-estimates the running mean and variance of every BatchNorm from the batches of a loader, in place.

    .. math:: \mu = \frac1K \sum_k \mu_k, \qquad \sigma^2 = \frac1K \sum_k \frac{m}{m-1} \sigma_k^2

    over K batches, with mean and biased variance of each batch of m values per channel: the population statistics of the
    paper's Algorithm 2 (``"population"``). With ``"ema"`` the running statistics go on from where they are, each norm with its own
    momentum. Nothing else changes: no parameter, no mode, no momentum, no random number; dropout is off. Frozen norms keep their
    statistics.

    Use it after averaging weights (SWA, EMA), after a conversion to batch norm, after training with batches too small for good running
    statistics; and with unlabelled data of the *test* distribution where that differs from the training one (001).

    Args:
        model: with BatchNorms that track running statistics.
        loader: of tensors, of tuples or lists whose first entry is the input, or of dicts with the model's keyword arguments
            (entries that its ``forward`` does not take are left out).
        statistics: ``"population"`` or ``"ema"``.
        batches: how many batches to use; None for all.
        call: ``call(model, batch)`` runs the model on a batch of another form, on the right device.

    Returns:
        The number of batches used.

    Raises:
        ValueError: for a model without such norms, and a loader without batches; the statistics then are as they were.

    When it helps: evaluation that is worse than training for no other reason; another distribution, or other weights, than
    those that the running statistics were gathered with. When it hurts: batches of few classes, or few samples in all.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015; Li et al., "Revisiting Batch Normalization For Practical Domain
    Adaptation", 2016; seeds 000, 001.

    >>> model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    >>> recalibrate(model, [torch.randn(64, 3) + 5 for _ in range(10)])
    10
    >>> torch.allclose(model[0].running_mean, torch.full((3,), 5.0), atol=0.2)
    True
    """
    if statistics not in ("population", "ema"):
        raise ValueError(f"recalibrate(statistics={statistics!r}): statistics must be 'population' or 'ema'.")
    if batches is not None and batches < 1:
        raise ValueError(f"recalibrate(batches={batches}): it must be at least 1, or None for all.")
    norms: list[Any] = [m for m in model.modules() if isinstance(m, _BatchNorm) and not getattr(m, "frozen", False)]
    norms = [norm for norm in norms if norm.track_running_stats and norm.running_mean is not None]
    if not norms:
        raise ValueError(
            f"recalibrate got a {type(model).__name__} without a BatchNorm that tracks running statistics and is not frozen."
        )
    before = [{name: buffer.clone() for name, buffer in norm._buffers.items() if buffer is not None} for norm in norms]
    used = 0
    try:
        with _measuring(model, norms, statistics):
            for batch in _shown(itertools.islice(loader, batches), _length(loader, batches)):
                (call or _call)(model, batch)
                used += 1
        if not used:
            raise ValueError("recalibrate got a loader without batches.")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in buffers.items():
                norm._buffers[name].copy_(buffer)
        raise
    return used


@contextlib.contextmanager
def _measuring(model: nn.Module, norms: list[Any], statistics: str) -> Iterator[None]:
    """Only the norms in training mode, with the momentum that averages; afterwards everything is as it was."""
    momenta = [norm.momentum for norm in norms]
    try:
        with beside_training(model):
            model.eval()
            for norm in norms:
                norm.training = True
                if statistics == "population":
                    norm.reset_running_stats()
                    norm.momentum = None  # the mean over all batches since the reset
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _call(model: nn.Module, batch: Any) -> Any:
    device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), torch.device("cpu"))
    if isinstance(batch, Mapping):
        takes = inspect.signature(model.forward).parameters
        every = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
        named = {name: _moved(value, device) for name, value in batch.items() if every or name in takes}
        return model(**named)
    while isinstance(batch, (tuple, list)):
        batch = batch[0]
    return model(_moved(batch, device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _length(loader: Any, batches: int | None) -> int | None:
    try:
        return len(loader) if batches is None else min(len(loader), batches)
    except TypeError:
        return batches


def _shown(batches: Iterable[Any], total: int | None) -> Iterator[Any]:
    """The batches; on a terminal, a bar appears when it takes more than two seconds."""
    from rich.progress import Progress

    began, bar = time.monotonic(), Progress(transient=True)
    task = bar.add_task("recalibrating", total=total)
    started = False
    try:
        for batch in batches:
            yield batch
            bar.advance(task)
            if not started and bar.console.is_terminal and time.monotonic() - began > 2:
                started = True
                bar.start()
    finally:
        if started:
            bar.stop()
