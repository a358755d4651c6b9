"""Weights of treated models, loaded in another process as the lines to add tell it."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

import trimtab as tt
from tests.conftest import network, train
from tests.techniques.test_every_technique import TEXTS
from trimtab.recipe import Recipe
from trimtab.records import Applied, Trial
from trimtab.testing.techniques import attached, shaped
from trimtab.trial.permanent import permanent_lines

LOAD = """
import sys, warnings
import torch
import trimtab as tt
from tests.conftest import network
warnings.simplefilter("ignore")
for text, (kind, line, state, x, said) in torch.load(sys.argv[1]).items():
    model = network(kind)
    if line:
        exec(line)
    model.load_state_dict(state)
    with torch.no_grad():
        if not torch.equal(model.eval()(x), said):
            print(text)
"""


def told(training, text: str) -> str:
    """The line that the report gives for loading the weights; empty if none is needed."""
    trial = Trial(subject="", recipe=text, seed=0, status="ok", applied=(Applied(weights=training.new_weights),))
    *_, last = lines = permanent_lines(text, [trial])
    words = " ".join(line.removeprefix("#").strip() for line in lines)
    return last.removeprefix("#").strip() if "put this before load_state_dict(...):" in words else ""


def test_every_technique_is_loaded_in_another_process_as_told(digits, tmp_path):
    saved = {}
    for text in TEXTS:
        model, optimizer, training = attached("mlp", text=text)
        training.apply(text)
        x, _ = given = shaped(model, digits)
        train(model, optimizer, given, 3)
        kind = next((one.suite.network for one in Recipe.parse(text) if one.suite.network), "mlp")
        with torch.no_grad():
            said = model.eval()(x)
        saved[text] = (kind, told(training, text), copy.deepcopy(model.state_dict()), x, said)
        training.undo().close()
    torch.save(saved, tmp_path / "saved.pt")
    ran = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "saved.pt")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    # and nothing is told where it is not needed
    for text, (kind, line, state, x, said) in saved.items():
        plain = network(kind)
        same = plain.state_dict().keys() == state.keys()
        if same and line:
            plain.load_state_dict(state)
            with torch.no_grad():
                assert not torch.equal(plain.eval()(x), said), text


def test_a_model_that_is_not_trained_takes_what_stays_in_it():
    model = network("mlp")
    training = tt.attach(model).apply("batch_norm, dropout(p=0.3), clip_norm, lr_scale(factor=0.1)")
    assert [change.summary.split()[0] for change in training.changes] == ["batch", "dropout"]
    assert training.optimizers == []
    assert training.undo().changes == [] and not any("norm" in name for name in model.state_dict())


def test_what_only_trains_is_refused_for_a_model_that_is_not_trained():
    with pytest.raises(tt.NothingToDo, match="clip_norm does nothing to a model that is not trained"):
        tt.attach(network("mlp")).apply("clip_norm")
