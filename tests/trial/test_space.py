"""Search spaces: read, written, drawn from; and what is said of those that do not read."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

import trimtab.techniques  # noqa: F401 - recipes are read by name
from trimtab.recipe import Recipe, RecipeError
from trimtab.trial.space import Range, Space, SpaceError


def asked(space: Space, number: int, seed: int = 0) -> list:
    """Random suggestions of a space."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(number)]


@pytest.mark.parametrize(
    ("search", "axes", "size"),
    [
        ("batch_norm | layer_norm | none", ["batch_norm | layer_norm | none"], 3),
        ("dropout(p=uniform(0, 0.6))", ["dropout.p"], math.inf),
        ("dropout(uniform(0, 0.6), by='width') | none", ["dropout | none", "dropout.p"], math.inf),
        ("group_norm(groups=choice(4, 8)) | none", ["group_norm | none", "group_norm.groups"], 3),
        ("lr=log(1e-4, 1)", ["learning_rate.lr"], math.inf),
        ("lr=0.1 | log(1, 2) | none", ["learning_rate(lr=0.1) | learning_rate(lr=log(1, 2)) | none", "learning_rate.lr"], math.inf),
        ("swa(start=int(10, 19), every=log_int(1, 8))", ["swa.start", "swa.every"], 80),
        ("(batch_norm, lr_scale(factor=choice(3, 10))) | lr_scale(factor=3)", ["batch_norm + lr_scale | lr_scale", "lr_scale.factor"], 3),
        ("adamw(betas=(choice(0.8, 0.9), uniform(0.9, 0.999)))", ["adamw.betas[0]", "adamw.betas[1]"], math.inf),
        ("dropout(p=uniform(0, 0.2)) | dropout(p=uniform(0.5, 0.6)), ema", ["dropout(p=uniform(0, 0.2)) | dropout(p=uniform(0.5, 0.6))", "dropout.p", "dropout.p (2)"], math.inf),
        (["batch_norm | none", "swa | none"], ["batch_norm | none", "swa | none"], 4),
    ],
)  # fmt: skip
def test_spaces_read_and_their_text_reads_back(search, axes, size):
    space = Space.parse(search)
    assert [axis.name for axis in space.axes] == axes
    assert space.size == size
    assert Space.parse(space.texts) == space == Space.parse(str(space))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("dropout(p=unifrom(0, 1))", "There is no distribution called 'unifrom'. Did you mean uniform? There are: choice, int, log, log_int, uniform."),
        ("lr=uniform(-1.7e308, 1.7e308)", "The search 'lr=uniform(-1.7e308, 1.7e308)' does not read: the bounds of uniform(-1.7e+308, 1.7e+308) lie too far apart. Write it like \"dropout(p=uniform(0, 0.6)) | none\" or \"lr=log(1e-4, 1)\"."),
        ("dropout(p=uniform(0.6, 0))", "The search 'dropout(p=uniform(0.6, 0))' does not read: in uniform(0.6, 0) the first number must lie below the second. Write it like \"dropout(p=uniform(0, 0.6)) | none\" or \"lr=log(1e-4, 1)\"."),
        ("lr=log(0, 1)", "in log(0, 1) both numbers must be positive: there is no logarithm of 0."),
        ("lr=log(-1, 1)", "in log(-1, 1) both numbers must be positive"),
        ("dropout(p=uniform(0, 1e999))", "must be finite"),
        ("dropout(p=uniform(0.5))", "uniform(0.5) must have two numbers: uniform(low, high)."),
        ("dropout(p=uniform(low=0, high=1))", "the arguments in uniform(low=0, high=1) have no names; write uniform(low, high)."),
        ("dropout(p=uniform(False, True))", "must have two numbers"),
        ("swa(start=int(0.5, 3))", "the bounds of int(0.5, 3) must be whole numbers."),
        ("dropout(p=choice(0.1))", "choice(0.1) must have two values at least, or is no choice."),
        ("dropout(p=choice(0.1, 0.1))", "choice(0.1, 0.1) has a value twice."),
        ("dropout(p=choice(low, high))", "the arguments in choice(low, high) must be plain Python values (numbers, text, lists)."),
        ("dropout(p=a)", "a is neither a plain Python value (number, text, list) nor a distribution (uniform, log, int, log_int, choice)."),
        ("dropuot(p=uniform(0, 1))", "In the search 'dropuot(p=uniform(0, 1))': There is no technique called 'dropuot'. Did you mean dropout"),
        ("dropout(q=uniform(0, 1))", "dropout cannot take these arguments (got an unexpected keyword argument 'q')."),
        ("dropout(p=uniform(0, 1), p=0.5)", "gives a value twice, or too many; dropout takes p, shape, scaling, count, by, ramp."),
        ("dropout(*[0.5])", "arguments cannot be unpacked with * or **."),
        ("dropout(p=uniform(0, 1.5))", "In the search 'dropout(p=uniform(0, 1.5))': dropout: p=1.03"),
        ("swa(every=int(0, 5))", "In the search 'swa(every=int(0, 5))': swa: "),
        ("uniform(0, 1) | none", "uniform(0, 1) stands alone; name the technique and the value it is for."),
        ("p=uniform(0, 1)", "p=uniform(0, 1) belongs to no technique; only lr may stand alone, for learning_rate(lr=...)."),
        ("batch_norm | ema | batch_norm", "'batch_norm' is an alternative twice in the search 'batch_norm | ema | batch_norm'; keep one."),
        ("batch_norm & none", "batch_norm & none is no technique: write name, name(key=value) or none."),
        ("dropout(p=uniform(0, 0.5)", "does not read: '(' was never closed."),
        ("ema), swa(", "does not read: parentheses do not match."),
        ("", "does not read: it is empty."),
        ("ema, swa", "There is nothing to search in 'ema, swa': it is one recipe. Put a distribution in the place of a value, or alternatives: \"dropout(p=uniform(0, 0.6))\", \"batch_norm | none\". For fixed recipes: trimtab compare."),
        ("none", "There is nothing to search in 'none'"),
        (["dropout(p=uniform(0, 0.2))", "dropout(p=0.5)"], "No recipe of the search 'dropout(p=uniform(0, 0.2)), dropout(p=0.5)' is possible: dropout stands 2 times in the recipe; keep one."),
    ],
)  # fmt: skip
def test_what_does_not_read_says_why(search, message):
    with pytest.raises(SpaceError) as raised:
        Space.parse(search)
    assert message.rstrip(".") in str(raised.value)
    assert isinstance(raised.value, RecipeError)  # which is how commands tell it


def test_values_are_drawn_for_the_chosen_alternative_only():
    space = Space.parse(["dropout(p=uniform(0.1, 0.6)) | none", "group_norm(groups=choice(4, 8)) | batch_norm", "ema"])
    seen = asked(space, 100)
    for suggestion in seen:
        assert suggestion.trouble == ""
        assert ("dropout.p" in suggestion.at) == (suggestion.at["dropout | none"] == "dropout")
        assert ("group_norm.groups" in suggestion.at) == (suggestion.at["group_norm | batch_norm"] == "group_norm")
        recipe = Recipe.parse(suggestion.recipe)
        assert str(recipe) == suggestion.recipe  # as trials are kept under it
        names = {technique.name for technique in recipe}
        assert names == {"ema", *(v for v in suggestion.at.values() if v in ("dropout", "group_norm", "batch_norm"))}
        for technique in recipe:
            if technique.name == "dropout":
                assert technique.p == suggestion.at["dropout.p"] and 0.1 <= technique.p <= 0.6
            if technique.name == "group_norm":
                assert technique.groups in (4, 8) and suggestion.at["group_norm.groups"] == str(technique.groups)
    assert len({suggestion.recipe for suggestion in seen}) > 40
    assert space.untreated is None


def test_the_empty_recipe_is_found_where_the_space_holds_it():
    space = Space.parse(["dropout(p=uniform(0, 0.6)) | none", "none | batch_norm", "none"])
    assert space.untreated == {"dropout | none": "none", "none | batch_norm": "none"}
    assert space.suggest(FixedTrial(space.untreated)).recipe == ""


def test_techniques_that_clash_are_a_suggestion_with_trouble():
    space = Space.parse(["batch_norm | none", "layer_norm | batch_norm(momentum=0.2) | none"])
    troubles = {suggestion.recipe: suggestion.trouble for suggestion in asked(space, 60)}
    assert troubles["batch_norm, batch_norm(momentum=0.2)"] == "batch_norm stands 2 times in the recipe; keep one."
    assert troubles[""] == troubles["batch_norm"] == ""


def test_a_value_at_an_open_end_is_a_suggestion_with_trouble():
    space = Space.parse("dropout(p=uniform(0, 0.6))")
    assert "must lie strictly between 0 and 1" in space.suggest(FixedTrial({"dropout.p": 0.0001})).trouble
    assert space.suggest(FixedTrial({"dropout.p": 0.0006})) == space.suggest(FixedTrial({"dropout.p": 0.001}))


def test_numbers_are_short_and_stay_inside():
    space = Space.parse(["lr=log(1.2345e-4, 1)", "ema(decay=uniform(0.9, 0.9999))"])
    for suggestion in asked(space, 100):
        rate, decay = suggestion.at["learning_rate.lr"], suggestion.at["ema.decay"]
        assert 1.2345e-4 <= rate <= 1 and 0.9 <= decay <= 0.9999
        assert rate in (float(f"{rate:.3g}"), 1.2345e-4) and decay == round(decay, 4)
    ends = {"learning_rate.lr": 1.2345e-4, "ema.decay": 0.9}
    assert space.suggest(FixedTrial(ends)).at == ends


# -- what is written reads back ----------------------------------------------------------------------------------------

NUMBERS = st.floats(1e-6, 1e6, allow_nan=False).map(lambda x: float(f"{x:.4g}"))
WHOLE = st.integers(2, 1000)
BOUNDS = st.tuples(NUMBERS, NUMBERS).filter(lambda b: b[0] != b[1]).map(sorted)
WHOLE_BOUNDS = st.tuples(WHOLE, WHOLE).filter(lambda b: b[0] != b[1]).map(sorted)
POSITIVE = st.one_of(
    st.builds("{0[0]} {1[0]!r} {1[1]!r}".format, st.sampled_from([("uniform",), ("log",)]), BOUNDS),
    st.builds("choice {} {}".format, WHOLE, NUMBERS.filter(lambda x: not x.is_integer())),
    NUMBERS.map(repr),
)
COUNTS = st.one_of(
    st.builds("{0} {1[0]} {1[1]}".format, st.sampled_from(["int", "log_int"]), WHOLE_BOUNDS), WHOLE.map(repr)
)


def written(parts: str) -> str:
    name, *values = parts.split()
    return f"{name}({', '.join(values)})" if values else name


ALTERNATIVES = st.one_of(
    st.sampled_from(["batch_norm", "layer_norm", "none", "(he_init, ema)"]),
    POSITIVE.map(lambda v: f"lr_scale(factor={written(v)})"),
    POSITIVE.map(lambda v: f"clip_norm({written(v)})"),
    st.tuples(COUNTS, COUNTS).map(lambda v: f"swa(start={written(v[0])}, every={written(v[1])})"),
)
DIMENSIONS = st.lists(ALTERNATIVES, min_size=1, max_size=3, unique=True).map(" | ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(DIMENSIONS, min_size=1, max_size=3))
def test_any_space_that_reads_reads_back_and_draws_recipes_of_its_own(texts):
    try:
        space = Space.parse(texts)
    except SpaceError as error:
        said = str(error)
        assert "nothing to search" in said or "is possible" in said or "alternative twice" in said
        return
    assert Space.parse(space.texts) == space
    assert len({axis.name for axis in space.axes}) == len(space.axes)
    for suggestion in asked(space, 3):
        assert set(suggestion.at) <= {axis.name for axis in space.axes}
        if not suggestion.trouble:
            assert str(Recipe.parse(suggestion.recipe)) == suggestion.recipe
        for axis in space.axes:
            value = suggestion.at.get(axis.name)
            assert value is None or (value in axis.choices if axis.choices else axis.low <= value <= axis.high)


@given(NUMBERS, NUMBERS, st.floats(0, 1))
def test_rounding_moves_a_number_by_half_a_percent_at_most(low, high, share):
    low, high = sorted((low, high))
    if low == high:
        return
    plain, log = Range("uniform", low, high), Range("log", low, high)
    value = low + share * (high - low)
    assert abs(plain.rounded(value) - value) <= 0.0051 * (high - low)
    assert abs(log.rounded(value) / value - 1) <= 0.0051
    assert low <= min(plain.rounded(value), log.rounded(value)) <= max(plain.rounded(value), log.rounded(value)) <= high
