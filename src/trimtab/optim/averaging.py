"""Averages of weights along a training: exponential (EMA) and equal (SWA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from trimtab.optim.tensors import ModelOrTensors, copied, fitting, tensors_of, write
from trimtab.values import as_number, is_whole

GROUP = "regularization"


class WeightAverage:
    """An average of all floating-point parameters and buffers of a model, kept beside it: base of :class:`EMA` and :class:`SWA`.

    Integers and the like (BatchNorm's ``num_batches_tracked``) are not averaged. Averages of float16 and bfloat16 are kept in
    float32, in which small steps towards the newest weights are not lost. A tensor that joins the model later, or in another
    shape, joins the average with the value it has then.

    Attributes:
        average: the averaged tensors by name, empty before the first one.
        averaged: how many states of the model went into it.
    """

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}
        self.averaged = 0

    def update(self, model: ModelOrTensors) -> None:
        """Take in the weights as they are now; to be called after ``optimizer.step()``."""
        self.averaged += 1
        old, new = [], []
        with torch.no_grad(), torch.inference_mode(False):
            for name, tensor in tensors_of(model).items():
                if not (tensor.is_floating_point() or tensor.is_complex()):
                    continue
                kind = torch.promote_types(tensor.dtype, torch.float32)
                known = self.average.get(name)
                if known is not None and known.shape == tensor.shape:
                    old.append(known)
                    new.append(tensor.detach().to(kind))
                else:
                    self.average[name] = tensor.detach().to(kind, copy=True)
            if old:
                self._merge(old, new)

    def _merge(self, old: list[torch.Tensor], new: list[torch.Tensor]) -> None:
        raise NotImplementedError

    def copy_to(self, model: ModelOrTensors) -> None:
        """Write the average into a model."""
        write(model, fitting(model, self.average))

    @contextlib.contextmanager
    def applied(self, model: ModelOrTensors) -> Iterator[None]:
        """``with average.applied(model): validate(model)``: the model has the averaged weights inside.

        Afterwards its parameters and *all* its buffers are what they were. BatchNorm's running statistics belong to the weights they were
        gathered with; the average of them fits averaged weights only roughly. To gather them anew, recalibrate inside::

            with average.applied(model):
                trimtab.nn.recalibrate(model, train_loader)
                validate(model)
        """
        before = copied(model)
        self.copy_to(model)
        try:
            yield
        finally:
            write(model, before)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, to go on later."""
        return {"average": self.average, "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, also from the ``state_dict`` of torch's ``AveragedModel``.

        The other way round, ``average.copy_to(averaged_model.module)`` and ``averaged_model.n_averaged.fill_(average.averaged)``.
        """
        if "n_averaged" in state:  # torch's, whose names begin with "module."
            named = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
            state = {"averaged": state["n_averaged"], "average": named if int(state["n_averaged"]) else {}}
        self.average = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in state["average"].items()
            if tensor.is_floating_point() or tensor.is_complex()
        }
        self.averaged = int(state["averaged"])


class EMA(WeightAverage):
    r"""Exponential moving average of the weights.

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad \bar w_1 = w_1, \qquad
              d_t = \min\Big(d, \frac{t}{t + 9}\Big)

    with ``w_t`` all floating-point parameters and buffers after step t and d the decay. The rising :math:`d_t` (TensorFlow's and timm's
    warm-up) takes away the bias towards the first weights: it averages over about the last tenth of the steps so far, until that
    is :math:`1/(1-d)` steps. ``warmup=False`` has :math:`d_t = d`: torch's ``AveragedModel`` with ``get_ema_multi_avg_fn(d)`` and
    ``use_buffers=True``, whose numbers this gives, but for integer buffers, which torch averages too.

    Args:
        decay: the share of the old average that stays in every step, 0 < decay < 1; it averages over about 1/(1 - decay) steps.
        warmup: begin with a smaller decay.

    Raises:
        ValueError: if decay is outside (0, 1).

    When it helps: evaluation weights that jump about with large learning rates or small batches; it often stands in for a decay of the
    learning rate. When it hurts: little, but memory for one more copy of the weights; an average over weights from before and
    after a sudden change is worse than either.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; Tarvainen & Valpola, "Mean teachers",
    2017; Morales-Brotons et al., "Exponential Moving Average of Weights in Deep Learning", TMLR 2024.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> ema = EMA(decay=0.5, warmup=False)
    >>> for weight in (0.0, 1.0, 1.0):
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     ema.update(model)
    >>> with ema.applied(model):
    ...     model.weight.item()
    0.75
    >>> model.weight.item()
    1.0
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 < as_number(decay) < 1:
            raise ValueError(
                f"decay={decay} must lie strictly between 0 and 1: it is the share of the old average that stays."
            )
        super().__init__()
        self.decay, self.warmup = decay, warmup

    def _merge(self, old: list[torch.Tensor], new: list[torch.Tensor]) -> None:
        before = self.averaged - 1
        decay = min(self.decay, (1 + before) / (10 + before)) if self.warmup else self.decay
        get_ema_multi_avg_fn(decay)(old, new, before)


class SWA(WeightAverage):
    r"""Stochastic weight averaging: the equal average of the weights at many points of a training.

    .. math:: \bar w = \frac1n \sum_{i=1}^n w_{t_i}, \qquad t_i = \mathrm{start} + (i - 1)\,\mathrm{every}

    where step t is the t-th call of ``update`` (``start=1`` begins with the first). The numbers are those of torch's
    ``AveragedModel(model, use_buffers=True)``.

    Args:
        start: the step whose weights are the first to be averaged, at least 1.
        every: how many steps from one to the next, at least 1.

    Raises:
        ValueError: if start or every is no whole number of at least 1.

    When it helps: the last part of a training with a learning rate that stays high, whose weights circle around a wide minimum; the average
    lies in its middle and often generalizes better. When it hurts: started too early, it averages weights that were still on their
    way; with BatchNorm whose statistics are not gathered anew (see :meth:`applied`).

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> swa = SWA(start=2)
    >>> for weight in (9.0, 1.0, 2.0):
    ...     _ = torch.nn.init.constant_(model.weight, weight)
    ...     swa.update(model)
    >>> swa.average["weight"].item()
    1.5
    """

    def __init__(self, start: int = 1, every: int = 1) -> None:
        for name, value in (("start", start), ("every", every)):
            if not is_whole(value, 1):
                raise ValueError(f"{name}={value!r} must be a whole number of steps, at least 1.")
        super().__init__()
        self.start, self.every, self.steps = start, every, 0

    def update(self, model: ModelOrTensors) -> None:
        """Count a step, and take in the weights if it is one of those that are averaged; to be called after ``optimizer.step()``."""
        self.steps += 1
        if self.steps >= self.start and (self.steps - self.start) % self.every == 0:
            super().update(model)

    def _merge(self, old: list[torch.Tensor], new: list[torch.Tensor]) -> None:
        get_swa_multi_avg_fn()(old, new, self.averaged - 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = int(state["steps"]) if "steps" in state else self._steps_of(self.averaged)

    def _steps_of(self, averaged: int) -> int:
        """The step at which so many have been averaged."""
        return self.start + (averaged - 1) * self.every if averaged else 0
