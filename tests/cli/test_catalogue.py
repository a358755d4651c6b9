"""The catalogue finds every member by itself, and every member says what a card has to say."""

from __future__ import annotations

import inspect
import json
import re
import sys
from types import ModuleType

import pytest

import trimtab.nn
from trimtab import nn as trimtab_nn
from trimtab import optim
from trimtab.cli.cards import GROUPS, Card, all_cards
from trimtab.cli.formula import plain
from trimtab.recipe import Technique

CARDS = all_cards()
SAYS = {
    "formula": "the formula, in a '.. math::' block",
    "helps": "a sentence 'When it helps: ...'",
    "hurts": "a sentence 'When it hurts: ...'",
    "source": "who found it, 'Source: Authors, \"Title\", year.'",
}
ELSEWHERE = {"Dropout"}  # parts of groups that the catalogue does not have yet


def lacks(card: Card) -> list[str]:
    """What the docstring of a part does not say."""
    return [said for field, said in SAYS.items() if not getattr(card, field)]


@pytest.fixture
def plant(monkeypatch):
    """Adds a class with this docstring to ``trimtab.nn``, out of a file that says ``Toy normalization.``"""

    def add(name: str, doc: str) -> None:
        file = ModuleType("toy_norm", "Toy normalization.")
        monkeypatch.setitem(sys.modules, "toy_norm", file)
        part = type(name, (), {"__doc__": doc, "__module__": "toy_norm", "__init__": lambda self, width: None})
        monkeypatch.setattr(trimtab.nn, name, part, raising=False)
        monkeypatch.setattr(trimtab.nn, "__all__", [*trimtab.nn.__all__, name])

    return add


TOY = r"""
Divides by what everybody divides by, seen
from far.

.. math::
    y = \frac{x}{\sqrt{\sigma^2 + \epsilon}},
    \quad \hat\sigma \le 1

A word on ``x``.

When it helps: toys. When it
hurts: everything else, and :class:`BatchNorm2d`. Clashes with itself. Source: Nobody, "On
Toys", 1900.
"""


# -- what members owe ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.kind == "part" and not card.of])
def test_the_docstring_of_a_part_is_its_card(name):
    card = CARDS[name]
    assert not (missing := lacks(card)), (
        f"the docstring of {card.place} lacks {' and '.join(missing)}. A part that is a variant of another, and says nothing "
        "of this, refers to it: 'See :class:`BatchNorm2d`.'"
    )
    assert card.meaning
    assert "\\" not in "".join(map(plain, card.formula))


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.kind == "technique"])
def test_the_docstring_of_a_technique_is_its_card(name):
    card = CARDS[name]
    assert card.meaning and card.helps and card.hurts and card.source


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.of])
def test_a_variant_refers_to_a_part_that_says_the_rest(name):
    whole = CARDS[CARDS[name].of]
    assert not whole.of and name in whole.variants


def test_every_part_is_in_a_group():
    lost = {card.name for card in CARDS.values() if card.kind == "part" and not card.groups} - ELSEWHERE
    assert not lost, (
        f"{', '.join(sorted(lost))}: the first sentence of the file says no word of a group. These are "
        f"{', '.join(f'{group}: {words.pattern}' for group, words in GROUPS.items())}"
    )


def test_the_group_of_normalization():
    members = {card.name for card in CARDS.values() if "normalization" in card.groups}
    assert {"BatchNorm2d", "BatchNorm1d", "LocalResponseNorm", "AddRMSNorm", "batch_norm", "layer_norm"} <= members
    assert {"standardize_inputs"} <= members
    assert not members & {"Dropout", "dropout", "clip_norm", "weight_decay", "he_init", "lr_scale"}
    assert set(trimtab.nn.__all__) - set(CARDS) <= {name for name in trimtab.nn.__all__ if name.islower()}


def test_optimizers_say_whether_they_change_the_rates_or_the_direction():
    found = {card.name: card.meaning.partition("Changes: ")[2].strip() for card in CARDS.values()}
    assert found["Adagrad"] == found["Adadelta"] == found["WindowAdadelta"] == "the rate of each direction."
    assert found["SGD"] == "the direction, by momentum."
    assert found["RMSprop"] == "the rate of each direction; with momentum, the direction too."
    assert found["Adam"] == "both, the direction and the rate of each."
    assert all("optimization" in CARDS[name].groups for name, said in found.items() if said)


# -- what the command shows ------------------------------------------------------------------------------------------


def test_everything_is_listed(trimtab):
    shown = trimtab("catalogue")
    assert shown.exit_code == 0
    for card in CARDS.values():
        assert f"\n{card.name} " in "\n" + shown.stdout or card.of
        assert f" {card.name}" in shown.stdout or not card.of
    assert shown.stdout.endswith(
        "The card of one: trimtab catalogue NAME\n"
        + "".join(f"All of a group, with formulas: trimtab catalogue {group}\n" for group in GROUPS)
    )


def test_a_new_part_appears_by_itself(trimtab, plant):
    plant("ToyNorm2d", TOY)
    plant("ToyNorm1d", "The same for rows. See :class:`~trimtab.nn.ToyNorm2d`.")
    shown = trimtab("catalogue", "normalization")
    assert shown.exit_code == 0
    block = shown.stdout.split("ToyNorm2d  ")[1].split("\n\n")[0].split("\n")
    assert [line.rstrip() for line in block if line.strip()] == [
        "trimtab.nn.ToyNorm2d",
        "  meaning  Divides by what everybody divides by, seen from far. Also: ToyNorm1d.",
        "  formula  y = x/√(σ² + ε),   σ̂ ≤ 1",
        "  helps    toys.",
        "  hurts    everything else, and BatchNorm2d.",
        '  source   Nobody, "On Toys", 1900.',
    ]
    assert "\nToyNorm1d" not in shown.stdout
    assert re.search(r"\nToyNorm2d +normalization +Divides by", trimtab("catalogue").stdout)


def test_a_part_that_says_too_little_is_found_out(plant):
    plant("ToyNorm", "A toy. When it helps: toys.")
    assert lacks(all_cards()["ToyNorm"]) == [SAYS["formula"], SAYS["hurts"], SAYS["source"]]


def test_every_member_of_the_group_has_its_block(trimtab):
    shown = trimtab("catalogue", "normalization").stdout
    for card in CARDS.values():
        assert (f"\n{card.name}  " in "\n" + shown) == ("normalization" in card.groups and not card.of)
    wholes = sum("normalization" in card.groups and not card.of for card in CARDS.values())
    for title in ("meaning", "helps", "hurts", "source"):
        assert shown.count(f"\n  {title} ") == wholes


def test_the_card_of_a_technique(trimtab):
    shown = trimtab("catalogue", "clip_norm")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(
        "clip_norm(max_norm: float = 1.0, per_parameter: bool = False)  acts on the update\n\nScales the whole gradient back"
    )
    for part in ("Helps:", "Hurts:", "Args:", "Source: Pascanu"):
        assert part in shown.stdout


def test_the_card_of_a_part(trimtab):
    shown = trimtab("catalogue", "LocalResponseNorm")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(
        "LocalResponseNorm(size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0, *, divide_by_size: bool = True)  "
        "trimtab.nn.LocalResponseNorm\n\nLocal response normalization: "
    )
    for part in (".. math::", "Args:", "When it helps:", "When it hurts:", "Source: Krizhevsky"):
        assert part in shown.stdout


def test_the_card_of_a_variant_says_where_the_rest_is(trimtab):
    shown = trimtab("catalogue", "BatchNorm1d")
    assert shown.stdout.endswith("\n\nFormula, when it helps, when it hurts, source: trimtab catalogue BatchNorm2d\n")


@pytest.mark.parametrize(
    ("name", "offered"), [("layernorm", "layer_norm"), ("BatchNorm", "BatchNorm"), ("normalisation", "normalization")]
)
def test_a_card_that_is_not_there(trimtab, name, offered):
    shown = trimtab("catalogue", name)
    assert shown.exit_code == 2
    assert f"There is no technique, part or group called {name!r}. Did you mean {offered}" in shown.stderr


@pytest.mark.parametrize(("name", "least"), [("", 20), ("normalization", 10), ("BatchNorm2d", 1)])
def test_cards_as_json(trimtab, tmp_path, name, least):
    file = tmp_path / "deep" / "cards.json"
    assert trimtab("catalogue", *name.split(), "--json", file).exit_code == 0
    cards = {card["name"]: card for card in json.loads(file.read_text())["cards"]}
    assert len(cards) >= least
    assert cards["BatchNorm2d"]["kind"] == "part" and cards["BatchNorm2d"]["variant_of"] is None
    assert cards["BatchNorm2d"]["formula"][0].startswith("\\mu_c = ")
    assert cards["BatchNorm2d"]["hurts"].startswith("batches of less than about 8")
    if name == "normalization":
        assert all("normalization" in card["groups"] for card in cards.values())


# -- curves ----------------------------------------------------------------------------------------------------------

SCHEDULES = "Cosine Exponential InverseTime NaturalExponential OneCycle Warmup WarmupStableDecay".split()
DECAYS = (
    "cosine_decay exponential_decay inverse_time_decay natural_exp_decay one_cycle warmup warmup_stable_decay".split()
)


@pytest.mark.parametrize("name", [*SCHEDULES, *DECAYS])
def test_curves_are_the_closed_form(name, trimtab):
    x, y, curves = CARDS[name].plotted()
    assert (x, y) == ("step", "factor of the base rate")
    thing = getattr(optim, name, None) or Technique.registry[name]
    for setting, (steps, factors) in curves.items():
        given = eval(f"dict({setting})", {"Cosine": optim.Cosine})
        if "steps" in inspect.signature(thing).parameters:
            given = {"steps": 200 if name == "warmup" else 1000, **given}
        made = thing(**given)
        schedule = made.schedule() if isinstance(made, Technique) else made
        assert factors == [schedule(int(step)) for step in steps] and len(set(factors)) > 50
    shown = trimtab("catalogue", name, "--plot")
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"{name}  {CARDS[name].meaning[:20]}")
    assert "\nfactor of the base rate\n   1 ┤" in shown.stdout
    assert all(f"{number} {setting}\n" in shown.stdout for number, setting in enumerate(curves, 1))
    assert shown.stdout.endswith(f"\n\nAs a picture: trimtab catalogue {name} --plot {name}.svg\n")


def test_a_new_part_with_a_curve_can_be_drawn(trimtab, plant, monkeypatch):
    plant("ToyNorm", TOY)
    curve = ("width", "height", {"toy": ([0.0, 1.0], [2.0, 3.0])})
    monkeypatch.setattr(trimtab_nn.ToyNorm, "plotted", classmethod(lambda cls: curve), raising=False)
    assert "\nheight\n   3 ┤" in trimtab("catalogue", "ToyNorm", "--plot").stdout
    assert trimtab("catalogue", "ToyNorm").stdout.endswith("\nIts curve: trimtab catalogue ToyNorm --plot\n")


def test_a_curve_as_a_picture(trimtab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for order in (["one_cycle", "--plot", "deep/cycle.svg"], ["--plot", "deep/cycle.png", "one_cycle"]):
        shown = trimtab("catalogue", *order)
        assert (shown.exit_code, shown.stdout) == (0, f"Plot: {order[order.index('--plot') + 1]}\n")
    assert (tmp_path / "deep" / "cycle.svg").read_text().startswith("<svg ")
    assert (tmp_path / "deep" / "cycle.png").read_bytes().startswith(b"\x89PNG")
    assert trimtab("catalogue", "--plot", "one_cycle").stdout == trimtab("catalogue", "one_cycle", "--plot").stdout
    shown = trimtab("catalogue", "Cosine", "--json", "cards.json", "--plot")
    assert "┤" in shown.stdout and json.loads((tmp_path / "cards.json").read_text())["cards"][0]["has_curve"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("batch_norm --plot", "Error: batch_norm has no curve to draw. These have one: Cosine, Exponential, InverseTime"),
        ("normalization --plot", "Error: normalization has no curve to draw. These have one: Cosine"),
        ("--plot", "Error: --plot draws the curve of one NAME. These have one: Cosine"),
        ("cosine --plot", "Error: There is no technique, part or group called 'cosine'. Did you mean Cosine"),
        ("Cosine --plot x.gif", "Error: --plot x.gif: the file must end in .svg or .png, such as Cosine.svg. Without a file the plot is shown here."),
    ],
)  # fmt: skip
def test_curves_that_cannot_be_drawn(trimtab, arguments, message):
    shown = trimtab("catalogue", *arguments.split())
    assert shown.exit_code == 2 and message in shown.stderr


def test_a_picture_that_cannot_be_written(trimtab, tmp_path):
    (tmp_path / "file").write_text("")
    shown = trimtab("catalogue", "Cosine", "--plot", tmp_path / "file" / "x.svg")
    assert shown.exit_code == 1 and "x.svg could not be written (" in shown.stderr


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"\frac12 \sum x^2", "1/2 Σ x²"),
        (r"\Bigl(k + \frac{\alpha}{n}\Bigr)^{-\beta}", "(k + α/n)^(-β)"),
        (r"\frac{\partial L}{\partial x} = \hat x", "∂L/∂x = x̂"),
        (r"x_{t-1}^{-1/2}, \, w^\top", "x_(t-1)^(-1/2), wᵀ"),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "a = b\nc = d"),
        (r"\operatorname{softmax}(q \cdot k)", "softmax(q · k)"),
        (r"\|w\|_2 \tanh x", "‖w‖_2 tanh x"),
        (r"g - \underbrace{\textstyle \frac1H \sum g}_{\text{of the mean}} + 1", "g - 1/H Σ g + 1"),
        (r"{x", "x"),
        (r"x_", "x_"),
    ],
)
def test_formulas_as_text(tex, text):
    assert plain(tex) == text
