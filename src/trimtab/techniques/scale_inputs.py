"""Min-max normalization of the inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import MinMax
from trimtab.data.min_max import check_bounds
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.inputs import check_batches, normalize_inputs


@dataclass(frozen=True)
class ScaleInputs(Technique):
    """Maps the range of every input feature to [low, high], fitted on the training batches that pass.

    ``y_j = low + (high - low) (x_j - min_j) / (max_j - min_j)`` in front of the first layer with weights, over the last
    axis (over channels in front of a convolution), with the extremes of all training batches so far; evaluation uses
    them as they are, and may leave the interval. Part of the model from then on: a checkpoint carries them. Missing and
    infinite values become what the mean becomes, and the outcome tells of them.

    Helps: features with natural bounds (pixels, percentages, ranks) in raw units. Hurts: outliers, which alone set the
    scale; and standardize_inputs usually helps more, since it also takes the mean away: ``low=-1`` comes nearer to
    that. Good first setting: low=-1, high=1.

    Args:
        low: what the smallest value becomes.
        high: what the largest value becomes.
        batches: how many training batches to learn from, before the extremes stand still; all if ``None``.

    Source: Han, Kamber, Pei, "Data Mining: Concepts and Techniques", 2011; :class:`trimtab.data.MinMax`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("scale_inputs(low=-1.0)")
    >>> print(training.changes[0])
    4 input features scaled to [-1, 1] before 0
    """

    acts_on = "data"
    moment = "scale"
    takes = ("input scale",)
    group = "normalization"

    low: float = 0.0
    high: float = 1.0
    batches: int | None = None

    def __post_init__(self) -> None:
        check_bounds("scale_inputs", self.low, self.high)
        check_batches(self.batches)

    def apply(self, training: TrainingLike) -> Change:
        def make(features: int, axis: int) -> MinMax:
            return MinMax(features, self.low, self.high, axis, missing="mean", batches=self.batches)

        return normalize_inputs(self, training, "scale", make, f"scaled to [{self.low:g}, {self.high:g}]")
