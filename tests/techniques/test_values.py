"""Every option of every technique with values that it may not have: refused when the recipe is made, or a training that runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.conftest import train
from trimtab.recipe import NothingToDo, Recipe, RecipeError, Technique
from trimtab.testing.techniques import attached, shaped

NAN, INF = math.nan, math.inf
ODD = (None, True, False, "x", "", b"x", {}, {"a": 1}, [], ["x"], 1j, np.array([1.0, 2.0]), object())
PAIRS = (
    (),
    (0.5,),
    (0.1, 0.2, 0.3),
    (1, 2),
    (0.9, 0.95),
    (0.0, 0.0),
    (-1.0, -1.0),
    (1.0, -1.0),
    (INF, INF),
    (NAN, 1.0),
)
EDGES = (-1, 0, 1)
NUMBERS = (
    1e-300,
    1e-8,
    0.1,
    0.5,
    1.5,
    2,
    3,
    10,
    1e10,
    1e300,
    -1e300,
    INF,
    -INF,
    NAN,
    10**12,
    2**63,
    -(10**400),
    10**400,
)
OTHERS = (np.float32(0.5), np.float64(0.5), np.int64(2), [0.1, 0.2])
NAMES = sorted(name for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab."))


def made(usual: Technique, field: str, value: object) -> Recipe | str:
    """A recipe with this value, or what is said of it."""
    try:
        return Recipe([dataclasses.replace(usual, **{field: value})])
    except RecipeError as error:
        return str(error)


def cases(name: str, values: tuple[object, ...]) -> list[tuple[str, object, Recipe | str]]:
    usual = Recipe.parse(Technique.registry[name].suite.text or name).techniques[0]
    fields = [field.name for field in dataclasses.fields(usual)]
    return [(field, value, made(usual, field, value)) for field in fields for value in values]


def runs(name: str, values: tuple[object, ...]) -> None:
    """What is not refused trains: to numbers, or with the reason why there is nothing to do."""
    torch.manual_seed(0)
    data = torch.randn(64, 64), torch.randint(10, (64,))
    for field, value, recipe in cases(name, values):
        if isinstance(recipe, str) or (isinstance(value, int) and value > 1e6):  # as many steps as wanted, but not here
            continue
        model, optimizer, training = attached(
            "mlp", Technique.registry[name].suite.text or name, lambda p: torch.optim.SGD(p, lr=0.05)
        )
        try:
            training.apply(recipe)
            if Technique.registry[name].suite.judged:
                training.on("step", lambda loss, training=training: training.evaluated("val loss", training.step))
            losses = train(model, optimizer, shaped(model, data), 3)
        except (NothingToDo, ValueError) as error:  # of data of another form
            assert str(error).startswith(name) and any(word in str(error) for word in ("must", "found nothing", "Give"))
            continue
        finite = all(map(math.isfinite, losses))
        assert finite or abs(float(value)) > 1e9, f"{name}({field}={value!r}): {losses}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_is_refused_when_the_recipe_is_made(name):
    for field, value, recipe in cases(name, (*ODD, *PAIRS, *EDGES, *NUMBERS, *OTHERS)):
        if isinstance(recipe, str):  # who says it, of what, and what must hold
            assert recipe.startswith((f"{name}: ", f"{name}(")) and field in recipe, (field, value, recipe)
            assert "must" in recipe or "takes" in recipe or "There are" in recipe, (field, value, recipe)
        else:  # then it is plain, and reads back
            (technique,) = recipe
            kept = getattr(technique, field)
            assert kept is None or type(kept) in (bool, int, float, str, tuple), (field, value)
            assert Recipe.parse(str(recipe)) == recipe == Recipe.from_toml(recipe.to_toml())
    with pytest.raises(RecipeError, match=f"^{name} cannot take these arguments"):
        Recipe.parse(f"{name}(no_such_option=1)")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_refused_trains(name):
    runs(name, EDGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_not_refused_trains(name):
    runs(name, (*PAIRS, *NUMBERS, *OTHERS))
