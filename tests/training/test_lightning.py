"""A Lightning module with its Trainer, watched as a script: everything is found, nothing is changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trimtab as tt
from trimtab.store import Store

pytest.importorskip("lightning")

SCRIPT = """
import warnings
warnings.simplefilter("ignore")
import logging
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
lightning.seed_everything(0)
losses, evaluations = [], []


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    def training_step(self, batch, number):
        x, y = batch
        loss = F.cross_entropy(self.body(x), y)
        losses.append(loss.item())
        return loss

    def validation_step(self, batch, number):
        x, y = batch
        loss = F.cross_entropy(self.body(x), y)
        self.log("val_loss", loss, on_epoch=True)
        evaluations.append((self.trainer.sanity_checking, len(x), loss.item()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def loader(size, shuffle):
    x = torch.randn(size, 8)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=32, shuffle=shuffle)


model = Classifier()
trainer = lightning.Trainer(
    max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    accelerator="cpu", gradient_clip_val=0.5,
)
trainer.fit(model, loader(96, True), loader(80, False))
print("losses", *map(repr, losses))
for sanity, size, value in evaluations:
    print("evaluation", int(sanity), size, repr(value))
print("weights", sum(p.double().sum().item() for p in model.parameters()))
"""

WATCHED = """
import sys
from trimtab.store import Store
from trimtab.watching import Recorder, run_script
from trimtab.watching import budget
budget.ALLOWANCE = 60.0  # every step is measured, however busy the machine
recorder = Recorder("trainer", Store(sys.argv[2]), every=1)
outcome = run_script(sys.argv[1], [], on_training=recorder.guard(recorder.watch), on_line=recorder.guard(recorder.line))
recorder.close()
sys.exit(recorder.guard.off or outcome.exit_code)
"""


def test_trainer(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(tt.__file__).parents[1]))
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    commands = [sys.executable, path], [sys.executable, "-c", WATCHED, path, tmp_path]
    runs = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    (plain, errors), (seen, told) = (run.communicate() for run in runs)
    assert [run.returncode for run in runs] == [0, 0], errors + told
    assert seen == plain

    lines = [line.split() for line in plain.splitlines()]
    losses = tuple(float(value) for line in lines if line[0] == "losses" for value in line[1:])
    rounds: dict[int, list[tuple[int, float]]] = {}
    for number, line in enumerate([line for line in lines if line[0] == "evaluation"]):
        # two batches of sanity check before the training, then three an epoch
        rounds.setdefault(0 if line[1] == "1" else (number - 2) // 3 + 1, []).append((int(line[2]), float(line[3])))
    expected = [sum(n * value for n, value in batch) / sum(n for n, _ in batch) for batch in rounds.values()]

    with Store(tmp_path) as store:
        record = store.run()
    (training,) = record.trainings
    assert training.model == "Classifier"
    assert training.optimizers == ("Adam",)
    assert len(losses) == 9
    assert training.get("loss").values == losses
    assert training.get("val loss").steps == (0, 3, 6, 9)
    assert training.get("val loss").values == pytest.approx(expected, rel=1e-6)  # float32 means
    assert "val 2 loss" not in training.series
    assert record.metric.name == "logged val_loss"
    assert training.profiles["update_ratio"].names == ("body.0.weight", "body.3.weight")
    assert training.profiles["activation_std"].steps == tuple(range(9))
    # Measured after Lightning's own clipping.
    assert max(training.get("grad_norm").values) <= 0.5 * (1 + 1e-5)
    assert (training.code.model_name, training.code.source.strip()) == (
        "self",
        "return torch.optim.Adam(self.parameters(), lr=0.01)",
    )
