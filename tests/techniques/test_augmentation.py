"""Augmentation of a live training: what the model gets, what stays, what is refused, and a whole comparison of a script."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab import data
from trimtab.cli import main
from trimtab.recipe import Recipe, Refused

IMAGES = {
    "affine": "RandomAffine",
    "cutout": "CutOut",
    "flip": "RandomHorizontalFlip",
    "flip(direction='vertical')": "RandomVerticalFlip",
    "rand_augment(value_range=(-1.0, 1.0))": "RandAugment",
    "rotate": "RandomRotation",
    "translate": "RandomTranslation",
    "zoom": "RandomScale",
}
OTHERS = [
    "noise",
    "noise(relative=False)",
    "feature_masking",
    "feature_scaling",
    "time_masking",
    "flip(direction='both')",
]


def attached(model: nn.Module, text: str) -> tt.Training:
    return tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)


def seen_by(model: nn.Module) -> list[torch.Tensor]:
    """What reaches the first layer."""
    seen: list[torch.Tensor] = []
    model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


@pytest.fixture
def images(digits) -> tuple[torch.Tensor, torch.Tensor]:
    return digits[0].view(-1, 1, 8, 8), digits[1]


@pytest.mark.parametrize("text", [*IMAGES, *OTHERS])
def test_training_sees_new_inputs_and_evaluation_the_old(text, images):
    x, y = images
    x, kind = (x, "images") if text in IMAGES or "flip" in text else (x.flatten(1), "mlp")
    model = network(kind)
    training = attached(model, text)
    seen, targets = seen_by(model), []
    training.change_loss(lambda loss: targets.append(loss.target))
    train(model, training.optimizers[0], (x[:32], y[:32]), 2)
    first, second = seen
    assert first.shape == x[:32].shape and first.dtype == x.dtype
    assert not torch.equal(first, x[:32]) and not torch.equal(first, second)  # drawn anew for each batch
    assert all(torch.equal(target, y[:32]) for target in targets)
    with torch.no_grad():
        model(x[:32])
    model.eval()(x[:32])
    assert torch.equal(seen[2], x[:32]) and torch.equal(seen[3], x[:32])
    training.undo()
    model.train()(x[:32])
    assert torch.equal(seen[4], x[:32])


@pytest.mark.parametrize("text", IMAGES)
def test_the_part_of_that_name_is_what_acts(text, images):
    """The same values as the part with the generator that the training gives it."""
    model = network("images")
    seen = seen_by(model)
    training = attached(model, text)
    train(model, training.optimizers[0], images, 1)
    twin = network("images")
    generator = tt.attach(twin, torch.optim.SGD(twin.parameters(), 0.1)).generator(text.split("(")[0])
    settings = {
        "affine": (10.0, 0.1, (0.9, 1.1)), "cutout": (0.5,), "rand_augment(value_range=(-1.0, 1.0))": (2, 9, (-1.0, 1.0)),
        "rotate": (15,), "translate": (0.1,), "zoom": ((0.8, 1.2),),
    }.get(text, (0.5,))  # fmt: skip
    part = getattr(data, IMAGES[text])(*settings, generator=generator)
    assert torch.equal(seen[0], part(images[0][:32]))


def test_settings_reach_the_part(images):
    for text in (
        "rotate(degrees=90, padding='zeros')",
        "zoom(low=0.1, high=0.2, padding='zeros')",
        "translate(share=1.0, padding='zeros')",
        "affine(degrees=0, share=0, low=0.1, high=0.2, padding='zeros')",
        "cutout(size=1.0)",
    ):
        model = network("images")
        seen = seen_by(model)
        train(model, attached(model, text).optimizers[0], (torch.ones(32, 1, 8, 8), images[1][:32]), 1)
        assert seen[0].min() == 0, text  # no image of ones keeps all of them
    model = network("images")
    seen = seen_by(model)
    train(model, attached(model, "flip(p=1.0, direction='both')").optimizers[0], images, 1)
    assert torch.equal(seen[0], images[0][:32].flip(2, 3))


def test_noise_goes_by_the_deviation_of_a_feature_in_tables_and_of_all_entries_elsewhere(digits):
    x = digits[0][:256].double()
    for kind, inputs in (("mlp", x), ("images", x.view(-1, 1, 8, 8))):
        model = network(kind).double()
        seen = seen_by(model)
        train(model, attached(model, "noise(std=0.5)").optimizers[0], (inputs, digits[1][:256]), 1, batch=256)
        noise = (seen[0] - inputs).flatten(1)
        expected = 0.5 * (x.std(0, correction=0) if kind == "mlp" else x.std(correction=0).expand(64))
        # the deviation of 256 numbers has a standard error of 1 / sqrt(512); 64 of them, so five
        torch.testing.assert_close(noise.std(0), expected, rtol=5 / 512**0.5, atol=0)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_cut_out_of_an_image_is_without_noise_in_whatever_order_they_are_written(order, images):
    model = network("images")
    seen = seen_by(model)
    training = attached(model, ", ".join(["cutout(size=1.0)", "noise(std=0.1, relative=False)"][::order]))
    train(model, training.optimizers[0], images, 1)
    assert len(training.changes) == 2
    covered = (seen[0] == 0).float().mean()
    assert 0.2 < covered < 1 and not torch.equal(seen[0][seen[0] != 0], images[0][:32][seen[0] != 0])


@pytest.mark.parametrize("text", [*IMAGES, *OTHERS])
def test_integers_are_left_alone_and_it_says_so(text):
    model = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(9, 2))
    training = attached(model, text)
    seen = seen_by(model)
    model(torch.arange(3)[None]).sum().backward()
    assert torch.equal(seen[0], torch.arange(3)[None])
    assert not training.changes[0].acted()


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("rotate", (4, 64), "rotate got an input of shape (4, 64). Images must have the shape (N, C, H, W). Give the rows"),
        ("zoom", (4, 8, 8), "zoom got an input of shape (4, 8, 8). Images must have the shape (N, C, H, W). Images without a"),
        ("feature_masking", (4, 8, 8), "feature_masking got an input of shape (4, 8, 8). Tables must have the shape (N, features)."),
        ("time_masking(axis=2)", (4, 64), "time_masking(axis=2) got an input of shape (4, 64). Sequences must have the shape (N, C, T)"),
        ("time_masking", (4, 6, 8), "time_masking(share=0.1) got sequences of 6 steps, of which that share is less than one."),
        ("feature_masking", (), "feature_masking got an input of shape (). Tables must have the shape (N, features)."),
        ("rand_augment", (4, 1, 8, 8), "rand_augment(value_range=(0.0, 1.0)) got images with values in -3 .. 2."),
    ],
)  # fmt: skip
def test_inputs_of_another_kind_are_refused(text, shape, message):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2)) if shape else nn.Sequential(nn.Flatten(0), nn.Linear(1, 2))
    model(torch.zeros(shape))
    training = attached(model, text)
    x = torch.full(shape, 2.0)
    with pytest.raises(Refused) as error:
        model(x.index_fill(0, torch.tensor(1), -3.0) if shape else x)
    assert training.changes and str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate(degrees=0)", "rotate(degrees=0): degrees must lie in (0, 180]"),
        ("zoom(low=2)", "zoom: low=2 and high=1.2 must be positive factors, the smaller first"),
        ("translate(share=-0.1)", "translate(share=-0.1): share must lie in (0, 1]"),
        ("affine(padding='wrap')", "affine(padding='wrap'): padding must be one of 'border', 'zeros', 'reflection'."),
        ("flip(direction='diagonal')", "flip: direction='diagonal' must be one of 'horizontal', 'vertical', 'both'."),
        ("flip(p=2)", "flip(p=2): p must lie in (0, 1]"),
        ("cutout(size=3)", "cutout(size=3): size must lie in (0, 1]"),
        ("noise(std=0)", "noise(std=0): std must be positive"),
        ("rand_augment(magnitude=11)", "rand_augment(magnitude=11): magnitude must lie in [0, 10]."),
        ("feature_masking(fill='median')", "feature_masking(fill='median'): fill must be one of 'mean', 'zero'."),
        ("feature_scaling(std=0)", "feature_scaling(std=0): std must be positive"),
        ("time_masking(masks=0)", "time_masking(masks=0): masks must be a whole number of stretches"),
        ("affine, rotate", "affine cannot be combined with rotate: both would rotate the images, and interpolate them twice."),
        ("feature_scaling, flip", "flip cannot be combined with feature_scaling: flip acts on images, feature_scaling on tables."),
        ("time_masking, zoom", "zoom cannot be combined with time_masking: zoom acts on images, time_masking on sequences."),
    ],
)  # fmt: skip
def test_bad_recipes_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        Recipe.parse(text)
    assert str(error.value).startswith(message)


def test_a_range_of_values_reads_back_from_toml():
    recipe = Recipe.parse("rand_augment(value_range=[-1, 1])")
    assert recipe.techniques[0].value_range == (-1, 1)
    assert Recipe.from_toml(recipe.to_toml()) == recipe == Recipe.parse(str(recipe))


SCRIPT = """\
import torch
from torch import nn
x, y = torch.load("digits.pt")
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(8):
    model.train()
    for batch in torch.randperm(256).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", nn.functional.cross_entropy(model(x[256:]), y[256:]).item())
"""


def test_a_script_is_compared_with_and_without(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(images, "digits.pt")
    (tmp_path / "train.py").write_text(SCRIPT)
    arms = ["rotate(degrees=10), noise(std=0.05)", "rand_augment(magnitude=5)"]
    options = [word for arm in arms for word in ("--with", arm)]
    shown = CliRunner().invoke(main, ["compare", "--seeds", "2", *options, "--json", "found.json", "train.py"])
    assert shown.exit_code == 0, shown.output
    rotated, refused = json.loads((tmp_path / "found.json").read_text())["comparison"]["arms"]
    assert rotated["recipe"] == arms[0] and not rotated["no_effect"]
    assert rotated["effect"] not in (None, 0)
    assert refused["effect"] is None
    assert "Give the lowest and the highest value" in " ".join(shown.output.split())
