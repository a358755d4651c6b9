"""Recipes as text: whatever is given, it reads or is refused with a reason, and what was read writes back."""

from __future__ import annotations

import dataclasses
import math
import random
import re
import string
from typing import Any, Literal

import numpy as np
import pytest

import trimtab.techniques
from trimtab.recipe import Recipe, RecipeError, Technique, check_values
from trimtab.trial.space import Space, SpaceError

assert trimtab.techniques  # registers them

NO_RECIPES = {
    "a comprehension": "batch_norm for x in y",
    "brackets that close early": "batch_norm] + [layer_norm",
    "two lists": "batch_norm], [layer_norm",
    "a key that cannot be one": "dropout(p={[]: 1})",
    "many signs": f"clip_norm({'-' * 3000}1)",
    "many brackets": f"clip_norm({'(' * 3000}1{')' * 3000})",
    "many additions": f"clip_norm({'+'.join('1' * 5000)})",
    "half a letter": "batch_norm(after='\udcff')\udcff",
    "a null byte": "batch_norm\0",
    "a number of 5000 digits": f"clip_norm({'9' * 5000})",
    "an assignment": "lr = 0.1",
    "something unpacked": "clip_norm(*[1])",
    "a dictionary unpacked": "clip_norm(**{'max_norm': 1})",
    "a text": "'batch_norm'",
    "nothing but a comma": ",",
    "a lambda": "lambda: 1",
    "a method": "batch_norm.apply",
}


@pytest.mark.parametrize("text", NO_RECIPES.values(), ids=NO_RECIPES)
def test_a_text_that_is_no_recipe_is_refused(text):
    with pytest.raises(RecipeError) as refused:
        Recipe.parse(text)
    assert 20 < len(str(refused.value)) < 5000 and str(refused.value).encode()


NOTHING_TO_SEARCH = [text for text in NO_RECIPES.values() if text != "lr = 0.1"]  # that is a dimension


@pytest.mark.parametrize("text", [*NOTHING_TO_SEARCH, "dropout(p=uniform(0, {[]: 1}))", "dropout(p=log(1, 1e999))",
                                  f"dropout(p=uniform(0, {'-' * 3000}1))", f"dropout(p=int(0, {'9' * 400}))"])  # fmt: skip
def test_a_text_that_is_no_space_is_refused(text):
    with pytest.raises(RecipeError):  # SpaceError is one
        Space.parse(f"{text} | none")


def test_random_texts_are_read_or_refused():
    """Pieces of recipes put together at random: no other error than ours."""
    pieces = [
        *"()[]{},=*|'\"\\ \n",
        "batch_norm",
        "dropout",
        "p",
        "0.5",
        "-",
        "None",
        "uniform",
        "none",
        "lr",
        "1e999",
        ":",
        "for x in y",
    ]
    draw = random.Random(0)
    read = 0
    for _ in range(3000):
        text = "".join(draw.choices([*pieces, *string.printable[:95:7]], k=draw.randint(1, 9)))
        for parse in (Recipe.parse, Space.parse):
            try:
                parse(text)
                read += 1
            except RecipeError:
                pass
    assert read > 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("affine(degrees=None)", "affine: degrees=None must be a number. It is affine(degrees: float = "),
        ("adadelta(None)", "adadelta: lr=None must be a number. It is adadelta(lr: float = 1.0, "),
        ("layer_norm(identity=(1, 2))", "layer_norm: identity=(1, 2) must be True or False. It is layer_norm("),
        ("l1(only=b'')", "l1: only=b'' must be text. It is l1("),
        ("batch_norm(momentum=(0.1, 0.2))", "batch_norm: momentum=(0.1, 0.2) must be a number. It is batch_norm("),
        ("dropout(p='0.5')", "dropout: p='0.5' must be a number."),
        ("dropout(p=True)", "dropout: p=True must be a number."),
        ("dropout(by=3)", "dropout: by=3 must be text or None."),
        ("bagging(members=2.0)", "bagging: members=2.0 must be a whole number."),
        ("adam(betas=(0.9,))", "adam: betas=(0.9,) must be a pair (a number, a number)."),
        ("adam(betas=(0.9, '1'))", "adam: betas=(0.9, '1') must be a pair (a number, a number)."),
        ("batch_norm(eps=-1e-5)", "batch_norm: eps=-1e-05 must be 0 or more."),
        ("layer_norm(eps=-1)", "layer_norm: eps=-1 must be 0 or more."),
        (f"l1(only={'x' * 5000!r}, factor='x')", "l1: factor='x' must be a number."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_when_the_recipe_is_read(text, said):
    with pytest.raises(RecipeError) as refused:
        Recipe.parse(text)
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("). ") or str(refused.value).endswith(").")


OURS = {name: cls for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab.")}


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_field_of_every_technique_refuses_what_it_cannot_be(name):
    for field in dataclasses.fields(OURS[name]):
        with pytest.raises(RecipeError, match=f"^{name}: {field.name}=b'odd' must be "):
            Recipe.parse(f"{name}({field.name}=b'odd')") if not needed(name) - {field.name} else check_values(
                OURS[name], {field.name: b"odd"}
            )


def needed(name: str) -> set[str]:
    """The fields without a default."""
    return {field.name for field in dataclasses.fields(OURS[name]) if field.default is dataclasses.MISSING}


def test_techniques_made_in_python_are_looked_at_too():
    from trimtab.techniques import Affine, ClipNorm

    with pytest.raises(RecipeError, match="affine: degrees=None must be a number"):
        Recipe([Affine(degrees=None)])
    assert str(Recipe([ClipNorm(max_norm=np.float32(0.5))])).startswith("clip_norm(max_norm=")


def test_types_that_others_use(monkeypatch):
    monkeypatch.setattr(Technique, "registry", dict(Technique.registry))

    @dataclasses.dataclass(frozen=True)
    class Toy(Technique):
        kind: Literal["a", "b"] = "a"
        sizes: tuple[int, ...] = ()
        other: NotKnownHere = None  # noqa: F821

    known = {"kind": Literal["a", "b"], "sizes": tuple[int, ...]}
    Recipe.parse("toy(kind='c')")  # of types that cannot be found, nothing is known
    Toy.__annotations__ = known
    Recipe.parse("toy(kind='b', sizes=(1, 2, 3), other={})")
    with pytest.raises(RecipeError, match="kind='c' must be 'a' or 'b'"):
        Recipe.parse("toy(kind='c')")
    with pytest.raises(RecipeError, match=r"sizes=\(1, 0\.5\) must be a tuple \(as many as wanted\)"):
        Recipe.parse("toy(sizes=(1, 0.5))")


@pytest.mark.parametrize(
    "text",
    [
        "adamw(weight_decay=None)",
        "adam(betas=(0.8, 0.9), weight_decay=0.1), warmup",
        "constrain(only='a\"b\\\\ \\x7f é 😀\\n')",
        "clip_value(low=-1e999, high=1e999)",
        "dropout(by=None), dropout(by='width')".split(", ")[1],
        "",
    ],
)
def test_recipes_come_back_from_toml_and_from_text(text):
    try:
        recipe = Recipe.parse(text)
    except RecipeError as error:
        pytest.fail(f"{error}")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.parse(str(recipe)) == recipe
    for technique, again in zip(recipe, Recipe.from_toml(recipe.to_toml()), strict=True):
        for field in dataclasses.fields(technique):
            assert type(getattr(technique, field.name)) is type(getattr(again, field.name))


@pytest.mark.parametrize(
    "toml",
    ["technique = 3", "[[technique]", "[technique]\nname='ema'", "[[technique]]\nname=3", "[[technique]]", "a\0b"],
)
def test_toml_that_is_no_recipe_is_refused(toml):
    with pytest.raises(RecipeError):
        Recipe.from_toml(toml)


def test_infinity_is_written_as_it_reads():
    assert math.isinf(next(iter(Recipe.parse("clip_value(low=-1e999, high=1e999)"))).high)


def test_space_errors_are_recipe_errors_that_say_which_text():
    with pytest.raises(
        SpaceError, match=r"The search 'dropout\(p=\{\[\]: 1\}\)' does not read: \{\[\]: 1\} is neither a plain"
    ):
        Space.parse("dropout(p={[]: 1})")


@dataclasses.dataclass(frozen=True)
class Nested(Technique):
    name = "nested_in_a_test"
    pairs: tuple[tuple[int, float | None], ...] | None = ((1, 1.0),)
    shape: tuple[tuple[int, ...], str] = ((), "")
    table: Any = None


del Technique.registry["nested_in_a_test"]  # the suites of all techniques are not for it


@pytest.mark.parametrize(
    "values",
    [
        {"pairs": None},
        {"pairs": ()},
        {"pairs": ((1, None), (2, 0.5))},
        {"shape": ((1, 2, 3), "x")},
        {"table": {"a b": 1, "c": [None, "\x7f"]}},
    ],
)
def test_tuples_in_tuples_and_tables_come_back(values, monkeypatch):
    monkeypatch.setitem(Technique.registry, "nested_in_a_test", Nested)
    recipe = Recipe([Nested(**values)])
    assert Recipe.from_toml(recipe.to_toml()) == Recipe.parse(str(recipe)) == recipe


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"moment": "clips"}, "moment='clips': Did you mean clip? There are: "),
        ({"acts_on": "weights"}, "acts_on='weights': There are: data, loop, loss, model, update."),
        ({"takes": ("schedules",)}, "takes='schedules': Did you mean schedule? There are: "),
        ({"takes": "schedule"}, "takes='schedule' must be a tuple of texts: ('schedule',)."),
        ({"inputs": "images"}, "inputs='images' must be a tuple of texts: ('images',)."),
    ],
)
def test_a_technique_that_declares_what_is_not_there_is_refused_and_stays_unknown(declared, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        type("Undeclared", (Technique,), {"acts_on": "update", **declared})
    assert "undeclared" not in Technique.registry


def test_recipes_are_made_of_what_is_none_with_a_reason():
    assert str(Recipe.parse("clip_norm") + "l2") == "l2, clip_norm"
    for wrong in (3, Technique):
        with pytest.raises(RecipeError, match="A recipe is a text, a technique, or several techniques; got"):
            Recipe.of(wrong)
    with pytest.raises(
        RecipeError, match=re.escape("a list of [[technique]] tables, each with a name; got 'techniques' beside them.")
    ):
        Recipe.from_toml('[[techniques]]\nname = "l2"')
