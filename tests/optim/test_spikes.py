"""Spikes: what is one, against the definition in numpy; what is left out, what is put back, and that nothing else is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conftest import network, numbers, same
from trimtab.optim import SpikeGuard
from trimtab.optim.snapshot import Snapshot, buffers_of

# -- what a spike is -------------------------------------------------------------------------------------------------


def verdicts(numbers: list[float], threshold: float, window: int, warmup: int) -> list[bool]:
    """Which are accepted, by the definition; for streams without ten spikes in a row."""
    accepted: list[float] = []
    found = []
    for y in numbers:
        recent = np.array(accepted[-window:])
        spike = not math.isfinite(y)
        if not spike and len(recent) >= warmup and y > recent.max():
            f, least = (np.log, 0.05) if recent.min() > 0 else (lambda x: x, 0.05 * abs(np.median(recent)))
            deviation = 1.4826 * np.median(np.abs(f(recent) - np.median(f(recent))))
            allowed = threshold * max(deviation, least)
            allowed = min(allowed, np.log(100)) if f is np.log else allowed
            spike = f(y) - np.median(f(recent)) > allowed
        found.append(not spike)
        accepted += [] if spike else [y]
    return found


def judged(guard: SpikeGuard, numbers: list[float], **known: float) -> list[bool]:
    return [guard.judge(y, **known) == "accept" for y in numbers]


@pytest.mark.parametrize("shift", [0.0, -5.0], ids=["positive", "around 0"])
@pytest.mark.parametrize(
    ("threshold", "window", "warmup"), [(3.0, 40, 10), (6.0, 100, 20), (4.0, 20, 5), (40.0, 100, 20)]
)
def test_the_verdicts_are_those_of_the_definition(threshold, window, warmup, shift):
    generator = np.random.default_rng(0)
    numbers = generator.lognormal(sigma=0.5, size=500) * np.linspace(8, 1, 500)
    numbers[::37] *= generator.lognormal(mean=3, sigma=2, size=len(numbers[::37]))
    numbers[[100, 333]] = math.nan, math.inf
    numbers += shift
    wanted = verdicts(list(numbers), threshold, window, warmup)
    guard = SpikeGuard(threshold=threshold, window=window, warmup=warmup)
    assert judged(guard, list(numbers)) == wanted
    assert guard.skipped == [i for i, accepted in enumerate(wanted) if not accepted]
    assert 3 < len(guard.skipped) < 100 and guard.steps == 500 and not guard.levels


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_losses_does_not_matter(scale):
    numbers = np.random.default_rng(1).lognormal(size=300)
    numbers[::50] *= 1e4
    assert judged(SpikeGuard(), list(numbers * scale)) == judged(SpikeGuard(), list(numbers))


@pytest.mark.parametrize(
    ("by", "wanted"),
    [("both", ["skip", "skip", "accept"]), ("loss", ["skip", "accept", "accept"]), ("gradient", ["accept", "skip", "accept"])],
)  # fmt: skip
def test_loss_and_gradient_are_judged_by_themselves(by, wanted):
    guard = SpikeGuard(warmup=5, by=by)
    for _ in range(5):
        assert guard.judge(1.0, 2.0) == "accept"
    assert [guard.judge(50.0, 2.0), guard.judge(1.0, 100.0), guard.judge(1.0, 2.0)] == wanted
    assert guard.judge(1.0, math.nan) == guard.judge(math.inf, 2.0) == "skip"  # whatever it goes by
    assert guard.judge(1.0, None) == guard.judge(None, 2.0) == guard.judge(None, None) == "accept"


def test_a_quiet_past_makes_no_spike_of_a_small_rise():
    guard = SpikeGuard(threshold=8.0, warmup=5)
    assert all(judged(guard, [1.0] * 20))
    assert judged(guard, [math.exp(0.39), math.exp(0.41)]) == [True, False]  # 8 times 0.05


def test_a_new_level_is_accepted_at_last_and_said():
    guard = SpikeGuard(warmup=5, most_skips=4)
    assert all(judged(guard, [1.0] * 10))
    assert judged(guard, [9.0] * 4) == [False] * 4
    with pytest.warns(
        UserWarning, match="4 updates in a row were left out as spikes, and still the loss is 9.* taken for a new level"
    ):
        assert judged(guard, [9.0]) == [True]
    # what is usual there has to be learned first
    assert judged(guard, [30.0] + [9.0] * 5 + [999.0, 1.0]) == [True] * 6 + [False, True]
    assert str(guard) == "skipped 5 of 23 updates (10, 11, 12, 13, 21), took a new level for usual at 14"


def test_what_is_not_finite_is_never_accepted():
    guard = SpikeGuard(warmup=5, most_skips=3)
    judged(guard, [1.0] * 10)
    with pytest.warns(
        UserWarning, match="3 updates in a row were left out, and the loss or the gradient is still not finite"
    ):
        assert not any(judged(guard, [math.nan] * 30))
    assert judged(guard, [1.0]) == [True] and guard.streak == 0
    assert str(guard) == "skipped 30 of 41 updates (10, 11, 12, 13, 14 and 25 more)"


def test_state_dict_goes_on():
    numbers = list(np.random.default_rng(2).lognormal(size=200))
    numbers[60:63] = [1e5, 1e5, math.nan]
    straight = SpikeGuard(warmup=10)
    wanted = judged(straight, numbers)
    first, second = SpikeGuard(warmup=10), SpikeGuard(warmup=10)
    found = judged(first, numbers[:62])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + judged(second, numbers[62:]) == wanted and not all(wanted)
    assert second.state_dict() == straight.state_dict()


def healthy(make, batch: int, data: tuple) -> tuple[list[float], list[float]]:
    torch.manual_seed(0)
    model = network()
    optimizer = make(model.parameters())
    losses, norms = [], []
    for rows in torch.cat([torch.randperm(512) for _ in range(40)]).split(batch)[:600]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[0][rows]), data[1][rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
    return losses, norms


@pytest.mark.parametrize("batch", [8, 32])
@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), lambda p: torch.optim.Adam(p, 3e-3)], ids=["sgd", "adam"]
)
def test_a_healthy_training_is_left_alone(make, batch, digits):
    losses, norms = healthy(make, batch, digits)
    guard = SpikeGuard()
    for loss, norm in zip(losses, norms, strict=True):
        guard.judge(loss, norm)
    assert len(guard.skipped) <= 0.005 * len(losses) and not guard.levels


# -- what goes back --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Norms with statistics, and a buffer that is no part of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scratch += 1
        return self.layers(x)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2),
}


def made(optimizer: torch.optim.Optimizer, model: nn.Module, data: tuple, step: int) -> torch.Tensor:
    """The gradients of a step, or the step itself of an optimizer that asks for a closure."""
    rows = slice(step * 32 % 512, step * 32 % 512 + 32)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(data[0][rows]), data[1][rows])
    loss.backward()
    return loss


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_snapshots_restore_bit_for_bit(name, digits):
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters())
    identities = [id(t) for t in model.state_dict(keep_vars=True).values()]

    def train(steps: int) -> list[float]:
        return [optimizer.step(lambda step=step: made(optimizer, model, digits, step)).item() for step in range(steps)]

    train(2)
    snapshot = Snapshot()
    assert not snapshot.taken
    snapshot.take([*model.parameters(), *buffers_of(model)], [optimizer])
    before = numbers(model, optimizer)
    losses = train(3)
    assert not same(numbers(model, optimizer), before)
    for _ in range(2):  # as often as it is asked to
        snapshot.restore()
        assert same(numbers(model, optimizer), before)
        assert train(3) == losses
    assert [id(t) for t in model.state_dict(keep_vars=True).values()] == identities


def test_a_snapshot_before_the_first_step_takes_moments_away_again(digits):
    model = Net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    snapshot = Snapshot()
    snapshot.take(model.parameters(), [optimizer])
    made(optimizer, model, digits, 0)
    optimizer.step()
    snapshot.restore()
    assert not optimizer.state


def test_buffers_are_those_of_a_checkpoint():
    model = Net()
    assert [id(b) for b in buffers_of(model)] == [id(b) for b in model.layers[1].buffers()]
    assert len(buffers_of(model, model)) == 3


def guarded(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple, steps: int, bad: dict | None = None, after: dict | None = None, **options):  # fmt: skip
    """A loop with a guard; ``bad`` spoils the loss of a step, and ``after`` does something behind one."""
    guard, losses = SpikeGuard(model, optimizer, **{"warmup": 5, **options}), []
    for step in range(steps):
        rows = slice(step * 32 % 512, step * 32 % 512 + 32)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data[0][rows]), data[1][rows]) * (bad or {}).get(step, 1.0)
        loss.backward()
        losses.append(loss.item())
        if guard.accepts(loss):
            optimizer.step()
        (after or {}).get(step, lambda: None)()
    return guard, losses


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("worse", [100.0, math.nan])
def test_a_bad_batch_leaves_no_trace(worse, name, digits):
    model, plain = Net(), Net()
    optimizer, other = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](plain.parameters())
    guard, losses = guarded(model, optimizer, digits, 33, {16: worse}, by="gradient" if name == "sgd" else "both")
    assert guard.skipped == [16]
    expected = guarded(plain, other, digits, 16)[1]
    expected_tail = []
    for step in range(17, 33):
        loss = made(other, plain, digits, step)
        other.step()
        expected_tail.append(loss.item())
    assert losses[:16] + losses[17:] == expected + expected_tail
    assert same(numbers(model, optimizer), numbers(plain, other))  # running statistics too


def test_broken_weights_go_back(digits):
    model, twin = Net(), Net()
    optimizer, other = OPTIMIZERS["adam"](model.parameters()), OPTIMIZERS["adam"](twin.parameters())

    def break_weights():
        optimizer.param_groups[0]["lr"] = 1e-3  # what schedulers do is not undone
        with torch.no_grad():
            model.layers[3].weight.mul_(-30)

    options = {"rollback": 3, "every": 8, "most_skips": 9}
    guard, losses = guarded(model, optimizer, digits, 44, after={40: break_weights}, **options)
    assert guard.skipped == [41, 42, 43] and guard.rolled_back == [43]
    assert min(losses[41:]) > 5 * max(losses[30:41])
    guarded(twin, other, digits, 40)  # the snapshots were taken before the steps 0, 8, 16 ... 40
    parameters = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(model.state_dict()[name], twin.state_dict()[name]) for name in parameters)
    assert same(numbers(model, optimizer)[1], numbers(twin, other)[1])
    assert optimizer.param_groups[0]["lr"] == 1e-3
    _, losses = guarded(model, optimizer, digits, 10)
    assert max(losses) < 1.0
    assert str(guard) == "skipped 3 of 44 updates (41, 42, 43), went back to earlier weights at 43"


def test_it_goes_back_once_and_then_takes_a_new_level(digits):
    model = Net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    wrong = dict.fromkeys(range(30, 60), 400.0)
    with pytest.warns(UserWarning, match="6 updates in a row were left out"):
        guard, _ = guarded(model, optimizer, digits, 60, wrong, rollback=2, most_skips=6)
    assert guard.skipped[:6] == list(range(30, 36)) and guard.rolled_back[:1] == [31] and guard.levels[:1] == [36]


def test_without_a_model_there_is_still_a_verdict():
    guard = SpikeGuard(warmup=3)
    assert [guard.accepts(loss) for loss in (1.0, torch.tensor(1.0), 1.0, 1e3, torch.tensor(math.nan), 1.0)] == [True, True, True, False, False, True]  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"SpikeGuard\(rollback=3\) needs to know what goes back: SpikeGuard\(model, optimizer, rollback=3\)",
    ):
        SpikeGuard(rollback=3).accepts(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "SpikeGuard: threshold=0.0 must be positive"),
        ({"by": "norm"}, "by='norm' must be one of 'both', 'loss', 'gradient'"),
        ({"window": 1}, "window=1 must be a whole number of at least 2"),
        ({"warmup": 200}, "warmup=200 must be at most window=100, or no number would ever be judged"),
        ({"most_skips": 0}, "most_skips=0 must be a whole number of at least 1"),
        ({"every": 2.5}, "every=2.5 must be a whole number of at least 1"),
        ({"rollback": 10}, "rollback=10 must be 0, or a whole number below most_skips=10"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        SpikeGuard(**options)
