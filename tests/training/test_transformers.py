"""A Hugging Face model with its own Trainer, watched as a script: everything is found, nothing is changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trimtab as tt
from trimtab.store import Store

pytest.importorskip("transformers")

SCRIPT = """
import sys
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

torch.set_num_threads(1)
set_seed(0)


class Sentences(torch.utils.data.Dataset):
    "Ten tokens; the class is whether the first is a large one."

    def __init__(self, size, seed):
        self.tokens = torch.randint(2, 50, (size, 10), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "attention_mask": torch.ones(10, dtype=torch.long), "labels": int(self.tokens[i, 0] > 25)}


config = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16
)
model = BertForSequenceClassification(config)
arguments = TrainingArguments(
    output_dir=sys.argv[1], num_train_epochs=2, per_device_train_batch_size=16, per_device_eval_batch_size=32,
    gradient_accumulation_steps=2, eval_strategy="epoch", logging_steps=1, learning_rate=1e-3, save_strategy="no", report_to="none",
    use_cpu=True, disable_tqdm=True, seed=0,
)
trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(128, 1), eval_dataset=Sentences(80, 2))
trainer.train()
for entry in trainer.state.log_history:
    print("entry", *(f"{key} {entry[key]!r}" for key in ("step", "loss", "grad_norm", "eval_loss") if key in entry))
print("weights", sum(p.double().sum().item() for p in model.parameters()))
"""

WATCHED = """
import sys, warnings
from trimtab.store import Store
from trimtab.watching import Recorder, run_script
from trimtab.watching import budget
budget.ALLOWANCE = 60.0  # every step is measured, however busy the machine
recorder = Recorder("trainer", Store(sys.argv[2]), every=1)
outcome = run_script(sys.argv[1], sys.argv[2:], on_training=recorder.guard(recorder.watch), on_line=recorder.guard(recorder.line))
recorder.close()
sys.exit(recorder.guard.off or outcome.exit_code)
"""


def test_trainer(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(tt.__file__).parents[1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    commands = [sys.executable, path, tmp_path], [sys.executable, "-c", WATCHED, path, tmp_path]
    runs = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    (plain, errors), (seen, told) = (run.communicate() for run in runs)
    assert [run.returncode for run in runs] == [0, 0], errors + told

    # The logs end with times of the run; what we printed of them has every digit.
    def facts(output):
        return [line for line in output.splitlines() if line.startswith(("entry", "weights"))]

    assert facts(seen) == facts(plain)
    entries = [line.split()[1:] for line in facts(plain) if line.startswith("entry")]
    logged = [dict(zip(e[::2], map(float, e[1::2]), strict=True)) for e in entries]
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    norms = [entry["grad_norm"] for entry in logged if "grad_norm" in entry]
    evaluations = [entry["eval_loss"] for entry in logged if "eval_loss" in entry]

    with Store(tmp_path) as store:
        record = store.run()
    (training,) = record.trainings
    assert training.model == "BertForSequenceClassification"
    assert training.optimizers == ("AdamW",)
    assert training.steps == len(losses) == 8
    # The Trainer logs means of its own in float32, rounded: a unit in the fourth digit.
    assert training.get("loss").values == pytest.approx(losses, rel=1e-3)
    assert training.get("val loss").steps == (4, 8)
    assert training.get("val loss").values == pytest.approx(evaluations, rel=1e-3)
    assert len(training.get("val accuracy")) == 2
    assert record.metric.name == "printed eval loss"
    assert len(training.profiles["activation_std"].steps) == 8
    assert "bert.encoder.layer.0.attention.self.query" in training.profiles["activation_std"].names
    # The Trainer clips at norm 1 and logs the norm before that.
    expected = [min(norm, 1.0) for norm in norms]
    assert training.get("grad_norm").values == pytest.approx(expected, rel=1e-3)
    assert (
        training.code is not None and training.code.source == "trainer.train()"
    )  # no line of the script makes the optimizer
