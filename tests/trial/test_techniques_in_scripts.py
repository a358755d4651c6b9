"""Every technique through ``trimtab compare SCRIPT --with ...``, on scripts that have never heard of it."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from click.testing import CliRunner

from tests.techniques.test_every_technique import TEXTS
from trimtab.cli import main
from trimtab.recipe import Recipe

SCRIPT = """\
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
y = torch.arange(160) % 4
x = (torch.randn(4, 64)[y] + torch.randn(160, 64)).tanh().view(160, {shape})
{define}
model = nn.Sequential({layers})
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(3):
    model.train()
    for batch in torch.randperm(128).split(32):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = F.cross_entropy(model(x[128:]), y[128:]).item()
    print("val loss", val_loss)
"""
CONVOLUTIONS = "nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)"
DEFINE = """
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    def forward(self, x):
        return x + self.branch(x)

class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 8, batch_first=True)
    def forward(self, x):
        return self.rnn(x)[0][:, -1]
"""
SCRIPTS = {
    "mlp": ("64", "nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)"),
    "dropout": ("64", "nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4)"),
    "images": ("1, 8, 8", CONVOLUTIONS),
    "normed": (
        "1, 8, 8",
        "nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Residual(), nn.Flatten(), nn.Linear(144, 4)",
    ),
    "recurrent": ("8, 8", "Last(), nn.ReLU(), nn.Linear(8, 4)"),
}
RECIPES: dict[str, list[str]] = defaultdict(list)
for _text in TEXTS:
    (_technique,) = Recipe.parse(_text)
    _kind = _technique.suite.network or "mlp"
    RECIPES["images" if _kind == "cnn" else _kind].append(_text)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_every_technique_takes_effect_in_an_unmodified_script(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape, layers = SCRIPTS[kind]
    (tmp_path / "train.py").write_text(SCRIPT.format(shape=shape, layers=layers, define=DEFINE))
    recipes = RECIPES[kind]
    assert recipes
    arms = [argument for recipe in recipes for argument in ("--with", recipe)]
    shown = CliRunner().invoke(main, ["compare", "--seeds", "2", "--json", "found.json", *arms, "train.py"])
    assert shown.exit_code == 0, shown.output
    trials = json.loads((tmp_path / "found.json").read_text())["comparison"]["trials"]
    wrong = {(trial["recipe"], trial["status"], trial["error"]) for trial in trials if trial["status"] != "ok"}
    assert not wrong
    assert {trial["recipe"] for trial in trials} == {"", *(str(Recipe.parse(recipe)) for recipe in recipes)}
    assert all(trial["changed"] for trial in trials if trial["recipe"])
