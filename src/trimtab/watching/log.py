"""What is recorded of one training, and what of it a store has not got yet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch

from trimtab.records import Layer, Profile, Series

Points = list[tuple[int, str, int, float]]
Rows = list[tuple[int, str, int, list[float]]]


class Log:
    """The numbers of one training: one by one in series, by layer or parameter in profiles, and facts, layers and notes beside them.

    Args:
        index: which training of the run it is.
        keeps: whether :meth:`new` is asked for what has come.
    """

    def __init__(self, index: int, keeps: bool) -> None:
        self.index, self.keeps = index, keeps
        self.series: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        self.profiles: dict[str, tuple[dict[str, None], list[int], list[dict[str, float]]]] = defaultdict(
            lambda: ({}, [], [])
        )
        self.facts: dict[str, float] = {}
        self.layers: dict[str, Layer] = {}
        self.notes: list[str] = []
        self._points: Points = []
        self._rows: Rows = []
        self._waiting: list[tuple[str, int, torch.Tensor]] = []  # numbers still on an accelerator

    def add(self, name: str, step: int, value: float | torch.Tensor) -> None:
        """One number of one series."""
        if isinstance(value, torch.Tensor):
            if value.device.type != "cpu":
                self._waiting.append((name, step, value))
                return
            value = value.item()
        steps, values = self.series[name]
        steps.append(step)
        values.append(float(value))
        if self.keeps:
            self._points.append((self.index, name, step, float(value)))

    def add_profile(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step, by layer or parameter."""
        names, steps, rows = self.profiles[name]
        names |= dict.fromkeys(values)  # an ordered set
        steps.append(step)
        rows.append(dict(values))
        if self.keeps:
            self._rows.append((self.index, name, step, [values.get(column, math.nan) for column in names]))

    def know(self, name: str, value: float) -> None:
        """A number of the whole training, in the place of what was known; NaN takes it away."""
        if math.isnan(value):
            self.facts.pop(name, None)
        else:
            self.facts[name] = value

    def note(self, text: str) -> None:
        """A remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def settle(self) -> None:
        """Fetch numbers that still lie on an accelerator."""
        waiting, self._waiting = self._waiting, []
        for name, step, value in waiting:
            self.add(name, step, value.cpu())

    def new(self) -> tuple[Points, Rows]:
        """What has come since this was asked last."""
        self.settle()
        found = self._points, self._rows
        self._points, self._rows = [], []
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """What of it is not told in rows: it changes with the names of layers, facts and columns."""
        return len(self.layers), len(self.facts), *(len(names) for names, *_ in self.profiles.values())

    def whole_series(self) -> dict[str, Series]:
        """All series, as they are recorded."""
        return {name: Series(steps=tuple(steps), values=tuple(values)) for name, (steps, values) in self.series.items()}

    def whole_profiles(self, heads: bool = False) -> dict[str, Profile]:
        """All profiles, as they are recorded; with ``heads``, without the numbers."""
        found = {}
        for name, (names, steps, rows) in self.profiles.items():
            whole = () if heads else tuple(tuple(row.get(column, math.nan) for column in names) for row in rows)
            found[name] = Profile(names=tuple(names), steps=() if heads else tuple(steps), rows=whole)
        return found
