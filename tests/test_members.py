"""A package of somebody else's brings a technique, a rule, a signal, a plot, a part and an outcome: by entry points, with no line of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
            evidence=(Evidence(text=f"It is {largest.last:.2g}.", shows=("largest_weight",)),),
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
