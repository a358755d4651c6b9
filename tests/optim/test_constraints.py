"""Projections: the nearest point of the set, as independent solvers, optax and Keras find it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch

from trimtab.optim import l1_ball_, l2_ball_, linf_ball_, max_norm_, non_negative_, simplex_, unit_norm_

SETS = {
    "max_norm": lambda w: max_norm_(w, 1.5),
    "max_norm of columns": lambda w: max_norm_(w, 1.5, dim=1),
    "unit_norm": unit_norm_,
    "non_negative": non_negative_,
    "l1_ball": lambda w: l1_ball_(w, 2.0),
    "l1_ball of rows": lambda w: l1_ball_(w, 0.5, dim=0),
    "l2_ball": lambda w: l2_ball_(w, 2.0),
    "linf_ball": lambda w: linf_ball_(w, 0.7),
    "simplex": lambda w: simplex_(w, 2.0),
    "simplex of columns": lambda w: simplex_(w, 1.0, dim=1),
}
# by how much a point lies outside
OUTSIDE = {
    "max_norm": lambda w: w.norm(dim=1) - 1.5,
    "max_norm of columns": lambda w: w.norm(dim=0) - 1.5,
    "unit_norm": lambda w: (w.norm(dim=1) - 1).abs(),
    "non_negative": lambda w: -w,
    "l1_ball": lambda w: w.abs().sum() - 2,
    "l1_ball of rows": lambda w: w.abs().sum(1) - 0.5,
    "l2_ball": lambda w: w.norm() - 2,
    "linf_ball": lambda w: w.abs() - 0.7,
    "simplex": lambda w: torch.stack([(w.sum() - 2).abs(), -w.min()]),
    "simplex of columns": lambda w: torch.cat([(w.sum(0) - 1).abs(), -w.flatten()]),
}


def drawn(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype) * scale


# -- the nearest point -----------------------------------------------------------------------------------------------


def nearest_by_solver(point: np.ndarray, kind: str, radius: float) -> np.ndarray:
    """A quadratic program, by scipy's SLSQP. The L1 ball is a simplex of positive and negative parts, up to their slack."""
    n = len(point)
    split = np.hstack([np.eye(n), -np.eye(n)]) if kind == "l1_ball" else np.eye(n)
    bounds = [(None if kind == "l2_ball" else 0, None)] * split.shape[1]
    within = {
        "l1_ball": {"type": "ineq", "fun": lambda v: radius - v.sum()},
        "simplex": {"type": "eq", "fun": lambda v: radius - v.sum()},
        "l2_ball": {"type": "ineq", "fun": lambda v: radius**2 - v @ v},
    }[kind]
    found = scipy.optimize.minimize(
        lambda v: ((split @ v - point) ** 2).sum() / 2,
        np.full(split.shape[1], 0.1),
        jac=lambda v: split.T @ (split @ v - point),
        bounds=bounds,
        constraints=[within],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return split @ found.x


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["l1_ball", "l2_ball", "simplex"])
def test_a_quadratic_program_finds_the_same_point(kind, scale):
    point = drawn(7, scale=scale)
    found = {"l1_ball": l1_ball_, "l2_ball": l2_ball_, "simplex": simplex_}[kind](point.clone(), 0.8)
    wanted = nearest_by_solver(point.numpy(), kind, 0.8)
    # SLSQP stops when the objective moves by less than 1e-15 of its size; the point itself is known to the root of that
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("kind", ["l1_ball", "simplex"])
def test_thresholds_of_large_weights(kind):
    """Against bisection on the threshold, in float64."""
    point = drawn(300, 100)
    magnitudes = point.abs() if kind == "l1_ball" else point

    def excess(threshold: float) -> float:
        return float((magnitudes - threshold).clamp(min=0).sum()) - 5.0

    threshold = scipy.optimize.brentq(excess, -1.0, 10.0, xtol=1e-15)
    wanted = (magnitudes - threshold).clamp(min=0) * (point.sign() if kind == "l1_ball" else 1)
    project = {"l1_ball": l1_ball_, "simplex": simplex_}[kind]
    torch.testing.assert_close(project(point.clone(), 5.0), wanted, rtol=0, atol=1e-12)
    # in float32 a sum of the 30 000 entries, 2e4 large, is rounded to 1e-3; only the few large ones decide
    torch.testing.assert_close(project(point.float(), 5.0).double(), wanted, rtol=0, atol=2e-6)


def test_optax_finds_the_same_point():
    optax = pytest.importorskip("optax")
    pairs = [
        (l1_ball_, optax.projections.projection_l1_ball),
        (l2_ball_, optax.projections.projection_l2_ball),
        (linf_ball_, optax.projections.projection_linf_ball),
        (simplex_, optax.projections.projection_simplex),
    ]
    for ours, theirs in pairs:
        for radius in (0.3, 2.0, 1e3):
            point = drawn(40, dtype=torch.float32)
            wanted = np.asarray(theirs(point.numpy(), radius))
            # float32 on both sides: an ulp of the radius, and of the largest partial sum
            np.testing.assert_allclose(ours(point, radius).numpy(), wanted, atol=3e-7 * max(radius, 10.0))
    point = drawn(40, dtype=torch.float32)
    wanted = np.asarray(optax.projections.projection_non_negative(point.numpy()))
    np.testing.assert_array_equal(non_negative_(point).numpy(), wanted)


# -- inside, and once is enough --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SETS)
def test_the_result_is_inside_and_stays(name, dtype):
    w = drawn(6, 5).to(dtype)
    before = w.clone()
    assert SETS[name](w) is w
    assert (OUTSIDE[name](before.double()) > 1e-3).any()  # there was something to do
    eps = torch.finfo(dtype).eps  # each entry is rounded to eps/2 of itself, and sums of up to 30 of them are
    assert OUTSIDE[name](w.double()).max() <= 8 * eps
    again = SETS[name](w.clone())
    torch.testing.assert_close(again, w, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("name", [name for name in SETS if "unit" not in name and "simplex" not in name])
def test_what_is_inside_is_left_alone(name):
    w = drawn(6, 5, scale=1e-3, dtype=torch.float32)
    w = w.abs() if name == "non_negative" else w
    before = w.clone()
    assert torch.equal(SETS[name](w), before)


def test_simplex_leaves_its_points_alone():
    w = torch.tensor([0.25, 0.0, 0.75])
    assert simplex_(w).tolist() == [0.25, 0.0, 0.75]


# -- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "project", [max_norm_, lambda w, dim: l1_ball_(w, 2.0, dim), lambda w, dim: simplex_(w, 2.0, dim)]
)
@pytest.mark.parametrize("dim", [0, 1, -1, (0, 2), (2, 0)])
def test_each_unit_by_itself(project, dim):
    w = drawn(3, 4, 2, 5, scale=2.0)
    dims = dim if isinstance(dim, tuple) else (dim,)
    wanted = w.clone()
    front = wanted.movedim(dims, tuple(range(len(dims))))  # a view
    for unit in np.ndindex(*front.shape[: len(dims)]):
        project(front[unit], dim=None)
    assert not torch.equal(wanted, w)
    torch.testing.assert_close(project(w.clone(), dim=dim), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", SETS)
def test_layout_and_gradients_do_not_matter(name):
    weight = torch.nn.Parameter(drawn(6, 5).t().contiguous().t())  # rows are not contiguous
    assert not weight.is_contiguous()
    SETS[name](weight)
    assert weight.requires_grad and weight.grad_fn is None
    assert torch.equal(weight.detach(), SETS[name](drawn(6, 5)))


def test_channels_last_kernels():
    kernel = drawn(4, 3, 2, 2, scale=3.0)
    assert torch.equal(max_norm_(kernel.to(memory_format=torch.channels_last), 1.0), max_norm_(kernel.clone(), 1.0))


def test_points_without_entries_or_dimensions():
    assert max_norm_(torch.empty(0, 4)).shape == (0, 4)
    assert max_norm_(torch.tensor([-5.0, 1.0]), 3.0).tolist() == [-3.0, 1.0]  # each a unit of one weight
    assert l2_ball_(torch.tensor(-5.0), 3.0).item() == -3.0


def test_what_is_not_a_number_is_not_hidden():
    w = torch.tensor([[float("nan"), 1.0], [3.0, 4.0]])
    max_norm_(w, 1.0)
    assert w[0].isnan().all()
    torch.testing.assert_close(w[1], torch.tensor([0.6, 0.8]))


# -- Keras -----------------------------------------------------------------------------------------------------------


def weights_for_keras() -> dict[str, torch.Tensor]:
    return {"dense": drawn(5, 9), "conv": drawn(4, 3, 2, 2)}


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What Keras makes of the same weights, in a process of its own: it chooses its backend for good when it is imported."""
    folder: Path = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder / "answers.pt")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return torch.load(folder / "answers.pt")


@pytest.mark.parametrize("name", ["max_norm", "unit_norm", "non_negative"])
@pytest.mark.parametrize("layer", ["dense", "conv"])
def test_keras_gives_the_same(keras, name, layer):
    project = {"max_norm": lambda w: max_norm_(w, 2.0), "unit_norm": unit_norm_, "non_negative": non_negative_}[name]
    ours = project(weights_for_keras()[layer])
    # Keras divides by the length + 1e-7, and the lengths here are between 1 and 4
    torch.testing.assert_close(keras[f"{name} {layer}"].double(), ours, rtol=1e-6, atol=1e-7)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "message"),
    [
        (lambda: l1_ball_(torch.ones(2), 0.0), "l1_ball_: radius=0.0 must be positive: it is the size of the set."),
        (lambda: max_norm_(torch.ones(2, 2), -1.0), "radius=-1.0 must be positive"),
        (lambda: linf_ball_(torch.ones(2), -1.0), "linf_ball_: radius=-1.0 must be positive"),
        (
            lambda: max_norm_(torch.ones(2, 3), dim=2),
            "dim=2 must name dimensions of the weight, whose shape is (2, 3); None takes all of it as one unit.",
        ),
        (lambda: simplex_(torch.tensor(1.0), dim=0), "dim=0 must name dimensions of the weight, whose shape is ()"),
    ],
)
def test_errors_say_what_to_do(project, message):
    with pytest.raises(ValueError) as error:
        project()
    assert message in str(error.value)


if __name__ == "__main__":
    from keras import constraints

    theirs = {"max_norm": constraints.MaxNorm, "unit_norm": constraints.UnitNorm, "non_negative": constraints.NonNeg}
    answers = {}
    for layer, weight in weights_for_keras().items():
        kernel = weight.movedim(0, -1)  # Keras has the units last
        over = {"axis": list(range(kernel.ndim - 1))}
        for name, kind in theirs.items():
            options = {"max_norm": {"max_value": 2.0, **over}, "unit_norm": over}.get(name, {})
            answers[f"{name} {layer}"] = kind(**options)(kernel).movedim(-1, 0)
    torch.save(answers, sys.argv[1])
