"""Standardization of the inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import Standardize
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.inputs import check_batches, normalize_inputs


@dataclass(frozen=True)
class StandardizeInputs(Technique):
    """Shifts and scales every input feature to mean 0 and standard deviation 1, fitted on the training batches that
    pass.

    ``y_j = (x_j - mean_j) / std_j`` in front of the first layer with weights, over the last axis (over channels in
    front of a convolution). The statistics are merged over all training batches so far; evaluation uses them as they
    are. Part of the model from then on: a checkpoint carries them. Missing and infinite values become the mean, and the
    outcome tells of them.

    Helps: tables with raw magnitudes, images in 0..255: the condition of the problem improves by the square of the
    ratio of scales. Hurts: where relative magnitudes of the features carry meaning and the data are few. Good first
    setting: the default.

    Args:
        batches: how many training batches to learn from, before the statistics stand still; all if ``None``.

    Source: LeCun et al., "Efficient BackProp", 1998; :class:`trimtab.data.Standardize`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("standardize_inputs")
    >>> model[0].standardize
    Standardize(4, axis=-1, missing='mean')
    """

    acts_on = "data"
    moment = "scale"
    takes = ("input scale",)
    group = "normalization"

    batches: int | None = None

    def __post_init__(self) -> None:
        check_batches(self.batches)

    def apply(self, training: TrainingLike) -> Change:
        def make(features: int, axis: int) -> Standardize:
            return Standardize(features, axis, missing="mean", batches=self.batches)

        return normalize_inputs(self, training, "standardize", make, "standardized")
