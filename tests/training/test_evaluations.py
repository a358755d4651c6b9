"""Evaluations: what is measured without gradients, under which name, and which number judges the run."""

from __future__ import annotations

import math
import sys
import threading

import pytest
import torch
import torch.nn.functional as F

import trimtab as tt
from trimtab.training import places
from trimtab.training.evaluations import Evaluations, accuracy
from trimtab.watching.script import run_script

HEAD = """
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x_train, x_val, x_test = torch.randn(60, 4), torch.randn(50, 4) + 1, torch.randn(40, 4) - 1
y_train, y_val, y_test = torch.randint(3, (60,)), torch.randint(3, (50,)), torch.randint(3, (40,))
train_loader, val_loader, test_loader = (
    DataLoader(TensorDataset(x, y), batch_size=16)
    for x, y in ((x_train, y_train), (x_val, y_val), (x_test, y_test))
)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

def step():
    optimizer.zero_grad()
    criterion(model(x_train), y_train).backward()
    optimizer.step()

def truth():
    "What the evaluations should have found, computed on whole sets in float64."
    found = {}
    for name, x, y in (("train", x_train, y_train), ("val", x_val, y_val), ("test", x_test, y_test)):
        output = x.double() @ model.weight.detach().double().T + model.bias.detach().double()
        picked = (output - output.logsumexp(1, keepdim=True))[torch.arange(len(y)), y]
        found[f"{name} loss"], found[f"{name} accuracy"] = -picked.mean().item(), (output.argmax(1) == y).double().mean().item()
    return found

truths = [truth()]
"""


def evaluated(script, body, **settings):
    """Runs the body; the recorded series, and what is true of the model at its end."""
    known = {}
    path = script(HEAD + body + "\nwith open('truth.txt', 'w') as file: file.write(repr(truth()))\n")
    recorder = tt.Recorder(**settings)
    outcome = run_script(path, on_training=recorder.watch, on_line=recorder.line)
    record = recorder.close()
    assert outcome.exit_code == 0, outcome.error
    with open("truth.txt") as file:
        known = eval(file.read())
    return record, known


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def expect(record, known, *names):
    """Each of these splits was seen under its name and nothing else was."""
    seen = {name for name in record.main.series if name.split()[0] in ("train", "val", "test", "eval")}
    assert seen - {"train accuracy"} == {f"{n} {kind}" for n in names for kind in ("loss", "accuracy")} - {
        "train accuracy"
    }
    for name in names:
        # Losses are float32, some ten operations deep: 1e-6 is a few roundings.
        assert record.main.get(f"{name} loss").last == pytest.approx(known[f"{name} loss"], rel=1e-6)
        if name != "train":  # the accuracy on training batches has the same name
            assert record.main.get(f"{name} accuracy").last == pytest.approx(known[f"{name} accuracy"], abs=1e-7)


INLINE = """
step()
model.eval()
with torch.no_grad():
    val_loss = F.cross_entropy(model(x_val), y_val)
    test_loss = F.cross_entropy(model(x_test), y_test)
"""

LOOPS = """
step()
with torch.no_grad():
    for x, y in train_loader:
        loss = criterion(model(x), y)
    for x, y in val_loader:
        loss = criterion(model(x), y)
    for x, y in test_loader:
        loss = criterion(model(x), y)
"""

FUNCTIONS = """
@torch.no_grad()
def validate(loader):
    model.eval()
    total = 0.0
    for x, y in loader:
        total += criterion(model(x), y).item() * len(x)
    return total

def test(loader):
    with torch.inference_mode():
        return [criterion(model(x), y).item() for x, y in loader]

def train(epochs):
    for epoch in range(epochs):
        step()
        validate(loaders[0])
    test(loaders[1])

loaders = val_loader, test_loader
train(3)
"""

ONE_FUNCTION = """
def evaluate(model, loader):
    total = 0.0
    with torch.no_grad():
        for x, y in loader:
            total += F.cross_entropy(model(x), y, reduction="sum").item()
    return total / len(loader.dataset)

def main():
    evaluate(model, val_loader)
    for epoch in range(3):
        step()
        train_loss, val_loss = evaluate(model, train_loader), evaluate(model, val_loader)
    print(evaluate(model,
                   loader=test_loader))

main()
"""

TEST_ON_TRAIN = """
@torch.no_grad()
def test(loader):
    for x, y in loader:
        criterion(model(x), y)

for epoch in range(2):
    step()
    test(train_loader)
    test(val_loader)
    test(test_loader)
"""

ONE_LOOP_FOR_BOTH = """
def run_epoch(loader, train):
    with torch.set_grad_enabled(train):
        for x, y in loader:
            loss = criterion(model(x), y)
            if train:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

for epoch in range(2):
    run_epoch(train_loader, train=True)
    run_epoch(val_loader, train=False)
"""

GENERIC = """
def evaluate():
    with torch.no_grad():
        return criterion(model(x_val), y_val)

def test_everything():
    one, other = x_test, y_test
    with torch.no_grad():
        return criterion(model(one), other)

step()
evaluate()
test_everything()
"""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (INLINE, ["val", "test"]),
        (LOOPS, ["train", "val", "test"]),
        (FUNCTIONS, ["val", "test"]),
        (ONE_FUNCTION, ["train", "val", "test"]),
        (TEST_ON_TRAIN, ["train", "val", "test"]),
        (ONE_LOOP_FOR_BOTH, ["val"]),
        (GENERIC, ["val", "test"]),
    ],
    ids=["inline", "loops", "functions", "one function", "test on train", "one loop for both", "generic"],
)
def test_validation_test_and_training_data_are_told_apart(body, names, script):
    record, known = evaluated(script, body)
    expect(record, known, *names)


def test_an_evaluation_before_training_belongs_to_step_0_and_to_the_same_series(script):
    record, _ = evaluated(script, ONE_FUNCTION)
    assert record.main.get("val loss").steps == (0, 1, 2, 3)
    assert record.main.get("test loss").steps == (3,)


def test_nameless_evaluations_are_numbered(script):
    body = """
step()
with torch.no_grad():
    a = criterion(model(x_test[:20]), y_test[:20]) if False else None
    u, v = x_val, y_val
    criterion(model(u), v)
    criterion(model(u + 1), v)
"""
    record, known = evaluated(script, body)
    assert record.main.get("eval loss").last == pytest.approx(known["val loss"], rel=1e-6)
    assert "eval 2 loss" in record.main.series


def test_hooks_that_come_and_go_do_not_split_an_evaluation(script):
    # torch calls modules on another line while a hook is there: the criterion of every second evaluation
    record, known = evaluated(
        script,
        """
for epoch in range(6):
    step()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None) if epoch % 2 else None
    with torch.no_grad():
        val_loss = criterion(model(x_val), y_val)
    if handle: handle.remove()
""",
        sampled=False,
    )
    series = record.main.series
    assert [name for name in series if name.endswith("loss")] == ["loss", "val loss"]
    assert len(series["val loss"]) == 6
    assert series["val loss"].last == pytest.approx(known["val loss"])


def test_two_losses_of_one_evaluation_stay_apart(script):
    body = """
step()
with torch.no_grad():
    for x, y in val_loader:
        output = model(x)
        F.cross_entropy(output, y)
        F.mse_loss(output, torch.zeros_like(output))
"""
    record, known = evaluated(script, body)
    assert record.main.get("val loss").last == pytest.approx(known["val loss"], rel=1e-6)
    assert "val 2 loss" in record.main.series
    assert "val 2 accuracy" not in record.main.series


def test_a_regression_has_a_loss_and_no_accuracy(script):
    body = """
head = nn.Linear(4, 1)
other = torch.optim.SGD(head.parameters(), lr=0.1)
for _ in range(3):
    other.zero_grad()
    F.mse_loss(head(x_train), x_train[:, :1]).backward()
    other.step()
    with torch.no_grad():
        val_loss = F.mse_loss(head(x_val), x_val[:, :1])
"""
    record, _ = evaluated(script, body)
    training = record.trainings[1]
    assert len(training.get("val loss")) == 3
    assert "val accuracy" not in training.series
    assert "train accuracy" not in training.series
    assert record.metric.name == "val loss"
    assert record.metric.goal == "min"


def test_losses_inside_a_training_forward_are_no_evaluation(script):
    record, _ = evaluated(script, "for _ in range(3): step()")
    assert not [name for name in record.main.series if "val" in name or "eval" in name]
    assert record.metric.name == "loss"


# -- accuracy --------------------------------------------------------------------------------------------------------


def test_accuracy_of_classes():
    output = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    target = torch.tensor([1, 0, 0, 0])
    for name in ("cross_entropy", "nll_loss", "multi_margin_loss"):
        assert accuracy(name, output, target).item() == 0.75
    assert accuracy("cross_entropy", output, torch.tensor([1, 0, -100, -100])).item() == 1.0
    assert accuracy("cross_entropy", output, torch.tensor([1, 0, 5, 5]), ignore=5).item() == 1.0
    assert accuracy("cross_entropy", output, torch.rand(4, 2)) is None  # soft targets have no right answer
    assert accuracy("mse_loss", output, output) is None


def test_accuracy_of_pixels_and_tokens():
    output = torch.zeros(2, 3, 4, 4)
    output[:, 1] = 1
    target = torch.ones(2, 4, 4, dtype=torch.long)
    target[0] = 2
    assert accuracy("cross_entropy", output, target).item() == 0.5


def test_accuracy_of_two_classes():
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    target = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert accuracy("binary_cross_entropy_with_logits", logits, target).item() == 0.75
    assert accuracy("binary_cross_entropy", logits.sigmoid(), target).item() == 0.75
    assert accuracy("binary_cross_entropy_with_logits", logits, target * 0.9) is None


def test_accuracy_of_one_sample_without_a_batch():
    assert accuracy("cross_entropy", torch.tensor([0.1, 0.9]), torch.tensor(1)).item() == 1.0


def test_metric_pattern(script):
    body = """
for k in range(3):
    step()
    print(f"round {k}: quality={k / 10} (best n/a)")
print("quality=soon")
"""
    record, _ = evaluated(script, body, metric=r"quality=(\S+)")
    assert record.main.get("metric quality").values == (0.0, 0.1, 0.2)
    assert record.main.get("metric quality").steps == (1, 2, 3)
    assert (record.metric.name, record.metric.goal) == ("metric quality", "max")
    assert "--metric" in record.metric.why


def test_evaluation_costs_are_small_beside_a_step(script, monkeypatch):
    """The code is read once for each place, not once for each call."""
    asked = []
    original = places._split_of
    monkeypatch.setattr(places, "_split_of", lambda *chain: (asked.append(chain), original(*chain))[1])
    evaluated(script, FUNCTIONS)
    assert len(asked) == 3  # the training loss, and two evaluations


def test_weighting_by_samples_is_exact():
    """50 samples in batches of 16, 16, 16 and 2: the mean over samples, not over batches."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 3), torch.randint(3, (50,))
    evaluations = Evaluations()
    with torch.no_grad():
        for rows in torch.arange(50).split(16):
            value = F.cross_entropy(x[rows], y[rows])
            evaluations.add("cross_entropy", x[rows], y[rows], value, {}, sys._getframe())
    (_, *loss), (_, *hits) = list(evaluations.close())
    assert loss[1] == pytest.approx(F.cross_entropy(x.double(), y).item(), rel=1e-6)
    assert hits[1] == pytest.approx((x.argmax(1) == y).double().mean().item(), abs=1e-7)


def told(model, optimizer, evaluate):
    """What is told of evaluations between two steps."""
    found = []
    with tt.attach(model, optimizer) as training:
        training.on("evaluation", lambda name, value: found.append((name, value)))
        x, y = torch.randn(8, 6), torch.randint(0, 4, (8,))
        for number in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if number == 0:
                with torch.no_grad():
                    evaluate(model)
    return {name.split(" ", 1)[1]: value for name, value in found}  # the names of tests say a split


def small():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_batches_of_every_size_and_many_of_them_have_the_means_of_all():
    losses, hits, counts = [], [], []

    def evaluate(model):
        for number in range(150):  # more than are reckoned at once, of one size and of several
            x, y = torch.randn(7 if number < 80 else 1 + number % 5, 6), torch.randint(0, 4, (7,))
            y = y[: len(x)] if number != 90 else torch.randint(0, 4, (5000,))
            output = model(x if number != 90 else torch.randn(5000, 6))
            value = F.cross_entropy(output, y)
            losses.append(value.double().item())
            hits.append((output.argmax(1) == y).double().mean().item())
            counts.append(len(y))
            value.mul_(0), output.zero_(), y.zero_()  # the script goes on with its own

    found = told(*small(), evaluate)
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    assert found["loss"] == pytest.approx(float(torch.tensor(losses, dtype=torch.float64) @ weights), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float(torch.tensor(hits, dtype=torch.float64) @ weights), rel=1e-6)


@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_samples_by_themselves_and_arguments_by_position():
    x, y = torch.ones(6), torch.tensor(1)

    def evaluate(model):
        F.cross_entropy(model(x), y)
        for validation in (model(x[None]),):
            F.cross_entropy(validation, y[None], None, None, 1)  # that class is ignored
        F.cross_entropy(model(torch.stack([x, 2 * x])), torch.stack([y, y]), None, False)  # size_average
        expected.append(F.cross_entropy(model(torch.stack([x, 2 * x])), torch.stack([y, y])).item())

    expected: list[float] = []
    found = told(*small(), evaluate)
    assert found["3 loss"] == pytest.approx(expected[0]) and found["accuracy"] in (0.0, 1.0)
    assert math.isnan(found["2 accuracy"])  # none is left


def test_models_are_evaluated_in_threads():
    def evaluate(model):
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            threads = [threading.Thread(target=some, args=(model, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)

        output = model(x)
        model_after.append((-output.log_softmax(1)[range(4), y], output.argmax(1) == y))

    def some(model, number):
        with torch.no_grad():
            for _ in range(200):
                F.cross_entropy(model(x[: number + 1]), y[: number + 1])

    x, y = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])
    model_after: list = []
    found = told(*small(), evaluate)
    values, right = model_after[0]
    batches = [values[: number + 1].mean() * (number + 1) for number in range(4)]
    assert found["loss"] == pytest.approx(float(sum(batches)) / 10, rel=1e-5)
    assert found["accuracy"] == pytest.approx(sum(int(right[: number + 1].sum()) for number in range(4)) / 10, rel=1e-5)


def test_a_split_that_is_said_the_second_time_only_is_heard():
    def evaluate(model):
        for split in ("sanity", "val", "test"):
            one(model, split)

    def one(model, split):
        F.cross_entropy(model(torch.full((3, 6), float(len(split)))), torch.tensor([0, 1, 2]))

    model, optimizer = small()
    with tt.attach(model, optimizer) as training:
        names = []
        training.on("evaluation", lambda name, value: names.append(name))
        F.cross_entropy(model(torch.randn(3, 6)), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        with torch.no_grad():
            evaluate(model)
        training.optimizers[0].step()
    assert {"val loss", "test loss"} <= set(names) and len(set(names)) == 6


def test_what_a_function_that_trains_evaluates_is_held_out_in_evaluation_mode():
    def train(model, optimizer, x, y):
        with tt.attach(model, optimizer) as training:
            training.on("evaluation", lambda name, value: names.append(name))
            for _ in range(3):
                model.train()
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                model.eval()
                with torch.no_grad():
                    F.cross_entropy(model(2 * x), y)
            optimizer.step()

    names: list[str] = []
    train(*small(), torch.randn(8, 6), torch.randint(0, 4, (8,)))
    assert set(names) == {"eval loss", "eval accuracy"}


def test_sums_over_positions_are_per_position():
    x, y = torch.randn(2, 4, 5), torch.tensor([[0, 1, -100, 2, 3], [3, 2, 1, 0, -100]])

    def evaluate(model):
        F.cross_entropy(x, y, reduction="sum")

    assert told(*small(), evaluate)["loss"] == pytest.approx(F.cross_entropy(x, y).item())


def test_predictions_of_samples_are_kept_where_they_are_asked_for_and_those_of_pixels_are_not():
    def evaluated(*batches, keeps=True):
        evaluations = Evaluations()
        evaluations.keeps = keeps
        for output, target in batches:
            value = torch.nn.functional.cross_entropy(output, target)
            evaluations.add("cross_entropy", output, target, value, {}, sys._getframe(), lambda: False)
            target.zero_()  # the script goes on with it
        list(evaluations.close(over=True))
        return list(evaluations.predictions.values())

    def batch(*shape):
        return torch.randn(shape[0], 3, *shape[1:]), torch.randint(3, shape)

    with torch.no_grad():
        one, two = batch(4), batch(3)
        right = torch.cat([output.argmax(1) == target for output, target in (one, two)])
        together = torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]])
        ignored = batch(5)
        ignored[1][2] = -100
        (made,) = evaluated(one, two)
        assert torch.equal(made.right, right)
        assert evaluated(together)[0].targets == made.targets  # whatever the batches
        assert evaluated(batch(7))[0].targets != made.targets
        assert len(evaluated(ignored)[0].right) == 4
        assert (
            evaluated(batch(2, 5, 5)) == []
            and evaluated(batch(4), batch(2, 5)) == []
            and evaluated(batch(4), keeps=False) == []
        )
