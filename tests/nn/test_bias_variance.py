"""The parts of an error, against their definitions and where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from trimtab.nn import bias_variance
from trimtab.nn.bias_variance import BiasVariance


def test_squared_loss_of_least_squares_is_the_textbooks():
    """Of a straight line fitted to a parabola all three parts are known: no bias but the curvature, variance sigma^2 p / n."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, 40)
    design = np.stack([np.ones(40), x], 1)
    truth, sigma = x**2, 0.5
    hat = design @ np.linalg.pinv(design)
    samples = 4000
    fitted = (truth + sigma * rng.standard_normal((samples, 40))) @ hat.T
    noisy = truth + sigma * rng.standard_normal(40)
    found = bias_variance(torch.tensor(fitted), torch.tensor(noisy), truth=torch.tensor(truth))
    assert found.bias == pytest.approx(np.mean((hat @ truth - truth) ** 2), rel=0.05)
    # The sum of squares is sigma^2 chi2(2 samples): a relative standard error of sqrt(2 / 8000) = 1.6%, and 5 of them.
    assert found.variance == pytest.approx(sigma**2 * 2 / 40, rel=0.08)
    assert found.noise == pytest.approx(np.mean((noisy - truth) ** 2), rel=1e-12)


def test_squared_parts_add_up_and_follow_the_definition():
    rng = np.random.default_rng(1)
    h, y = rng.standard_normal((9, 30, 2)), rng.standard_normal((30, 2))
    found = bias_variance(torch.tensor(h), torch.tensor(y))
    assert found.noise is None
    assert found.error == pytest.approx(np.mean([np.mean((one - y) ** 2) for one in h]), rel=1e-12)
    assert found.variance == pytest.approx(h.var(0).mean(), rel=1e-12)
    assert found.bias + found.variance == pytest.approx(found.error, rel=1e-12)


def test_zero_one_loss_is_domingos():
    """His c2 V point by point: +V where the main prediction is right; where it is wrong, minus the share that hits the target."""
    rng = np.random.default_rng(2)
    h, y = rng.integers(0, 4, (11, 300)), rng.integers(0, 4, 300)
    bias = variance = 0.0
    for point, target in zip(h.T, y, strict=True):
        main = np.bincount(point, minlength=4).argmax()
        away = np.mean(point != main)
        if main == target:
            variance += away
        else:
            bias += 1
            hits = np.mean(point[point != main] == target) if away else 0.0
            variance -= hits * away
    found = bias_variance(torch.tensor(h), torch.tensor(y), "zero_one")
    assert found.bias == pytest.approx(bias / 300)
    assert found.variance == pytest.approx(variance / 300)
    assert found.error == pytest.approx((h != y).mean())


def resampled(model, x, y, new, rng, bags: int) -> np.ndarray:
    """Predictions of the mean (or vote) of models fitted to bootstraps of one sample."""
    fitted = []
    for _ in range(bags):
        drawn = rng.integers(0, len(x), len(x)) if bags > 1 else slice(None)
        fitted.append(model(random_state=0).fit(x[drawn], y[drawn]).predict(new))
    stacked = np.array(fitted)
    return (
        stacked.mean(0)
        if stacked.dtype.kind == "f"
        else np.apply_along_axis(lambda v: np.bincount(v).argmax(), 0, stacked)
    )


@pytest.mark.parametrize(
    ("model", "load", "loss"),
    [(DecisionTreeRegressor, load_diabetes, "squared"), (DecisionTreeClassifier, load_digits, "zero_one")],
)
def test_bagging_lowers_the_variance_of_trees(model, load, loss):
    """Breiman's claim, and seed 000's; variance fell to about an eighth (regression) and a third here."""
    x, y = load(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    parts = {}
    for bags in (1, 15):
        rng = np.random.default_rng(1)
        predictions = []
        for _ in range(12):
            drawn = rng.choice(len(x) - 100, 200, replace=False)
            predictions.append(resampled(model, x[drawn], y[drawn], x[-100:], rng, bags))
        parts[bags] = bias_variance(torch.tensor(np.array(predictions)), torch.tensor(y[-100:]), loss)
    assert parts[15].variance < 0.5 * parts[1].variance
    assert parts[15].error < 0.8 * parts[1].error
    assert abs(parts[15].bias - parts[1].bias) < abs(parts[15].variance - parts[1].variance)


def test_errors_say_what_to_do():
    h = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"loss='log'\): loss must be one of 'squared', 'zero_one'"):
        bias_variance(h, torch.zeros(5), "log")
    with pytest.raises(
        ValueError,
        match=r"predictions of shape \(3, 5\) and a target of shape \(3,\).+the shape of the target must be \(5,\)",
    ):
        bias_variance(h, torch.zeros(3))
    with pytest.raises(ValueError, match="takes no truth"):
        bias_variance(h, torch.zeros(5), "zero_one", truth=torch.zeros(5))
    assert bias_variance(h, torch.ones(5)) == BiasVariance(1.0, 1.0, 0.0)
