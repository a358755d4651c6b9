"""Techniques that drop units: where, how much, and that evaluation is left alone."""

from __future__ import annotations

import copy
import io
import re

import pytest
import torch
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab.nn import Dropout

FAMILY = {
    "mlp": ["dropout", "dropout(count='exact')", "dropout(shape='locked')", "gaussian_dropout", "alpha_dropout"],
    "cnn": ["dropout(shape='channel')", "drop_block(block_size=3)", "drop_block(place='after')", "alpha_dropout"],
}
each = pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FAMILY.items() for text in texts])


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def applied(text: str, kind: str = "mlp") -> tuple[nn.Module, tt.Training]:
    model = network(kind)
    torch.manual_seed(4)
    return model, tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)


def parts(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd)}


@each
def test_training_is_noisy_and_evaluation_is_not(kind, text, digits):
    x = digits[0][:16]
    plain = network(kind)(x)
    model, _ = applied(text, kind)
    assert not torch.equal(model(x), plain)
    assert not torch.equal(model(x), model(x))
    with torch.no_grad():
        assert torch.equal(model(x), plain)  # scripts that never call eval()
    assert torch.equal(model.eval()(x), plain)


@each
def test_copies_and_files_go_on_with_the_same_masks(kind, text, digits):
    x = digits[0][:16]
    model, _ = applied(text, kind)
    model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins = [copy.deepcopy(model), torch.load(buffer, weights_only=False)]
    expected = model(x), model(x)
    for twin in twins:
        assert torch.equal(twin(x), expected[0])
        assert torch.equal(twin(x), expected[1])


@each
def test_undo_takes_everything_off(kind, text, digits):
    model, training = applied(text, kind)
    train(model, training.optimizers[0], digits, 2)
    training.undo()
    assert parts(model) == {}
    assert not any(m._forward_pre_hooks for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    assert torch.equal(model(digits[0]), model(digits[0]))


def test_the_masks_of_plain_dropout_are_those_of_the_part(digits):
    x = digits[0][:16]
    model, _ = applied("dropout(p=0.3)")
    _, twin = network(), tt.attach(network(), torch.optim.SGD(network().parameters(), lr=0.1))
    torch.manual_seed(4)
    drops = [Dropout(0.3, generator=twin.generator(f"dropout {name}")) for name in ("2", "4")]
    h = model[0](x)
    for drop, layer in zip(drops, (model[2], model[4]), strict=True):
        h = nn.functional.linear(drop(torch.relu(h)), layer.weight, layer.bias)
    assert torch.equal(model(x), h)


def test_original_scaling_scales_evaluation(digits):
    x = digits[0][:16]
    model, _ = applied("dropout(p=0.3, scaling='original')")
    h = torch.relu(model[0](x))
    h = torch.relu(nn.functional.linear(h * 0.7, model[2].weight, model[2].bias))
    expected = nn.functional.linear(h * 0.7, model[4].weight, model[4].bias)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.eval()(x), expected)


def test_features_are_dropped_at_all_their_positions():
    model = nn.Sequential(nn.Conv1d(3, 6, 1), nn.Conv1d(6, 6, 1), nn.Flatten(2), nn.Linear(5, 8), nn.Linear(8, 2))
    tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("dropout(shape='channel')")
    seen = {}
    for place in (1, 3, 4):
        model[place].dropout.register_forward_hook(lambda m, i, y, place=place: seen.update({place: y == 0}))
    model(torch.randn(9, 3, 5) + 1)
    assert (seen[1] == seen[1][:, :, :1]).all() and seen[1].any() and not seen[1].all()  # (N, C, L)
    assert (seen[4] == seen[4][:, :1]).all() and seen[4].any() and not seen[4].all()  # (N, T, C)
    locked = nn.Sequential(nn.Conv1d(3, 6, 1), nn.Conv1d(6, 6, 1))
    tt.attach(locked, torch.optim.SGD(locked.parameters(), lr=0.1)).apply("dropout(shape='locked')")
    assert locked[1].dropout.shape == "channel"


def test_wider_layers_drop_more():
    model = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 8), nn.Linear(8, 16), nn.Linear(16, 2))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("dropout(p=0.4, by='width')")
    assert [layer.dropout.p for layer in model[1:]] == pytest.approx([0.4, 0.1, 0.2])
    assert str(training.changes[0]).splitlines() == [
        "dropout with p=0.4 in proportion to the width before 3 layers: 1, 2, 3",
        "  1: Dropout(p=0.4, inplace=False)",
        "  2: Dropout(p=0.1, inplace=False)",
        "  3: Dropout(p=0.2, inplace=False)",
    ]


@pytest.mark.parametrize(("text", "kind"), [("dropout(p=0.4, ramp=4)", "mlp"), ("drop_block(p=0.4, ramp=4)", "cnn")])
def test_rates_rise_over_the_steps(text, kind, digits):
    model, training = applied(text, kind)
    rates = []
    for _ in range(6):
        rates.append({part.p for part in parts(model).values()})
        train(model, training.optimizers[0], digits, 1)
    assert [next(iter(p)) for p in rates] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert all(len(p) == 1 for p in rates)
    assert ", reached after 4 steps, before" in training.changes[0].summary
    training.undo()
    train(model, training.optimizers[0], digits, 1)


def test_a_rate_rises_once_a_step_with_several_optimizers(digits):
    model = network()
    halves = [torch.optim.SGD(model[:1].parameters(), lr=0.1), torch.optim.SGD(model[1:].parameters(), lr=0.1)]
    tt.attach(model, halves).apply("dropout(p=0.4, ramp=4)")
    model(digits[0]).sum().backward()
    for optimizer in halves:
        optimizer.step()
    assert model[2].dropout.p == pytest.approx(0.1)


def test_blocks_stand_at_convolutions():
    def made() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Conv1d(8, 8, 1))

    for place, expected in {
        "before": ["1.drop_block", "4.drop_block"],
        "after": ["0.drop_block", "1.drop_block"],
    }.items():
        model = made()
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(f"drop_block(place='{place}')")
        assert list(parts(model)) == expected


def test_networks_of_selus_keep_their_statistics(digits):
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Linear(256, 256), nn.SELU())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=256**-0.5)
        nn.init.zeros_(layer.bias)
    x = torch.randn(512, 256)
    spread = {}
    for text in ("alpha_dropout(p=0.2)", "dropout(p=0.2)"):
        model = copy.deepcopy(nn.Sequential(*layers))
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)
        y = model(x)
        spread[text] = abs(y.var().item() - 1)
    # 131 072 outputs, but 256 shared units: the variance of one network is off by a tenth
    assert spread["alpha_dropout(p=0.2)"] < 0.15 < spread["dropout(p=0.2)"]


def test_gradient_checkpointing_sees_the_same_masks(digits):
    x, gradients = digits[0][:16], []
    for kept in (True, False):
        model, _ = applied("dropout(p=0.3), gaussian_dropout(p=0.2)")
        y = model(x) if kept else torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        y.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropout(p=0)", "dropout: p=0 must lie strictly between 0 and 1: it is the probability of dropping a unit."),
        ("dropout(shape='row')", "dropout(shape='row'): shape must be one of 'element', 'channel', 'locked'."),
        ("dropout(scaling='x')", "dropout(scaling='x'): scaling must be one of 'inverted', 'original'."),
        ("dropout(count='x')", "dropout(count='x'): count must be one of 'bernoulli', 'exact'."),
        ("dropout(by='depth')", "dropout(by='depth'): by must be one of 'width'."),
        ("dropout(ramp=-1)", "dropout: ramp=-1 must be 0 or a number of steps: p rises from 0 over these."),
        ("gaussian_dropout(p=1)", "gaussian_dropout: p=1 must lie strictly between 0 and 1"),
        ("gaussian_dropout(variance='x')", "gaussian_dropout(variance='x'): variance must be one of 'paper', 'seed'."),
        ("alpha_dropout(p=2)", "alpha_dropout: p=2 must lie strictly between 0 and 1"),
        (
            "drop_block(block_size=0)",
            "drop_block(block_size=0): block_size is the side of a block and must be a whole number",
        ),
        ("drop_block(place='in')", "drop_block(place='in'): place must be one of 'before', 'after'."),
    ],
)
def test_bad_settings_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError, match=re.escape(message)):
        tt.Recipe.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gaussian_dropout", "the model has no linear or convolution layer behind another one."),
        ("drop_block", "the model has no convolution behind another layer with weights."),
        ("drop_block(place='after')", "the model has no convolution before another layer with weights."),
    ],
)
def test_nothing_to_do(text, message):
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(tt.NothingToDo, match=re.escape(f"{text} found nothing to act on: {message}")):
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)
