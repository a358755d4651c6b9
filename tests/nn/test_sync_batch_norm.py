"""SyncBatchNorm: two processes with batches of their own give what one process gives with all of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from trimtab.nn import BatchNorm1d, BatchNorm2d
from trimtab.nn.ghost_batch_norm import GhostBatchNorm2d
from trimtab.nn.sync_batch_norm import SyncBatchNorm, sync_batch_norm

# samples of the first and of the second process
SIZES = {"equal": (4, 4), "uneven": (5, 2), "empty": (6, 0)}
OPTIONS = {
    "plain": {},
    "fused": {"activation": "relu"},
    "units": {"units": (0, 2), "activation": "relu"},
    "population, biased": {"momentum": None, "unbiased": False},
    "two momenta, no bias": {"momentum": (0.3, 0.6), "bias": False},
}
# float64: means of about 100 entries. float32: the mean is 100 deviations, so that centering alone costs 100 roundings of
# 6e-8; sums of x and x^2 would lose 10^4 of them and fail by far.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def numbers(sizes, dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual, upstream = torch.randn(3, sum(sizes), 3, 2, 5, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).view(1, 3, 1, 1) + 100
    mask = torch.rand(sum(sizes), 2, 5, generator=generator) < 0.7
    return [t.to(dtype) for t in (x, residual, upstream)] + [mask]


def lively(module):
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)) + i)
    return module


def step(module, x, residual, upstream, mask, own):
    """Two training steps; output and gradients of the second, and the buffers."""
    module(x[own], residual[own], mask[own])
    x, residual = x[own].clone().requires_grad_(), residual[own].clone().requires_grad_()
    y = module(x, residual, mask[own])
    (y * upstream[own]).sum().backward()
    parameters = [parameter.grad for parameter in module.parameters()]
    return {"rows": [y.detach(), x.grad, residual.grad], "sums": parameters, "buffers": list(module.buffers())}


def network(norm):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 2), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).double()


def trained(model, x, upstream, own, processes):
    """Three steps. The loss is a sum, and DDP takes the mean of gradients over processes."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (processes * (model(x[own]) * upstream[own, 0, 0, :2]).sum()).backward()
        optimizer.step()
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def own_rows(rank, sizes):
    return slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)


def said(call):
    with pytest.raises(Exception) as error:
        call()
    return str(error.value)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    alone = [dist.new_group([0]), dist.new_group([1])]
    found = {}
    for size, sizes in SIZES.items():
        own = own_rows(rank, sizes)
        for option, options in OPTIONS.items():
            for dtype in TOLERANCE:
                module = lively(SyncBatchNorm(3, dtype=dtype, **options))
                found[size, option, dtype] = step(module, *numbers(sizes, dtype), own)
        x, _, upstream, _ = numbers(sizes, torch.float64)
        model = SyncBatchNorm.convert_sync_batchnorm(network(nn.BatchNorm2d(4)))
        ddp = nn.parallel.DistributedDataParallel(model)
        found[size, "ddp"] = trained(ddp, x - 100, upstream, own, 2)
        found[size, "evaluation"] = model.eval()(x[own] - 100) if rank == 0 else None  # one process alone: nobody waits
    x, residual, upstream, mask = numbers((5, 2), torch.float64)
    own = own_rows(rank, (5, 2))
    module = lively(SyncBatchNorm(3, process_group=alone[rank], dtype=torch.float64))
    found["alone"] = step(module, x, residual, upstream, mask, own)
    found["bfloat16"] = SyncBatchNorm(3)((x[own] - 100).bfloat16())
    found["one value"] = said(lambda: SyncBatchNorm(3)(torch.ones(1 - rank, 3)))
    found["mask"] = said(lambda: SyncBatchNorm(3)(torch.ones(4, 3, 2), mask=torch.ones(4, 3) > 0))
    found["not in the group"] = said(lambda: SyncBatchNorm(3, process_group=alone[1 - rank])(torch.ones(4, 3)))
    z = x[own].clone().requires_grad_()
    (first,) = torch.autograd.grad((SyncBatchNorm(3).double()(z) * upstream[own]).sum(), z, create_graph=True)
    found["twice"] = said(lambda: first.sum().backward())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # one that goes while the other still talks to it may be aborted
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, all in one run: starting them costs more than what they do."""
    folder = tmp_path_factory.mktemp("sync")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def close(found, wanted, dtype=torch.float64):
    assert found.dtype is wanted.dtype or found.dtype is dtype
    error = (found.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    assert error <= TOLERANCE[dtype], f"off by {error:.1e} of the largest entry"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_two_processes_give_what_the_full_batch_gives(found, size, option, dtype):
    # the very numbers that the processes got, in float64
    numbers_in = [t if t.dtype is torch.bool else t.double() for t in numbers(SIZES[size], dtype)]
    wanted = step(lively(BatchNorm2d(3, dtype=torch.float64, **OPTIONS[option])), *numbers_in, slice(None))
    both = [process[size, option, dtype] for process in found]
    for first, second, exactly in zip(both[0]["rows"], both[1]["rows"], wanted["rows"], strict=True):
        close(torch.cat([first, second]), exactly, dtype)
    for first, second, exactly in zip(both[0]["sums"], both[1]["sums"], wanted["sums"], strict=True):
        close(first + second, exactly, dtype)
    for first, second, exactly in zip(both[0]["buffers"], both[1]["buffers"], wanted["buffers"], strict=True):
        assert torch.equal(first, second), "running statistics must be the same in all processes"
        close(first, exactly, dtype)


@pytest.mark.parametrize("size", SIZES)
def test_under_ddp_a_training_is_that_of_one_process(found, size):
    x, _, upstream, _ = numbers(SIZES[size], torch.float64)
    model = network(nn.BatchNorm2d(4))
    wanted = trained(model, x - 100, upstream, slice(None), 1)
    for process in found:
        for one, exactly in zip(process[size, "ddp"], wanted, strict=True):
            torch.testing.assert_close(one, exactly, rtol=1e-10, atol=1e-12)
    own = own_rows(0, SIZES[size])
    torch.testing.assert_close(found[0][size, "evaluation"], model.eval()(x[own] - 100))


def test_a_group_of_one_is_plain_batch_norm(found):
    x, residual, upstream, mask = numbers((5, 2), torch.float64)
    for rank, process in enumerate(found):
        module = lively(BatchNorm2d(3, dtype=torch.float64))
        wanted = step(module, x, residual, upstream, mask, own_rows(rank, (5, 2)))
        for kind in ("rows", "sums", "buffers"):
            torch.testing.assert_close(process["alone"][kind], wanted[kind], rtol=0, atol=0)


def test_bfloat16_stays_bfloat16(found):
    x = (numbers((5, 2), torch.float64)[0] - 100).bfloat16()
    y = torch.cat([process["bfloat16"] for process in found])
    assert y.dtype is torch.bfloat16
    wanted = nn.functional.batch_norm(x.double(), None, None, training=True)
    # rounded once, at the end, by at most 2^-8 of the entry; float32 before
    assert ((y.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-6).all()


def test_messages_between_processes(found):
    for process in found:
        assert process["one value"] == (
            "SyncBatchNorm got 1 value(s) per channel in all processes together, whose variance is 0. While training it needs "
            "more than one: use larger batches."
        )
        assert process["not in the group"] == (
            "SyncBatchNorm: this process is not in process_group. Every process must give the group that it belongs to."
        )
        assert process["mask"] == (
            "SyncBatchNorm got an input of shape (4, 3, 2) and a mask of shape (4, 3). The mask says which positions count: its "
            "shape must be (4, 2)."
        )
        assert "once_differentiable" in process["twice"]


def test_without_processes_it_is_batch_norm():
    x, residual, upstream, mask = numbers((5, 2), torch.float64)
    options = {"activation": "silu", "momentum": (0.2, 0.3)}
    ours, plain = (lively(kind(3, dtype=torch.float64, **options)) for kind in (SyncBatchNorm, BatchNorm2d))
    found, wanted = (step(module, x, residual, upstream, mask, slice(None)) for module in (ours, plain))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    y = sync_batch_norm(x, None, None, training=True, residual=residual, activation="relu")
    torch.testing.assert_close(y, (nn.functional.batch_norm(x, None, None, training=True) + residual).relu())


def test_checkpoints_are_those_of_torch():
    ours, theirs = lively(SyncBatchNorm(3)), nn.SyncBatchNorm(3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    # positions too
    group = object()
    assert SyncBatchNorm(3, 1e-3, 0.2, True, True, group).process_group is group


def test_conversion_keeps_tensors_options_and_optimizers():
    shared = BatchNorm1d(4, activation="relu", momentum=(0.1, 0.2), unbiased=False, units=(1,), dropout=0.3)
    model = nn.Sequential(
        nn.BatchNorm2d(3, eps=1e-3, momentum=None),
        nn.ModuleDict({"deep": BatchNorm2d(5, frozen=True, bias=False, track_running_stats=True)}),
        shared,
        shared,
        nn.SyncBatchNorm(2, affine=False, track_running_stats=False),
        nn.GroupNorm(1, 3),
    ).eval()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    old = copy.copy(list(model))
    converted = SyncBatchNorm.convert_sync_batchnorm(model, "a group")
    assert converted is model
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    kinds = [type(m).__name__ for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert kinds == ["SyncBatchNorm"] * 5
    for new, was in zip((model[0], model[2], model[3], model[4]), (old[0], shared, shared, old[4]), strict=True):
        assert new.process_group == "a group" and not new.training
        for name in "num_features eps momentum affine track_running_stats".split():
            assert getattr(new, name) == getattr(was, name)
    deep = model[1]["deep"]
    assert deep.frozen and deep.bias is None
    assert (model[3].activation, model[3].dropout, model[3].unbiased, model[3].units) == ("relu", 0.3, False, (1,))
    assert type(SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3))) is SyncBatchNorm
    assert SyncBatchNorm.convert_sync_batchnorm(deep) is deep


def test_conversion_says_what_it_leaves_alone():
    model = nn.Sequential(GhostBatchNorm2d(3), nn.BatchNorm2d(3))
    with pytest.warns(UserWarning) as warned:
        SyncBatchNorm.convert_sync_batchnorm(model)
    assert [str(warning.message) for warning in warned] == [
        "convert_sync_batchnorm left a GhostBatchNorm2d alone: it knows BatchNorm1d, 2d, 3d and SyncBatchNorm, and a subclass "
        "may mean something else. Replace it by a SyncBatchNorm yourself."
    ]
    assert [type(m).__name__ for m in model] == ["GhostBatchNorm2d", "SyncBatchNorm"]


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError) as error:
        SyncBatchNorm(3)(torch.ones(4, 5))
    assert str(error.value) == (
        "SyncBatchNorm(3) got an input of shape (4, 5), which has 5 channels. The second dimension must equal num_features. "
        "Did you mean SyncBatchNorm(5)?"
    )
