"""Two processes that train one model, for tests of clipping; this file imports little, since each of them imports it anew."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import trimtab as tt

SHARDED = ("agc", "clip_norm(max_norm=0.01)", "clip_norm(max_norm=0.01, per_parameter=True)", "clip_value(low=0.001)",
           "zclip(warmup_steps=2, z_threshold=0.001)", "skip_spikes(rollback=2)")  # fmt: skip


def sums_after(text: str, wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> list[float]:
    """What a training ends with; both processes see the same data. For ``skip_spikes`` some losses are not finite."""
    torch.manual_seed(0)
    model = wrap(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    tt.attach(model, optimizer).apply(text)
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        optimizer.zero_grad()
        x = torch.randn(16, 8, generator=generator)
        (model(x).square().mean() * (math.nan if "skip" in text and 5 < step < 9 else 1 + step % 3)).backward()
        optimizer.step()
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return [p.double().sum().item() for p in whole]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training = tt.attach(model, optimizer).apply("skip_spikes(warmup=5, rollback=2)")
    generator = torch.Generator().manual_seed(rank)
    for step in range(30):
        x = torch.randn(16, 8, generator=generator)
        scale = {(1, 15): math.nan, (0, 20): 1000.0, (0, 21): 1000.0}.get((rank, step), 1.0)  # in one of them
        optimizer.zero_grad()
        ((model(x) - x[:, :2]).square().mean() * scale).backward()
        optimizer.step()
    found["DDP"] = training.changes[0].outcome(), [p.detach() for p in model.parameters()]
    mesh = init_device_mesh("cpu", (2,))
    for text in SHARDED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[text] = sums_after(text, lambda model: fully_shard(model, mesh=mesh))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # one that goes while the other still talks to it may be aborted
    dist.destroy_process_group()
