"""The suite that every technique passes. A new technique joins it by existing; what is special of it stands in its ``suite``."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import itertools
import random
import re

import pytest
import torch
from torch import nn

import trimtab as tt
from tests.conftest import network, same, train
from trimtab.recipe import MOMENTS, Recipe, Suite, Technique

SUITES = {name: cls.suite for name, cls in sorted(Technique.registry.items())}
NAMES = {suite.text or name: name for name, suite in SUITES.items()}
TEXTS = list(NAMES)


def suite_of(text: str) -> Suite:
    """What a technique says of itself to this suite."""
    return SUITES[NAMES[text]]


KINDS = ["mlp", "cnn"]


def attached(kind: str, make=lambda p: torch.optim.AdamW(p, lr=0.01), text: str = ""):
    model = network(next((t.suite.network for t in Recipe.parse(text) if t.suite.network), kind) if text else kind)
    optimizer = make(model.parameters())
    return model, optimizer, tt.attach(model, optimizer)


def shaped(model: nn.Module, data: tuple) -> tuple:
    """The digits as the network takes them."""
    x, y = data
    return (x.view(-1, 1, 8, 8) if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv2d) else x), y


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list:
    """Everything a training has, to compare bit for bit."""
    numbers = [model.state_dict(), optimizer.state_dict()["param_groups"], len(optimizer.param_groups[0]["params"])]
    moments = [optimizer.state.get(p, {}) for p in model.parameters()]
    return copy.deepcopy([*numbers, moments])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_changes_the_training_and_says_what(text, kind, digits):
    def sgd(parameters):  # Adam would hide a change in the length of gradients
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    model, optimizer, training = attached(kind, sgd, text)
    plain_model, plain_optimizer, _ = attached(kind, sgd, text)
    plain = train(plain_model, plain_optimizer, shaped(model, digits))
    training.apply(text)
    if suite_of(text).judged:  # by a metric that gets worse with every step
        training.on("step", lambda loss: training.evaluated("val loss", training.step))
    treated = train(model, optimizer, shaped(model, digits))
    if suite_of(text).same_losses == "takes away what has no effect":
        torch.testing.assert_close(treated, plain, rtol=1e-4, atol=1e-4)
    elif suite_of(text).same_losses == "acts in evaluation":
        assert treated == plain
        x = shaped(model, digits)[0]
        with torch.no_grad():
            assert not torch.equal(model.eval()(x), plain_model.eval()(x))
    else:
        pairs = zip(network_weights(model), network_weights(plain_model), strict=True)
        assert treated != plain or any(not torch.equal(p, q) for p, q in pairs)
    assert len(training.changes) == 1
    assert training.changes[0].summary
    assert training.changes[0].acted()


def network_weights(model: nn.Module) -> list[torch.Tensor]:
    return [
        p
        for name, p in model.named_parameters()
        if not any(w in name for w in ("norm", "standardize", "dropout", "ensemble"))
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_undo_restores_bit_for_bit(text, kind, digits):
    model, optimizer, training = attached(kind, text=text)
    train(model, optimizer, shaped(model, digits), 2)  # a live training: the optimizer has moments
    before = state(model, optimizer)
    identities = [id(p) for p in model.parameters()]
    training.apply(text).undo()
    assert same(state(model, optimizer), before)
    assert [id(p) for p in model.parameters()] == identities
    twin = copy.deepcopy(model)
    assert (
        train(model, optimizer, shaped(model, digits), 3)[0]
        == train(twin, torch.optim.SGD(twin.parameters(), 0.1), shaped(model, digits), 1)[0]
    )


@pytest.mark.parametrize("text", TEXTS)
def test_keeps_parameters_and_their_moments(text, digits):
    model, optimizer, training = attached("mlp", text=text)
    train(model, optimizer, shaped(model, digits), 2)
    old = list(model.parameters())
    training.apply(text)
    now = {id(p) for p in model.parameters()}
    assert all(id(p) in now for p in old) or suite_of(text).same_losses == "takes away what has no effect"
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    if "init" not in text and not suite_of(text).anew:
        assert all("exp_avg" in optimizer.state[p] for p in old if id(p) in now)
    train(model, optimizer, shaped(model, digits), 2)
    if suite_of(text).anew:
        assert all(optimizer.state[p] for p in model.parameters())
        training.undo()
    assert all("exp_avg" in optimizer.state[p] for p in model.parameters())


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_toml_read_back(text):
    recipe = Recipe.parse(text)
    assert Recipe.parse(str(recipe)) == recipe
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("text", TEXTS)
def test_draws_nothing_from_the_global_generator(text, digits):
    model, optimizer, training = attached("mlp", text=text)
    before = torch.get_rng_state()
    training.apply(text)
    train(model, optimizer, shaped(model, digits), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", TEXTS)
def test_same_seed_same_result(text, digits):
    losses = []
    for _ in range(2):
        model, optimizer, training = attached("mlp", text=text)
        training.apply(text)
        losses.append(train(model, optimizer, shaped(model, digits)))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("text", TEXTS)
def test_survives_deepcopy_and_checkpoint(text, digits):
    model, optimizer, training = attached("mlp", text=text)
    training.apply(text)
    train(model, optimizer, shaped(model, digits), 3)
    model.eval()
    with torch.no_grad():
        expected = model(shaped(model, digits)[0][:8])
        torch.testing.assert_close(copy.deepcopy(model)(shaped(model, digits)[0][:8]), expected, rtol=0, atol=0)
    other, _, again = attached("mlp", text=text)
    again.apply(text)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(shaped(model, digits)[0][:8]), expected, rtol=0, atol=0)


@pytest.mark.parametrize("text", [text for text in TEXTS if not suite_of(text).always])
def test_is_loud_when_it_finds_nothing(text):
    # integers in, a regression loss, no layer with weights proper, no evaluation
    model = nn.Embedding(4, 4)
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        training.apply(text)
    except tt.NothingToDo as error:
        assert re.fullmatch(r".+ found nothing to act on: .+\.", str(error))
        assert training.changes == []
        return
    for _ in range(3):  # some can only tell once the training runs
        training.optimizers[0].zero_grad()
        nn.functional.mse_loss(model(torch.arange(4)), torch.zeros(4, 4)).backward()
        training.optimizers[0].step()
    assert not training.changes[0].acted()


@pytest.mark.parametrize("pair", list(itertools.combinations(TEXTS, 2)), ids="+".join)
def test_each_pair_composes_or_is_refused_with_a_reason(pair, digits):
    try:
        recipe = Recipe.parse(", ".join(pair))
    except tt.RecipeError as error:
        assert "cannot be combined with" in str(error)
        with pytest.raises(tt.RecipeError, match=re.escape(str(error))):
            Recipe.parse(", ".join(reversed(pair)))
        return
    assert Recipe.parse(", ".join(reversed(pair))) == recipe
    model, optimizer, training = attached("mlp", text=str(recipe))
    before = state(model, optimizer)
    try:
        training.apply(recipe)
    except tt.NothingToDo as error:  # what one does leaves the other nothing to do
        assert "found nothing to act on: " in str(error)
        assert same(state(model, optimizer), before)
        return
    assert all(torch.isfinite(torch.tensor(train(model, optimizer, shaped(model, digits)))))
    training.undo()
    assert before[0].keys() == model.state_dict().keys()


def drawn_recipes() -> list[list[str]]:
    """Recipes of three to five techniques that can be combined, of all places."""
    draw, found = random.Random(0), []
    while len(found) < 12:
        texts = draw.sample(TEXTS, draw.randint(3, 5))
        with contextlib.suppress(tt.RecipeError):
            Recipe.parse(", ".join(texts))
            if not any(suite_of(text).network for text in texts):  # an mlp does for all of them
                found.append(texts)
    return found


@pytest.mark.parametrize("texts", [["clip_norm(0.1)", "l2(factor=5.0)"], *drawn_recipes()], ids="+".join)
def test_a_recipe_means_the_same_in_whatever_order_it_is_written(texts, digits):
    recipe = Recipe.parse(", ".join(texts))
    assert all(Recipe.parse(", ".join(order)) == recipe for order in itertools.permutations(texts))
    found = []
    for order in (texts, texts[::-1]):
        model, optimizer, training = attached("mlp")
        try:
            training.apply(", ".join(order))
        except tt.NothingToDo as error:
            found.append(str(error))
            continue
        found.append([*train(model, optimizer, shaped(model, digits)), model.state_dict()])
    assert same(*found)


@pytest.mark.parametrize("name", sorted(Technique.registry))
def test_says_when_it_applies(name):
    assert Technique.registry[name].moment in MOMENTS[Technique.registry[name].acts_on]


@pytest.mark.parametrize("name", sorted(Technique.registry))
def test_card_is_complete(name):
    cls = Technique.registry[name]
    card = inspect.getdoc(cls) or ""
    for part in ("Helps:", "Hurts:", "Source:", ">>> "):
        assert part in card, f"the card of {name} lacks {part!r}"
    for field in dataclasses.fields(cls):
        assert f"{field.name}:" in card, f"the card of {name} does not explain {field.name}"


def test_a_failing_technique_leaves_nothing_behind(digits):
    model, optimizer, training = attached("mlp")
    before = state(model, optimizer)
    with pytest.raises(tt.NothingToDo):
        training.apply(
            "batch_norm(after='linear'), dropout, batch_norm(after='conv')".replace(", batch_norm(after='conv')", "")
        )
        training.undo()
        training.apply("layer_norm(after='conv'), dropout")
    assert same(state(model, optimizer), before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchnorm", "There is no technique called 'batchnorm'. Did you mean batch_norm"),
        ("dropout(p=1.5)", "dropout: p=1.5 must lie strictly between 0 and 1"),
        ("clip_norm(0)", "max_norm=0 must be positive"),
        ("lr_scale", "lr_scale cannot take these arguments"),
        ("batch_norm(behind='linear')", "It is batch_norm(after: str = 'all'"),
        ("batch_norm(after='lstm')", "after must be one of 'linear', 'conv', 'all', 'activation'"),
        ("rms_norm(before='lstm')", "before must be one of 'linear', 'conv', 'all', 'activation'"),
        ("group_norm(after='conv', before='conv')", "takes after='conv' or before='conv', not both"),
        ("group_norm(groups=0)", "groups=0 must be at least 1"),
        ("convert_norm(to='grup_norm')", "convert_norm(to='grup_norm'): Did you mean group_norm"),
        ("convert_norm(from_='bn')", "There are: any, batch_norm"),
        ("convert_norm, gn_ws", "cannot be combined with gn_ws: both would convert the same norms"),
        ("batch_norm, batch_norm", "batch_norm stands 2 times in the recipe; keep one."),
        ("batch_norm, layer_norm", "cannot be combined with layer_norm: both would normalize the same outputs"),
        ("dropout(p=x)", "must be plain Python values"),
        ("dropout(", "does not read as a list of calls"),
        ("1 + 1", "is no technique: write name or name(key=value)"),
        ("weight_decay(factor=-1)", "factor=-1 must be positive"),
        ("label_smoothing(smoothing=2)", "label_smoothing: smoothing=2 must lie strictly between 0 and 1"),
        ("l1(factor=-1)", "l1: factor=-1 must be a positive number"),
        ("xavier_init(gain=0)", "gain=0 must be positive"),
        ("batch_norm(momentum=2)", "momentum=2 must lie in [0, 1]"),
    ],
)
def test_bad_recipes_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        Recipe.parse(text)
    assert message in str(error.value)


def test_recipes_apply_data_before_model_before_update_and_penalties_before_clipping():
    written = "clip_norm, dropout, l2, standardize_inputs, batch_norm"
    assert str(Recipe.parse(written)) == "standardize_inputs, batch_norm, dropout, l2, clip_norm"
