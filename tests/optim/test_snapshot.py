"""What is trained inside of ``unchanged`` leaves no trace, bit for bit."""

from __future__ import annotations

import copy
import multiprocessing
import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trimtab.optim import EMA, unchanged


class Odd(nn.Module):
    """A model with everything that a model can keep."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6, sparse=True)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.register_buffer("none", None)
        self.register_buffer("wide", torch.ones(1).expand(4))
        self.calls, self.cache = 0, torch.zeros(2)
        self.history, self.table, self.recent, self.names = [torch.zeros(1)], {"a": [1]}, deque([1], maxlen=3), {"x"}
        self.array, self.generator, self.draws = np.zeros(2), torch.Generator().manual_seed(3), np.random.default_rng(4)
        self.net[1].eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += 1
        self.cache += 1
        self.history[0] += 1
        self.history.append(x)
        self.table["a"].append(2)
        self.table["b"] = self.calls
        self.recent.append(self.calls)
        self.names.add("y")
        self.array += self.draws.random()
        self.extra = x
        noise = torch.rand((), generator=self.generator) + random.random() + np.random.rand() + self.draws.random()
        return self.net(self.embed(x)) + noise * self.frozen + self.wide.sum()


def values(thing: Any) -> Any:
    """Everything in a thing as plain values that can be compared, in order."""
    if isinstance(thing, torch.Tensor):
        dense = thing.detach().to_dense() if thing.is_sparse else thing.detach()
        return "tensor", dense.numpy().tobytes(), thing.requires_grad, values(thing.grad) if thing.is_leaf else None
    if isinstance(thing, dict):
        return [(id(k) if isinstance(k, torch.Tensor) else k, values(v)) for k, v in thing.items()]
    if isinstance(thing, (list, tuple, deque)):
        return [values(v) for v in thing]
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    if isinstance(thing, torch.Generator):
        return thing.get_state().numpy().tobytes()
    if isinstance(thing, np.random.Generator):
        return str(thing.bit_generator.state)
    if isinstance(thing, (nn.Module, torch.optim.Optimizer)):
        return values({k: v for k, v in vars(thing).items() if k != "step"})
    return copy.copy(thing) if isinstance(thing, set) else thing


def identities(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
    tensors = [*model.parameters(), *(b for b in model.buffers() if b is not None)]
    moments = [t for state in optimizer.state.values() for t in state.values()]
    return [id(t) for t in [*tensors, *(p.grad for p in model.parameters()), *moments, optimizer.param_groups[0]]]


def drawn() -> tuple:
    """The next random numbers, without drawing them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    found = random.random(), np.random.rand(), torch.rand(1).item()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return found


def step(model: nn.Module, optimizers: list, *, clear: bool = True) -> None:
    if clear:
        for optimizer in optimizers:
            optimizer.zero_grad()
    model(torch.randint(0, 9, (5,))).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def started() -> tuple[Odd, list[torch.optim.Optimizer]]:
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    model = Odd()
    dense = [
        {"params": model.net[0].parameters(), "lr": 0.01},
        {"params": [model.net[3].weight]},
    ]  # one bias is in none
    optimizers = [torch.optim.Adam(dense, lr=0.1), torch.optim.SparseAdam(model.embed.parameters())]
    for _ in range(2):
        step(model, optimizers)
    return model, optimizers


def spoil(model: Odd, optimizers: list[torch.optim.Optimizer]) -> None:
    """Change all that can be changed."""
    for clear in (False, True):
        step(model, optimizers, clear=clear)
    model.train()
    model.frozen.requires_grad_(True)
    model.frozen.sum().backward()
    model.seen = torch.full((3,), 7.0)  # another tensor
    model.register_buffer("new", torch.zeros(1))
    del model.calls
    model.net.append(nn.ReLU())
    model.register_forward_hook(lambda *_: None)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 5.0
        optimizer.param_groups[0]["another"] = 1
        optimizer.state[model.frozen]["step"] = 1
        optimizer.zero_grad()
        optimizer._opt_called = True
    random.random(), np.random.rand(), torch.rand(1)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back(error):
    model, optimizers = started()
    before = values(model), [values(o) for o in optimizers], identities(model, optimizers[0]), drawn()
    modes = [module.training for module in model.modules()]
    try:
        with unchanged(model, *optimizers):
            spoil(model, optimizers)
            assert values(model) != before[0] and drawn() != before[3]
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert (values(model), [values(o) for o in optimizers], identities(model, optimizers[0]), drawn()) == before
    assert [module.training for module in model.modules()] == modes
    assert model.wide.shape == (4,) and not model._forward_hooks and not hasattr(optimizers[0], "_opt_called")


def test_gradients_that_are_none_are_none_again():
    model, optimizers = started()
    optimizers[0].zero_grad()
    kept = model.embed.weight.grad
    with unchanged(model, *optimizers):
        step(model, optimizers, clear=False)
        assert model.net[0].weight.grad is not None
    assert model.net[0].weight.grad is None and model.embed.weight.grad is kept


def test_training_goes_on_as_if_nothing_had_happened():
    def run(disturb: bool) -> list:
        model, optimizers = started()
        for number in range(4):
            if disturb and number == 2:
                with unchanged(model, *optimizers):
                    for _ in range(3):
                        step(model, optimizers)
            step(model, optimizers)
        return values(model)

    assert run(True) == run(False)


def test_other_objects_get_their_attributes_back():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    scaler, ema = torch.amp.GradScaler("cpu", init_scale=8.0), EMA(0.9)
    generators = [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]

    def train() -> float:
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        ema.update(model)
        return sum([torch.rand(1, generator=generators[0]).item(), *(g.random() for g in generators[1:])])

    train()
    state = copy.deepcopy([scheduler.state_dict(), scaler.state_dict(), optimizer.state_dict()])
    with unchanged(model, scheduler, scaler, ema, *generators):  # the scheduler knows its optimizer
        first = [train(), train()]
        changed = [scheduler.state_dict(), scaler.state_dict(), optimizer.state_dict()]
        assert str(changed) != str(state)
    assert str([scheduler.state_dict(), scaler.state_dict(), optimizer.state_dict()]) == str(state)
    assert [train(), train()] == first


class Noisy(Dataset):
    """Samples with noise from a generator of its own, and a counter."""

    def __init__(self) -> None:
        self.generator, self.asked = torch.Generator().manual_seed(1), 0
        self.transform = Shift()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, place: int) -> torch.Tensor:
        self.asked += 1
        return place + torch.rand((), generator=self.generator) + self.transform.draws.random()


class Shift:
    def __init__(self) -> None:
        self.draws = random.Random(5)


@pytest.mark.parametrize("kind", ["own", "sampler", "weighted", "global"])
def test_a_loader_gives_the_same_batches_again(kind):
    data = Noisy()
    own = torch.Generator().manual_seed(2)
    loader: Any = {
        "own": lambda: DataLoader(data, 4, shuffle=True, generator=own),
        "sampler": lambda: DataLoader(data, 4, sampler=torch.utils.data.RandomSampler(data, generator=own)),
        "weighted": lambda: DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(
            torch.utils.data.WeightedRandomSampler(torch.ones(12), 12, generator=own), 4, False)),
        "global": lambda: DataLoader(data, 4, shuffle=True),
    }[kind]()  # fmt: skip
    list(loader)
    with unchanged(loader):
        first = [list(loader), list(loader)]
        assert not torch.equal(torch.cat(first[0]), torch.cat(first[1]))
    assert data.asked == 12
    again = [list(loader), list(loader)]
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(first, again, strict=True))


def test_persistent_workers_are_left_alone():
    def batches(disturb: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        loader = DataLoader(TensorDataset(torch.arange(8.0)), 2, shuffle=True, num_workers=1, persistent_workers=True)
        found = []
        for number, (batch,) in enumerate(loader):
            found.append(batch)
            if disturb and number == 1:
                workers, alive = loader._iterator, multiprocessing.active_children()
                with unchanged(loader):
                    assert len(list(loader)) == 4 and loader._iterator is not workers
                    others = loader._iterator
                assert loader._iterator is workers
                assert multiprocessing.active_children() == alive and others._shutdown
        found += [batch for (batch,) in loader]
        loader._iterator._shutdown_workers()
        return found

    assert torch.equal(torch.cat(batches(True)), torch.cat(batches(False)))


def test_a_lazy_model_has_to_be_run_first():
    with pytest.raises(ValueError, match="got a lazy module, whose parameters have no shape yet"):
        with unchanged(nn.LazyLinear(3)):
            pass


def test_what_cannot_change_in_place_is_left_alone():
    model = nn.Linear(1, 1)
    with torch.inference_mode():
        model.table = torch.ones(2)
    model.last = model.weight * 2  # has a graph
    with unchanged(model):
        model.last = None
    assert model.table.is_inference() and model.last.grad_fn is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_random_state_of_devices():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).cuda()
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    x = torch.ones(2, 4, device="cuda")
    with unchanged(model, optimizer):
        first = model(x)
        first.sum().backward()
        optimizer.step()
    assert torch.equal(model(x), first)
    assert not optimizer.state
