"""A package of somebody else's brings a technique, a rule, a signal, a plot, a part and an outcome: by entry points, with no line of ours."""

from __future__ import annotations

import html
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab import members
from trimtab.cli.cards import all_cards
from trimtab.cli.info import _members
from trimtab.doctor import diagnose, judge
from trimtab.doctor.rule import rule
from trimtab.doctor.rules import all_rules
from trimtab.members import MemberWarning
from trimtab.records import Finding, Measured, Outcome, RunRecord, TrainingRecord
from trimtab.report.figures import Picture
from trimtab.report.page import page
from trimtab.report.telling import Telling
from trimtab.signals import OWN, Signal, all_signals
from trimtab.store import Store
from trimtab.training import attach
from trimtab.watching import WatchWarning
from trimtab.watching.sampler import all_measured

MEMBERS = '''
"""What a stranger wrote: one member of each kind."""
from dataclasses import dataclass

import torch
from torch import nn

import trimtab as tt
from trimtab.doctor.rule import rule
from trimtab.recipe import Change, Suite, Technique
from trimtab.records import Evidence, Finding, Measured, Outcome
from trimtab.report.figures import Picture
from trimtab.report.telling import Telling
from trimtab.signals import Signal

GROUP = "regularization"


@dataclass(frozen=True)
class Shrink(Technique):
    """Multiplies every weight by a factor below 1 after each step: ``w = (1 - rate) w``.

    Helps: networks that overfit. Hurts: networks that do not fit. Source: a stranger.

    Args:
        rate: the share of a weight that is taken away, in (0, 1).

    >>> Shrink(rate=0.5).rate
    0.5
    """

    acts_on = "update"
    moment = "decay"
    group = "regularization"
    suite = Suite(always=True)

    rate: float = 0.01

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} must lie in (0, 1).")

    def apply(self, training):
        @torch.no_grad()
        def shrink(optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.mul_(1 - self.rate)

        return Change(f"weights shrink by {self.rate:g} a step", training.on("after_step", shrink))


@rule(needs={"largest_weight": "the largest weight was not measured"})
def weights_too_large(training):
    """Fires when a weight is above 0.1 at the end."""
    largest = training.get("largest_weight").finite
    if len(largest) and largest.last > 0.1:
        yield Finding(
            problem="weights_too_large", severity="warning", where="loop", title="A weight is large",
            evidence=(Evidence(text=f"It is {largest.last:.2g}.", numbers={"largest": largest.last}, shows=("largest_weight",)),),
            cause="Nothing holds the weights.", source="a stranger", remedies=("shrink(rate=0.1)",), confidence=0.5,
        )


class Largest(Signal):
    """The largest weight."""

    measures = (Measured("largest_weight", "largest weight", "The largest entry of any weight, by its size."),)
    cost = "one pass over the weights"

    def __init__(self):
        self._largest = None

    def after_step(self, parameters):
        self._largest = max(p.detach().abs().max().item() for _, p in parameters)

    def read(self):
        found, self._largest = self._largest, None
        return {} if found is None else {"largest_weight": found}


def steps_in_words(training, key):
    """How many steps there were, as a picture."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><text y="20">{training.steps} steps</text></svg>' if training.steps else ""
    yield Picture(f"{key}-steps", "Steps", "How many there were." if svg else "There were none.", svg)


class Halve(nn.Module):
    r"""Gives half of its input.

    .. math:: y = x / 2

    When it helps: never. When it hurts: always. Source: a stranger.

    >>> Halve()(torch.ones(1))
    tensor([0.5000])
    """

    def forward(self, x):
        return x / 2


class Wish(Outcome):
    """What was wished for."""

    came: bool


class WishTelling(Telling[Wish]):
    record = Wish

    def sentence(self, outcome, findings):
        return "The wish came true" if outcome.came else "The wish did not come true"

    def helped(self, outcome):
        return outcome.came
'''

POINTS = """[trimtab.techniques]
shrink = strange:Shrink
[trimtab.rules]
weights_too_large = strange:weights_too_large
[trimtab.signals]
largest = strange:Largest
[trimtab.plots]
steps = strange:steps_in_words
[trimtab.parts]
halve = strange:Halve
[trimtab.outcomes]
wish = strange:WishTelling
"""

SCRIPT = """
import torch
from torch import nn
torch.manual_seed(0)
x, y = torch.randn(256, 8), torch.randint(2, (256,))
model = nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for step in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

SUITES = """
import torch
from strange import Halve, Largest, Shrink, Wish, steps_in_words, weights_too_large
from trimtab.records import Series
from trimtab.testing import check_outcome, check_part, check_plot, check_rule, check_signal, check_technique
from trimtab.testing.rules import healthy
import msgspec

check_technique(Shrink)
ill = healthy()
ill = msgspec.structs.replace(ill, series=ill.series | {"largest_weight": Series(steps=(0,), values=(3.0,))})
check_rule(weights_too_large, fires=[ill], silent=[healthy()])
check_signal(Largest)
check_plot(steps_in_words, healthy())
check_part(Halve, Halve(), torch.randn(3, 4))
check_outcome(Wish(subject="s", came=True))
print("all suites passed")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs Python, or trimtab, where the package of the stranger is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "strange.py").write_text(MEMBERS)
    info = folder / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)

    def run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "120"}
        return subprocess.run(
            [sys.executable, *command], cwd=where, env=environment, capture_output=True, text=True, timeout=200
        )

    run.folder = folder  # type: ignore[attr-defined]
    return run


def test_they_pass_the_suites_that_ours_pass(installed, tmp_path):
    done = installed(tmp_path, "-c", SUITES)
    assert done.returncode == 0 and "all suites passed" in done.stdout, done.stderr[-3000:]


def test_they_take_part(installed, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    watched = installed(tmp_path, "-m", "trimtab", "watch", "--html", "page.html", "train.py")
    assert "A weight is large" in watched.stderr and "shrink(rate=0.1)" in watched.stderr, watched.stderr
    page = (tmp_path / "page.html").read_text()
    assert "Largest weight" in page and "The largest entry of any weight" in page and "60 steps</text>" in page
    card = installed(tmp_path, "-m", "trimtab", "catalogue", "shrink").stdout
    assert "networks that overfit" in card and "acts on the update" in card
    assert "Halve" in installed(tmp_path, "-m", "trimtab", "catalogue", "regularization").stdout
    compared = installed(tmp_path, "-m", "trimtab", "compare", "--with", "shrink(rate=0.1)", "--seeds", "2", "train.py")
    assert "shrink(rate=0.1)" in compared.stdout, compared.stderr


def test_one_that_cannot_be_loaded_takes_nothing_with_it(installed, tmp_path):
    (broken := tmp_path / "broken-1.0.dist-info").mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[trimtab.techniques]\nnone = nowhere:Nothing\n")
    code = (
        "import sys, warnings; sys.path.insert(0, '.'); import trimtab as tt\n"
        "with warnings.catch_warnings(record=True) as said:\n    warnings.simplefilter('always')\n"
        "    print(tt.Recipe.parse('shrink, clip_norm'))\n"
        "    try: tt.Recipe.parse('shrnk')\n    except tt.RecipeError as error: print(error)\n"
        "print([str(one.message) for one in said if 'trimtab' in str(one.category)])"
    )
    done = installed(tmp_path, "-c", code)
    assert "shrink(rate=0.01), clip_norm(max_norm=1.0)" in done.stdout or "clip_norm" in done.stdout, done.stderr
    assert "Did you mean shrink" in done.stdout
    assert "nowhere:Nothing of broken" in done.stdout and "ModuleNotFoundError" in done.stdout


# -- what goes wrong in one of them takes nothing else with it -----------------------------------------------------------


@dataclass
class Point:
    """An entry point of a package that is not there; what it gives may be an error."""

    name: str
    thing: Any
    package: str = "strange"

    @property
    def value(self) -> str:
        return f"{self.package}:{self.name}"

    @property
    def dist(self) -> Any:
        return SimpleNamespace(name=self.package)

    def load(self) -> Any:
        if isinstance(self.thing, BaseException):
            raise self.thing
        return self.thing


@pytest.fixture
def bring(monkeypatch):
    """Lets packages bring things."""

    def bring(**points: list[Point]) -> None:
        monkeypatch.setattr(members, "entry_points", lambda group: points.get(group.removeprefix("trimtab."), []))
        members._brought.cache_clear()

    yield bring
    monkeypatch.undo()
    members._brought.cache_clear()


def warned(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and what it says of members."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = call()
    return given, [str(one.message) for one in said if one.category is MemberWarning]


def signal(*names: str, **methods: Any) -> type[Signal]:
    measures = tuple(Measured(name, name, "Of a test.") for name in names)
    return type("Probe", (Signal,), {"measures": measures, **methods})


class Telltale(Telling):
    """Without a record."""


class NoDataclass:
    """Not derived from anything."""


@pytest.mark.parametrize(
    ("kind", "thing", "must"),
    [
        ("signals", lambda: None, "must be a class derived from trimtab.signals.Signal, and is of type function"),
        ("signals", NoDataclass, "must be a class derived from trimtab.signals.Signal, and is the class NoDataclass"),
        ("signals", signal("a", __init__=lambda self, size: None), "must be made without arguments (missing"),
        ("signals", signal("a", measures=["a"]), "its measures must be a tuple of trimtab.records.Measured"),
        ("rules", lambda training: None, "must be a function under the decorator trimtab.doctor.rule.rule"),
        (
            "plots",
            NoDataclass,
            "must be a function of the record of a training and a key, and is the class NoDataclass",
        ),
        ("plots", "steps", "must be a function of the record of a training and a key, and is of type str"),
        ("techniques", lambda training: None, "must be a class derived from trimtab.Technique"),
        ("parts", "Halve", "must be a class or a function, and is of type str"),
        ("outcomes", Outcome, "must be a class derived from trimtab.report.telling.Telling"),
        ("outcomes", Telltale, "its record must be a class derived from trimtab.records.Outcome"),
        ("plots", SystemExit(3), "cannot be loaded (SystemExit: 3)"),
    ],
)
def test_what_is_of_the_wrong_type_is_left_out_with_one_warning(bring, kind, thing, must):
    bring(**{kind: [Point("odd", thing)]})
    given, said = warned(lambda: members.of_others(kind))
    assert (
        given == ()
        and len(said) == 1
        and said[0].startswith(f"strange:odd of strange is left out of trimtab's {kind}: ")
    )
    assert must in said[0]
    assert warned(lambda: members.of_others(kind)) == ((), [])
    (lost,) = members.left_out(kind)
    assert must in lost.why


def test_a_warning_shows_no_code_and_ends_nothing_where_it_is_an_error(bring, capsys):
    bring(rules=[Point("odd", "no rule")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert members.of_others("rules") == ()
    assert "strange:odd of strange is left out" in capsys.readouterr().err
    members._brought.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        members.of_others("rules")
    shown = warnings.formatwarning(said[0].message, said[0].category, said[0].filename, said[0].lineno, said[0].line)
    assert shown.startswith("strange:0: MemberWarning: strange:odd of strange") and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["loss", "Loss", "lr 1", "val accuracy", "grad_norm", "printed f1", "parameters"])
def test_a_signal_whose_name_is_taken_is_left_out(bring, name):
    bring(signals=[Point("a", signal(name))])
    measured, said = warned(all_measured)
    assert len({one.name for one in measured}) == len(measured) and name not in {one.name for one in measured[-1:]}
    assert len(said) == 1 and f"it measures {name!r}, a name that trimtab has already" in said[0]


def test_of_two_signals_with_one_name_the_later_is_left_out(bring):
    first, second = signal("sharpness"), signal("sharpness")
    bring(signals=[Point("a", second, "second"), Point("a", first, "first")])
    given, said = warned(all_signals)
    assert given == (*OWN, first)
    assert said == [
        "second:a of second is left out of trimtab's signals: it measures 'sharpness', a name that first has already; "
        "give it another."
    ]


def _of_zero(self, *_: Any) -> None:
    raise ZeroDivisionError("of purpose")


@pytest.mark.parametrize(
    "methods",
    [
        {"__init__": _of_zero},
        {"after_step": _of_zero},
        {"read": lambda self: None},
        {"read": lambda self: {"loss": 7.0}},
        {"read": lambda self: {"sharpness": "high"}},
    ],
    ids=["cannot be made", "raises", "reads nothing", "reads what it does not declare", "reads a text"],
)
def test_a_signal_that_fails_ends_alone(bring, methods):
    bring(
        signals=[
            Point("odd", signal("sharpness", **methods)),
            Point("well", signal("flat", read=lambda self: {"flat": 1.0})),
        ]
    )
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as said, tt.Recorder(every=1) as recorder:
        warnings.simplefilter("always")
        recorder.watch(attach(model, optimizer))
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.ones(3, 4)), torch.tensor([0, 1, 1])).backward()
            optimizer.step()
    run = recorder.close()
    (text,) = [str(one.message) for one in said if one.category is WatchWarning]
    assert "without the signal 'probe' of strange" in text and "of its own" not in text
    (told,) = run.unwatched
    assert told.startswith("the signal 'probe' of strange (after an error of its own, ")
    training = run.trainings[0]
    assert len(training.get("loss")) == 3 and 7.0 not in training.get("loss").values
    assert len(training.get("flat")) == 3 and len(training.get("grad_norm")) and "sharpness" not in training.series


def test_members_are_loaded_when_the_recorder_is_made(bring):
    bring(**{kind: [Point("odd", ImportError("of purpose"))] for kind in get_args(members.Kind)})
    recorder, said = warned(tt.Recorder)
    assert len(said) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warned(recorder.close)[1] == []


def finding(**other: Any) -> Finding:
    given = {"where": "loop", "title": "A fault", "evidence": (), "cause": "None.", "source": "", "severity": "error"}
    return Finding(problem="faulty", **given | other)


@pytest.mark.parametrize(
    ("gives", "error"),
    [
        (lambda: [finding(severity="critical")], "Invalid enum value 'critical'"),
        (lambda: [finding(evidence="none")], "Expected `array`, got `str`"),
        (lambda: [finding(title="")], "It gave a finding without a title."),
        (lambda: ["a fault"], "A rule must give findings, and gave a str."),
        (lambda: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.parametrize("package", ["strange", ""])
def test_a_rule_that_fails_loses_no_other_finding(bring, monkeypatch, gives, error, package):
    @rule(needs={})
    def faulty(training):
        return gives()

    @rule(needs={})
    def fine(training):
        yield finding()

    if package:
        bring(rules=[Point("faulty", faulty)])
    monkeypatch.setattr(judge, "all_rules", lambda: (faulty, fine))
    run = RunRecord(id="r", subject="s", trainings=(TrainingRecord(name="a", model="Net", steps=1),))
    found, failed = diagnose(run)
    assert found.problem == "faulty" and found.title == "A fault"
    assert (failed.problem, failed.where) == ("rule_error", "faulty") and error in failed.evidence[0].text
    assert failed.title == f"The rule faulty{' of strange' * bool(package)} could not judge this run"
    assert failed.cause == f"An error in {package or 'trimtab'}, not in your training."


def test_a_rule_whose_name_is_taken_is_left_out(bring):
    @rule(needs={})
    def dead_relu(training):
        return []

    bring(rules=[Point("dead", dead_relu)])
    rules, said = warned(all_rules)
    assert dead_relu not in rules and "it finds 'dead_relu', a name that trimtab has already" in said[0]


@pytest.mark.parametrize(
    ("plot", "error"),
    [
        (lambda training, key: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda training, key: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda training, key: ["<svg/>"], "TypeError: a plot must give pictures, and gave a str"),
        (lambda training, key: [Picture(key, "Steps", None)], "must hold texts only"),
    ],
)
def test_a_plot_that_fails_leaves_a_sentence_in_its_place(bring, plot, error):
    bring(
        plots=[
            Point("broken", plot),
            Point("whole", lambda training, key: [Picture(f"{key}-w", "Whole", "Nothing yet.")]),
        ]
    )
    run = RunRecord(id="r", subject="s", trainings=(TrainingRecord(name="a", model="Net", steps=1),))
    shown = html.unescape(page(run))
    assert "The plot broken of strange could not be drawn (" in shown and error in shown and "Nothing yet." in shown


def test_a_plot_that_is_no_function_leaves_a_sentence_in_its_place(bring):
    bring(plots=[Point("broken", 3)])
    run = RunRecord(id="r", subject="s", trainings=(TrainingRecord(name="a", model="Net", steps=1),))
    shown, said = warned(lambda: html.unescape(page(run)))
    assert len(said) == 1 and "The plot broken of strange is left out: it must be a function" in shown


def test_a_technique_must_be_a_dataclass(bring, monkeypatch):
    monkeypatch.setattr(tt.Technique, "registry", dict(tt.Technique.registry))

    class Plain(tt.Technique):
        rate: float = 0.1

    bring(techniques=[Point("plain", Plain)])
    cards, said = warned(all_cards)
    assert "plain" not in cards and len(said) == 1 and "it must be a dataclass; put @dataclass(frozen=True)" in said[0]
    with pytest.raises(
        tt.RecipeError, match=r"The technique plain must be a dataclass, and .*Plain is none. Put @dataclass"
    ):
        tt.Recipe.parse("plain(rate=0.2)")


class Other(nn.Module):
    """Of another package."""


def test_a_taken_name_hides_no_card(bring):
    ours, theirs = all_cards()["BatchNorm2d"], type("BatchNorm2d", (Other,), {"__doc__": "Theirs."})
    bring(parts=[Point("norm", theirs), Point("other", Other), Point("sum", 3), Point("z", Other, "later")])
    cards, said = warned(all_cards)
    assert cards["BatchNorm2d"] == ours and cards["strange.BatchNorm2d"].meaning == "Theirs."
    assert cards["strange.BatchNorm2d"].call.startswith("strange.BatchNorm2d(")
    assert "Other" in cards and "later.Other" in cards and len(said) == 1


def test_info_lists_members(bring):
    bring()
    assert list(_members()) == []
    bring(signals=[Point("a", signal("sharpness")), Point("b", signal("loss"))], plots=[Point("c", ValueError("no"))])
    given, said = warned(lambda: list(_members()))
    assert said == [] and given == [
        "Members of other packages:",
        "  signals: a of strange",
        "Members of other packages that are left out:",
        "  signals: strange:b of strange: it measures 'loss', a name that trimtab has already; give it another",
        "  plots: strange:c of strange: it cannot be loaded (ValueError: no)",
    ]


OUTCOMES = """
import sys, types, warnings
from trimtab import members
from trimtab.records import Comparison, Outcome
from trimtab.report.outcomes import telling_of
from trimtab.report.telling import Telling
from trimtab.store import Store, StoreError, outcome_kinds

def of(package, name, base=Outcome):
    return type(name, (base,), {"__module__": package})

strangers = [of("first", "Comparison"), of("first", "Wish"), of("second", "Wish"), of("second", "Deep", of("second", "Base"))]
tellings = [type(f"Telling{i}", (Telling,), {"record": one, "__module__": one.__module__}) for i, one in enumerate(strangers)]
deep = type("TellsDeep", (type("Half", (Telling,), {}),), {"record": strangers[3]})  # Half has no record
points = [types.SimpleNamespace(name=f"{i}", value=f"{one.__module__}:{one.__name__}", load=lambda one=one: one,
          dist=types.SimpleNamespace(name=one.__module__)) for i, one in enumerate(tellings)]
members.entry_points = lambda group: points if group == "trimtab.outcomes" else []
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    kinds = outcome_kinds(); outcome_kinds()
assert kinds["comparison"] is Comparison and kinds["wish"] is strangers[1] and kinds["deep"] is strangers[3], kinds
assert isinstance(telling_of(strangers[3](subject="s")), Telling)
store = Store(sys.argv[1])
try: store.put_outcome("r", strangers[0](subject="s"))
except StoreError as error: print(error)
store.put_outcome("r", strangers[1](subject="s"))
assert [type(one) for one in store.outcomes("r")] == [strangers[1]]
print(*(f"{one.category.__name__}: {one.message}" for one in said), sep="\\n")
"""


def test_of_two_outcomes_of_one_kind_the_later_is_left_out(tmp_path):
    done = subprocess.run([sys.executable, "-c", OUTCOMES, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, ours, later = done.stdout.splitlines()
    assert "keeps no first.Comparison: its kind 'comparison' is that of trimtab.records.outcomes.Comparison" in refused
    assert ours.startswith(
        "MemberWarning: first:Telling0 of first is left out of trimtab's outcomes: the kind 'comparison'"
    )
    assert later.startswith("MemberWarning: second:Telling2 of second") and "that of first.Wish" in later
    with Store(tmp_path) as store:  # here nobody knows the kind
        assert store.outcomes("r") == [] and store.outcomes("r") == []
        (skipped,) = store.skipped
    assert skipped.startswith("Left out: an outcome of run r of the kind 'wish', which nothing installed here knows.")
