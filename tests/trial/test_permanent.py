"""The lines that a report tells a user to add, in every kind of host: added as told, they give the number that the trial has proven."""

from __future__ import annotations

import contextlib
import html
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.cli import main
from trimtab.records import Asked
from trimtab.training.stage import stage
from trimtab.trial.permanent import permanent_lines
from trimtab.trial.run import Job, run_job
from trimtab.trial.subjects import Script

BEGIN = """\
import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
y = torch.arange(160) % 4
x = torch.randn(4, 16)[y] + 1.4 * torch.randn(160, 16)

def net():
    return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4))

def fit(model, *optimizers):
    for epoch in range(3):
        model.train()
        for batch in torch.randperm(128).split(32):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", F.cross_entropy(model(x[128:]), y[128:]).item())
"""
PLAIN = {
    "module level": """
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
fit(model, optimizer)
""",
    "several lines": """
model = net()
sgd = torch.optim.SGD(
    model.parameters(),
    lr=0.1,
    momentum=0.9,
)  # the usual
fit(model, sgd)
""",
    "one line": """
model = net(); optimizer = torch.optim.SGD(model.parameters(), lr=0.1); fit(model, optimizer)
""",
    "main": """
def main():
    network = net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    fit(network, optimizer)

if __name__ == "__main__":
    main()
""",
    "a function that returns it": """
def make(network):
    if True:
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

model = net()
fit(model, make(model))
""",
    "a function that is given the parameters": """
def make(params, lr):
    return torch.optim.SGD(params, lr=lr)

model = net()
optimizer = make(model.parameters(), lr=0.1)
fit(model, optimizer)
""",
    "one of several results": """
def make(params, lr):
    optimizer = torch.optim.SGD(params, lr=lr)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)

def main():
    model = net()
    opt, scheduler = make(model.parameters(), lr=0.1)
    fit(model, opt)

main()
""",
    "a class": """
class Trainer:
    def __init__(self):
        self.net = net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)

    def run(self):
        fit(self.net, self.optimizer)

Trainer().run()
""",
    "a dictionary": """
model = net()
parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
fit(parts["model"], parts["optimizer"])
""",
    "a comprehension": """
models = [net() for _ in range(2)]
optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
for model, optimizer in zip(models, optimizers):
    fit(model, optimizer)
""",
    "an expression": """
model = net()
fit(model, torch.optim.SGD(model.parameters(), lr=0.1))
""",
    "a choice": """
def choose(model, name):
    return torch.optim.SGD(model.parameters(), lr=0.1) if name == "sgd" else torch.optim.Adam(model.parameters())

model = net()
fit(model, choose(model, "sgd"))
""",
    "a lambda": """
model = net()
make = lambda lr: torch.optim.SGD(model.parameters(), lr=lr)
fit(model, make(0.1))
""",
    "a choice on one line": """
model = net()
if True: optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
fit(model, optimizer)
""",
    "an optimizer of the user's": """
class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr, momentum=0.5)

model = net()
optimizer = Mine(model.parameters())
fit(model, optimizer)
""",
    "compiled": """
model = net()
fast = torch.compile(model, backend="eager")
optimizer = torch.optim.SGD(fast.parameters(), lr=0.1)
fit(fast, optimizer)
""",
    "two optimizers": """
model = net()
body = torch.optim.SGD(model[:3].parameters(), lr=0.1)
head = torch.optim.SGD(model[3:].parameters(), lr=0.2)
fit(model, body, head)
""",
    "two optimizers at once": """
class Pair:
    def __init__(self):
        self.model = net()
        self.optimizers = [
            torch.optim.SGD(self.model[:3].parameters(), lr=0.1),
            torch.optim.SGD(self.model[3:].parameters(), lr=0.2),
        ]

pair = Pair()
fit(pair.model, *pair.optimizers)
""",
    "folds": """
for fold in range(2):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, optimizer)
""",
    "two models, each with its optimizer": """
a, b = net(), net()
opt_a = torch.optim.SGD(a.parameters(), lr=0.1)
opt_b = torch.optim.SGD(b.parameters(), lr=0.1)
fit(a, opt_a)
fit(b, opt_b)
""",
    "two models with one optimizer": """
body, head = net()[:3], nn.Sequential(nn.Tanh(), nn.Linear(24, 4))
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
for batch in torch.randperm(128).split(8):
    optimizer.zero_grad()
    F.cross_entropy(head(body(x[batch])), y[batch]).backward()
    optimizer.step()
body.eval(), head.eval()
with torch.no_grad():
    print("val loss", F.cross_entropy(head(body(x[128:])), y[128:]).item())
""",
    "a model that another object holds": """
class State:
    pass

state = State()
state.model = net()
state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.1)
fit(state.model, state.optimizer)
""",
}
MODULES = {  # hosts with a file of the user's beside them
    "another file": (
        """
from making import make
model = net()
optimizer = make(model)
fit(model, optimizer)
""",
        "making.py",
        "import torch\n\ndef make(model, lr=0.1):\n    return torch.optim.SGD(model.parameters(), lr=lr)\n",
    ),
}
LIGHTNING = """
import warnings, logging, sys
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning
from torch.utils.data import DataLoader, TensorDataset

class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, number):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
CONFIGURE

model = Lit()
trainer = lightning.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
trainer.fit(model, DataLoader(TensorDataset(x[:128], y[:128]), batch_size=32, shuffle=True))
model.eval()
with torch.no_grad():
    print("val loss", F.cross_entropy(model.net(x[128:]), y[128:]).item())
"""
CONFIGURED = {
    "lightning, the optimizer": "        return torch.optim.SGD(self.parameters(), lr=0.1)",
    "lightning, a dictionary": """\
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}""",
    "lightning, a tuple of lists": """\
        return [torch.optim.SGD(
            self.parameters(), lr=0.1)], []""",
    "lightning, in a dictionary": """\
        return {"optimizer": torch.optim.SGD(self.parameters(), lr=0.1), "monitor": "loss"}""",
}
PLAIN |= {name: LIGHTNING.replace("CONFIGURE", text) for name, text in CONFIGURED.items()}
ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
model = net()
MAKE
for epoch in range(3):
    model.train()
    for batch in torch.randperm(128).split(32):
        optimizer.zero_grad()
        accelerator.backward(F.cross_entropy(model(x[batch]), y[batch]))
        optimizer.step()
model.eval()
with torch.no_grad():
    print("val loss", F.cross_entropy(model(x[128:]), y[128:]).item())
"""
MADE = {
    "accelerate, before": """\
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer = accelerator.prepare(model, optimizer)""",
    "accelerate, inside": "model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))",
    "accelerate, after": """\
model = accelerator.prepare(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = accelerator.prepare(optimizer)""",
}
PLAIN |= {name: ACCELERATE.replace("MAKE", text) for name, text in MADE.items()}
TRANSFORMERS = """
import os
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from transformers import Trainer, TrainingArguments

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, inputs, labels):
        logits = self.net(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

DEFINE
data = [{"inputs": a, "labels": b} for a, b in zip(x, y)]
arguments = TrainingArguments(
    output_dir="out", num_train_epochs=2, per_device_train_batch_size=32, learning_rate=0.01, save_strategy="no", report_to="none",
    use_cpu=True, disable_tqdm=True, seed=0, logging_strategy="no",
)
model = Net()
MAKE
model.eval()
with torch.no_grad():
    print("val loss", F.cross_entropy(model.net(x[128:]), y[128:]).item())
"""
TRAINERS = {
    "transformers": ("", "trainer = Trainer(model=model, args=arguments, train_dataset=data[:128])\ntrainer.train()"),
    "transformers, two on a line": (
        "",
        "trainer = Trainer(model=model, args=arguments, train_dataset=data[:128])\ntrainer.train(); print('trained')",
    ),
    "transformers, unnamed": (
        "def run(model):\n    Trainer(\n        model=model, args=arguments, train_dataset=data[:128]\n    ).train()",
        "run(model)",
    ),
    "transformers, a subclass": (
        "class Mine(Trainer):\n    def create_optimizer(self, *args):\n        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)\n"
        "        return self.optimizer",
        "trainer = Mine(model=model, args=arguments, train_dataset=data[:128])\ntrainer.train()",
    ),
    "transformers, given": (
        "",
        "trainer = Trainer(model=model, args=arguments, train_dataset=data[:128], optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))\n"
        "trainer.train()",
    ),
}
PLAIN |= {name: TRANSFORMERS.replace("DEFINE", a).replace("MAKE", b) for name, (a, b) in TRAINERS.items()}
HOSTS = {**{name: (text, "", "") for name, text in PLAIN.items()}, **MODULES}

EVERYWHERE = "batch_norm, label_smoothing, clip_norm(max_norm=0.5), lr_scale(factor=0.3)"  # model, loss, update, rate
IN_LIGHTNING = EVERYWHERE.replace("label_smoothing, ", "")  # it never calls the module itself
RECIPES = [
    "batch_norm",
    "label_smoothing",
    "lr_scale(factor=0.1)",
    "clip_norm(max_norm=0.1)",
    "l2(factor=0.1)",
    "sam",
    "adam(lr=0.01)",
]


def run(folder: Path, recipe: str):
    """The trial of a recipe, in this process."""
    with own_modules(folder):
        result = run_job(Job(Script(str(folder / "train.py")), recipe, 0, asked=Asked(metric="val loss ([0-9.]+)")))
    assert result.trial.status == "ok", result.trial.error
    return result.trial


def plainly(file: Path, capsys) -> float:
    """The number that a file prints, run as Python runs it; the mean of several, as of a trial."""
    capsys.readouterr()
    with own_modules(file.parent):
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "__main__"})
    values = [float(value) for value in re.findall("val loss ([0-9.]+)", capsys.readouterr().out)]
    return sum(values) / len(values)


@contextlib.contextmanager
def own_modules(folder: Path):
    """As in a process of its own: modules beside a script are imported anew, and its trainings end with it."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for training in stage.alive():
            training.close()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]


def add(lines: tuple[str, ...], folder: Path) -> None:
    """Do to the files what the lines say."""
    edits = []
    for line in lines:
        told = re.fullmatch(r"\s*# in (\S+), (after|before|in the place of) lines? (\d+)(?: to (\d+))?: .*", line)
        if told:
            edits.append((told[1], told[2], int(told[3]), int(told[4] or told[3]), []))
        else:
            assert edits, lines
            edits[-1][-1].append(line)
    for name, how, first, last, new in sorted(edits, key=lambda edit: -edit[2]):
        text = (folder / name).read_text().splitlines()
        at = {"after": (last, last), "before": (first - 1, first - 1), "in the place of": (first - 1, last)}[how]
        text[at[0] : at[1]] = new
        (folder / name).write_text("\n".join(text) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("host", HOSTS)
def test_the_lines_give_in_every_host_what_the_trial_gave(host, folder, capsys):
    text, beside, other = HOSTS[host]
    (folder / "train.py").write_text(BEGIN + text)
    if beside:
        (folder / beside).write_text(other)
    recipe = IN_LIGHTNING if "lightning" in host else EVERYWHERE
    proven = run(folder, recipe)
    lines = permanent_lines(recipe, [proven])
    before = plainly(folder / "train.py", capsys)
    add(lines, folder)
    assert plainly(folder / "train.py", capsys) == proven.value != before, lines


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_lines_give_for_every_kind_of_technique_what_the_trial_gave(recipe, folder, capsys):
    (folder / "train.py").write_text(BEGIN + PLAIN["main"])
    proven = run(folder, recipe)
    before = plainly(folder / "train.py", capsys)
    add(permanent_lines(recipe, [proven]), folder)
    assert plainly(folder / "train.py", capsys) == proven.value != before


OPTIMIZER = "    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)"
SGD, STEP = "torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)", "                optimizer.step()\n"
SCHEDULER = "scheduler = torch.optim.lr_scheduler."
IN_PLAIN_TORCH = {  # what is told, the edit by hand, and how near it comes
    "lr_scale(factor=0.1)": ("lr=0.01 in the place of 0.1", [("lr=0.1,", "lr=0.01,")], 0),
    "learning_rate(lr=0.02)": ("lr=0.02 in the place of 0.1", [("lr=0.1,", "lr=0.02,")], 0),
    "batch_norm": (
        "nn.BatchNorm1d(24) behind 0 (Linear), nn.BatchNorm1d(24) behind 2 (Linear)",
        [("nn.Linear(16, 24),", "nn.Linear(16, 24), nn.BatchNorm1d(24),"), ("nn.Linear(24, 24),", "nn.Linear(24, 24), nn.BatchNorm1d(24),")],
        0,
    ),
    "layer_norm(after='activation')": (
        "nn.LayerNorm(24) behind 1 (Tanh), nn.LayerNorm(24) behind 3 (Tanh)",
        [("nn.Tanh(),", "nn.Tanh(), nn.LayerNorm(24),")],
        0,
    ),
    "label_smoothing": (
        "label_smoothing=0.1 in the cross_entropy",
        [("F.cross_entropy(model(x[batch]), y[batch])", "F.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.1)")],
        0,
    ),
    "clip_norm(max_norm=0.1)": (
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)",
        [(STEP, "                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)\n" + STEP)],
        1e-4,  # the norms are of order 1, so that 1e-6 beside them is as much
    ),
    "clip_value(low=0.01)": (
        "torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)",
        [(STEP, "                torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)\n" + STEP)],
        0,
    ),
    "l2(factor=0.1)": ("weight_decay=0.1", [("momentum=0.9)", "momentum=0.9, weight_decay=0.1)")], 0.01),
    "weight_decay(factor=0.1, kind='coupled')": ("weight_decay=0.1", [("momentum=0.9)", "momentum=0.9, weight_decay=0.1)")], 0.01),
    "adam(lr=0.01)": ("torch.optim.Adam(model.parameters(), lr=0.01)", [(SGD, "torch.optim.Adam(network.parameters(), lr=0.01)")], 1e-5),
    "adamw(lr=0.01)": ("torch.optim.AdamW(model.parameters(), lr=0.01)", [(SGD, "torch.optim.AdamW(network.parameters(), lr=0.01)")], 1e-5),
    "sgd(lr=0.05)": (
        "torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)",
        [(SGD, "torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)")],
        1e-5,
    ),
    "rmsprop(lr=0.01)": ("torch.optim.RMSprop(model.parameters(), lr=0.01)", [(SGD, "torch.optim.RMSprop(network.parameters(), lr=0.01)")], 1e-5),
    "adagrad(lr=0.01)": ("torch.optim.Adagrad(model.parameters(), lr=0.01)", [(SGD, "torch.optim.Adagrad(network.parameters(), lr=0.01)")], 1e-5),
    "adadelta(lr=1.0)": ("torch.optim.Adadelta(model.parameters(), lr=1.0)", [(SGD, "torch.optim.Adadelta(network.parameters(), lr=1.0)")], 1e-5),
    "cosine_decay(steps=12, floor=0.1)": (
        f"{SCHEDULER}CosineAnnealingLR(optimizer, T_max=12, eta_min=0.01)",
        [
            ("    fit(network", f"    global scheduler\n    {SCHEDULER}CosineAnnealingLR(optimizer, T_max=12, eta_min=0.01)\n    fit(network"),
            (STEP, STEP + "                scheduler.step()\n"),
        ],
        1e-5,
    ),
    "exponential_decay(beta=0.8)": (
        f"{SCHEDULER}ExponentialLR(optimizer, gamma=0.8)",
        [
            ("    fit(network", f"    global scheduler\n    {SCHEDULER}ExponentialLR(optimizer, gamma=0.8)\n    fit(network"),
            (STEP, STEP + "                scheduler.step()\n"),
        ],
        1e-5,
    ),
    "dropout(p=0.2)": (
        "nn.Dropout(0.2) before 2 (Linear), nn.Dropout(0.2) before 4 (Linear)",
        [("nn.Tanh(),", "nn.Tanh(), nn.Dropout(0.2),")],
        0.1,
    ),
    "xavier_init(gain=1.0)": (
        "nn.init.xavier_normal_(layer.weight, gain=1) and nn.init.zeros_(layer.bias)",
        [(
            "    optimizer = torch",
            "    for layer in network[::2]:\n        nn.init.xavier_normal_(layer.weight, gain=1)\n        nn.init.zeros_(layer.bias)\n"
            "    optimizer = torch",
        )],
        0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("recipe", IN_PLAIN_TORCH)
def test_what_plain_torch_says_gives_what_the_trial_gave(recipe, folder, capsys):
    said, edits, near = IN_PLAIN_TORCH[recipe]
    text = BEGIN + PLAIN["main"]
    (folder / "train.py").write_text(text)
    proven, before = run(folder, recipe), plainly(folder / "train.py", capsys)
    assert said in proven.applied[0].plain[0]
    assert (near > 1e-3) == ("comes close" in proven.applied[0].plain[0])
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "train.py").write_text(text)
    after = plainly(folder / "train.py", capsys)
    assert after == pytest.approx(proven.value, rel=near, abs=0) and after != before


def test_compare_tells_the_lines_of_what_is_proven_on_the_terminal_the_page_and_in_json(folder):
    deep = ", ".join(["nn.Linear(16, 16), nn.Sigmoid()"] * 5)
    network = f"nn.Sequential({deep}, nn.Linear(16, 4))"
    (folder / "train.py").write_text(BEGIN + PLAIN["main"].replace("net()", network))
    arms = ["--with", "batch_norm", "--with", "lr_scale(factor=0.01)"]
    shown = CliRunner().invoke(
        main, ["compare", "--seeds", "3", *arms, "--json", "found.json", "--html", "page.html", "train.py"]
    )
    assert shown.exit_code == 0, shown.output
    helps, hurts = json.loads((folder / "found.json").read_text())["comparison"]["arms"]
    assert helps["lines"][:3] == [
        f"    # in train.py, after line {(BEGIN + PLAIN['main']).splitlines().index(OPTIMIZER) + 1}: {OPTIMIZER.strip()[:47]}...",
        "    import trimtab as tt",
        '    tt.attach(network, optimizer).apply("batch_norm")',
    ]
    assert hurts["lines"] == []
    lines = "\n".join(helps["lines"])
    assert f"Lines to add for batch_norm:\n{lines}\n" in shown.stdout
    assert lines in html.unescape((folder / "page.html").read_text())
