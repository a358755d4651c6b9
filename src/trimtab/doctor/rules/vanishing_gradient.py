"""Vanishing gradient: the gradient shrinks by orders of magnitude from the output towards the input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trimtab.doctor.curves import called, median_profile, progress, weight_layers
from trimtab.doctor.rule import rule
from trimtab.records import Evidence, Finding, TrainingRecord

LAYERS = 4  # fewer make no profile
DECADES = 2.0  # a factor of 100 between the ends: two layers of sigmoid, ten of a healthy ReLU network at the worst


@rule(needs={"layers": "layers were not measured", "grad_norms": "layers were not measured"}, explains=("lr_too_low",))
def vanishing_gradient(training: TrainingRecord) -> Iterator[Finding]:
    """Looks for a straight downward trend of log gradient norm against depth.

    With ``g_l`` the median over sampled steps of the gradient norm of the l-th weight in order of execution, the rule fits
    ``log10 g_l = a + b l`` and fires when ``b > 0`` at p < 0.001, the fitted ends differ by two decades or more and so do the
    measured ones. Slope and ratio do not depend on the scale of the loss, the width or the learning rate. How grave it is
    depends on what came of it: an error when the loss hardly fell, a warning when the early weights move much less than
    the late ones, else (Adam makes up for it) a note.
    """
    from scipy import stats

    layers = weight_layers(training)
    norms = median_profile(training, "grad_norms", [weight for _, weight in layers])
    depth = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    if len(depth) < LAYERS:
        return
    log = np.log10(norms[depth])
    fit = stats.linregress(depth, log)
    fitted = fit.slope * (depth[-1] - depth[0])
    measured = log[-min(2, len(log)) :].max() - log[0]
    if not (fit.pvalue < 1e-3 and fitted >= DECADES and measured >= DECADES):
        return

    went = progress(training)
    ratios = median_profile(training, "update_ratio", [layers[i][1] for i in depth])
    evidence = [
        Evidence(
            text=f"The gradient of {layers[depth[0]][1]} is {10**-measured:.1e} of the gradient near the output; it shrinks by a "
            f"factor of {10**fit.slope:.1f} per layer over {len(depth)} layers (p = {fit.pvalue:.0e}).",
            numbers={"ratio": float(10**-measured), "factor_per_layer": float(10**fit.slope), "p": float(fit.pvalue)},
            shows=("grad_norms",),
        )
    ]
    slow = False
    if np.isfinite(ratios[[0, -1]]).all() and ratios[-1] > 0:
        slow = bool(ratios[0] < 0.01 * np.nanmax(ratios))
        evidence.append(
            Evidence(
                text=f"One step moves {layers[depth[0]][1]} by {ratios[0]:.1e} of its size, {layers[depth[-1]][1]} by {ratios[-1]:.1e}.",
                numbers={"first_update_ratio": float(ratios[0]), "last_update_ratio": float(ratios[-1])},
                shows=("update_ratio",),
            )
        )
    evidence.append(Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)))

    kinds = {layer.kind for layer in training.layers}
    saturating = kinds & {"Sigmoid", "Tanh", "Hardsigmoid", "Softsign"}
    if "ReLU" in kinds:
        init = ["he_init", "lsuv_init"]
    elif "Sigmoid" in kinds:
        init = ["xavier_init(gain=4.0)", "orthogonal_init"]  # lsuv_init would scale what units have in common
    else:
        init = ["xavier_init(gain=1.6667)", "orthogonal_init(gain=1.0)", "lsuv_init"]
    yield Finding(
        problem="vanishing_gradient",
        severity="error" if went.learned < 0.3 and slow else "warning" if slow or went.learned < 0.3 else "info",
        where=layers[depth[0]][0],
        title=f"The gradient vanishes on its way to {called(training, layers[depth[0]][0])}",
        evidence=tuple(evidence),
        cause="The gradient of an early layer is a product over all later layers of weights and slopes of the activations. "
        + (
            f"Saturating activations ({', '.join(sorted(saturating))}) have small slopes (a sigmoid's is 1/4 at most), so "
            if saturating
            else "With slopes or weights below 1, "
        )
        + "the product falls exponentially with depth, and early layers stay at their random start.",
        source="Hochreiter 1991; Bengio, Simard, Frasconi 1994; Glorot & Bengio 2010; Ioffe & Szegedy 2015",
        remedies=("batch_norm", "layer_norm", *init, "lr_scale(factor=10)", "muon"),
        confidence=float(1 - fit.pvalue),
    )
