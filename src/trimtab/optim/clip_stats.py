"""Clipping of gradients, counted: how often, and how hard."""

from __future__ import annotations

import warnings

GROUP = "optimization"


class ClipStats:
    """Counts how often and how hard gradients were clipped, over many steps. See :func:`clip_grad_norm_`.

    Give one to a clipping function as ``stats``. The *factor* of a step is what the most shortened part of the gradient (the
    whole, a tensor, a unit, an entry) was multiplied with.

    Attributes:
        calls: steps with gradients.
        acted: those in which something was clipped.
        nonfinite: those in which something was not finite.
        strongest: the smallest factor so far; 1 if nothing was clipped.

    >>> stats = ClipStats()
    >>> for factor in (1.0, 0.5, 1.0, 0.1):
    ...     stats.add(factor)
    >>> print(stats)
    acted in 2 of 4 steps (50 %), mean factor 0.3, strongest 0.1
    """

    def __init__(self) -> None:
        self.calls = self.acted = self.nonfinite = 0
        self.strongest, self._sum = 1.0, 0.0

    def add(self, factor: float, acted: bool | None = None, finite: bool = True) -> None:
        """Take in a step: its factor, whether anything was clipped (by default: if that is below 1), whether all was finite."""
        self.calls += 1
        self.nonfinite += not finite
        if factor < 1 if acted is None else acted:
            self.acted += 1
            self.strongest = min(self.strongest, factor)
            self._sum += factor

    @property
    def mean(self) -> float:
        """The mean factor of the steps in which something was clipped; 1 if there was none."""
        return self._sum / self.acted if self.acted else 1.0

    def __str__(self) -> str:
        if not self.calls:
            return "no step was made"
        text = f"never acted in {self.calls} steps"
        if self.acted:
            share = percent(self.acted / self.calls)
            text = f"acted in {self.acted} of {self.calls} steps ({share}), mean factor {self.mean:.2g}, strongest {self.strongest:.2g}"
        return text + (f"; gradients were not finite in {self.nonfinite}" if self.nonfinite else "")


def report_clipping(bad: int, of: int, stats: ClipStats | None, factor: float, acted: bool | None = None) -> None:
    """Count a step, and warn of those of its gradients that are not finite."""
    if stats is not None:
        stats.add(factor, acted, finite=not bad)
    if bad:
        warnings.warn(
            f"{bad} of {of} gradients are not finite. Clipping cannot mend that: they are passed on. Leave such steps out with "
            "skip_spikes (trimtab.optim.SpikeGuard), and find the layer that they come from with trimtab watch.",
            stacklevel=4,
        )


def percent(share: float) -> str:
    """A share in per cent, for a sentence.

    >>> percent(37 / 400), percent(1 / 4000)
    ('9 %', '0.03 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"
