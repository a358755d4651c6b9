"""Surgery on a model that two processes train: synchronized batch norms give what one process gives with all of the data."""

from __future__ import annotations

import torch
from torch import nn

from tests.conftest import torchrun

SCRIPT = """
import sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import trimtab as tt

dist.init_process_group("gloo")
torch.set_num_threads(1)
rank = dist.get_rank()
model, x, y = torch.load(sys.argv[1], weights_only=False)
wrapped = DistributedDataParallel(model)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
training = tt.attach(wrapped, optimizer).apply("convert_norm(to='sync_batch_norm')")
assert type(model[1]).__name__ == type(model[3]).__name__ == "SyncBatchNorm"
own = slice(rank * 16, rank * 16 + 16)
for step in range(6):
    optimizer.zero_grad()
    nn.functional.mse_loss(wrapped(x[own]), y[own]).backward()
    optimizer.step()
if rank == 0:
    training.undo()
    torch.save(model, sys.argv[2])
dist.destroy_process_group()
"""


def test_sync_under_torchrun_is_one_large_batch(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    ).double()
    x, y = torch.randn(32, 5, dtype=torch.double), torch.randn(32, 2, dtype=torch.double)
    x[16:] += 3  # each process sees another distribution
    torch.save((model, x, y), tmp_path / "start.pt")
    torchrun(SCRIPT, tmp_path, "start.pt", "end.pt")
    found = torch.load(tmp_path / "end.pt", weights_only=False)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    assert isinstance(found[1], nn.BatchNorm1d)
    for name, value in model.state_dict().items():  # six steps in float64
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-9, atol=1e-9)
