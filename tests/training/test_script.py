"""Running a script: it sees the world as it would without us, and ends as it would end."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

import trimtab as tt
from trimtab.watching.script import run_script

TRAIN = """
import torch
from torch import nn

def fit(model, steps=3, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.ones(4, 2)), torch.zeros(4, 1)).backward()
        optimizer.step()
    return optimizer
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Not in the folder of the script, as users often are."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(tt.__file__).parents[1]))
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # torch.distributed leaves one of its own


def watched(path, *arguments, module=False):
    """Outcome, lines that were read, and the record."""
    lines = []
    recorder = tt.Recorder()
    outcome = run_script(
        path,
        arguments,
        module=module,
        on_training=recorder.watch,
        on_line=lambda t: (lines.append(t), recorder.line(t)),
    )
    return outcome, lines, recorder.close()


def test_arguments_path_and_main(script, tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 'imported from beside the script'\n")
    path = script("""
        import argparse, os, sys
        import beside
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float)
        parser.add_argument("rest", nargs="*")
        args = parser.parse_args()
        if __name__ == "__main__":
            print(sys.argv[0] == __file__, args.lr, args.rest)
            print(beside.VALUE, os.path.basename(sys.path[0]) == os.path.basename(os.path.dirname(__file__)))
            print(sys.modules["__main__"].__dict__ is globals(), __spec__, __package__)
    """)
    before = list(sys.argv), list(sys.path), sys.stdout, sys.modules["__main__"]
    outcome, lines, _ = watched(path, "--lr", "0.5", "a", "--", "-b")
    assert outcome.exit_code == 0, outcome.error
    assert lines == [
        "True 0.5 ['a', '-b']",
        "imported from beside the script True",
        "True None None",
    ]
    assert (list(sys.argv), list(sys.path), sys.stdout, sys.modules["__main__"]) == before


def test_a_module_of_a_package_with_relative_imports(tmp_path, monkeypatch):
    package = tmp_path / "work" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(textwrap.dedent(TRAIN))
    (package / "train.py").write_text(
        "import sys\nfrom .parts import fit, nn\nfit(nn.Linear(2, 1))\nprint(__name__, __package__, sys.argv[1:], sys.argv[0][-13:])\n"
    )
    (package / "__main__.py").write_text("from .parts import fit\nprint('package', __name__)\n")
    monkeypatch.chdir(tmp_path / "work")
    outcome, lines, record = watched("pack.train", "--flag", module=True)
    assert outcome.exit_code == 0, outcome.error
    assert lines == ["__main__ pack ['--flag'] pack/train.py"]
    assert record.main.steps == 3
    outcome, lines, _ = watched("pack", module=True)
    assert lines == ["package __main__"]


@pytest.mark.parametrize(
    ("body", "code", "error", "shown"),
    [
        ("pass", 0, "", ""),
        ("import sys; sys.exit()", 0, "", ""),
        ("import sys; sys.exit(0)", 0, "", ""),
        ("import sys; sys.exit(3)", 3, "the script ended itself with exit code 3", ""),
        ("import sys; sys.exit('no data')", 1, "no data", "no data\n"),
        ("raise SystemExit", 0, "", ""),
        ("raise KeyboardInterrupt", 130, "interrupted (Ctrl-C)", "KeyboardInterrupt\n"),
    ],
)
def test_exit_codes(body, code, error, shown, script, capsys):
    outcome, _, _ = watched(script(body))
    assert (outcome.exit_code, outcome.error) == (code, error)
    said = capsys.readouterr().err
    assert said.endswith(shown) if shown else not said


CRASH = """
import torch
from torch import nn

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

def load():
    raise KeyError("weights")

try:
    load()
except KeyError as error:
    nn.functional.mse_loss(model(torch.ones(4, 2)), torch.zeros(3, 1)).backward()
"""


def test_a_traceback_is_that_of_python_without_our_frames(script, capsys):
    path = script(CRASH)
    plain = subprocess.run([sys.executable, "-W", "ignore", path], capture_output=True, text=True)
    with pytest.warns(UserWarning, match="Using a target size"):  # torch's own, before it fails
        outcome, _, _ = watched(path)
    shown = capsys.readouterr().err
    assert shown == plain.stderr
    assert "During handling of the above exception, another exception occurred" in shown
    assert "trimtab" not in shown
    assert outcome.exit_code == 1
    assert outcome.error.startswith("RuntimeError: The size of tensor a (4) must match the size of tensor b (3)")
    assert ".py:" in outcome.error


def test_an_exception_says_its_place(script, capsys):
    outcome, _, _ = watched(script("x = 1\ny = x / 0\n"))
    assert outcome.error == "ZeroDivisionError: division by zero at train.py:2"
    assert 'train.py", line 2, in <module>\n    y = x / 0' in capsys.readouterr().err


def test_a_script_that_does_not_parse(script, capsys):
    path = script("x = (1\n")
    plain = subprocess.run([sys.executable, path], capture_output=True, text=True)
    outcome, _, _ = watched(path)
    assert outcome.exit_code == 1
    assert outcome.error == "SyntaxError: '(' was never closed"
    shown = capsys.readouterr().err
    assert shown.endswith(plain.stderr)
    assert "trimtab" not in shown


def test_output_passes_through_unchanged(script):
    body = """
        import os, sys
        print("one", "två", sep=" | ", end="")
        sys.stdout.write("\\rtwo\\n\\n")
        sys.stdout.buffer.write(b"bytes \\xff\\n") if sys.stdout.flush() is None else None
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"by number\\n")
        print(sys.stdout.encoding, sys.stdout.isatty(), sys.stdout.errors, file=sys.stderr)
        print("no end of line", end="")
    """
    path = script(body)
    code = "import sys\nfrom trimtab.watching import run_script\nlines = []\n"
    code += "run_script(sys.argv[1], on_training=print, on_line=lines.append)\nprint(lines, file=sys.stderr)"
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    plain = subprocess.run([sys.executable, path], capture_output=True, env=env)
    ours = subprocess.run([sys.executable, "-c", code, path], capture_output=True, env=env)
    assert ours.returncode == plain.returncode == 0, ours.stderr
    assert ours.stdout == plain.stdout
    first, *rest = ours.stderr.decode().splitlines()
    assert first.encode() == plain.stderr.strip()
    assert rest == ["['two', '', 'bytes \ufffd', 'utf-8 False strict', 'no end of line']"]


def test_several_models_one_after_another_are_reported_each(script):
    path = script(
        TRAIN + "\nmodels = [nn.Linear(2, 1) for _ in range(3)]\nkept = [fit(m, 2 + i) for i, m in enumerate(models)]\n"
    )
    _, _, record = watched(path)
    assert [(t.name, t.steps, t.model) for t in record.trainings] == [
        ("training 1", 2, "Linear"),
        ("training 2", 3, "Linear"),
        ("training 3", 4, "Linear"),
    ]
    assert record.main.name == "training 3"


def test_folds_of_one_name_are_trainings_each(script):
    path = script(TRAIN + "\nfor fold in range(3):\n    model = nn.Linear(2, 1)\n    fit(model)\n")
    _, _, record = watched(path)
    assert [t.steps for t in record.trainings] == [3, 3, 3]


def test_finetuning_with_a_new_optimizer_is_the_same_training(script):
    path = script(TRAIN + "\nmodel = nn.Linear(2, 1)\nfit(model)\nfit(model, lr=0.01)\n")
    _, _, record = watched(path)
    (training,) = record.trainings
    assert training.steps == 6
    assert training.get("lr").values == (0.1, 0.01)


def test_classes_of_the_script_can_be_saved_and_sent_to_workers(script, tmp_path):
    path = script("""
        import copy, pickle, torch
        from torch import nn
        from torch.utils.data import DataLoader, Dataset

        class Rows(Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, i):
                return torch.full((2,), float(i)), torch.tensor([float(i)])

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(2, 1)

            def forward(self, x):
                return self.layer(x)

        if __name__ == "__main__":
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
            for context in ("fork", "spawn"):
                for x, y in DataLoader(Rows(), batch_size=4, num_workers=2, multiprocessing_context=context):
                    optimizer.zero_grad()
                    nn.functional.mse_loss(model(x), y).backward()
                    optimizer.step()
            torch.save(model, "model.pt")
            again = torch.load("model.pt", weights_only=False)
            print(type(again).__name__, torch.equal(again(x), model(x)), type(pickle.loads(pickle.dumps(copy.deepcopy(model)))) is Net)
    """)
    outcome, lines, record = watched(path)
    assert outcome.exit_code == 0, outcome.error
    assert lines == ["Net True True"]
    assert record.main.steps == 4


# -- where the optimizer is made -------------------------------------------------------------------------------------

PLAIN = """
import torch
from torch import nn
net = nn.Linear(2, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
"""

SEVERAL_LINES = """
import torch
from torch import nn
network = nn.Linear(2, 1)
my_optimizer = torch.optim.SGD(
    [
        {"params": network.parameters()},
    ],
    lr=0.1,
)
"""

IN_A_CLASS = """
import torch
from torch import nn
class Trainer:
    def __init__(self):
        self.net = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
trainer = Trainer()
"""

IN_A_MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
    def make(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
net = Net()
optimizer = net.make()
"""

IN_A_FUNCTION = """
import torch
from torch import nn
def build(model):
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer
optimizer = build(nn.Linear(2, 1))
"""

COMPILED = """
import torch
from torch import nn
inner = nn.Linear(2, 1)
fast = torch.compile(inner, backend="eager")
opt = torch.optim.SGD(fast.parameters(), lr=0.1)
"""


@pytest.mark.parametrize(
    ("body", "line", "source", "model", "optimizer"),
    [
        (PLAIN, 5, "opt = torch.optim.SGD(net.parameters(), lr=0.1)", "net", "opt"),
        (SEVERAL_LINES, 10, "my_optimizer = torch.optim.SGD(", "network", "my_optimizer"),
        (IN_A_CLASS, 7, "self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)", "self.net", "self.optimizer"),
        (IN_A_MODULE, 9, "return torch.optim.SGD(self.parameters(), lr=0.1)", "self", ""),
        (IN_A_FUNCTION, 5, "optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", "model", "optimizer"),
        (COMPILED, 6, "opt = torch.optim.SGD(fast.parameters(), lr=0.1)", "inner", "opt"),
    ],
    ids=["plain", "several lines", "in a class", "in a module", "in a function", "compiled"],
)  # fmt: skip
def test_the_place_where_the_optimizer_is_made(body, line, source, model, optimizer, script):
    _, _, record = watched(script(body))
    place = record.trainings[0].code
    assert os.path.basename(place.file) == "train.py"
    assert (place.line, place.source.strip()) == (line, source)
    assert (place.model_name, place.optimizer_name) == (model, optimizer)


def test_a_script_that_never_trains(script):
    outcome, lines, record = watched(
        script("import torch\nfrom torch import nn\nprint(nn.Linear(2, 1)(torch.ones(1, 2)).shape)\n")
    )
    assert outcome.exit_code == 0
    assert lines == ["torch.Size([1, 1])"]
    assert record.trainings == ()


def test_an_optimizer_that_never_steps_is_a_training_of_no_steps(script):
    _, _, record = watched(script(PLAIN))
    assert record.main.steps == 0
    assert record.main.series == {}
    assert record.main.facts == {"parameters": 3}


def test_nothing_of_ours_stays_in_pytorch_after_the_script(script):
    import torch

    before = torch.optim.Optimizer.__init__, torch.autograd.backward
    watched(script(TRAIN + "fit(nn.Linear(2, 1))"))
    # The handle of the training listens to backward as long as the process lives; the rest is gone.
    assert torch.optim.Optimizer.__init__.__name__ == "__init__"
    found = []
    from trimtab.watching import script as module

    with module.trainings_found(lambda training, _: found.append(training)):
        pass
    torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    assert found == []
    assert before[1].__name__ == "backward"


def test_traces_and_function_transforms_are_passed_by(script, tmp_path):
    """Code that is traced gets nothing of ours into its graph, and what a transform passes on has no values."""
    path = script(
        """
import torch
from torch import nn
from torch.func import functional_call, grad
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
x, y = torch.randn(16, 4), torch.arange(16) % 2
traced = torch.jit.trace(net, x)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
torch.jit.trace(net, x)
for step in range(3):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(traced(x), y)
    loss.backward()
    optimizer.step()
def of(values, x, y):
    return nn.functional.cross_entropy(functional_call(net, values, (x,)), y)
for step in range(3):
    grad(of)({name: value.detach() for name, value in net.named_parameters()}, x, y)
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
torch.func.vmap(lambda row: nn.functional.cross_entropy(net(row), torch.tensor(0)))(x)
import sys
left = sys.left = open("table.csv", "w")
left.write("epoch,val_f1\\n0,0.5\\n1,0.625\\n")
"""
    )
    numbers: list[tuple[str, float]] = []
    recorder = tt.Recorder("x", every=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        outcome = run_script(
            path, on_training=recorder.guard(recorder.watch), on_written=lambda *one: numbers.append(one)
        )
    recorder.close()
    vars(sys).pop("left").close()
    assert (outcome.exit_code, recorder.guard.off) == (0, ""), outcome.error or recorder.guard.off
    assert ("val_f1", 0.625) in [(name.removeprefix("written "), value) for name, value in numbers]


def test_files_beside_the_script_come_before_what_we_have_imported(script, tmp_path):
    import statistics

    for name in ("statistics", "click"):
        (tmp_path / f"{name}.py").write_text("WHO = 'mine'")
    outcome, lines, _ = watched(script("import statistics, click; print(statistics.WHO, click.WHO)"))
    assert (outcome.exit_code, lines) == (0, ["mine mine"]), outcome.error
    assert sys.modules["statistics"] is statistics


def test_another_run_in_the_same_process_reads_its_own_files_anew(script, tmp_path, monkeypatch):
    path = script("import helper\nprint(helper.VALUE)")
    for value in (1, 2):
        (tmp_path / "helper.py").write_text(f"VALUE = {value}")
        importlib.invalidate_caches()
        lines: list[str] = []
        with monkeypatch.context() as settings:
            settings.setattr(sys, "dont_write_bytecode", True)  # two files of one second and one size
            run_script(path, on_training=lambda *_: None, on_line=lines.append)
        assert lines == [str(value)]
