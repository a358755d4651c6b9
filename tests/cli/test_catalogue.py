"""The catalogue finds every member by itself, and every member says what a card has to say."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

import trimtab.techniques
from trimtab import data, nn, optim
from trimtab.cli import cards
from trimtab.cli.cards import GROUPS, Card, read_cards
from trimtab.cli.docstring import filled
from trimtab.cli.formula import plain
from trimtab.recipe import Technique
from trimtab.testing.parts import check_card

CARDS = read_cards(cards.PACKAGE)
ROOMS = {"nn": nn, "data": data, "optim": optim}
assert trimtab.techniques  # registers them
SAYS = {
    "formula": "the formula, in a '.. math::' block",
    "helps": "a sentence 'When it helps: ...'",
    "hurts": "a sentence 'When it hurts: ...'",
    "source": "who found it, 'Source: Authors, \"Title\", year.'",
}


def lacks(card: Card) -> list[str]:
    """What the docstring of a part does not say."""
    return [said for field, said in SAYS.items() if not getattr(card, field)]


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """Adds a class with this docstring to a copy of the package, in a file ``trimtab/nn/toy.py`` of the group of norms."""
    package = tmp_path / "trimtab"
    shutil.copytree(cards.PACKAGE, package, ignore=lambda _, names: [n for n in names if "." in n and n[-3:] != ".py"])
    monkeypatch.setattr(cards, "PACKAGE", package)
    (package / "nn" / "toy.py").write_text('GROUP = "normalization"\n')

    def add(name: str, doc: str, body: str = "") -> None:
        with (package / "nn" / "toy.py").open("a") as toy:
            toy.write(f"class {name}:\n    r'''{doc}'''\n    def __init__(self, width): ...\n{body}\n")
        room = package / "nn" / "__init__.py"
        text = room.read_text().replace("__all__ = [", f'from trimtab.nn.toy import {name}\n__all__ = ["{name}",')
        room.write_text(text)

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
    check_card(getattr(ROOMS[card.place.split(".")[1]], card.place.split(".")[2]))
    assert "\\" not in "".join(map(plain, card.formula))


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.kind == "technique"])
def test_the_docstring_of_a_technique_is_its_card(name):
    card = CARDS[name]
    assert card.meaning and card.helps and card.hurts and card.source


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.of])
def test_a_variant_refers_to_a_part_that_says_the_rest(name):
    whole = CARDS[CARDS[name].of]
    assert not whole.of and name in whole.variants


PUBLIC = [
    (room, name)
    for room, module in ROOMS.items()
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
]


@pytest.mark.parametrize(("room", "name"), PUBLIC, ids=lambda one: one)
def test_every_public_name_has_a_group(room, name):
    """Also helpers that have no card of their own."""
    thing = getattr(ROOMS[room], name)
    group = getattr(sys.modules[thing.__module__], "GROUP", ())
    groups = {group} if isinstance(group, str) else set(group)
    assert groups and groups <= set(GROUPS), f"{thing.__module__} has to say GROUP = one of {', '.join(GROUPS)}"
    if name in CARDS and CARDS[name].kind == "part":
        assert set(CARDS[name].groups) == groups


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab."))
)
def test_every_technique_has_a_group(name):
    group = Technique.registry[name].group
    groups = {group} if isinstance(group, str) else set(group)
    assert groups and groups <= set(GROUPS), f"{name}: group has to be one of {', '.join(GROUPS)}"


def test_the_group_of_optimization():
    members = {card.name for card in CARDS.values() if "optimization" in card.groups}
    assert members >= set(
        "adadelta adagrad adam adamw muon rmsprop sam sgd schedule_free skip_spikes zero_init_residual".split()
    )
    assert members >= {"Adam", "SAM", "Warmup", "clip_norm", "zclip", "ZClip", "clip_grad_adaptive_", "he_init"}
    assert not members & {"dropout", "batch_norm", "l2", "mixup"}


def test_the_group_of_normalization():
    members = {card.name for card in CARDS.values() if "normalization" in card.groups}
    assert {"BatchNorm2d", "BatchNorm1d", "LocalResponseNorm", "AddRMSNorm", "batch_norm", "layer_norm"} <= members
    assert {"standardize_inputs"} <= members
    assert not members & {
        "Dropout",
        "dropout",
        "clip_norm",
        "weight_decay",
        "he_init",
        "lr_scale",
        "ZClip",
        "clip_grad_adaptive_",
    }
    assert set(nn.__all__) - set(CARDS) <= {name for name in nn.__all__ if name.islower()}


# -- what is read from the text is what is there ----------------------------------------------------------------------

OBJECTS = {
    **{
        called: getattr(room, name)
        for short, room in ROOMS.items()
        for name in room.__all__
        for called in (name, f"{short}.{name}")
        if called in CARDS and CARDS[called].kind == "part"
    },
    **{name: cls for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab.")},
}


def test_every_member_has_a_card_and_every_card_a_member():
    """A part with the name of a technique is listed with its room."""
    ours = {name for name, cls in Technique.registry.items() if cls.__module__.startswith("trimtab.")}
    parts = {
        f"{short}.{name}" if name in ours else name
        for short, room in ROOMS.items()
        for name in room.__all__
        if (inspect.isclass(thing := getattr(room, name)) and not inspect.isabstract(thing))
        or (inspect.isfunction(thing) and cards.sections(inspect.getdoc(thing) or "")["source"])
    }
    assert parts | ours == set(CARDS) == set(OBJECTS)
    assert CARDS["nn.identity_init"].kind == "part" and CARDS["identity_init"].kind == "technique"


@pytest.mark.parametrize("name", CARDS)
def test_the_card_says_what_the_object_is(name):
    card, thing = CARDS[name], OBJECTS[name]
    assert getattr(importlib.import_module(card.home[0]), card.home[1]) is thing
    assert card.text == inspect.getdoc(thing)
    assert card.has_curve == hasattr(thing, "plotted")
    if card.kind == "technique":
        group = thing.group
        assert card.place == f"acts on the {thing.acts_on}" and card.name == thing.name
    else:
        group = sys.modules[thing.__module__].GROUP
        room = next(room for room, module in ROOMS.items() if getattr(module, card.home[1], None) is thing)
        assert card.place == f"trimtab.{room}.{card.home[1]}"
    assert card.groups == ((group,) if isinstance(group, str) else tuple(group))
    made = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    found = parameters(made, vars(sys.modules[thing.__module__]))
    assert signature_of(card) == found[inspect.isclass(thing) :]  # less self


def signature_of(card: Card) -> list:
    """The parameters that the text of a card says, read by Python itself in the file of the member."""
    names = dict(vars(importlib.import_module(card.home[0])))
    exec(f"from __future__ import annotations\ndef made{card.call[card.call.index('(') :]}: ...", names)
    return parameters(inspect.signature(names["made"]), names)


def parameters(signature: inspect.Signature, names: dict) -> list:
    """Name, kind, default and type of each; types that are imported for the type checker alone by their text."""
    names = vars(collections.abc) | names  # what aliases of types in other files are made of

    def kind(annotation):
        try:
            return eval(annotation, names) if isinstance(annotation, str) else annotation
        except NameError:
            return annotation

    found = signature.parameters.values()
    return [(p.name, p.kind, p.default is not p.empty, repr(p.default), kind(p.annotation)) for p in found]


def test_cards_are_kept_until_a_file_changes(plant, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = cards.all_cards()
    monkeypatch.setattr(cards, "read_cards", lambda package: pytest.fail("read again"))
    assert cards.all_cards() == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cards, "PACKAGE", tmp_path / "trimtab")
    plant("ToyNorm", TOY)
    assert set(cards.all_cards()) == {*first, "ToyNorm"}
    (kept,) = (tmp_path / "cache" / "trimtab").iterdir()  # the older one is gone
    kept.write_text("damaged")
    assert set(cards.all_cards()) == {*first, "ToyNorm"}


@pytest.mark.parametrize("place", ["relative", "/dev/null/nowhere"])
def test_a_cache_that_cannot_be_written_is_done_without(trimtab, monkeypatch, place):
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.setenv("HOME", "/dev/null")
    assert trimtab("catalogue", "adam").exit_code == 0


@pytest.mark.parametrize(
    "arguments", ["", "adam", "optimization", "--json cards.json", "--json cards.json BatchNorm2d"]
)
def test_the_catalogue_does_without_torch(arguments, tmp_path):
    code = "import sys; from trimtab.cli import main\ntry: main()\nfinally: print({'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    shown = subprocess.run(
        [sys.executable, "-c", code, "catalogue", *arguments.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "set()\n")


@pytest.mark.parametrize("name", CARDS)
def test_no_card_is_wider_than_the_terminal(name):
    prose = filled(CARDS[name].text, 80).split("\n>>>")[0]
    assert max(map(len, prose.split("\n"))) <= 80
    assert "\\" not in prose and ".. math" not in prose and ":class:" not in prose


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
    assert lacks(cards.all_cards()["ToyNorm"]) == [SAYS["formula"], SAYS["hurts"], SAYS["source"]]


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
    for part in (
        "    y_c = x_c (k + α/n Σ_",
        "Args:\n    size: ",
        "When it helps:",
        "When it hurts:",
        "Source: Krizhevsky",
    ):
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
    plant("ToyNorm", TOY, "    @classmethod\n    def plotted(cls): ...")
    curve = ("width", "height", {"toy": ([0.0, 1.0], [2.0, 3.0])})
    toy = SimpleNamespace(ToyNorm=SimpleNamespace(plotted=lambda: curve))
    monkeypatch.setitem(sys.modules, "trimtab.nn.toy", toy)
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
        (r"\operatorname*{arg\,min}_v \frac{1}{2m} v", "arg min_v 1/(2m) v"),
        (r"{x", "x"),
        (r"x_", "x_"),
    ],
)
def test_formulas_as_text(tex, text):
    assert plain(tex) == text
