"""Normalization of the inputs of a live training: what the first layer gets, missing values, closures, checkpoints."""

from __future__ import annotations

import copy
import io
import math
import warnings

import pytest
import torch
from sklearn.datasets import load_wine
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab.data import MinMax, Standardize, Whiten
from trimtab.data.input_report import InputWarning
from trimtab.recipe import Recipe

TEXTS = {
    "standardize_inputs": lambda n, **k: Standardize(n, **k),
    "scale_inputs": lambda n, **k: MinMax(n, **k),
    "scale_inputs(low=-1.0)": lambda n, **k: MinMax(n, -1, 1, **k),
    "whiten_inputs": lambda n, **k: Whiten(n, "zca", prior=n, **k),
    "whiten_inputs(kind='pca', batches=3)": lambda n, **k: Whiten(n, "pca", prior=n, batches=3, **k),
}
every_text = pytest.mark.parametrize("text", TEXTS)


@pytest.fixture
def wine() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_wine()
    order = torch.randperm(178, generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target)[order]


def tabular() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))


def applied(text: str, model: nn.Module, make=lambda p: torch.optim.SGD(p, lr=0.1)) -> tuple:
    optimizer = make(model.parameters())
    return optimizer, tt.attach(model, optimizer).apply(text)


def seen_by(layer: nn.Module) -> list[torch.Tensor]:
    """What reaches the layer, behind what was put in front of it."""
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    return seen


@every_text
def test_the_first_layer_gets_what_the_part_gives(text, wine):
    model = tabular()
    optimizer, _ = applied(text, model)
    seen = seen_by(model[0])
    part = TEXTS[text](13)
    train(model, optimizer, wine, 5, batch=32)
    x = wine[0]
    for step in range(5):
        rows = slice(step * 32 % len(x), step * 32 % len(x) + 32)
        assert torch.equal(seen[step], part(x[rows]))
    model.eval()(x)
    assert torch.equal(seen[5], part.eval()(x))
    with torch.no_grad():
        model.train()(x)  # no gradients: no training
    assert torch.equal(seen[6], seen[5])


@every_text
def test_images_are_normalized_by_channel(text, digits):
    torch.manual_seed(0)
    x = digits[0].view(-1, 1, 8, 8).expand(-1, 3, -1, -1) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    x = x + torch.randn(512, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    optimizer, _ = applied(text, model)
    seen = seen_by(model[0])
    train(model, optimizer, (x, digits[1]), 1)
    assert torch.equal(seen[0], TEXTS[text](3, axis=1)(x[:32]))


def test_sequences_are_normalized_by_feature(digits):
    model = network("recurrent")
    optimizer, training = applied("whiten_inputs", model)
    train(model, optimizer, digits, 2)
    assert str(training.changes[0]).startswith("8 input features whitened (zca) before 1.rnn")


@every_text
def test_statistics_can_stand_still_after_some_batches(text, wine):
    model = tabular()
    text = text if "batches" in text else f"{text[:-1]}, batches=3)" if ")" in text else f"{text}(batches=3)"
    optimizer, _ = applied(text, model)
    train(model, optimizer, wine, 3, batch=32)
    before = {name: b.clone() for name, b in model.named_buffers()}
    train(model, optimizer, wine, 2, batch=32)
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())
    assert all("count" not in name or b == 96 for name, b in before.items())


@every_text
def test_missing_values_never_reach_the_loss_and_are_told_of(text, wine):
    x, y = wine[0].clone(), wine[1]
    x[::9, 3] = math.nan
    x[1, 7] = math.inf
    held_out = x[:20].clone()
    model = tabular()
    optimizer, training = applied(text, model)
    with pytest.warns(InputWarning, match=r"4 missing values in feature 3; 1 infinite values in feature 7") as told:
        losses = train(model, optimizer, (x, y), 5, batch=32)
    assert len(told) == 1
    assert all(map(math.isfinite, losses))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.no_grad():
        assert torch.isfinite(model.eval()(held_out)).all()
    first = int((~torch.isfinite(x[:160])).sum())
    more = int((~torch.isfinite(held_out)).sum())
    said = training.changes[0].sentence
    assert f"{first + more} missing or infinite values became the mean of their feature (learning, it met " in said
    assert "missing values in feature 3; 1 infinite values in feature 7" in said
    assert ("incomplete rows were left out" in said) == ("whiten" in text)


def test_a_training_goes_on_where_warnings_are_errors(wine, capsys):
    x = wine[0].clone()
    x[0, 0] = math.nan
    model = tabular()
    optimizer, _ = applied("standardize_inputs", model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, (x, wine[1]), 2, batch=32)
    assert "1 missing values in feature 0" in capsys.readouterr().err


def test_the_outcome_tells_the_condition_number_and_constant_features(wine):
    x = wine[0].clone()
    x[:, 5] = 2.0
    model = tabular()
    optimizer, training = applied("whiten_inputs", model)
    change = training.changes[0]
    assert str(change) == "13 input features whitened (zca) before 0" and not change.acted()
    train(model, optimizer, (x, wine[1]), 40, batch=32)
    assert change.acted()
    said = change.sentence
    assert "constant feature 5; 1 of 13 directions dropped" in said
    before, after = said.split("condition number of the input ")[1].split(" -> ")
    assert 5e7 < float(before) < 2e8 and float(after) < 2  # the prior, and rows that came after the last map


def test_a_closure_learns_a_batch_once(wine):
    """LBFGS evaluates a batch many times, and its line search needs one function."""
    model = tabular()
    optimizer, training = applied(
        "standardize_inputs", model, lambda p: torch.optim.LBFGS(p, max_iter=5, line_search_fn="strong_wolfe")
    )
    part, counts = model[0].standardize, []
    for start in (0, 32):
        x, y = wine[0][start : start + 32], wine[1][start : start + 32]

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            counts.append(int(part.count))
            return loss

        optimizer.step(closure)
    assert set(counts) == {32, 64} and len(counts) > 8
    training.undo()
    assert model(wine[0]).shape == (178, 3)


def test_accumulated_batches_are_all_learned(wine):
    model = tabular()
    optimizer, _ = applied("scale_inputs", model)
    for step in range(2):
        for part in range(3):
            rows = slice((3 * step + part) * 16, (3 * step + part) * 16 + 16)
            nn.functional.cross_entropy(model(wine[0][rows]), wine[1][rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model[0].scale.count == 96
    assert torch.equal(model[0].scale.min.float(), wine[0][:96].amin(0))


@every_text
def test_a_model_can_be_copied_saved_and_loaded(text, wine):
    model = tabular()
    optimizer, _ = applied(text, model)
    train(model, optimizer, wine, 4, batch=32)
    expected = model.eval()(wine[0])
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    again = tabular()
    applied(text, again)
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    whole = io.BytesIO()
    torch.save(model, whole)
    read = torch.load(io.BytesIO(whole.getvalue()), weights_only=False)
    for twin in (again.eval(), copy.deepcopy(model), read):
        assert torch.equal(twin(wine[0]), expected)
    assert {b.dtype for b in model.bfloat16().buffers()} == {torch.float64}
    assert model(wine[0].bfloat16()).dtype == torch.bfloat16


def test_a_compiled_model_gets_the_same(wine):
    text, losses = "whiten_inputs", []
    for compiled in (False, True):
        model = tabular()
        optimizer, _ = applied(text, model)
        run = torch.compile(model, backend="eager") if compiled else model
        losses.append(train(run, optimizer, wine, 4, batch=32))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_whitened_inputs_train_where_raw_ones_do_not(wine):
    """The loss of one network after 100 steps of SGD at one rate."""
    ends = {}
    for text in ("", *TEXTS):
        model = tabular()
        optimizer, _ = applied(text, model, lambda p: torch.optim.SGD(p, lr=0.05))
        ends[text] = sum(train(model, optimizer, wine, 100, batch=32)[-10:]) / 10
    assert ends[""] > 1.0
    assert all(ends[text] < 0.9 for text in TEXTS)
    assert max(ends["standardize_inputs"], ends["whiten_inputs"]) < ends["scale_inputs"] / 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale_inputs(low=1.0)", "scale_inputs: low=1.0 and high=1.0 must be finite numbers with low below high"),
        ("standardize_inputs(batches=0)", "batches=0 must be 1 or more: the training batches to learn from"),
        ("whiten_inputs(kind='svd')", "whiten_inputs(kind='svd'): kind must be one of 'pca', 'zca'"),
        ("whiten_inputs(kind='pca')", "kind='pca' needs batches=N: while statistics grow, principal axes change sign"),
        ("standardize_inputs, scale_inputs", "cannot be combined with standardize_inputs: both would set the scale"),
        ("whiten_inputs, scale_inputs", "scale_inputs cannot be combined with whiten_inputs: both would set the scale"),
        (
            "whiten_inputs, standardize_inputs",
            "standardize_inputs cannot be combined with whiten_inputs: both would set",
        ),
    ],
)
def test_recipes_that_make_no_sense(text, message):
    with pytest.raises(tt.RecipeError) as error:
        Recipe.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("whiten_inputs", nn.Linear(2000, 2), "a matrix of 2000 x 2000 would be too dear: it takes up to 1024"),
        ("scale_inputs", nn.LayerNorm(3), "is a LayerNorm and takes its inputs as they are"),
        ("whiten_inputs", nn.Bilinear(3, 3, 2), "is a Bilinear, whose input features are not known"),
        ("standardize_inputs", nn.Sequential(nn.ReLU()), "the model has no layer with parameters"),
    ],
)
def test_models_without_such_inputs(text, model, message):
    optimizer = torch.optim.SGD([*model.parameters()] or [nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(tt.NothingToDo, match=message):
        tt.attach(model, optimizer).apply(text)
