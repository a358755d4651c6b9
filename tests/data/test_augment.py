"""The suite that every augmentation passes: in training only, sample by sample, from its own generator."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits

from trimtab import data
from trimtab.data.augment import Augmentation

IMAGES: dict[str, Callable[..., Augmentation]] = {
    "RandomAffine": lambda **g: data.RandomAffine(10, 0.1, (0.8, 1.2), 0.8, horizontal_flip=0.5, **g),
    "RandomRotation": lambda **g: data.RandomRotation(15, **g),
    "RandomScale": lambda **g: data.RandomScale((0.8, 1.2), **g),
    "RandomTranslation": lambda **g: data.RandomTranslation(0.2, **g),
    "RandomHorizontalFlip": lambda **g: data.RandomHorizontalFlip(**g),
    "RandomVerticalFlip": lambda **g: data.RandomVerticalFlip(**g),
    "CutOut": lambda **g: data.CutOut(0.5, **g),
    "RandAugment": lambda **g: data.RandAugment(2, 9, (-1.0, 1.0), **g),
}
TABLES: dict[str, Callable[..., Augmentation]] = {
    "GaussianNoise": lambda **g: data.GaussianNoise(0.1, **g),
    "FeatureNoise": lambda **g: data.FeatureNoise(64, 0.1, **g),
    "FeatureScaling": lambda **g: data.FeatureScaling(0.1, **g),
    "FeatureMasking": lambda **g: data.FeatureMasking(64, 0.2, **g),
    "TimeMasking": lambda **g: data.TimeMasking(0.5, **g),
}
PARTS = {**IMAGES, **TABLES}
every_part = pytest.mark.parametrize("name", PARTS)


def test_the_list_is_complete():
    public = {getattr(data, name) for name in data.__all__}
    assert {type(make()) for make in PARTS.values()} == {
        one for one in public if isinstance(one, type) and issubclass(one, Augmentation)
    }


DIGITS = torch.tensor(load_digits().data[:32] / 8 - 1, dtype=torch.float32)


def inputs(name: str) -> torch.Tensor:
    """32 digits, values in -1..1, as the part takes them."""
    return DIGITS.view(-1, 1, 8, 8) if name in IMAGES else DIGITS


def seeded(name: str, seed: int = 0) -> Augmentation:
    return PARTS[name](generator=torch.Generator().manual_seed(seed))


@every_part
def test_evaluation_is_untouched(name):
    x, part = inputs(name), seeded(name)
    before = part.generator.get_state()
    assert part.eval()(x) is x
    assert torch.equal(part.generator.get_state(), before)
    assert not torch.equal(part.train()(x), x)


@every_part
def test_the_same_seed_gives_the_same_draws(name):
    x, global_state = inputs(name), torch.get_rng_state()
    part = seeded(name)
    first, second = part(x), part(x)
    assert torch.equal(seeded(name)(x), first)
    assert not torch.equal(second, first)
    assert not torch.equal(seeded(name, 1)(x), first)
    assert torch.equal(torch.get_rng_state(), global_state)


@every_part
def test_without_a_generator_the_global_one_decides(name):
    x, results = inputs(name), []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(PARTS[name]()(x))
    assert torch.equal(*results)


@every_part
def test_samples_of_a_batch_get_draws_of_their_own(name):
    part, x = seeded(name), inputs(name)[:1]
    part(inputs(name))  # statistics of one sample alone would say that nothing varies
    y = part(x.expand(64, *x.shape[1:]))
    assert len({tuple(row) for row in y.flatten(1).tolist()}) >= (2 if "Flip" in name else 5)


@every_part
def test_the_input_stays_as_it_was(name):
    x = inputs(name)
    before = x.clone()
    seeded(name)(x)
    assert torch.equal(x, before)


@every_part
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_come_back_as_they_were(name, dtype):
    x = inputs(name).to(dtype)  # multiples of 1/8: exact in each
    y, expected = seeded(name)(x), seeded(name)(x.float())
    assert y.dtype == dtype
    if name in IMAGES or "Masking" in name:  # noise is drawn in the type of the input, and is another one there
        # All draws are float32: the same images up to the rounding of values up to 1 in the lesser type, 2^-9 in bfloat16;
        # in float64, to that of float32 pixel coordinates up to 8 times the step between pixels, up to 2.
        # RandAugment cuts values into levels, at whose edges an ulp decides: there the two may differ by a level.
        close = (y.double() - expected.double()).abs() <= max(torch.finfo(dtype).eps, 8 * 2 * 1e-7)
        assert close.double().mean() > (0.97 if name == "RandAugment" else 1 - 1e-9)


@pytest.mark.parametrize("name", IMAGES)
def test_channels_last_stay_so(name):
    x = torch.rand(4, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    y = seeded(name)(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    # the sums of means over the image run in another order there
    torch.testing.assert_close(y, seeded(name)(x), rtol=0, atol=1e-6)
    assert seeded(name)(x).is_contiguous()


@every_part
def test_strided_inputs(name):
    wide = torch.stack([inputs(name), torch.zeros_like(inputs(name))], -1)
    assert torch.equal(seeded(name)(wide[..., 0]), seeded(name)(inputs(name)))


@every_part
def test_gradients_pass(name):
    x = inputs(name).clone().requires_grad_(True)
    seeded(name)(x).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


@every_part
def test_autocast_changes_nothing(name):
    x = inputs(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = seeded(name)(x)
    assert torch.equal(y, seeded(name)(x))


@every_part
def test_without_gradients_it_acts_alike(name):
    with torch.no_grad():  # as in the worker of a data loader
        y = seeded(name)(inputs(name))
    assert torch.equal(y, seeded(name)(inputs(name)))


@every_part
def test_copies_and_files_go_on_alike(name):
    x, part = inputs(name), seeded(name)
    part(x)
    file = io.BytesIO()
    torch.save(part, file)
    file.seek(0)
    copies = [copy.deepcopy(part), torch.load(file, weights_only=False)]
    expected = part(x)
    assert all(torch.equal(one(x), expected) for one in copies)


@every_part
def test_an_empty_batch_passes(name):
    x = inputs(name)[:0]
    assert seeded(name)(x).shape == x.shape


@every_part
def test_integers_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"^{name} got an input of type int64. It must be floating point: x.float\(\)\.$"
    ):
        seeded(name)(inputs(name).long())


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((32, 64), "Give the rows their form in front of the model: x.view(len(x), C, H, W)."),
        ((32, 8, 8), "Images without a channel axis: x.unsqueeze(1); a single image: x.unsqueeze(0)."),
        ((2, 3, 4, 8, 8), "It acts on images only."),
    ],
)
def test_what_is_no_batch_of_images_is_refused(name, shape, cure):
    with pytest.raises(ValueError) as error:
        seeded(name)(torch.zeros(shape))
    expected = f"{name} got an input of shape {shape}. Images must have the shape (N, C, H, W). {cure}"
    assert str(error.value) == expected


@pytest.mark.parametrize("name", IMAGES)
def test_channels_that_stand_last_are_noticed(name):
    with pytest.raises(ValueError) as error:
        seeded(name)(torch.zeros(2, 28, 28, 3))
    assert str(error.value) == (
        f"{name} got an input of shape (2, 28, 28, 3), in which the channels seem to stand last. Images must have the shape "
        "(N, C, H, W): x.movedim(-1, 1)."
    )
    seeded(name)(torch.zeros(2, 28, 3, 3))  # small maps of many features


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.RandomRotation(0), "RandomRotation(degrees=0): degrees must lie in (0, 180]: it is the largest angle"),
        (lambda: data.RandomAffine(-1), "RandomAffine(degrees=-1): degrees must lie in (0, 180]"),
        (lambda: data.RandomTranslation(2), "RandomTranslation(share=2): share must lie in (0, 1]"),
        (lambda: data.RandomTranslation(0), "RandomTranslation(share=0): share must lie in (0, 1]"),
        (lambda: data.RandomScale((1.2, 0.8)), "RandomScale(scale=(1.2, 0.8)): scale must be two positive factors, the smallest"),
        (lambda: data.RandomAffine(5, p=0), "RandomAffine(p=0): p must lie in (0, 1]: it is the share of images"),
        (lambda: data.RandomAffine(vertical_flip=2), "RandomAffine(vertical_flip=2): vertical_flip must lie in (0, 1]"),
        (
            lambda: data.RandomRotation(5, padding="grey"),
            "RandomRotation(padding='grey'): padding must be one of 'border', 'zeros', 'reflection'.",
        ),
        (
            lambda: data.RandomRotation(5, interpolation="linear"),
            "RandomRotation(interpolation='linear'): interpolation must be one of 'bilinear', 'nearest', 'bicubic'.",
        ),
        (lambda: data.RandomVerticalFlip(1.1), "RandomVerticalFlip(p=1.1): p must lie in (0, 1]: it is the probability"),
        (lambda: data.CutOut(0), "CutOut(size=0): size must lie in (0, 1]: it is the side of the square as a share"),
        (lambda: data.GaussianNoise(0), "GaussianNoise(std=0): std must be positive: it is the standard deviation"),
        (lambda: data.FeatureNoise(3, float("nan")), "FeatureNoise(std=nan): std must be positive"),
        (lambda: data.FeatureScaling(-1), "FeatureScaling(std=-1): std must be positive"),
        (lambda: data.FeatureMasking(3, 1.5), "FeatureMasking(p=1.5): p must lie in (0, 1]: it is the probability of hiding"),
        (lambda: data.FeatureMasking(3, 0.5, "median"), "FeatureMasking(fill='median'): fill must be one of 'mean', 'zero'."),
        (lambda: data.TimeMasking(0), "TimeMasking(share=0): share must lie in (0, 1]: it is the longest stretch"),
        (lambda: data.TimeMasking(0.5, masks=0), "TimeMasking(masks=0): masks must be a whole number of stretches, 1 or"),
        (lambda: data.TimeMasking(0.5, axis=0), "TimeMasking(axis=0): axis must be 1 for (N, T, C) or 2 for (N, C, T)."),
        (lambda: data.RandAugment(ops=0), "RandAugment(ops=0): ops must be a whole number of operations for each image"),
        (lambda: data.RandAugment(magnitude=27), "RandAugment(magnitude=27): magnitude must lie in [0, 10]."),
        (lambda: data.RandAugment(value_range=(1, 0)), "RandAugment(value_range=(1, 0)): value_range must be the lowest and"),
    ],
)  # fmt: skip
def test_bad_settings_say_what_must_hold(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith(message)
