"""RandAugment: its operations against PIL and kornia on a photograph, its choices by what comes out."""

from __future__ import annotations

import itertools

import kornia.geometry.transform as K
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_image

from trimtab.data import RandAugment, rand_augment
from trimtab.data.rand_augment import COLORS, OPERATIONS, POSES, pose

PHOTO = load_sample_image("china.jpg")[100:260, 200:440]
ENHANCED = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def as_tensor(image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).movedim(-1, 0).double()[None] / 255


def strengths(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def equal_to(y: torch.Tensor, image, levels: float) -> None:
    """Within so many of 256 levels of PIL's 8-bit result."""
    torch.testing.assert_close(y.clamp(0, 1), as_tensor(image), rtol=0, atol=levels / 255)


@pytest.mark.parametrize("name", ENHANCED)
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.5, 1.0])
def test_enhancements_as_in_pil(name, strength):
    enhanced = ENHANCED[name](Image.fromarray(PHOTO)).enhance(1 + 0.9 * strength)
    # PIL rounds the result, and before it what it moves away from, which counts up to 0.9 times
    equal_to(COLORS[name](as_tensor(PHOTO), strengths(strength)), enhanced, 2)


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_solarize_and_posterize_as_in_pil(strength):
    x, image = as_tensor(PHOTO), Image.fromarray(PHOTO)
    equal_to(COLORS["solarize"](x, strengths(strength)), ImageOps.solarize(image, 256 * (1 - strength)), 1e-6)
    equal_to(COLORS["posterize"](x, strengths(-strength)), ImageOps.posterize(image, 8 - round(4 * strength)), 1e-6)


def test_autocontrast_and_equalize_as_in_pil():
    pale = PHOTO // 3 + 50
    # PIL rounds down its table; its steps of equalize are whole numbers of about 150 pixels, wrong by up to one
    equal_to(COLORS["autocontrast"](as_tensor(pale), strengths(1.0)), ImageOps.autocontrast(Image.fromarray(pale)), 1)
    equal_to(COLORS["equalize"](as_tensor(pale), strengths(1.0)), ImageOps.equalize(Image.fromarray(pale)), 3)


@pytest.mark.parametrize("name", COLORS)
def test_operations_act_on_each_image_by_itself(name):
    x = torch.cat([as_tensor(PHOTO), as_tensor(PHOTO).flip(1) * 0.5])
    both = COLORS[name](x, strengths(0.7, -0.2))
    alone = [COLORS[name](x[n : n + 1], strengths(s)) for n, s in enumerate((0.7, -0.2))]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-12)  # float64, sums in another order


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_constant_images_stay(name):
    x = torch.full((2, 3, 4, 4), 0.3)
    assert torch.equal(COLORS[name](x, strengths(1.0, 1.0).float()), x)


def test_pixels_that_are_not_numbers_do_no_harm_to_others():
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[0, 0, 0, 0] = torch.nan
    for name, change in COLORS.items():
        assert torch.equal(change(broken, strengths(0.5, 0.5).float())[1], change(x, strengths(0.5, 0.5).float())[1]), (
            name
        )


def test_color_leaves_grey_images_alone():
    x = torch.rand(2, 1, 5, 5)
    torch.testing.assert_close(COLORS["color"](x, strengths(1.0, -1.0).float()), x, rtol=0, atol=1e-6)


def test_tiny_images_are_not_sharpened():
    x = torch.rand(2, 1, 2, 9)
    assert COLORS["sharpness"](x, strengths(1.0, 1.0).float()) is x


def sheared(x: torch.Tensor, right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """About the centre; ``kornia.geometry.transform.shear`` holds the upper left corner."""
    one = torch.ones_like(right)
    turn = torch.stack([one, right, down, one], -1).view(-1, 2, 2)
    centre = torch.tensor([[(x.shape[3] - 1) / 2], [(x.shape[2] - 1) / 2]], dtype=x.dtype)
    return K.affine(x, torch.cat([turn, centre - turn @ centre], -1))


def test_poses_as_in_kornia():
    x = as_tensor(PHOTO).expand(2, -1, -1, -1)
    signed = torch.tensor([0.8, -0.5], dtype=torch.float64)
    zero = torch.zeros_like(signed)
    size = torch.tensor([x.shape[3], x.shape[2]])
    expected = {
        "rotate": K.rotate(x, 30 * signed),
        "shear_x": sheared(x, 0.3 * signed, zero),
        "shear_y": sheared(x, zero, 0.3 * signed),
        "translate_x": K.translate(x, 0.45 * size * torch.stack([signed, zero], 1)),
        "translate_y": K.translate(x, 0.45 * size * torch.stack([zero, signed], 1)),
    }
    assert tuple(expected) == POSES
    for place, name in enumerate(POSES):
        y = pose(x, torch.full((2,), place), signed)
        torch.testing.assert_close(y, expected[name], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    mixed = pose(x, torch.tensor([0, 3]), signed)
    torch.testing.assert_close(
        mixed, torch.stack([expected["rotate"][0], expected["translate_x"][1]]), rtol=0, atol=1e-5
    )


# -- what is chosen ----------------------------------------------------------------------------------------------------


def outcomes(x: torch.Tensor, level: float) -> dict[str, list[torch.Tensor]]:
    """What each operation can make of one image, for both signs."""

    def clamped(y: torch.Tensor) -> torch.Tensor:
        return y.clamp(0, 1)

    signs = (strengths(level), strengths(-level))
    made = {name: [clamped(change(x, s)) for s in signs] for name, change in COLORS.items()}
    for place, name in enumerate(POSES):
        made[name] = [clamped(pose(x, torch.tensor([place]), s.flatten())) for s in signs]
    return {"identity": [x], **made}


def nearest(y: torch.Tensor, candidates: list[torch.Tensor]) -> np.ndarray:
    """Which candidate each image is; every one must be one of them."""
    distances = (y.flatten(1)[:, None] - torch.cat(candidates).flatten(1)[None]).abs().amax(-1)
    assert distances.amin(1).max() < 1e-9  # float64: the same operations on the same numbers, in a larger batch
    return distances.argmin(1).numpy()


def patch(n: int) -> torch.Tensor:
    return as_tensor(PHOTO[40:46, 60:66]).expand(n, -1, -1, -1)


def test_each_operation_is_as_likely_as_another():
    y = RandAugment(1, 6, generator=torch.Generator().manual_seed(0))(patch(2800))
    made = outcomes(patch(1), 0.6)
    assert set(made) == set(OPERATIONS) and len(OPERATIONS) == 14
    labels = [(name, sign) for name, images in made.items() for sign in range(len(images))]
    counts = dict.fromkeys(labels, 0)
    for place in nearest(y, [image for images in made.values() for image in images]):
        counts[labels[place]] += 1
    by_name = [sum(counts[label] for label in labels if label[0] == name) for name in made]
    assert stats.chisquare(by_name).pvalue > 1e-3
    signed = [*POSES, "brightness", "contrast", "color", "sharpness"]
    signs = [sum(counts[name, sign] for name in signed) for sign in (0, 1)]
    assert stats.binomtest(signs[0], sum(signs)).pvalue > 1e-3


def test_two_operations_follow_one_another():
    y = RandAugment(2, 6, generator=torch.Generator().manual_seed(1))(patch(300))
    candidates = []
    for images in outcomes(patch(1), 0.6).values():
        for image in images:
            candidates += itertools.chain.from_iterable(outcomes(image, 0.6).values())
    assert len(set(nearest(y, candidates))) > 100


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0), (-2.5, 2.5)])
def test_the_range_of_values_changes_nothing_else(value_range):
    low, high = value_range
    x = as_tensor(PHOTO[:32, :32]).expand(40, -1, -1, -1)
    plain = RandAugment(2, 9, generator=torch.Generator().manual_seed(0))(x)
    y = RandAugment(2, 9, value_range, generator=torch.Generator().manual_seed(0))(low + x * (high - low))
    assert low <= y.min() and y.max() <= high
    # at the edges of levels a rounding decides, so nearly all pixels and not all
    close = ((y - low) / (high - low) - plain).abs() < 1e-9
    assert close.double().mean() > 0.98


def test_magnitude_0_leaves_the_image_but_for_what_has_no_magnitude():
    y = RandAugment(1, 0, generator=torch.Generator().manual_seed(0))(patch(500))
    x = patch(1)
    zero = strengths(0.0)
    nearest(y, [x, rand_augment.autocontrast(x, zero), rand_augment.equalize(x, zero)])


def test_values_outside_their_range_are_noticed():
    with pytest.raises(ValueError) as error:
        RandAugment()(patch(2) * 255)
    low, high = patch(1).min() * 255, patch(1).max() * 255
    assert str(error.value) == (
        f"RandAugment(value_range=(0.0, 1.0)) got images with values in {low:g} .. {high:g}. Give the lowest and the highest "
        "value that a pixel can have after normalization as value_range."
    )
