"""The watch: it sees the run as it is, leaves it as it is, and keeps what it saw."""

from __future__ import annotations

import ast
import contextlib
import copy
import gc
import io
import math
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab as tt
from tests.conftest import EXAMPLES, network, train
from trimtab import signals
from trimtab.store import Store, StoreError
from trimtab.training import attach
from trimtab.training.steps import Member
from trimtab.watching import WatchWarning, budget, run_script, sampler
from trimtab.watching import recorder as recorder_module

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def time_to_measure(monkeypatch):
    """Every step that is due is measured, however busy the machine; the test of the budget takes this back."""
    monkeypatch.setattr(budget, "ALLOWANCE", 60.0)


def noisy_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 32), nn.Dropout(0.3), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def noisy_run(digits, watched, **settings):
    """Three epochs with everything that draws random numbers; losses, weights, and the record."""
    torch.manual_seed(0)
    model = noisy_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(*digits), batch_size=64, shuffle=True)
    recorder = tt.Recorder(**settings) if watched else None
    if recorder:
        recorder.watch(attach(model, optimizer))
    losses = []
    for _ in range(3):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            val_loss = F.cross_entropy(model(digits[0]), digits[1])
            losses.append(val_loss.item())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return losses, state, torch.get_rng_state(), recorder.close() if recorder else None


def test_a_watched_run_is_bit_identical(digits):
    losses, state, generator, _ = noisy_run(digits, watched=False)
    seen, watched, after, record = noisy_run(digits, watched=True, every=1)
    assert seen == losses
    assert state.keys() == watched.keys()
    assert all(torch.equal(state[name], watched[name]) for name in state)
    assert torch.equal(generator, after)
    assert record.main.steps == 24
    assert record.main.epochs == 3
    assert record.main.profiles["activation_std"].steps == tuple(range(24))
    assert record.main.get("val loss").values == tuple(losses[8::9])
    assert record.main.get("loss").values == tuple(loss for i, loss in enumerate(losses) if i % 9 != 8)


# -- the examples ----------------------------------------------------------------------------------------------------

# Both processes run all examples. The first notes the losses that backward starts from, without a line of ours in it.
PLAIN = """
import runpy, sys, torch
torch.set_num_threads(1)
original = torch.Tensor.backward
def backward(loss, *args, **kwargs):
    print("loss", repr(loss.item()))
    return original(loss, *args, **kwargs)
torch.Tensor.backward = backward
for path in sys.argv[1:]:
    print("example", path)
    sys.argv[:] = [path, *(["--epochs", "3"] if "--epochs" in open(path).read() else [])]
    runpy.run_path(path, run_name="__main__")
"""
WATCHED = """
import sys, torch
torch.set_num_threads(1)
from trimtab.training.stage import stage
from trimtab.watching import Recorder, run_script
from trimtab.watching import budget
budget.ALLOWANCE = 60.0
stage.taps.listen("backward", lambda value: print("loss", repr(value.item())))
for path in sys.argv[1:]:
    print("example", path)
    recorder = Recorder(every=1)
    arguments = ["--epochs", "3"] if "--epochs" in open(path).read() else []
    outcome = run_script(path, arguments, on_training=recorder.guard(recorder.watch), on_line=recorder.guard(recorder.line))
    record = recorder.close()
    assert not recorder.guard.off, recorder.guard.off
    assert not outcome.exit_code, outcome.error
    assert len(record.main.profiles["grad_norms"].steps) > 3
    print("recorded", *map(repr, record.main.get("loss").values), file=sys.stderr)
"""


def run(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def short(path, folder):
    """A copy of the example that counts its epochs to 3, where it has no argument for that."""
    tree = ast.parse(path.read_text())
    if "--epochs" not in path.read_text():
        for node in ast.walk(tree):
            if isinstance(node, ast.For) and "epoch" in ast.unparse(node.target):
                node.iter = ast.parse("range(1, 4)", mode="eval").body
    (folder / path.name).write_text(ast.unparse(tree))
    return str(folder / path.name)


def test_examples_do_the_same_watched_and_unwatched(tmp_path):
    paths = [short(path, tmp_path) for path in sorted(EXAMPLES.glob("*.py"))]
    assert len(paths) > 3
    processes = run(PLAIN, *paths), run(WATCHED, *paths)
    (output, errors), (seen, told) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors + told
    assert seen.split("example ") == output.split("example ")
    losses = [[line[5:] for line in part.splitlines() if line[:5] == "loss "] for part in output.split("example ")[1:]]
    recorded = [line.split()[1:] for line in told.splitlines() if line.startswith("recorded")]
    assert len(losses) == len(paths)
    assert recorded == losses


# -- hooks -----------------------------------------------------------------------------------------------------------


def hooks(model):
    mine = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return len(mine), len(nn.modules.module._global_forward_hooks)


def test_hooks_are_there_on_sampled_steps_only(digits, no_other_training):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder(every=4)
    training = attach(model, optimizer)
    recorder.watch(training)
    counts = []
    for _ in range(9):
        counts.append(hooks(model))
        train(model, optimizer, digits, 1)
    assert counts == [(0, 1), (0, 0), (0, 0), (0, 0)] * 2 + [(0, 1)]
    recorder.close()
    assert hooks(model) == (0, 0)
    assert not any(training._events.values())


def test_a_model_copied_or_pickled_between_steps_carries_nothing_of_ours(digits, no_other_training):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tt.Recorder(every=1) as recorder:
        recorder.watch(attach(model, optimizer))
        train(model, optimizer, digits, 2)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        assert b"trimtab" not in buffer.getvalue()
        twin, again = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        pickle.dumps(optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scripts still use it
            scripted = torch.jit.script(model)
        for other in (twin, again):
            assert not any(m._forward_hooks for m in other.modules())
        assert torch.equal(scripted(digits[0]), model(digits[0]))


def test_a_finished_training_stops_listening_to_layers(digits):
    """Several models one after another: the last sample of the first must not stay open over all the others."""
    recorder = tt.Recorder(every=1)
    for _ in range(2):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        recorder.watch(attach(model, optimizer))
        train(model, optimizer, digits, 3)
    assert [watch._hook is None for watch in recorder.samplers] == [False, False]
    train(model, optimizer, digits, 101)
    assert recorder.samplers[0]._hook is None
    assert len(nn.modules.module._global_forward_hooks) <= 1
    first, second = recorder.close().trainings
    assert (first.name, second.name) == ("training 1", "training 2")
    assert len(first.get("train accuracy")) == 3  # and none of the second
    assert len(second.get("loss")) == 104


def test_two_optimizers_share_one_sample(digits):
    model = network()
    lower, upper = torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.SGD(model[2:].parameters(), 0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, [lower, upper]))
    for step in range(3):
        rows = slice(32 * step, 32 * step + 32)
        model.zero_grad()
        F.cross_entropy(model(digits[0][rows]), digits[1][rows]).backward()
        lower.step()
        upper.step()
    training = recorder.close().main
    for name in ("grad_norms", "update_ratio"):
        profile = training.profiles[name]
        assert profile.steps == (0, 1, 2)
        assert not any(math.isnan(value) for row in profile.rows for value in row)
        assert {"0.weight", "4.weight"} <= set(profile.names)


def test_optimizers_that_take_turns_are_both_sampled(digits):
    model = network()
    lower, upper = torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.SGD(model[2:].parameters(), 0.1)
    recorder = tt.Recorder(every=10)
    recorder.watch(attach(model, [lower, upper]))
    for step in range(60):
        model.zero_grad()
        F.cross_entropy(model(digits[0][:32]), digits[1][:32]).backward()
        (lower, upper)[step % 2].step()
    rows = recorder.close().main.profiles["update_ratio"]
    assert {"0.weight", "4.weight"} <= {n for row in rows.rows for n, v in zip(rows.names, row, strict=True) if v == v}


@pytest.mark.parametrize("kind", ["lbfgs", "sgd"])
def test_closures_are_sampled(kind, digits):
    model = network()
    make = {"lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=3), "sgd": lambda p: torch.optim.SGD(p, lr=0.1)}[kind]
    optimizer = make(model.parameters())
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits[0]), digits[1])
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    training = recorder.close().main
    assert training.steps == 4
    for name in ("activation_std", "grad_norms", "update_ratio"):
        assert training.profiles[name].steps == (0, 1, 2, 3), name
    assert len(training.get("grad_norm")) == 4


def test_the_layers_are_those_of_the_model_in_the_order_of_their_calls(digits):
    model = network("cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, digits, 1)
    training = recorder.close().main
    assert [(layer.name, layer.kind) for layer in training.layers] == [
        ("0", "Unflatten"), ("1", "Conv2d"), ("2", "ReLU"), ("3", "Conv2d"), ("4", "Flatten"), ("5", "Linear"),
    ][1:]  # fmt: skip  # the first has no gradient to pass on
    assert training.layers[0].parameters == ("1.weight", "1.bias")
    assert training.layers[0].units == 4


# -- errors of ours --------------------------------------------------------------------------------------------------


class Broken(signals.Signal):
    """A signal that fails at one of its moments."""

    moment = ""

    def _at(self, moment):
        if moment == self.moment:
            raise ValueError(f"broken {moment}")

    def forward(self, *_):
        self._at("forward")

    def gradients(self, *_):
        self._at("gradients")

    def before_step(self, *_):
        self._at("before_step")

    def after_step(self, *_):
        self._at("after_step")

    def trained(self, *_):
        self._at("trained")

    def read(self):
        self._at("read")
        return {}


@pytest.mark.parametrize("moment", ["forward", "gradients", "before_step", "after_step", "trained", "read"])
def test_an_error_of_ours_ends_the_watch_and_not_the_training(moment, digits, monkeypatch):
    losses, state, _, _ = noisy_run(digits, watched=False)
    monkeypatch.setattr(signals, "OWN", (type("Broken", (Broken,), {"moment": moment}), signals.Gradients))
    said = f"goes on without the signal 'broken'; so does the training. ValueError: broken {moment}"
    with pytest.warns(WatchWarning, match=said) as told:
        seen, watched, _, record = noisy_run(digits, watched=True, every=1)
    assert len(told) == 1
    assert "test_watch.py:" in str(told[0].message)  # where it happened
    assert seen == losses
    assert all(torch.equal(state[name], watched[name]) for name in state)
    assert record.main.steps == 24 and len(record.main.profiles["grad_norms"].rows) > 2  # the others go on
    assert [part.split(" (")[0] for part in record.unwatched] == ["the signal 'broken'"]
    assert not nn.modules.module._global_forward_hooks


def test_an_error_of_ours_ends_no_run_in_which_warnings_are_errors(digits, monkeypatch, capsys):
    losses, *_ = noisy_run(digits, watched=False)
    monkeypatch.setattr(signals, "OWN", (type("Broken", (Broken,), {"moment": "gradients"}),))
    seen, *_ = noisy_run(digits, watched=True)  # warnings are errors in this file
    assert seen == losses
    assert "goes on without the signal 'broken'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "ends"),
    [("_trained", "all that came after an error of trimtab's own"), ("_forward", "the outputs of layers")],
)
def test_an_error_of_ours_outside_of_signals(place, ends, digits, monkeypatch):
    losses, *_ = noisy_run(digits, watched=False)
    monkeypatch.setattr(sampler.Sampler, place, lambda *_: 1 / 0)
    with pytest.warns(WatchWarning, match="ZeroDivisionError") as told:
        seen, _, _, record = noisy_run(digits, watched=True, every=1)
    assert seen == losses and len(told) == 1
    assert [part.split(" (")[0] for part in record.unwatched] == [ends]
    assert record.main.steps == (0 if ends.startswith("all") else 24)


def test_an_error_of_the_stage_turns_the_watch_off_and_one_of_a_listener_does_not(digits, monkeypatch):
    losses, *_ = noisy_run(digits, watched=False)
    with monkeypatch.context() as broken:
        broken.setattr(Member, "touched", lambda self: 1 / 0)
        with pytest.warns(WatchWarning, match="turned itself off.*ZeroDivisionError"):
            assert noisy_run(digits, watched=True)[0] == losses
    model = network()
    training = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    training.on("before_step", lambda optimizer: 1 / 0)
    with training.watch() as recorder, pytest.raises(ZeroDivisionError):
        train(model, training.optimizers[0], digits, 1)
    assert not recorder.guard.off


@pytest.mark.parametrize("place", ["unhook", "record", "release", "finish"])
def test_an_error_of_ours_at_the_end_of_the_watch(place, digits, monkeypatch):
    losses, *_ = noisy_run(digits, watched=False)
    broken = (lambda self, heads=False: 1 / 0) if place == "record" else (lambda self: 1 / 0)
    monkeypatch.setattr(sampler.Sampler, place, broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WatchWarning)
        assert noisy_run(digits, watched=True)[0] == losses
    nn.modules.module._global_forward_hooks.clear()  # what could not be taken away


def test_a_recorder_that_nobody_closes_keeps_nothing(digits, no_other_training):
    original = getattr(F.cross_entropy, "__wrapped__", F.cross_entropy)

    def forgotten():
        model = network()
        with attach(model, torch.optim.SGD(model.parameters(), lr=0.1)) as training:
            recorder = training.watch()
            train(model, training.optimizers[0], digits, 2)
        return weakref.ref(model), weakref.ref(recorder)

    references = [*forgotten(), *forgotten()]
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
    assert F.cross_entropy is original


# -- sampling --------------------------------------------------------------------------------------------------------


def test_samples_thin_out_when_measuring_is_dear(digits, monkeypatch):
    monkeypatch.setattr(budget, "ALLOWANCE", 0.1)
    monkeypatch.setattr(sampler, "SPIKE", float("inf"))  # a spike is measured whatever it costs

    class Slow(signals.Signal):
        def gradients(self, parameters):
            time.sleep(0.03)

    monkeypatch.setattr(signals, "OWN", (signals.Gradients, Slow))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    began = time.perf_counter()
    steps = 0
    while time.perf_counter() - began < 1.0:
        train(model, optimizer, digits, 1)
        steps += 1
    elapsed = time.perf_counter() - began
    sampled = len(recorder.close().main.profiles["grad_norms"].steps)
    # At 30 ms each: those of the allowance, those of the share of the time, and one that is under way at each border.
    assert 2 <= sampled <= (budget.ALLOWANCE + budget.SHARE * elapsed) / 0.03 + 2
    assert steps > 10 * sampled


def test_cheap_samples_come_every_tenth_step(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recorder = tt.Recorder()
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, digits, 41)
    steps = recorder.close().main.profiles["grad_norms"].steps
    assert {0, 10, 20, 30, 40} <= set(steps)  # a spike of the gradient may add one


def test_without_sampling_losses_and_evaluations_are_still_there(digits):
    _, _, _, record = noisy_run(digits, watched=True, sampled=False)
    assert record.main.profiles == {}
    assert len(record.main.get("loss")) == 24
    assert len(record.main.get("val accuracy")) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_recorded(value, digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder()
    recorder.watch(attach(model, optimizer))
    for step in range(20):
        optimizer.zero_grad()
        (F.cross_entropy(model(digits[0]), digits[1]) * (value if step == 13 else 1.0)).backward()
        optimizer.step()
    training = recorder.close().main
    assert training.facts["first_nonfinite_loss"] == 13
    assert not math.isfinite(training.get("loss").values[13])
    assert 14 in training.profiles["grad_norms"].steps  # the step after it is looked at closely


def test_learning_rates_are_recorded_when_they_change(digits):
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[:2].parameters()}, {"params": model[2:].parameters(), "lr": 0.5}], lr=0.1
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    recorder = tt.Recorder()
    recorder.watch(attach(model, optimizer))
    for _ in range(4):
        train(model, optimizer, digits, 1)
        schedule.step()
    training = recorder.close().main
    assert training.get("lr").steps == (0, 2)
    assert training.get("lr").values == pytest.approx((0.1, 0.01))
    assert training.get("lr 1").values == pytest.approx((0.5, 0.05))


def test_facts_say_what_the_task_is(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder(every=1)
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, digits, 4)
    facts = recorder.close().main.facts
    counts = torch.bincount(digits[1][:128]).double()
    shares = counts / counts.sum()
    assert facts["classes"] == 10
    assert facts["batch_size"] == 32
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["constant_loss"] == pytest.approx(-(shares * shares.log()).sum().item(), rel=1e-6)


# -- the store -------------------------------------------------------------------------------------------------------


def same(a, b):
    """Equal, with NaN equal to NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__struct_fields__"):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    return a == b


def test_what_is_read_back_is_what_was_recorded(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "FLUSH", 0.0)  # in many pieces
    with Store(tmp_path) as store:
        _, _, _, record = noisy_run(digits, watched=True, store=store, every=3, subject="a test")
        again = store.run(record.id)
        assert again.subject == "a test"
        assert again.main.steps == 24
        for field in record.main.__struct_fields__:
            assert same(getattr(again.main, field), getattr(record.main, field)), field
        assert again.metric == record.metric
        assert again.metric.name == "val accuracy"


KILLED = """
import os, signal, sys, torch, trimtab as tt
from torch import nn
from trimtab.store import Store, StoreError
from trimtab.watching import budget
from trimtab.watching import recorder
recorder.FLUSH, budget.ALLOWANCE = 0.0, 60.0
recorder = tt.Recorder("killed", Store(sys.argv[1]), every=5)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder.watch(tt.attach(model, optimizer))
for step in range(100):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(2, (8,)))
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
    if step == 42:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_what_it_had(tmp_path):
    process = run(KILLED, str(tmp_path))
    output, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    losses = tuple(map(float, output.split()))
    with Store(tmp_path) as store:
        (name,) = store.runs()
        record = store.run(name)
    assert record.subject == "killed"
    training = record.main
    assert len(losses) == 43
    assert training.get("loss").values == losses
    assert training.steps == 43
    assert training.profiles["grad_norms"].steps[:3] == (0, 5, 10)
    assert [layer.kind for layer in training.layers] == ["Linear"]


def test_a_store_that_fails_in_mid_run_costs_a_warning(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "FLUSH", 0.0)
    losses, *_ = noisy_run(digits, watched=False)
    with Store(tmp_path) as store:
        pages = store._db.execute("pragma page_count").fetchone()[0]
        store._db.execute(f"pragma max_page_count={pages + 3}")
        with pytest.warns(WatchWarning, match="cannot write to .*database or disk is full.*kept in memory") as told:
            seen, _, _, record = noisy_run(digits, watched=True, store=store, every=1)
    assert len(told) == 1
    assert seen == losses
    assert record.main.steps == 24
    assert len(record.main.get("loss")) == 24
    assert len(record.main.profiles["grad_norms"].steps) == 24
    with Store(tmp_path) as store:  # what was written before is whole
        (name,) = store.runs()
        kept = store.run(name).main.get("loss").values
    assert kept == record.main.get("loss").values[: len(kept)]


FULL = """
import resource, signal, sys, torch, trimtab as tt
from torch import nn
from trimtab.store import Store, StoreError
from trimtab.watching import budget
from trimtab.watching import recorder
recorder.FLUSH, budget.ALLOWANCE = 0.0, 60.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(sys.argv[1])
limit = 120_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
recorder = tt.Recorder("full", store, every=1)
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder.watch(tt.attach(model, optimizer))
for step in range(120):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(2, (8,))).backward()
    optimizer.step()
print(recorder.close().main.steps, recorder.store)
"""


def test_a_full_disk_costs_a_warning(tmp_path):
    process = run(FULL, str(tmp_path))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output == "120 None\n"
    assert errors.count("trimtab cannot write to") == 1


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Make room or permission there, or choose another folder"):
        Store(tmp_path / "file")


def test_memory_stays_small(digits):
    """10 000 steps: some 20 numbers of 8 bytes and their steps a sampled step, and a few every step."""
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.randint(2, (8,))
    recorder = tt.Recorder()
    recorder.watch(attach(model, optimizer))
    train(model, optimizer, (x, y), 50, 8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(model, optimizer, (x, y), 10_000, 8)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert recorder.close().main.steps == 10_050
    assert grown < 50 * 1024  # KiB, the promised 50 MB


# -- numbers from outside --------------------------------------------------------------------------------------------


def test_numbers_seen_before_the_first_step_belong_to_step_0(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tt.Recorder()
    recorder.watch(attach(model, optimizer))
    recorder.line(f"val_loss={5 / 2}")
    train(model, optimizer, digits, 3)
    recorder.line(f"val_loss={2 / 1}")
    recorder.evaluated("val score", 7.0)
    training = recorder.close().main
    assert training.get("printed val loss").steps == (0, 3)
    assert training.get("printed val loss").values == (2.5, 2.0)
    assert training.get("val score").steps == (3,)


def test_the_last_lines_of_output_are_kept():
    recorder = tt.Recorder()
    for number in range(300):
        recorder.line(f"line {number}")
    assert recorder.close().output_tail.splitlines() == [f"line {number}" for number in range(280, 300)]


def test_a_run_without_training_has_a_record(script):
    recorder = tt.Recorder()
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = run_script(script("print('nothing to see')"), on_training=recorder.watch, on_line=recorder.line)
    record = recorder.close()
    assert outcome.exit_code == 0
    assert record.trainings == ()
    assert record.main is None
    assert record.metric is None
    assert record.output_tail == "nothing to see"


@pytest.mark.parametrize("handler", ["function", "method", "object"])
def test_an_alarm_of_the_script_is_no_error_of_ours(handler, digits, monkeypatch):
    class Alarm:
        def ring(self, *_):
            raise TimeoutError("late")

        __call__ = ring

    alarm = Alarm()
    before = signal.signal(
        signal.SIGUSR1, {"function": lambda *_: alarm.ring(), "method": alarm.ring, "object": alarm}[handler]
    )
    ring = type("Ring", (signals.Signal,), {"gradients": lambda *_: signal.raise_signal(signal.SIGUSR1)})
    monkeypatch.setattr(signals, "OWN", (ring,))
    model = network()
    training = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        with training.watch() as recorder, pytest.raises(TimeoutError, match="late"):
            train(model, training.optimizers[0], digits, 1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not recorder.guard.off and not recorder.guard.failed
