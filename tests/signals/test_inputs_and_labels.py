"""The condition number of the input, and how much the classes of a batch are alike, against NumPy and permutations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import nn

import trimtab as tt
from trimtab import signals
from trimtab.signals.labels import tail
from trimtab.watching import budget


@pytest.fixture(autouse=True)
def time_to_measure(monkeypatch):
    monkeypatch.setattr(budget, "ALLOWANCE", 60.0)


def condition(x: np.ndarray) -> float:
    """Of the second moments of the features and a 1, zeros left out, from singular values."""
    s = np.linalg.svd(np.c_[x, np.ones(len(x))].astype(np.float64), compute_uv=False)
    s = s[s > 1e-6 * s[0]]
    return float((s[0] / s[-1]) ** 2)


def reading(x: torch.Tensor, layer: nn.Module, batch: int = 32) -> list[float]:
    signal, found = signals.Inputs(), []
    for part in x.split(batch):
        signal.forward("first", layer, (part,), part)
        signal.forward("second", nn.Linear(2, 2), (torch.randn(8, 2),), part)  # only the first layer counts
        found += [value for name, value in signal.read().items() if name == "input_condition"]
    return found


# -- the condition number --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_wine, load_digits])
def test_the_condition_number_is_that_of_all_rows(load):
    x = torch.tensor(load().data[:1000], dtype=torch.float32)
    found = reading(x, nn.Linear(x.shape[1], 2), batch=len(x))
    # sums of float32 products in float64: eigenvalues are known to 1e-15 of the largest
    assert found == [pytest.approx(condition(x.numpy()), rel=1e-6)]


def test_it_is_told_from_five_times_as_many_rows_as_features_on_and_as_rows_grow():
    x = torch.randn(640, 10, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 2, 10) + 5
    found = reading(x, nn.Linear(10, 2), batch=16)
    after = [64]  # the first multiple of 16 that is not below 50
    while (then := -(-int(np.ceil(1.25 * after[-1])) // 16) * 16) <= 640:
        after.append(then)
    assert found == [pytest.approx(condition(x[:rows].numpy()), rel=1e-6) for rows in after]


def test_what_does_not_vary_or_follows_from_the_rest_is_no_direction():
    torch.manual_seed(0)
    codes = F.one_hot(torch.randint(4, (200,)), 4).float()  # they sum to the 1 of the bias
    x = torch.cat([codes, torch.zeros(200, 1), torch.full((200, 1), 0.1), torch.randn(200, 2)], 1)
    (found,) = reading(x, nn.Linear(8, 2), batch=200)
    assert found == pytest.approx(condition(x.numpy()), rel=1e-6)
    assert found < 20


def test_channels_and_many_features():
    torch.manual_seed(0)
    images = torch.rand(40, 3, 8, 8) * torch.tensor([1.0, 10.0, 255.0]).view(3, 1, 1)
    (found, *_) = reading(images, nn.Conv2d(3, 4, 3), batch=40)
    assert found == pytest.approx(condition(images.movedim(1, -1).reshape(-1, 3).numpy()), rel=1e-6)
    many = torch.randn(3000, 300) * torch.logspace(0, 1, 300)
    bound = reading(many, nn.Linear(300, 2), batch=200)[0]  # of every third feature, from 600 rows on: a lower bound
    assert bound == pytest.approx(condition(many[:600, ::3].numpy()), rel=1e-6)
    assert bound < condition(many[:600].numpy())
    # batches of more than 65 536 entries are taken in part: 655 of 1500 rows
    (part, *_) = reading(many[:, :100].repeat(2, 1)[:1500], nn.Linear(100, 2), batch=1500)
    assert part == pytest.approx(condition(many[:655, :100].numpy()), rel=1e-6)


def test_inputs_that_are_not_finite_are_left_out():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[3, 1] = float("nan")
    signal = signals.Inputs()
    for part in (x, broken):
        signal.forward("first", nn.Linear(3, 2), (part,), part)
        found = signal.read()
    assert "input_condition" not in found  # no new rows, no new number
    signal.forward("first", nn.Linear(3, 2), (x,), x)
    assert signal.read()["input_condition"] == pytest.approx(condition(x.numpy()), rel=1e-6)


def test_a_treated_training_shows_what_the_first_layer_sees():
    data = load_wine()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    ends = {}
    for text in ("", "standardize_inputs", "whiten_inputs"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3))
        training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=1e-3)).apply(text)
        with training.watch(every=1) as recorder:
            for _ in range(30):
                rows = torch.randperm(178)[:64]
                training.optimizers[0].zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                training.optimizers[0].step()
        ends[text] = recorder.record().main.get("input_condition").last
    assert ends[""] == pytest.approx(4.6e8, rel=0.2)
    assert ends["standardize_inputs"] == pytest.approx(46, rel=0.3)
    assert ends["whiten_inputs"] < 10


# -- the order of classes --------------------------------------------------------------------------------------------


def grouping(labels: np.ndarray, sizes: list[int], classes: int) -> tuple[float, float]:
    """Chi-square of the table, and (A - P) / (1 - P), from the table itself."""
    rows = np.split(labels, np.cumsum(sizes)[:-1])
    table = np.array([np.bincount(row, minlength=classes) for row in rows], dtype=float)
    table = table[:, table.sum(0) > 0]
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    alike = (table * (table - 1)).sum() / (table.sum(1) * (table.sum(1) - 1)).sum()
    n, of = table.sum(), table.sum(0)
    any_two = (of * (of - 1)).sum() / (n * (n - 1))
    return float(((table - expected) ** 2 / expected).sum()), float((alike - any_two) / (1 - any_two))


def of_labels(labels: np.ndarray, sizes: list[int], classes: int) -> dict[str, float]:
    """The last reading of the signal."""
    signal, found = signals.Labels(), {}
    for row in np.split(labels, np.cumsum(sizes)[:-1]):
        x = torch.zeros(len(row), 3)
        signal.forward("first", nn.Linear(3, classes), (x,), x)
        signal.loss("cross_entropy", torch.zeros(len(row), classes), torch.from_numpy(row), torch.zeros(()))
        found = dict(signal.read()) or found
    return found


@pytest.mark.parametrize(
    ("classes", "sizes", "shares"),
    [(10, [32] * 8, None), (2, [8] * 6, None), (100, [16] * 9, None), (3, [30] * 5 + [11], [0.9, 0.07, 0.03])],
)
def test_the_probability_is_that_of_shuffled_data(classes, sizes, shares):
    """The share of 2000 orders that are as far from even as this one, at several distances."""
    random = np.random.default_rng(0)
    labels = random.choice(classes, sum(sizes), p=shares)
    found = np.array([grouping(random.permutation(labels), sizes, classes)[0] for _ in range(2000)])
    readings = []
    for _ in range(40):
        order = random.permutation(labels)
        statistic, alike = grouping(order, sizes, classes)
        reading = of_labels(order, sizes, classes)
        assert reading["label_grouping"] == pytest.approx(alike, abs=1e-12)
        readings.append((reading["label_grouping_p"], (found >= statistic).mean()))
    ours, counted = np.array(readings).T
    # a share of 2000 has a standard error of 0.011 at most; a table of 48 samples takes few values, the gamma distribution all
    assert np.abs(ours - counted).max() < 0.1
    assert 0.3 < ours.mean() < 0.7


@pytest.mark.parametrize("sizes", [[32] * 10, [8] * 12 + [300]])
@pytest.mark.parametrize("shares", [[0.3, 0.3, 0.4], [0.95, 0.03, 0.02]])
def test_the_tail_is_right_where_it_matters(sizes, shares):
    """Also with uneven batches and rare classes: of 4000 orders, 5 % lie beyond the point to which the tail gives 5 %."""
    random = np.random.default_rng(0)
    labels = random.choice(3, sum(sizes), p=shares)
    found = np.sort([grouping(random.permutation(labels), sizes, 3)[0] for _ in range(4000)])
    margins = np.array(sizes), np.bincount(labels)
    known = [entry for margin in margins for entry in (len(margin), float((1 / margin).sum()))]
    # 200 of 4000 have a standard error of 14, and the gamma distribution is off by as much
    assert 0.04 < tail(found[-200], len(labels), *known) < 0.06


def test_ordered_classes_are_seen_and_shuffled_ones_are_not():
    labels = load_digits().target
    in_order = np.sort(labels)
    sizes = [32] * 56 + [5]
    blocks = np.concatenate(
        [np.split(in_order, np.cumsum(sizes)[:-1])[i] for i in np.random.default_rng(0).permutation(56)]
    )
    shuffled = np.random.default_rng(0).permutation(labels)
    for order, least in ((in_order, 0.85), (blocks, 0.85)):
        reading = of_labels(order, [32] * 56, 10)
        assert reading["label_grouping"] > least and reading["label_grouping_p"] < 1e-100
    reading = of_labels(shuffled, sizes, 10)
    assert abs(reading["label_grouping"]) < 0.01 and reading["label_grouping_p"] > 0.01
    # stratified batches are more even than chance
    even = of_labels(np.tile(np.arange(10), 100), [50] * 20, 10)
    assert even["label_grouping"] < 0 and even["label_grouping_p"] == pytest.approx(1)


def test_small_batches_are_put_together():
    in_order = np.sort(load_digits().target)
    assert of_labels(in_order, [1] * 1797, 10)["label_grouping_p"] < 1e-100
    shuffled = np.random.default_rng(0).permutation(in_order)
    assert of_labels(shuffled, [1] * 1797, 10)["label_grouping_p"] > 0.01


def told(name: str, output: torch.Tensor, target: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether ordered targets of this kind are taken for classes."""
    signal = signals.Labels()
    for part in range(2):
        signal.forward("first", nn.Linear(2, 2), (x,), x)
        signal.loss(name, output, target if part else torch.zeros_like(target), torch.zeros(()))
        found = signal.read()
    return bool(found)


@pytest.mark.parametrize(
    ("taken", "name", "output", "target", "x"),
    [
        (True, "cross_entropy", (16, 3), torch.ones(16, dtype=torch.long), (16, 5)),
        (True, "nll_loss", (16, 3), torch.ones(16, dtype=torch.long), (7, 16, 5)),  # time first
        (True, "binary_cross_entropy_with_logits", (16, 1), torch.ones(16, 1), (16, 5)),
        (True, "binary_cross_entropy", (16,), torch.ones(16), (16, 5)),
        (False, "cross_entropy", (48, 3), torch.ones(48, dtype=torch.long), (16, 5)),  # tokens of 16 texts
        (False, "cross_entropy", (16, 3, 4), torch.ones(16, 4, dtype=torch.long), (16, 5)),  # pixels
        (False, "cross_entropy", (16, 3), torch.full((16, 3), 0.3), (16, 5)),  # probabilities
        (False, "binary_cross_entropy", (16, 4), torch.ones(16, 4), (16, 5)),  # several labels each
        (False, "binary_cross_entropy", (16,), torch.full((16,), 0.9), (16, 5)),  # smoothed
        (False, "mse_loss", (16,), torch.ones(16), (16, 5)),
    ],
)
def test_only_one_class_for_each_sample_counts(taken, name, output, target, x):
    assert told(name, torch.zeros(output), target, torch.zeros(x)) == taken


def test_the_first_loss_of_a_step_counts():
    signal = signals.Labels()
    x = torch.zeros(16, 3)
    for _ in range(20):
        signal.forward("first", nn.Linear(3, 2), (x,), x)
        for label in (0, 1):  # two heads of their own data: not two batches
            signal.loss("cross_entropy", torch.zeros(16, 2), torch.full((16,), label), torch.zeros(()))
        assert signal.read() == {}


@pytest.mark.parametrize("other", ["a second training", "a second optimizer"])
def test_losses_of_several_networks_are_not_mixed(other):
    torch.manual_seed(0)
    model, critic = nn.Linear(4, 2), nn.Linear(4, 2)
    first = torch.optim.SGD(model.parameters(), 0.1)
    second = torch.optim.SGD(critic.parameters(), 0.1)
    recorder = tt.Recorder(every=1)
    if other == "a second optimizer":
        recorder.watch(tt.attach([model, critic], [first, second]))
    else:
        recorder.watch(tt.attach(model, first))
        recorder.watch(tt.attach(critic, second))
    for label in (0, 1) * 5:
        F.cross_entropy(model(torch.randn(16, 4)), torch.full((16,), label)).backward()
        first.step()
        second.step()
    assert not recorder.guard.off
    assert not any("label_grouping" in training.series for training in recorder.close().trainings)


def test_a_watched_script_order_is_seen():
    data = load_breast_cancer()
    order = np.argsort(data.target, kind="stable")
    x, y = torch.tensor(data.data[order], dtype=torch.float32) / 100, torch.tensor(data.target[order])
    model = nn.Linear(30, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with tt.attach(model, optimizer).watch(every=1) as recorder:
        for start in range(0, 560, 16):
            optimizer.zero_grad()
            F.cross_entropy(model(x[start : start + 16]), y[start : start + 16]).backward()
            optimizer.step()
    training = recorder.record().main
    assert training.get("label_grouping").last > 0.9
    assert training.get("label_grouping_p").last < 1e-20
