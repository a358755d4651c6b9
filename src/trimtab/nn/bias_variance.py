"""Where the error of a learner comes from: bias, variance and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

GROUP = "regularization"
LOSSES = ("squared", "zero_one")


@dataclass(frozen=True)
class BiasVariance:
    """The parts of a mean error; see :func:`bias_variance`.

    error: the mean loss over models and samples. bias: the loss of the main prediction (squared, for squared loss). variance: what the models
    add to it by scattering around the main prediction; negative where, for 0-1 loss, scattering makes more right than wrong.
    noise: the loss of the truth itself; ``None`` if no truth was given, and bias then includes it.
    """

    error: float
    bias: float
    variance: float
    noise: float | None = None


def bias_variance(
    predictions: torch.Tensor, target: torch.Tensor, loss: str = "squared", *, truth: torch.Tensor | None = None
) -> BiasVariance:
    r"""Splits the mean error of models that were trained on different samples into bias, variance and noise.

    .. math:: \underbrace{E (y - h)^2}_{\text{error}} = \underbrace{(f - \bar h)^2}_{\text{bias}} +
              \underbrace{E (h - \bar h)^2}_{\text{variance}} + \underbrace{E (y - f)^2}_{\text{noise}}

    with ``predictions`` h of shape ``(K, N, ...)`` by K models, ``target`` y of shape ``(N, ...)`` and the main prediction h-bar: the mean of
    the models. Without ``truth`` (f, the targets without their noise), bias and noise cannot be told apart: bias is then
    (y - h-bar)^2, and error = bias + variance exactly. With it, the three add up to the error in expectation over the noise.

    For ``loss="zero_one"`` predictions and targets are classes and the parts are Domingos's: the main prediction is the most frequent class
    (of several, the smallest), bias is 1 where it is wrong, and variance counts the models that leave it: for the worse
    where it is right, for the better where it is wrong and they hit the target. error = bias + variance exactly.

    Averages are over the K models at hand, so a small K moves variance / (K - 1) from variance to bias.

    Args:
        predictions: numbers, or classes for 0-1 loss.
        target: what was observed.
        loss: "squared" or "zero_one".
        truth: targets without noise, where they are known; for squared loss.

    Raises:
        ValueError: for an unknown loss, shapes that do not fit, or a truth with 0-1 loss.

    When it helps: deciding between what lowers variance (bagging, more data, regularization) and what lowers bias (a larger
    model, longer training). When it hurts: models that were trained on the same sample have too little variance.

    Source: Geman, Bienenstock, Doursat, "Neural Networks and the Bias/Variance Dilemma", 1992; Domingos, "A Unified
    Bias-Variance Decomposition", ICML 2000.

    >>> bias_variance(torch.tensor([[1.0], [3.0]]), torch.tensor([5.0]))
    BiasVariance(error=10.0, bias=9.0, variance=1.0, noise=None)
    """
    if loss not in LOSSES:
        raise ValueError(f"bias_variance(loss={loss!r}): loss must be one of {', '.join(map(repr, LOSSES))}.")
    for name, given in (("target", target), ("truth", truth)):
        if given is not None and given.shape != predictions.shape[1:]:
            raise ValueError(
                f"bias_variance got predictions of shape {tuple(predictions.shape)} and a {name} of shape {tuple(given.shape)}. The first "
                f"dimension of predictions counts models, so the shape of the {name} must be {tuple(predictions.shape[1:])}."
            )
    if loss == "zero_one":
        if truth is not None:
            raise ValueError(
                "bias_variance(loss='zero_one') takes no truth: its noise would not add to the other parts."
            )
        main = predictions.mode(0).values
        error = (predictions != target).double().mean().item()
        bias = (main != target).double().mean().item()
        return BiasVariance(error, bias, error - bias)
    h, y = predictions.double(), target.double()
    main = h.mean(0)
    f = y if truth is None else truth.double()
    return BiasVariance(
        error=(h - y).square().mean().item(),
        bias=(main - f).square().mean().item(),
        variance=(h - main).square().mean().item(),
        noise=None if truth is None else (y - f).square().mean().item(),
    )
