"""Trials touch nothing and share nothing: each sees the folder as it is, in surroundings as Python makes them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

import trimtab as tt
from tests.trial.conftest import clusters, mark
from trimtab.trial.engines import LocalEngine
from trimtab.trial.journal import deeds_of, put_back
from trimtab.trial.run import Job
from trimtab.trial.subjects import Script
from trimtab.trial.views import CHOICE, Views, _rename_across_layers, clear, copy_folder, outermost, too_large

TRAIN = """
y = torch.arange(160) % 4
x = torch.randn(4, 16)[y] + 1.4 * torch.randn(160, 16)
model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
def evaluate():
    with torch.no_grad():
        return (model(x[64:]).argmax(1) == y[64:]).float().mean().item()
def epoch():
    for batch in torch.randperm(64).split(16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
"""
# Keeps its best weights and loads them at the end, goes on where it was, appends to a table, writes by an absolute path.
HABITS = (
    """
import csv, os, pathlib, shutil, sys
import torch
from torch import nn
torch.manual_seed(int(os.environ.get("SEED", "0")))
here, best, first = pathlib.Path(__file__).resolve().parent, 0.0, 0
"""
    + TRAIN
    + """
if os.path.exists("checkpoint.pt"):
    saved = torch.load("checkpoint.pt")
    model.load_state_dict(saved["model"])
    first = saved["epoch"] + 1
os.makedirs("runs/new", exist_ok=True)
for number in range(first, 6):
    epoch()
    accuracy = evaluate()
    if accuracy > best:
        best = accuracy
        torch.save(model.state_dict(), "best.tmp")
        os.replace("best.tmp", "runs/best.pt")
    torch.save({"model": model.state_dict(), "epoch": number}, here / "checkpoint.pt")
    with open(here / "log.csv", "a", newline="") as file:
        csv.writer(file).writerow([number, accuracy])
with open(here / "log.csv") as file:
    rows = sum(1 for _ in file)
assert rows == 9, rows  # three that were there, and six
shutil.rmtree("old")
assert sorted(os.listdir("runs")) == ["best.pt", "new"], os.listdir("runs")
model.load_state_dict(torch.load(str(here / "runs" / "best.pt")))
print(f"test accuracy: {evaluate():.6f}")
out = os.environ.get("OUT")
if out:
    assert not os.path.exists(out) or open(out).read() == "mine", open(out).read()
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w") as file:
        file.write("a trial's")
"""
)


def project(folder: Path) -> Path:
    """A script that does all that, and what lies beside it."""
    (folder / "runs").mkdir()
    (folder / "old").mkdir()
    (folder / "runs" / "best.pt").write_bytes(b"somebody's best")
    (folder / "old" / "notes.txt").write_text("keep me")
    (folder / "log.csv").write_text("a\nb\nc\n")
    (folder / "link.csv").symlink_to("log.csv")
    script = folder / "train.py"
    script.write_text(HABITS)
    return script


def state(*folders: Path) -> str:
    """All that is in some folders: names, kinds, modes, times, bytes."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if ".trimtab" in path.parts or path.name == ".trimtab":
                continue
            found = path.lstat()
            times = (found.st_mtime_ns,) if not path.is_dir() else ()
            digest.update(repr((str(path), found.st_mode, *times)).encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def plainly(script: Path, seed: int, folder: Path) -> float:
    """What the script comes to by itself, with that seed."""
    folder.mkdir()
    project(folder)
    environment = {**os.environ, "SEED": str(seed * 1_000_003), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, env=environment, check=True
    )
    return float(shown.stdout.split(":")[1])


def engine(workers: int) -> LocalEngine:
    made = LocalEngine(workers)
    made.threads = 1
    return made


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[float, ...]:
    """The script's own results for four seeds."""
    base = tmp_path_factory.mktemp("alone")
    return tuple(plainly(base / "train.py", seed, base / str(seed)) for seed in range(4))


@pytest.mark.parametrize(
    ("how", "workers", "out"),
    [
        ("overlay", 1, ""),
        ("overlay", 2, ""),
        ("overlay", 4, "out/there.txt"),
        ("copy", 1, ""),
        ("copy", 4, ""),
        ("copy", 2, "out/new/file.txt"),
        ("shared", 2, "out/there.txt"),
    ],
)
def test_untreated_scores_are_the_scripts_own_and_the_folder_stays_as_it_is(
    how, workers, out, alone, train, tmp_path, tmp_path_factory, monkeypatch
):
    script, elsewhere = project(tmp_path), tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / "there.txt").write_text("mine")
    monkeypatch.setenv(CHOICE, how)
    if how == "overlay" and (why := Views([tmp_path], tmp_path / ".trimtab").why):
        pytest.skip(f"this system gives no mount namespace: {why}")
    if out:
        monkeypatch.setenv("OUT", str(elsewhere / out))
    before = state(tmp_path, elsewhere)
    found = tt.compare(script, ["lr_scale(factor=0.001)"], seeds=4, engine=engine(workers))
    assert found.metric.name == "printed test accuracy"
    assert found.baseline == alone
    assert found.arms[0].wins == 0 and found.arms[0].failed == 0
    assert state(tmp_path, elsewhere) == before
    said = " ".join(found.words)
    assert ("writes outside of its folder" in said) == bool(out and how != "shared")
    assert ("ran in a copy of the folder" in said) == (how == "copy")
    assert ("could not have folders of their own" in said) == (how == "shared")
    assert not (tmp_path / ".trimtab" / "trials").exists()


LIGHTNING = """
import logging, os, warnings
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
L.seed_everything(int(os.environ.get("SEED", "0")), verbose=False)
y = torch.arange(160) % 4
x = torch.randn(4, 16)[y] + 1.4 * torch.randn(160, 16)
class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
    def training_step(self, batch, number):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def validation_step(self, batch, number):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)
best = ModelCheckpoint(monitor="val_loss", save_top_k=1)
trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=CSVLogger("logs"), callbacks=[best], enable_progress_bar=False,
                    enable_model_summary=False, log_every_n_steps=1)
train, val = (DataLoader(TensorDataset(x[a:b], y[a:b]), 16, shuffle=a == 0) for a, b in ((0, 96), (96, 160)))
trainer.fit(Net(), train, val)
print(f"test loss: {trainer.validate(Net.load_from_checkpoint(best.best_model_path), val, verbose=False)[0]['val_loss']!r}")
"""
TRANSFORMERS = """
import os
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
seed = int(os.environ.get("SEED", "0"))
set_seed(seed)
class Rows(Dataset):
    def __init__(self, n):
        self.x = torch.randint(5, 32, (n, 8))
        self.y = (self.x[:, 0] > 18).long()
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        return {"input_ids": self.x[i], "labels": self.y[i]}
model = BertForSequenceClassification(BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
arguments = TrainingArguments("out", num_train_epochs=3, per_device_train_batch_size=16, eval_strategy="epoch", save_strategy="epoch",
    save_total_limit=1, load_best_model_at_end=True, learning_rate=3e-3, seed=42 + seed, use_cpu=True, report_to="none", disable_tqdm=True)
trainer = Trainer(model=model, args=arguments, train_dataset=Rows(96), eval_dataset=Rows(64))
trainer.train()
print(f"test loss: {trainer.evaluate()['eval_loss']!r}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["overlay", "copy"])
@pytest.mark.parametrize("host", [LIGHTNING, TRANSFORMERS])
def test_the_same_holds_for_scripts_of_lightning_and_transformers(host, how, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv(CHOICE, how)
    if how == "overlay" and (why := Views([tmp_path], tmp_path / ".trimtab").why):
        pytest.skip(f"this system gives no mount namespace: {why}")
    (tmp_path / "logs" / "lightning_logs" / "version_0").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-1" / "mine").write_text("keep me")
    script = tmp_path / "train.py"
    script.write_text(host)
    own = []
    for seed in range(4):
        folder = tmp_path_factory.mktemp("alone")
        environment = {**os.environ, "SEED": str(seed * 1_000_003), "OMP_NUM_THREADS": "1"}
        shown = subprocess.run(
            [sys.executable, script], cwd=folder, capture_output=True, text=True, env=environment, check=True
        )
        own.append(float(shown.stdout.splitlines()[-1].removeprefix("test loss: ")))
    before = state(tmp_path)
    for workers in (1, 2, 4):
        found = tt.compare(script, ["lr_scale(factor=0.01)"], seeds=4, engine=engine(workers))
        assert found.metric.name == "printed test loss"
        assert found.baseline == tuple(own)
        assert found.arms[0].wins == 0 and found.arms[0].failed == 0
        assert state(tmp_path) == before
        shutil.rmtree(tmp_path / ".trimtab")


def test_trials_that_reach_for_one_file_elsewhere_run_one_at_a_time_and_say_so(train, tmp_path_factory, monkeypatch):
    """Only the treated script writes there, so that nothing was known of it when they began."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    target = elsewhere / "shared.txt"
    end = f"""
treated = hasattr(model[0], "norm")
if treated:
    import time
    assert not os.path.exists({str(target)!r})
    with open({str(target)!r}, "a") as file:
        file.write("x")
    time.sleep(0.5)
    assert open({str(target)!r}).read() == "x"
"""
    train.write_text(clusters(begin="import os", end=end))
    found = tt.compare(train, ["batch_norm"], seeds=4, engine=engine(2))
    assert found.arms[0].failed == 0 and len(found.arms[0].differences) == 4, found.arms[0].note
    assert any(f"writes outside of its folder: {target}." in word for word in found.words)
    assert not target.exists()


def test_a_second_session_knows_that_trials_cannot_be_kept_apart(train, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "shared.txt"
    train.write_text(clusters(end=f"open({str(target)!r}, 'a').write('x'); assert open({str(target)!r}).read() == 'x'"))
    for seeds in (2, 4):
        found = tt.compare(train, ["he_init"], seeds=seeds, engine=engine(2))
        assert found.arms[0].failed == 0
        assert any("ran one at a time" in word for word in found.words)
    assert not target.exists()


def test_trials_are_run_again_when_what_they_read_has_changed(train):
    begin = "import os\nopen(os.environ['MARKS'] + '/runs.txt', 'a').write('x')\nif os.path.exists('state.txt'): open('state.txt').read()\nopen('state.txt', 'w').write('trained')"
    train.write_text(clusters(begin=begin))

    def runs() -> int:
        before = len(mark("runs.txt").read_text()) if mark("runs.txt").exists() else 0
        tt.compare(train, ["he_init"], seeds=2, engine=engine(2))
        return len(mark("runs.txt").read_text()) - before

    assert [runs(), runs()] == [4, 0]
    train.with_name("state.txt").write_text("trained by hand")
    assert [runs(), runs()] == [4, 0]


# Changes a.txt and makes new.txt by something else than this Python, then reads and removes; socket and pipe are no folders.
NATIVE = """
import os, socket, subprocess
subprocess.run("echo a trial >> a.txt; echo x > new.txt", shell=True, check=True)
open("a.txt").read(), open("new.txt").read()
torch.jit.script(model).save("model.ts")
open("model.ts", "rb").read()
here = socket.socket(socket.AF_UNIX)
here.bind("socket"); here.close(); os.remove("socket")
os.mkfifo("pipe"); os.stat("pipe"); os.remove("pipe")
subprocess.run(["rm", "b.txt"], check=True)
os.path.exists("b.txt") or open("b.txt", "a").close()
"""


@pytest.mark.parametrize("how", ["overlay", "copy"])
def test_what_a_trial_wrote_unnoticed_in_its_view_is_no_change_of_the_folder(how, train, tmp_path, monkeypatch):
    monkeypatch.setenv(CHOICE, how)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    train.write_text(clusters(end=NATIVE))
    engine, jobs, results = LocalEngine(2), [Job(Script(str(train)), "", seed) for seed in (0, 1)], []
    engine.run(jobs, lambda job, result: results.append(result))
    assert [result.trial.status for result in results] == ["ok", "ok"], [result.log for result in results]
    assert engine.disturbed() == []
    assert results[0].deeds.seen[str(tmp_path / "a.txt")]["state"]["size"] == 5
    (tmp_path / "a.txt").write_text("somebody else")
    assert engine.disturbed() == [str(tmp_path / "a.txt")]


def test_a_file_that_is_changed_after_it_was_copied_is_seen_to_have_changed(train, tmp_path, monkeypatch):
    monkeypatch.setenv(CHOICE, "copy")
    (tmp_path / "a.txt").write_text("as it was")
    change = f"open({str(tmp_path / 'a.txt')!r}, 'w').write('new')"
    train.write_text(
        clusters(
            end=f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {change!r}])\nopen('a.txt').read()"
        )
    )
    engine = LocalEngine(1)
    engine.run([Job(Script(str(train)), "", 0)], lambda job, result: None)
    assert engine.disturbed() == [str(tmp_path / "a.txt")]


def test_a_file_that_is_also_outside_by_another_name_is_put_back(train, tmp_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "a.bin"
    out.write_bytes(b"mine")
    os.link(out, tmp_path / "hard.bin")
    train.write_text(clusters(end=f"open({str(out)!r}, 'ab').write(b'x')\nopen('hard.bin', 'rb').read()"))
    engine = LocalEngine(1)
    engine.run([Job(Script(str(train)), "", 0)], lambda job, result: None)
    assert out.read_bytes() == b"mine" and engine.disturbed() == []


def test_keep_files_leaves_what_trials_wrote(train, tmp_path):
    train.write_text(clusters(end="open('best.pt', 'w').write(str(len(model[0]._modules)))"))
    keeps = LocalEngine(2, keep_files=True)
    tt.compare(train, ["batch_norm"], seeds=2, engine=keeps)
    kept = {
        path.parent.parent.name.rsplit("-", 1)[0]: path.read_text()
        for path in (tmp_path / ".trimtab" / "trials").glob("*/0/best.pt")
    }
    assert kept == {"untreated-seed0": "0", "untreated-seed1": "0", "batch_norm-seed0": "1", "batch_norm-seed1": "1"}
    assert not train.with_name("best.pt").exists()


def test_a_killed_worker_has_its_trial_tried_once_more(train):
    once = "import os, signal\npath = os.environ['MARKS'] + '/killed'\nif not os.path.exists(path): open(path, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    train.write_text(clusters(begin=once))
    results = []
    engine(1).run([Job(Script(str(train)), "", 0)], lambda job, result: results.append(result))
    assert [result.trial.status for result in results] == ["ok"]


TAKES = {  # names outside of the file system: only one trial at a time can have them
    "port": "import socket\nheld = socket.socket(); held.bind(('127.0.0.1', {port})); held.listen(1)",
    "memory": "from multiprocessing import shared_memory\nheld = shared_memory.SharedMemory('trimtab-{port}', create=True, size=64)",
}


@pytest.mark.parametrize("what", TAKES)
def test_what_fails_beside_others_is_tried_alone(what, train):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    end = "import time; time.sleep(0.5)\nheld.close()" + ("\nheld.unlink()" if what == "memory" else "")
    train.write_text(clusters(begin=TAKES[what].format(port=port), end=end))
    found = tt.compare(train, ["he_init"], seeds=2, engine=engine(2))
    assert found.arms[0].failed == 0 and len(found.arms[0].differences) == 2, found.arms[0].note
    assert any("ran one at a time from then on" in word for word in found.words)


def test_a_failure_of_its_own_is_tried_alone_once_and_not_for_every_seed(train):
    train.write_text(
        clusters(begin="import os\nopen(os.environ['MARKS'] + '/runs', 'a').write('x')\nraise ValueError('no data')")
    )
    results = []
    engine(2).run([Job(Script(str(train)), "", seed) for seed in range(6)], lambda job, result: results.append(result))
    assert len(results) == 6 and all("no data" in result.trial.error for result in results)
    assert len(mark("runs").read_text()) <= 8


def test_a_killed_driver_leaves_nothing_changed(train, tmp_path, tmp_path_factory):
    """What its trials wrote elsewhere is put back by the next session."""
    target = tmp_path_factory.mktemp("elsewhere") / "mine.txt"
    target.write_text("mine")
    train.write_text(clusters(end=f"open({str(target)!r}, 'w').write('a trial')\nimport time; time.sleep(60)"))
    driver = tmp_path / "driver.py"
    driver.write_text("import sys, trimtab as tt\ntt.compare(sys.argv[1], ['he_init'])")
    process = subprocess.Popen(
        [sys.executable, str(driver), str(train)], start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while target.read_text() != "a trial" and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    Views([tmp_path], tmp_path / ".trimtab")
    assert target.read_text() == "mine"


# -- surroundings ----------------------------------------------------------------------------------------------------

PROBE = """
import atexit, json, multiprocessing, os, signal, sys, threading
found = {
    "start method": multiprocessing.get_start_method(),
    "process": [multiprocessing.current_process().name, multiprocessing.parent_process() is None, multiprocessing.active_children()],
    "folder": os.getcwd(),
    "argv": sys.argv,
    "path": sys.path[0] == os.path.dirname(os.path.abspath(__file__)),
    "main": sorted((name, str(value)) for name, value in globals().items() if name.startswith("__") and name not in ("__builtins__", "__loader__")),
    "is main": sys.modules["__main__"].__dict__ is globals(),
    "streams": [
        [type(s).__name__, s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno(), isinstance(s.buffer.raw.name, (int, str))]
        for s in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "same streams": [sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__, sys.stdin is sys.__stdin__],
    "in": sys.stdin.read(),
    "signals": {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD", "SIGPIPE")},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": [thread.name for thread in threading.enumerate()],
    "variables": sorted(set(os.environ) - set(json.loads(os.environ["KNOWN"]))),
    "umask": os.umask(os.umask(0)),
    "hook": sys.excepthook is sys.__excepthook__,
    "group": os.getpid() == os.getpgrp(),
}
sys.stderr.flush()
open(os.environ["MARKS"] + "/" + os.environ["NAME"], "w").write(json.dumps(found))
# without a guard, and with what cannot be pickled: right where processes are forked
import torch
from torch.utils.data import DataLoader, Dataset
class Data(Dataset):
    def __init__(self):
        self.change = lambda x: x * 2
    def __len__(self):
        return 32
    def __getitem__(self, number):
        return self.change(torch.randn(4)), number % 2
net = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for x, y in DataLoader(Data(), 8, num_workers=2):
    optimizer.zero_grad(); torch.nn.functional.cross_entropy(net(x), y).backward(); optimizer.step()
print("test accuracy", 1 / 2)
atexit.register(lambda: print("test accuracy", 3 / 4))
threading.Thread(target=lambda: (threading.Event().wait(0.2), open(os.environ["MARKS"] + "/thread", "a").write("x"))).start()
"""


def test_the_surroundings_of_a_trial_are_those_of_python(train, monkeypatch):
    train.write_text(textwrap.dedent(PROBE))
    monkeypatch.setenv("KNOWN", "")
    monkeypatch.setenv("NAME", "")
    known = json.dumps(sorted(os.environ))
    monkeypatch.setenv("KNOWN", known)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("NAME", "plain.json")
    subprocess.run(
        [sys.executable, "train.py", "--lr", "0.1", "a b"], check=True, stdin=subprocess.DEVNULL, capture_output=True,
        start_new_session=True,
    )  # fmt: skip
    results = []
    for how in ("overlay", "copy"):
        monkeypatch.setenv(CHOICE, how)
        monkeypatch.setenv("NAME", f"{how}.json")
        job = Job(Script("train.py", ("--lr", "0.1", "a b")), "", 0)
        engine(1).run([job], lambda _, result: results.append(result))
    assert [result.trial.status for result in results] == ["ok", "ok"], [result.log for result in results]
    assert [result.trial.value for result in results] == [0.75, 0.75]  # said when Python ends
    assert mark("thread").read_text() == "xxx"
    plain = json.loads(mark("plain.json").read_text())
    for how in ("overlay", "copy"):
        trial = json.loads(mark(f"{how}.json").read_text())
        told = trial.pop("variables")
        assert "TRIMTAB_TRIAL" in told and "WANDB_MODE" in told
        expected = {name: value for name, value in plain.items() if name != "variables"}
        if how == "copy":  # it lies elsewhere, and all else is the same
            assert trial.pop("folder").startswith(f"{train.parent}/.trimtab/trials/") and expected.pop("folder")
            trial["main"], expected["main"] = (
                [pair for pair in one["main"] if pair[0] != "__file__"] for one in (trial, expected)
            )
        assert trial == expected


def test_a_pool_that_nobody_shut_down_does_not_hold_the_end_of_a_trial():
    code = """
    import time
    from concurrent.futures import ThreadPoolExecutor
    from trimtab.trial import surroundings
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    began = time.monotonic()
    surroundings.end_as_python_would()
    assert time.monotonic() - began < surroundings.WAIT / 2
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# -- their parts -----------------------------------------------------------------------------------------------------


def test_roots_are_the_outermost_folders(tmp_path):
    inner, beside = tmp_path / "a" / "b", tmp_path / "c"
    inner.mkdir(parents=True), beside.mkdir()
    assert outermost([inner, tmp_path / "a", beside]) == (tmp_path / "a", beside)
    assert outermost([Path("/"), inner]) == (inner,)


def test_a_copy_has_links_where_copying_would_cost(tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.trial.views.LINKED", 1000)
    folder = tmp_path / "project"
    (folder / "env").mkdir(parents=True), (folder / ".trimtab").mkdir()
    (folder / "env" / "pyvenv.cfg").touch()
    (folder / "small").write_text("s"), (folder / "large").write_bytes(b"l" * 2000)
    (folder / "to small").symlink_to(folder / "small"), (folder / "away").symlink_to("/etc")
    copy = tmp_path / "copy"
    copy_folder(folder, copy)
    links = {path.name: os.readlink(path) for path in copy.iterdir() if path.is_symlink()}
    assert links == {
        "env": str(folder / "env"),
        "large": str(folder / "large"),
        "to small": str(copy / "small"),
        "away": "/etc",
    }
    assert (copy / "small").stat().st_mtime_ns == (folder / "small").stat().st_mtime_ns
    monkeypatch.setattr("trimtab.trial.views.MOST", 3)
    assert "more than 3 files" in too_large([folder])


def test_a_trial_in_a_copy_commits_to_a_repository_of_its_own(train, tmp_path, monkeypatch):
    monkeypatch.setenv(CHOICE, "copy")
    git = "git -c user.name=n -c user.email=a@b"
    train.write_text(
        clusters(
            end=f"import subprocess\nsubprocess.run('{git} commit -qam run && {git} tag it', shell=True, check=True)"
        )
    )
    subprocess.run(
        f"git init -q . && echo .trimtab > .gitignore && {git} add train.py && {git} commit -qm mine && echo >> train.py",
        shell=True,
        check=True,
    )
    before = state(tmp_path / ".git")
    results = []
    engine(2).run([Job(Script(str(train)), "", seed) for seed in (0, 1)], lambda job, result: results.append(result))
    assert [result.trial.status for result in results] == ["ok", "ok"], [result.log for result in results]
    assert state(tmp_path / ".git") == before


def test_a_temporary_file_without_a_name_is_nothing_outside(train):
    train.write_text(clusters(end="import tempfile\nwith tempfile.TemporaryFile() as file: file.write(b'x')"))
    results = []
    engine(1).run([Job(Script(str(train)), "", 0)], lambda job, result: results.append(result))
    assert results[0].trial.status == "ok" and not results[0].deeds.outside


def test_a_folder_that_cannot_be_written_is_renamed_across_layers(tmp_path, monkeypatch):
    """As in an overlay without privileges: there the system refuses to move a folder of the layer below."""
    refused = OSError(errno.EXDEV, "Invalid cross-device link")

    def rename(src, dst, **kwargs):
        raise refused

    monkeypatch.setattr(os, "rename", rename), monkeypatch.setattr(os, "replace", rename)
    _rename_across_layers()
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "deep").mkdir(parents=True)
    (old / "deep" / "file").write_text("x")
    (old / "deep").chmod(0o555), old.chmod(0o555)
    os.rename(old, new)
    assert not old.exists() and (new / "deep" / "file").read_text() == "x"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (new, new / "deep")] == [0o555, 0o555]
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "pipe")  # cannot be copied
    with pytest.raises(OSError, match="cross-device"):
        os.rename(tmp_path / "odd", tmp_path / "moved")
    assert (tmp_path / "odd" / "pipe").exists() and not (tmp_path / "moved").exists()
    for folder in (new, new / "deep"):
        folder.chmod(0o755)


def test_a_large_file_is_written_in_the_copy_alone(train, tmp_path, monkeypatch):
    monkeypatch.setenv(CHOICE, "copy")
    large = tmp_path / "large.bin"
    large.write_bytes(b"l" * 60_000_000)
    end = """
with open("large.bin", "r+b") as file: file.write(b"x")
assert os.path.getsize("large.bin") == 60_000_000 and open("large.bin", "rb").read(2) == b"xl"
with open("large.bin", "wb") as file: file.write(b"y")
assert os.path.getsize("large.bin") == 1
"""
    train.write_text(clusters(begin="import os", end=end))
    results = []
    engine(1).run([Job(Script(str(train)), "", 0)], lambda job, result: results.append(result))
    assert results[0].trial.status == "ok", results[0].log
    assert large.stat().st_size == 60_000_000 and large.read_bytes()[:2] == b"ll"


DEEDS = """
import os, shutil, tempfile, torch
os.chdir({out!r})
open("made.txt", "w").write("x")
open("changed.txt", "a").write("x")
os.remove("removed.txt")
os.rename("moved.txt", "new.txt")
os.replace("made.txt", "replaced.txt")
os.makedirs("a/b/c"); open("a/b/c/d", "w").close()
os.makedirs("kept", exist_ok=True)
shutil.rmtree("tree")
os.rename("folder", "folder2")
os.symlink("x", "link"); os.remove("oldlink")
os.chmod("mode.txt", 0o777)
torch.save([1], "saved.pt")
shutil.move("away.txt", "kept/away.txt")
with tempfile.TemporaryDirectory() as own: open(own + "/file", "w").close()
os.truncate("cut.txt", 1)
"""


def test_everything_that_python_changes_elsewhere_is_put_back(train, tmp_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for name in "changed removed moved replaced mode away cut".split():
        (out / f"{name}.txt").write_text(f"the {name} one")
    (out / "saved.pt").write_bytes(b"mine")
    (out / "oldlink").symlink_to("there")
    for name in ("kept", "tree/deep/er", "folder/inner"):
        (out / name).mkdir(parents=True)
    (out / "tree" / "deep" / "file").write_text("t"), (out / "folder" / "inner" / "file").write_text("f")
    before = state(out)
    train.write_text(clusters(end=DEEDS.format(out=str(out))))
    results = []
    engine(1).run([Job(Script(str(train)), "", 0)], lambda job, result: results.append(result))
    assert results[0].trial.status == "ok", results[0].log
    assert {Path(path).name for path in results[0].deeds.paths} >= {
        "made.txt",
        "removed.txt",
        "a",
        "saved.pt",
        "folder2",
    }
    assert not any("/tmp" + os.sep + "tmp" in path for path in results[0].deeds.paths)
    assert state(out) == before


def test_what_h5py_and_shared_maps_change_elsewhere_is_put_back(train, tmp_path_factory):
    h5py = pytest.importorskip("h5py")
    out = tmp_path_factory.mktemp("out")
    (out / "map.bin").write_bytes(b"0" * 64)
    with h5py.File(out / "table.h5", "w") as file:
        file["n"] = 1
    before = state(out)
    end = f"""
import h5py
with h5py.File({str(out / "table.h5")!r}, "a") as file: file["n"][...] = 2
with h5py.File({str(out / "new.h5")!r}, mode="w") as file: file["n"] = 2
torch.from_file({str(out / "map.bin")!r}, shared=True, size=64, dtype=torch.uint8)[0] = 7
"""
    train.write_text(clusters(end=end))
    results = []
    engine(1).run([Job(Script(str(train)), "", 0)], lambda job, result: results.append(result))
    assert results[0].trial.status == "ok", results[0].log
    assert {Path(path).name for path in results[0].deeds.paths} == {"map.bin", "table.h5", "new.h5"}
    assert state(out) == before


def test_a_journal_without_an_end_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "journal").write_text('{"what": "made", "path": "' + str(tmp_path / "made") + '"}\n{"what": "fi')
    (tmp_path / "made").touch()
    assert put_back(tmp_path, deeds_of(tmp_path)) == [] and not (tmp_path / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="permissions mean nothing to root, and only root becomes somebody else")
def test_folders_without_permissions_are_cleared():
    """As an overlay leaves one behind for whoever is not root."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o777)
        os.seteuid(65534)
        try:
            whole = Path(home, "work")
            (whole / "closed" / "inner").mkdir(parents=True)
            (whole / "closed" / "inner" / "file").touch()
            for folder in (whole / "closed" / "inner", whole / "closed"):
                os.chmod(folder, 0)
            clear(whole)
        finally:
            os.seteuid(0)
        assert not whole.exists()
