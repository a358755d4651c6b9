"""Spaces of a script's flags: read, written, drawn from; and what is said of those that do not read."""

from __future__ import annotations

import math
import re
import shlex

import pytest
from optuna.trial import FixedTrial

import trimtab as tt
from trimtab.records import Axis
from trimtab.trial.flags import Flags, read_space
from trimtab.trial.space import Space, SpaceError
from trimtab.trial.subjects import SubjectError


@pytest.mark.parametrize(
    ("search", "texts", "size"),
    [
        ("--lr=log(1e-4,1e-1) --width=[16, 64, 256]", ["--lr=log(0.0001, 0.1)", "--width=choice(16, 64, 256)"], math.inf),
        (["--shift=uniform(-1, -0.5)", "-a = choice('x y', 'z')"], ["--shift=uniform(-1, -0.5)", "-a=choice('x y', 'z')"], math.inf),
        ("  --model.depth=int(-3, -1)\n--n_2=log_int(1, 8)", ["--model.depth=int(-3, -1)", "--n_2=log_int(1, 8)"], 24),
    ],
)  # fmt: skip
def test_flags_read_and_their_text_reads_back(search, texts, size):
    space = read_space(search)
    assert list(space.texts) == texts and space.size == size and space.untreated is None
    assert Flags.parse(texts) == Flags.parse(str(space)) == space


def test_a_setting_is_what_stands_behind_the_script():
    space = Flags.parse("--lr=log(1e-4, 1) --shift=uniform(-1, 0) --act=choice('relu', 'a b', None) -x=int(-2, 2)")
    drawn = space.suggest(FixedTrial({"--lr": 0.0031234, "--shift": -0.00123, "--act": "'a b'", "-x": -1}))
    assert drawn.recipe == "--lr 0.00312 --shift=-0.0 --act 'a b' -x -1"
    assert drawn.at == {"--lr": 0.00312, "--shift": -0.0, "--act": "'a b'", "-x": -1} and not drawn.trouble
    assert shlex.split(drawn.recipe)[-4:] == ["--act", "a b", "-x", "-1"]
    assert space.axes[0] == Axis(name="--lr", low=1e-4, high=1, log=True)
    assert space.axes[2] == Axis(name="--act", choices=("'relu'", "'a b'", "None"))


def test_texts_without_a_dash_are_recipes():
    assert isinstance(read_space(["lr=log(1e-4, 1)", "ema | none"]), Space)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("--lr=log(0, 1)", "The search '--lr=log(0, 1)' does not read: in log(0, 1) both numbers must be positive: there is no logarithm of 0. Write it like \"--lr=log(1e-4, 1e-1) --width=choice(16, 64)\"."),
        ("--lr=lgo(1, 2)", "There is no distribution called 'lgo'. Did you mean log?"),
        ("--lr=[1]", "choice(1) must have two values at least, or is no choice."),
        ("--n=choice(1, '1')", "choice(1, '1') has two values that are the same on a command line."),
        ("--lr=0.1", "0.1 is no distribution (uniform, log, int, log_int, choice); a value that does not vary goes behind the script, among its own arguments."),
        ("--lr=log(1, 2", "does not read: '(' was never closed."),
        ("--lr log(1, 2)", "--lr log(1, 2) is no flag with an = and a distribution behind it."),
        ("--lr=[1, 2] --nesterov", "[1, 2] - -nesterov is no distribution"),
        ("--lr=", "does not read: invalid syntax"),
        (["--lr=[1, 2]", "--lr=log(1, 2)"], "--lr stands twice in the search '--lr=[1, 2] --lr=log(1, 2)'; keep one."),
        (["ema | none", "--lr=[1, 2]"], "A search is over recipes or over flags of the script, and 'ema | none' is of the first, '--lr=[1, 2]' of the second."),
    ],
)  # fmt: skip
def test_what_does_not_read_says_why(search, message):
    with pytest.raises(SpaceError, match=re.escape(message)):
        read_space(search)


def test_only_a_script_has_flags():
    with pytest.raises(SubjectError, match="Flags are those of a script, and t is none: search over recipes"):
        tt.tune(tt.Task("t", model=never, data=never), "--lr=[1, 2]")


def never() -> None:
    """Not called."""
