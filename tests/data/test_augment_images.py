"""Affine maps against kornia and scipy in float64, flips and CutOut against what they say exactly."""

from __future__ import annotations

import math

import kornia.geometry.transform as K
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from trimtab import data
from trimtab.data.images import affine, warp

SIZES = [(8, 8), (7, 12), (1, 9)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(height: int, width: int, n: int = 6) -> torch.Tensor:
    return torch.rand(n, 2, height, width, generator=generator(), dtype=torch.float64)


def drawn(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Angles, ways in pixels and factors for each image."""
    n, g = len(x), generator(1)
    degrees = torch.rand(n, generator=g, dtype=torch.float64) * 360 - 180
    way = (torch.rand(n, 2, generator=g, dtype=torch.float64) - 0.5) * torch.tensor([x.shape[3], x.shape[2]])
    return degrees, way, torch.rand(n, 2, generator=g, dtype=torch.float64) + 0.5


def share(way: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return way / torch.tensor([x.shape[3], x.shape[2]])


NO_TURN, NO_WAY, NO_SCALE = (
    lambda x: torch.zeros(len(x)),
    lambda x: torch.zeros(len(x), 2),
    lambda x: torch.ones(len(x), 2),
)

# -- against kornia: in float64, so that what is left is the order of operations ---------------------------------------
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_rotation_scale_and_translation_as_in_kornia(size, mode, padding):
    x = pictures(*size)
    degrees, way, scale = drawn(x)
    options = {"mode": mode, "padding_mode": padding}
    turned = affine(x, degrees, NO_WAY(x), NO_SCALE(x), mode, padding)
    torch.testing.assert_close(turned, K.rotate(x, degrees, **options), **CLOSE)
    scaled = affine(x, NO_TURN(x), NO_WAY(x), scale, mode, padding)
    torch.testing.assert_close(scaled, K.scale(x, scale, **options), **CLOSE)
    moved = affine(x, NO_TURN(x), share(way, x), NO_SCALE(x), mode, padding)
    torch.testing.assert_close(moved, K.translate(x, way, **options), **CLOSE)


@pytest.mark.parametrize("size", SIZES[:2])
def test_all_at_once_as_in_kornia(size):
    x = pictures(*size)
    degrees, way, scale = drawn(x)
    scale[:, 1] = scale[:, 0]  # its matrix scales after turning
    centre = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2]).double().expand(len(x), 2)
    matrix = K.get_affine_matrix2d(way, centre, scale, -degrees)[:, :2]  # its angles are clockwise here
    y = affine(x, degrees, share(way, x), scale, padding="zeros")
    torch.testing.assert_close(y, K.affine(x, matrix, padding_mode="zeros"), **CLOSE)


@pytest.mark.parametrize("size", SIZES[:2])
def test_negative_factors_flip_as_in_kornia(size):
    x = pictures(*size)
    for factors, flip in (([-1.0, 1.0], K.hflip), ([1.0, -1.0], K.vflip), ([-1.0, -1.0], K.rot180)):
        y = affine(x, NO_TURN(x), NO_WAY(x), torch.tensor(factors).expand(len(x), 2))
        torch.testing.assert_close(y, flip(x), **CLOSE)


# -- against scipy: the paddings that depend on where an image ends ----------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("padding", "mode"), [("border", "nearest"), ("reflection", "reflect")])
def test_warp_as_in_scipy(size, padding, mode):
    x = pictures(*size)
    matrices = torch.randn(len(x), 2, 2, generator=generator(2), dtype=torch.float64)
    shifts = torch.randn(len(x), 2, generator=generator(3), dtype=torch.float64)
    centre = (np.array(size) - 1) / 2
    expected = np.empty_like(x.numpy())
    for n, (matrix, shift) in enumerate(zip(matrices.numpy(), shifts.numpy(), strict=True)):
        rows_first = matrix[::-1, ::-1]
        for c in range(x.shape[1]):
            expected[n, c] = ndimage.affine_transform(
                x[n, c].numpy(), rows_first, centre - rows_first @ centre + shift[::-1], order=1, mode=mode
            )
    torch.testing.assert_close(warp(x, matrices, shifts, padding=padding), torch.from_numpy(expected), **CLOSE)


def test_nearest_takes_values_of_the_image():
    x = torch.arange(1.0, 82.0).view(1, 1, 9, 9)
    y = affine(x, torch.tensor([33.0]), torch.tensor([[0.1, -0.2]]), torch.tensor([[0.9, 1.1]]), "nearest", "zeros")
    assert set(y.flatten().tolist()) <= {0.0, *x.flatten().tolist()}
    matrix = np.linalg.inv(_forward(33.0, 0.9, 1.1))
    for row, column in [(4, 4), (2, 6), (7, 3)]:
        right, down = matrix @ (np.array([column - 4, row - 4]) - np.array([0.9, -1.8]))
        row_in, column_in = round(down + 4), round(right + 4)
        inside = 0 <= row_in < 9 and 0 <= column_in < 9
        assert y[0, 0, row, column] == (x[0, 0, row_in, column_in] if inside else 0)


def _forward(degrees: float, right: float, down: float) -> np.ndarray:
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) @ np.diag([right, down])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turns_counter_clockwise(turns):
    x = torch.rand(2, 3, 8, 8, generator=generator())
    y = affine(x, torch.full((2,), 90.0 * turns), NO_WAY(x), NO_SCALE(x))
    # float32 knows coordinates of up to 4 pixels to 5e-7; values are up to 1 apart
    torch.testing.assert_close(y, torch.rot90(x, turns, (2, 3)), rtol=0, atol=1e-5)


# -- the random parts --------------------------------------------------------------------------------------------------


def test_parts_apply_what_they_draw():
    x = pictures(9, 7)
    settings = {"degrees": 30, "translate": 0.2, "scale": (0.7, 1.4), "horizontal_flip": 0.5, "vertical_flip": 0.5}
    y = data.RandomAffine(**settings, generator=generator())(x)
    degrees, translate, scale = data.RandomAffine(**settings, generator=generator()).draw(x)
    torch.testing.assert_close(y, affine(x, degrees, translate, scale), rtol=0, atol=0)
    y = data.RandomRotation(30, padding="zeros", generator=generator())(x)
    degrees, *_ = data.RandomRotation(30, generator=generator()).draw(x)
    torch.testing.assert_close(y, K.rotate(x, degrees.double()), **CLOSE)


def test_draws_are_uniform():
    x = torch.empty(20_000, 1, 1, 1)
    part = data.RandomAffine(30, 0.2, (0.7, 1.4), horizontal_flip=0.3, vertical_flip=0.6, generator=generator())
    degrees, translate, scale = part.draw(x)
    uniform = [
        (degrees, -30, 30),
        (translate[:, 0], -0.2, 0.2),
        (translate[:, 1], -0.2, 0.2),
        (scale[:, 0].abs(), 0.7, 1.4),
    ]
    for values, low, high in uniform:
        assert low <= values.min() and values.max() <= high
        assert stats.kstest(values.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert torch.equal(scale[:, 0].abs(), scale[:, 1].abs())  # the form stays
    left, top = (scale < 0).unbind(1)
    assert stats.binomtest(int(left.sum()), len(x), 0.3).pvalue > 1e-3
    assert stats.binomtest(int(top.sum()), len(x), 0.6).pvalue > 1e-3
    independent = [[int((left == a).logical_and(top == b).sum()) for a in (0, 1)] for b in (0, 1)]
    assert stats.chi2_contingency(independent).pvalue > 1e-3
    numbers = torch.stack([degrees, translate[:, 0], translate[:, 1], scale[:, 0].abs()])
    correlations = torch.corrcoef(numbers) - torch.eye(4)
    assert correlations.abs().max() < 4 / math.sqrt(len(x))  # standard error 1 / sqrt(n)


def test_only_a_share_is_changed_and_the_rest_keeps_every_bit():
    x = torch.rand(4000, 1, 4, 4, generator=generator())
    y = data.RandomRotation(30, p=0.25, generator=generator())(x)
    changed = (y != x).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), len(x), 0.25).pvalue > 1e-3


@pytest.mark.parametrize(("part", "axis"), [(data.RandomHorizontalFlip, 3), (data.RandomVerticalFlip, 2)])
def test_flips_are_exact_and_as_frequent_as_asked(part, axis):
    x = torch.rand(4000, 2, 3, 5, generator=generator())
    y = part(0.3, generator=generator())(x)
    flipped = (y == x.flip(axis)).flatten(1).all(1)
    kept = (y == x).flatten(1).all(1)
    assert torch.equal(flipped, ~kept)
    assert stats.binomtest(int(flipped.sum()), len(x), 0.3).pvalue > 1e-3
    assert torch.equal(part(1.0)(x), x.flip(axis))


def test_the_padding_decides_what_comes_from_outside():
    x = torch.ones(50, 1, 8, 8)
    for padding in ("border", "reflection"):
        assert torch.allclose(data.RandomAffine(45, 0.5, (0.3, 1), padding=padding, generator=generator())(x), x)
    assert data.RandomAffine(45, 0.5, (0.3, 1), padding="zeros", generator=generator())(x).mean() < 0.6


# -- CutOut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "height", "width"), [(0.5, 8, 8), (0.3, 10, 7), (1.0, 5, 5), (0.01, 6, 6)])
def test_squares_have_their_size_and_every_place(size, height, width):
    """Each centre is as likely as another; what it covers is written out here pixel by pixel."""
    sides = max(1, round(size * height)), max(1, round(size * width))

    def square(row: int, column: int) -> bytes:
        covered = np.zeros((height, width), bool)
        for r in range(row - sides[0] // 2, row - sides[0] // 2 + sides[0]):
            for c in range(column - sides[1] // 2, column - sides[1] // 2 + sides[1]):
                if 0 <= r < height and 0 <= c < width:
                    covered[r, c] = True
        return covered.tobytes()

    expected: dict[bytes, int] = {}
    for row in range(height):
        for column in range(width):
            key = square(row, column)
            expected[key] = expected.get(key, 0) + 1
    n = 200 * height * width
    y = data.CutOut(size, fill=7.0, generator=generator())(torch.zeros(n, 2, height, width))
    assert set(y.unique().tolist()) <= {0.0, 7.0}
    covered = y == 7
    assert torch.equal(covered[:, 0], covered[:, 1])
    found = dict.fromkeys(expected, 0)
    for one in covered[:, 0].numpy():
        found[one.tobytes()] += 1
    if len(expected) > 1:
        counts = [count * 200 for count in expected.values()]
        assert stats.chisquare(list(found.values()), counts).pvalue > 1e-3
    area = sum(np.frombuffer(key, bool).sum() * count for key, count in expected.items()) / (height * width)
    # the area of one square is bounded by that of the whole: a bound on the standard error of the mean
    assert covered[:, 0].sum((1, 2)).float().mean().item() == pytest.approx(area, abs=4 * sides[0] * sides[1] / n**0.5)


def test_what_is_not_covered_keeps_every_bit():
    x = torch.rand(16, 3, 8, 8, generator=generator()) + 1
    y = data.CutOut(0.5, generator=generator())(x)
    assert torch.equal(torch.where(y == 0, x, y), x)
