"""The suite that every technique passes. A new technique joins it by existing; what is special of it stands in its ``suite``."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest

import trimtab as tt
from tests.conftest import same, train
from trimtab.recipe import Recipe, Technique
from trimtab.testing.techniques import (
    CHECKS,
    KINDS,
    ON_BOTH,
    attached,
    check_declared,
    check_documentation,
    check_pair,
    shaped,
    suite_of,
)
from trimtab.testing.trainings import state

SUITES = {name: cls.suite for name, cls in sorted(Technique.registry.items())}
NAMES = {suite.text or name: name for name, suite in SUITES.items()}
TEXTS = list(NAMES)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("check", "kind"),
    [(check, kind) for check in CHECKS for kind in (KINDS if check in ON_BOTH else KINDS[:1])],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_holds_what_every_technique_holds(check, kind, text, digits):
    check(text, kind, digits)


@pytest.mark.parametrize("pair", list(itertools.combinations(TEXTS, 2)), ids="+".join)
def test_each_pair_composes_or_is_refused_with_a_reason(pair, digits):
    check_pair(pair, digits)


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
def test_card_is_complete(name):
    check_declared(Technique.registry[name])
    check_documentation(Technique.registry[name])


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
