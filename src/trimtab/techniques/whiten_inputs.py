"""Whitening, the normalization that also takes correlations away, of the inputs of a model."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.data import Whiten
from trimtab.data.whiten import check_whitening
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.inputs import check_batches, normalize_inputs

MOST = 1024  # features: their axes take 0.8 s of a core each time


@dataclass(frozen=True)
class WhitenInputs(Technique):
    """Makes the input features uncorrelated and of variance 1, fitted on the training batches that pass.

    ``y = C^(-1/2) (x - mean)`` in front of the first layer with weights, over the last axis (over channels in front of
    a convolution), with mean and covariance C merged over all training batches so far; evaluation uses them as they
    are. Part of the model from then on: a checkpoint carries them. Missing and infinite values become the mean, and the
    outcome tells of them; the statistics leave rows with such entries out.

    The first layer learns while the statistics grow, so the map must move little. That of ZCA, the symmetric root, is a
    smooth function of the covariance. Principal axes are not: they change sign and place, and turn freely where
    variances are nearly equal (on the digits each renewal moves the outputs of a PCA by as much as they are large,
    those of ZCA by 4 to 10 %); so ``kind="pca"`` needs ``batches``, after which they stand still. In both, few rows are
    believed less: the covariance is ``(n C + d diag C) / (n + d)`` after n rows of d features, at first near
    standardization. The map is computed anew whenever the rows have grown by a tenth.

    Helps: correlated features, as in measurements of the same thing: the condition number of the first layer's problem
    becomes 1.
    Hurts: directions of noise, which become as large as those of signal; more than 1024 features are refused.
    Good first setting: the default, where standardize_inputs leaves training slow.

    Args:
        kind: "zca" (stays as near to the inputs as it can) or "pca" (rotated onto the principal axes, the largest
            first).
        batches: how many training batches to learn from, before the statistics stand still; all if ``None``.

    Source: LeCun et al., "Efficient BackProp", 1998; Kessy, Lewin, Strimmer, "Optimal Whitening and Decorrelation",
    2018; :class:`trimtab.data.Whiten`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("whiten_inputs")
    >>> print(training.changes[0])
    4 input features whitened (zca) before 0
    """

    acts_on = "data"
    moment = "scale"
    takes = ("input scale",)
    group = "normalization"

    kind: str = "zca"
    batches: int | None = None

    def __post_init__(self) -> None:
        check_whitening("whiten_inputs", self.kind)
        check_batches(self.batches)
        if self.kind == "pca" and self.batches is None:
            raise ValueError(
                "kind='pca' needs batches=N: while statistics grow, principal axes change sign and place under the layer that "
                "learns from them. Give the number of batches after which they stand still, or take kind='zca', which moves smoothly."
            )

    def apply(self, training: TrainingLike) -> Change:
        def make(features: int, axis: int) -> Whiten:
            return Whiten(features, self.kind, axis=axis, missing="mean", batches=self.batches, prior=features)

        return normalize_inputs(self, training, "whiten", make, f"whitened ({self.kind})", MOST)
