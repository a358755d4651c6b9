"""Masking stretches of time in sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trimtab.data import TimeMasking as TimeMaskingPart
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.augmentation import augment_inputs


@dataclass(frozen=True)
class TimeMasking(Technique):
    """Hides stretches of consecutive time steps of every training sequence.

    ``y = fill`` in each stretch, else ``y = x``, with lengths of 0 up to ``share`` of the sequence and places
    drawn uniformly for each sequence; all channels of a step are hidden together. Acts on inputs of shape (N, T, C)
    or (N, T), with ``axis=2`` on (N, C, T) as convolutions take them. Evaluation sees the sequences as they are.

    Helps: speech, sensors, long sequences. Hurts: short sequences, and classes told apart by one moment. Good first
    setting: two stretches of 0.1.

    Args:
        share: the longest stretch as a share of the sequence, in (0, 1].
        masks: how many stretches; they may overlap.
        fill: the value; 0 is the mean of standardized sequences.
        axis: the axis of time, 1 or 2.

    Source: Park et al., "SpecAugment", Interspeech 2019; :class:`trimtab.data.TimeMasking`.

    >>> import trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("time_masking(share=0.25)")
    >>> print(training.changes[0])
    2 stretches of up to 0.25 of the time covered with 0, in training only
    """

    acts_on = "data"
    moment = "parts"
    inputs = ("sequences",)
    group = "augmentation"

    share: float = 0.1
    masks: int = 2
    fill: float = 0.0
    axis: int = 1

    def __post_init__(self) -> None:
        self.part()

    def part(self, generator: torch.Generator | None = None) -> TimeMaskingPart:
        """The augmentation itself."""
        return TimeMaskingPart(self.share, self.masks, self.fill, self.axis, generator=generator)

    def apply(self, training: TrainingLike) -> Change:
        return augment_inputs(
            training,
            self,
            lambda x, generator: self.part(generator),
            f"{self.masks} stretches of up to {self.share:g} of the time covered with {self.fill:g}",
        )
