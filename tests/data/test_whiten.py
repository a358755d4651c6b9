"""Whitening: directions that are dropped, the condition number, few rows, growing statistics; and what all that is good for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from trimtab.data import MinMax, Standardize, Whiten
from trimtab.data.input_report import InputWarning


def table(rows: int = 500, features: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    return torch.randn(rows, features, generator=generator, dtype=torch.float64) @ mix + 3


def covariance(y: torch.Tensor) -> torch.Tensor:
    return torch.cov(y.T.double(), correction=0)


def condition(x: np.ndarray) -> float:
    """The condition number of the second moments of the features and a 1, from singular values."""
    s = np.linalg.svd(np.c_[x, np.ones(len(x))], compute_uv=False)
    return float((s[0] / s[-1]) ** 2)


@pytest.mark.parametrize("kind", ["pca", "zca"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_features_that_follow_from_others_are_dropped(kind, dtype):
    """The third feature is the sum of the first two, to the rounding of the type: whitening must not blow that up."""
    x = table(features=3).to(dtype)
    x[:, 2] = x[:, 0] + x[:, 1]
    layer = Whiten(3, kind).fit(x)
    y = layer(x).double()
    values = torch.linalg.eigvalsh(covariance(y))
    # float32: 6e-8 of roundings, relative to a smallest direction of 0.2 deviations, twice in a product
    torch.testing.assert_close(
        values, torch.tensor([0.0, 1, 1]).double(), rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-5
    )
    assert layer.report().dropped == 1
    assert layer.report().troubles == ()
    assert "1 of 3 directions dropped" in str(layer.report())
    if kind == "pca":
        assert torch.equal(y[:, 2], torch.zeros(500, dtype=torch.float64))
    torch.testing.assert_close(layer.inverse(layer(x)), x, rtol=0, atol=1e-9 if dtype == torch.float64 else 2e-5)


def test_units_do_not_decide_what_is_dropped():
    """Deviations of 1e6, 1 and 1e-6: the covariance alone, with eigenvalues of 1e12 to 1e-12, would lose the third to rounding."""
    x = table(features=3)
    units = torch.tensor([1e6, 1.0, 1e-6], dtype=torch.float64)
    for kind in ("pca", "zca"):
        layer = Whiten(3, kind).fit(x * units)
        assert layer.report().dropped == 0
        # A product of 1e6 with 1 / 1e-6, both to 2e-16, is known to 1e-4 at worst.
        torch.testing.assert_close(covariance(layer(x * units)), torch.eye(3).double(), rtol=0, atol=1e-4)


def test_eps_drops_what_is_nearly_the_same():
    x = table(features=2)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    assert Whiten(2).fit(x).report().dropped == 0
    layer = Whiten(2, eps=1e-4).fit(x)
    assert layer.report().dropped == 1
    assert layer(x)[:, 0].var(correction=0).item() == pytest.approx(1)
    assert layer.report().condition[1] == pytest.approx(1)


def test_fewer_rows_than_features():
    x = table(rows=5)
    layer = Whiten(6).fit(x)
    assert layer.report().dropped == 2
    expected = torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0]).double())
    torch.testing.assert_close(covariance(layer(x)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["pca", "zca"])
@pytest.mark.parametrize("rows", [1, 50])
def test_nothing_varies(kind, rows):
    layer = Whiten(3, kind)
    x = torch.full((rows, 3), 2.5)
    with pytest.warns(InputWarning, match="constant features 0, 1, 2"):
        layer.fit(x)
    assert torch.equal(layer(x + 1), torch.zeros(rows, 3))
    assert torch.equal(layer.inverse(layer(x)), x)
    assert layer.report().dropped == 3
    assert layer.report().condition == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_components(kind):
    x = table()
    layer = Whiten(6, kind, components=2).fit(x)
    y = layer(x)
    values, axes = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    projected = (x.numpy() - x.numpy().mean(0)) @ axes[:, ::-1][:, :2] / np.sqrt(values[::-1][:2])
    if kind == "pca":
        assert y.shape == (500, 2)
        np.testing.assert_allclose(np.abs(y.numpy()), np.abs(projected), atol=1e-10)
    else:
        np.testing.assert_allclose(y.numpy(), projected @ axes[:, ::-1][:, :2].T, atol=1e-10)
    back = (projected * np.sqrt(values[::-1][:2])) @ axes[:, ::-1][:, :2].T + x.numpy().mean(0)
    np.testing.assert_allclose(layer.inverse(y).numpy(), back, atol=1e-9)
    assert Whiten(6, kind, components=2).eval()(x).shape == y.shape


def test_zca_is_the_whitening_nearest_to_the_input():
    x = table()
    centred = x - x.mean(0)
    zca, pca = Whiten(6, "zca").fit(x)(x), Whiten(6).fit(x)(x)
    distance = (zca - centred).norm()
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):  # every whitening is a rotation of this one
        turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
        assert distance < (zca @ turn - centred).norm()
    assert distance < (pca - centred).norm()


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_the_condition_number_of_real_tables(load):
    x = load().data
    layer = Whiten(x.shape[1]).fit(x)
    before, after = layer.report().condition
    assert before == pytest.approx(condition(x), rel=1e-6)
    assert after == pytest.approx(1, abs=1e-8)
    y = layer(torch.from_numpy(x)).numpy()
    assert condition(y) == pytest.approx(1, abs=1e-6)
    if load is load_wine:
        assert str(layer.report()).endswith("condition number of the input 4.59e+08 -> 1")


def test_the_condition_number_leaves_out_what_cannot_vary():
    x = load_digits().data  # three pixels are always 0
    with pytest.warns(InputWarning, match="constant features 0, 32, 39"):
        layer = Whiten(64).fit(x)
    before, after = layer.report().condition
    assert before == pytest.approx(condition(x[:, x.std(0) > 0]), rel=1e-6)
    assert after == pytest.approx(1, abs=1e-8)


def test_a_prior_believes_few_rows_less():
    x = table(rows=40)
    layer = Whiten(6, "zca", prior=10).fit(x)
    c = np.cov(x.numpy().T, bias=True)
    shrunk = (40 * c + 10 * np.diag(np.diag(c))) / 50
    values, axes = np.linalg.eigh(shrunk)
    np.testing.assert_allclose(layer.matrix.numpy(), (axes / np.sqrt(values)) @ axes.T, atol=1e-12)
    # Out of 8 rows, those that come next are far out along directions that hardly varied: with a prior they are not.
    few, others = x[:8], table(rows=1000)
    sizes = {prior: Whiten(6, prior=prior).fit(few)(others).square().mean().item() for prior in (0, 6)}
    assert sizes[0] > 5 and sizes[6] < sizes[0] / 2


def growing(kind: str) -> list[float]:
    """How far the whitened digits move from one map to the next, relative to their size, while statistics grow by their batches."""
    x = torch.from_numpy(load_digits().data)
    layer = Whiten(64, kind, prior=64)
    moved, before = [], layer(x[:32])
    for batch in x[32:].split(32):
        layer(batch)
        with torch.no_grad():
            now = layer(x[:32])
        if not torch.equal(now, before):
            moved.append(float((now - before).norm() / before.norm()))
        before = now
    return moved


def test_the_map_of_zca_moves_smoothly_and_axes_of_pca_jump():
    zca, pca = growing("zca"), growing("pca")
    renewals = [(z, p) for z, p in zip(zca, pca, strict=True) if p > 0.5]  # between them only the mean moves
    assert len(renewals) > 15
    assert np.median([p for _, p in renewals]) > 0.9  # as far as the outputs are large
    assert np.median([z for z, _ in renewals]) < 0.1
    assert all(z < p / 2 for z, p in renewals)


def test_the_map_is_renewed_as_the_rows_grow_by_a_tenth():
    x = table(rows=3200)
    layer, renewals, last = Whiten(6, "zca"), [], None
    for number, batch in enumerate(x.split(16), 1):
        layer(batch)
        if last is None or not torch.equal(last, layer.matrix):
            renewals.append(number)
        last = layer.matrix.clone()
    assert renewals[:10] == list(range(1, 11))
    assert all(later <= earlier * 1.1 + 1 for earlier, later in zip(renewals, renewals[1:], strict=False))
    assert len(renewals) < 50
    # statistics are those of all rows
    torch.testing.assert_close(layer.covariance, covariance(x), rtol=1e-10, atol=1e-10)
    layer.partial_fit(x[:0])  # and so is the map, once it is asked for
    torch.testing.assert_close(covariance(layer.eval()(x)), torch.eye(6).double(), rtol=0, atol=1e-10)


def test_a_frozen_map_is_that_of_all_its_batches():
    x = table(rows=29 * 16)  # the rows have not grown by a tenth since batch 27
    layer = Whiten(6, batches=29)
    for batch in x.split(16):
        layer(batch)
    torch.testing.assert_close(covariance(layer(x)), torch.eye(6).double(), rtol=0, atol=1e-10)


def steps_to(loss: float, x: torch.Tensor, y: torch.Tensor, most: int) -> int:
    """Steps of gradient descent on a softmax regression, as long as its curvature bound allows: 2 over the largest eigenvalue."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    rate = 2 / torch.linalg.eigvalsh(x.T @ x / len(x))[-1]
    weight = torch.zeros(x.shape[1], int(y.max()) + 1, dtype=x.dtype)
    target = torch.nn.functional.one_hot(y).to(x.dtype)
    for step in range(most):
        output = x @ weight
        if torch.nn.functional.cross_entropy(output, y) < loss:
            return step
        weight -= rate * x.T @ (output.softmax(1) - target) / len(x)
    return most


@pytest.mark.parametrize(
    ("load", "expected"), [(load_wine, (1000, 438, 21, 8, 8)), (load_breast_cancer, (1000, 765, 36, 13, 13))]
)
def test_normalized_inputs_take_fewer_steps(load, expected):
    """The better the condition, the fewer the steps: raw (not there after 1000), min-max, standardized, whitened."""
    data = load()
    x, y = torch.from_numpy(data.data), torch.from_numpy(data.target)
    features = x.shape[1]
    ways = [MinMax(features), Standardize(features), Whiten(features), Whiten(features, "zca")]
    steps = [steps_to(0.1, x, y, 1000), *(steps_to(0.1, way.fit(x)(x), y, 1000) for way in ways)]
    assert steps == pytest.approx(expected, abs=1)


def test_rows_that_are_not_complete_are_counted_while_learning():
    x = table()
    x[::7, 2] = float("nan")
    layer = Whiten(6, "zca", missing="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        for batch in x.split(50):
            assert torch.isfinite(layer(batch)).all()
    assert layer.incomplete == len(x[::7]) and layer.count == 500
    torch.testing.assert_close(layer.covariance, covariance(x[torch.isfinite(x).all(1)]), rtol=1e-10, atol=1e-10)
