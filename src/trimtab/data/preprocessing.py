"""What all preprocessing of inputs shares: statistics of features from batches that pass, missing values, a report."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from trimtab.data.batches import batches_of, in_pieces, input_of
from trimtab.data.input_report import FAULTS, InputReport, InputWarning, Trouble
from trimtab.values import is_whole

MISSING = ("keep", "mean", "raise")
EPS = torch.finfo(torch.float64).eps


class Preprocessing(nn.Module, ABC):
    """Base of all preprocessing: learns statistics of features, and maps each feature by them.

    Three ways to learn: :meth:`fit` from a whole loader, in one pass; :meth:`partial_fit` from one more batch;
    and calling the module while training with gradients, from the batches that pass, as long as ``learning`` is true
    (:meth:`fit` makes it false). In evaluation statistics stand still. They are buffers in float64 and stay so under
    ``half()`` or ``bfloat16()``; the output has the type of the input.

    Entries that are NaN or infinite count as missing: statistics leave them out.

    Derive and implement :meth:`learn`, :meth:`change`, :meth:`back` and :meth:`constant`; register further buffers in
    ``__init__``.

    Args:
        features: number of features.
        axis: the axis that holds them.
        missing: what becomes of missing values: "keep", "mean" (the feature's mean takes their place) or "raise".
        batches: how many batches to learn from when called in training; ``None`` for all.
    """

    mean: torch.Tensor
    count: torch.Tensor
    missing: torch.Tensor
    infinite: torch.Tensor
    learned: torch.Tensor

    def __init__(self, features: int, axis: int = -1, *, missing: str = "keep", batches: int | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if not is_whole(features, 1):
            raise ValueError(f"{name}({features}): features must be a whole number, 1 or more: how many there are.")
        if not is_whole(axis):
            raise ValueError(f"{name}(axis={axis}): axis must be a whole number: the dimension of the features.")
        if missing not in MISSING:
            raise ValueError(f"{name}(missing={missing!r}): missing must be one of {', '.join(map(repr, MISSING))}.")
        if batches is not None and not is_whole(batches, 1):
            raise ValueError(
                f"{name}(batches={batches}): batches must be 1 or more, or None to learn from all that pass."
            )
        self.features, self.axis, self.fill, self.batches = features, axis, missing, batches
        self.learning = True
        self.filled = 0  # entries whose place the mean has taken, in training and evaluation
        self.warned = False
        self.statistic("mean", torch.zeros(features))
        self.statistic("count", torch.zeros(()))
        self.statistic("missing", torch.zeros(features))
        self.statistic("infinite", torch.zeros(features))
        if batches is not None:
            self.statistic("learned", torch.zeros(()))

    def statistic(self, name: str, start: torch.Tensor) -> None:
        """Register a buffer in float64."""
        self.register_buffer(name, start.double())

    # -- what members implement --------------------------------------------------------------------------------------

    @abstractmethod
    def learn(self, x: torch.Tensor, finite: torch.Tensor | None) -> None:
        """Merge a batch into the statistics: x in their type, with a mask of its finite entries where not all are.

        ``count``, ``missing`` and ``infinite`` still tell of the batches before.
        """

    @abstractmethod
    def change(self, x: torch.Tensor, finite: torch.Tensor | None) -> torch.Tensor:
        """The output. With a mask, entries outside of it are to be filled."""

    @abstractmethod
    def back(self, y: torch.Tensor) -> torch.Tensor:
        """The input that gives y, in float64."""

    @abstractmethod
    def constant(self) -> torch.Tensor:
        """Which features are constant, as far as rounding lets one tell: a mask of shape (features,)."""

    def ready(self) -> None:
        """Compute what follows from the statistics, after the last batch of a fit."""

    # -- learning ----------------------------------------------------------------------------------------------------

    def fit(self, data: Any, *, batches: int | None = None, key: Any = None) -> Self:
        """Learn from all of the data, from the start, in one pass and with the memory of one batch; then stop learning.

        Args:
            data: a tensor, an array, or anything that gives batches: a ``DataLoader``, a generator, a list. Batches are
                tensors, arrays, tuples or lists whose first entry is the input, or dicts.
            batches: how many of the batches to use; ``None`` for all.
            key: which entry of a dict or tuple is the input; by default the first of a tuple, and in a dict the first
                that has as many features.

        Raises:
            ValueError: for data without rows, or whose number of features is another; the statistics then are as they
                were.
        """
        before = {name: value.clone() for name, value in self._buffers.items() if value is not None}
        try:
            self.reset()
            for batch in batches_of(data, batches, type(self).__name__):
                self._merge(self._input(batch, key))
            if not bool(self._usable()):
                raise ValueError(
                    f"{type(self).__name__}.fit got {int(self.count)} rows, and none that it can learn from. Give it rows that "
                    "hold numbers; a loader that has been used up must be made again."
                )
            self.ready()
        except BaseException:
            for name, value in before.items():
                self._buffers[name].copy_(value)  # type: ignore[union-attr]
            raise
        self.learning = False
        self.warned = False
        self._warn(FAULTS)
        return self

    def partial_fit(self, batch: Any, *, key: Any = None) -> Self:
        """Merge one more batch into the statistics; see :meth:`fit` for what it may be."""
        self._merge(self._input(batch, key))
        self.ready()
        self._warn(FAULTS[:2])  # what is constant so far may still change
        return self

    def reset(self) -> None:
        """Forget all statistics."""
        fresh = type(self)(**self.settings())
        for name, value in fresh._buffers.items():
            self._buffers[name].copy_(value)  # type: ignore[union-attr, arg-type]

    def settings(self) -> dict[str, Any]:
        """The arguments that make another one like this."""
        return {"features": self.features, "axis": self.axis, "missing": self.fill, "batches": self.batches}

    def report(self) -> InputReport:
        """What was met so far: missing, infinite and constant features with their counts."""
        rows = int(self.count)
        values = (self.missing, self.infinite, self.constant() * self.samples)
        counts = {kind: some.tolist() for kind, some in zip(FAULTS, values, strict=True)}
        return InputReport(
            type(self).__name__,
            self.features,
            rows,
            tuple(
                Trouble(feature, kind, int(counts[kind][feature]))
                for feature in range(self.features)
                for kind in FAULTS
                if counts[kind][feature] > 0
            ),
        )

    @property
    def samples(self) -> torch.Tensor:
        """How many finite values each feature had, of shape (features,)."""
        return self.count - self.missing - self.infinite

    def _input(self, batch: Any, key: Any) -> Any:
        x = input_of(batch, key, self.features, self.axis, type(self).__name__)
        self._check(x)
        return x

    def _usable(self) -> torch.Tensor:
        return self.samples.max() > 0

    def _learns(self) -> bool:
        if not (self.learning and self.training and torch.is_grad_enabled()):
            return False
        return self.batches is None or bool(self.learned < self.batches)

    @torch.no_grad()
    def _merge(self, x: Any) -> None:
        """Learn from a tensor or array, some rows at a time, on our device."""
        for piece in in_pieces(x, self.axis):
            if not piece.numel():
                continue
            if piece.ndim == 1:  # a single row
                piece = piece.unsqueeze(0 if self.axis == -1 else -1)
            piece = piece.to(self.mean.device)
            finite = self._finite(piece)
            self.learn(piece.to(self.mean.dtype), finite)
            if finite is not None:
                others = [axis for axis in range(piece.ndim) if axis != self.axis % piece.ndim]
                self.missing += torch.isnan(piece).sum(others)
                self.infinite += torch.isinf(piece).sum(others)
            self.count += piece.numel() // self.features

    # -- the map -----------------------------------------------------------------------------------------------------

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check(x)
        if not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} got an input of type {str(x.dtype).removeprefix('torch.')}. It must be floating point: "
                "x.float()."
            )
        learns = self._learns() and x.numel() > 0
        finite = self._finite(x.detach()) if self.fill != "keep" else None
        if learns:
            self._merge(x)
            self._passed()
            try:
                self._warn(FAULTS[:2])
            except InputWarning as warning:  # warnings are errors in this run; ours must not end a training
                print(warning, file=sys.stderr)
        if finite is None or self.fill != "mean":
            return self.change(x, None).to(x.dtype)
        self.filled += int((~finite).sum())
        return self.change(x, finite).to(x.dtype)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """The input that has this output, in the type of y. What the map has made alike stays alike."""
        return self.back(y.to(self.mean.dtype)).to(y.dtype)

    def _passed(self) -> None:
        """A batch that passed in training has been merged."""
        if self.batches is not None:
            self.learned += 1

    def _finite(self, x: torch.Tensor) -> torch.Tensor | None:
        """A mask of the finite entries, ``None`` where all are; refused if they are to be."""
        mask = torch.isfinite(x)
        if bool(mask.all()):
            return None
        if self.fill == "raise":
            bad = (~self._last(mask)).reshape(-1, self.features).any(0).nonzero().flatten().tolist()
            raise ValueError(
                f"{type(self).__name__}: features {bad[:10]} hold NaN or infinity; clean or drop them first."
            )
        return mask

    def _check(self, x: torch.Tensor) -> None:
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] != self.features:
            has = f"with {x.shape[self.axis]} features on" if -x.ndim <= self.axis < x.ndim else "without"
            raise ValueError(
                f"{type(self).__name__}({self.features}) got input of shape {tuple(x.shape)} {has} axis {self.axis}. "
                "Both must agree."
            )

    def _view(self, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Values of shape (features,) so that they broadcast against x."""
        shape = [1] * x.ndim
        shape[self.axis] = self.features
        return values.view(shape)

    def _last(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(self.axis, -1)

    def _scaled(self, x: torch.Tensor, start: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        """``(x - start) / unit`` in float32 or wider, without losing what a start in float64 has beyond that.

        The difference to the rounded start is exact where the two are close; the rest is taken off after that.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        high = start.to(wide.dtype)
        rest = (high.to(start.dtype) - start) / unit
        rest, unit = self._view(rest.to(wide.dtype), x), self._view(unit.to(wide.dtype), x)
        return torch.addcdiv(rest, wide - self._view(high, x), unit)

    def extra_repr(self) -> str:
        return ", ".join([str(self.features), *self._shown_settings(), f"axis={self.axis}", *self._shared_settings()])

    def _shown_settings(self) -> list[str]:
        return []

    def _shared_settings(self) -> list[str]:
        shown = [f"missing={self.fill!r}"] if self.fill != "keep" else []
        return shown + ([f"batches={self.batches}"] if self.batches is not None else [])

    # -- being a module ----------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Statistics go to another device with their model, but not to another precision."""
        if fn(torch.empty(0, device=self.mean.device)).device.type == "mps":  # which has no float64
            self._buffers = {name: value.float() for name, value in self._buffers.items()}  # type: ignore[union-attr]
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            now = self._buffers[name]
            if old is not None and now is not None and now.dtype != old.dtype:
                self._buffers[name] = now.to(old.dtype) if old.is_meta else old.to(now.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # of a time before missing values were counted
        if f"{prefix}count" in state_dict:
            for name in ("missing", "infinite", "learned"):
                if name in self._buffers:
                    state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _warn(self, kinds: tuple[str, ...]) -> None:
        """Warn of troubles of these kinds, once."""
        if self.warned or not bool(((self.missing + self.infinite) > 0).any() | ("constant" in kinds)):
            return
        if words := self.report().in_words(kinds):
            self.warned = True
            warnings.warn(f"{type(self).__name__}: {words}. report() tells more.", InputWarning, stacklevel=4)
