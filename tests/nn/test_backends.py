"""Which backend computes an op: the first that serves, torch's operations where none does, and `trimtab info` says why."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

import trimtab as tt
from trimtab._kernels import Kernel
from trimtab.cli import main
from trimtab.nn.ops import DROPOUT, ROW_NORM


@pytest.fixture
def fake(monkeypatch):
    """A backend before all others that serves rows of at most four numbers, and leaves every entry as it is."""
    calls = []

    def why_not(x):
        return "" if x.numel() <= 4 else "it takes four numbers at most"

    def forward(x, key, p):
        calls.append("forward")
        return (x.clone(),)

    def backward(gradients, tensors, kept, settings, wanted):
        calls.append("backward")
        return (gradients[0] * 7,)

    monkeypatch.setattr(DROPOUT, "backends", {"fake": Kernel(why_not, forward, backward), **DROPOUT.backends})
    return calls


def test_the_first_backend_that_serves_is_taken(fake):
    x = torch.ones(4, requires_grad=True)
    layer = tt.nn.Dropout(0.5)
    layer(x).sum().backward()
    assert fake == ["forward", "backward"] and x.grad.tolist() == [7.0] * 4
    compiled = torch.compile(layer, backend="aot_eager")
    x.grad = None
    compiled(x).sum().backward()
    assert fake[2:] == ["forward", "backward"] and x.grad.tolist() == [7.0] * 4
    wide = torch.ones(1000, requires_grad=True)
    layer(wide).sum().backward()
    assert len(fake) == 4 and set(wide.grad.tolist()) == {0.0, 2.0}


def test_info_says_which_backend_computes_what_and_why(fake, monkeypatch):
    said = CliRunner().invoke(main, ["info"]).output
    line = next(line for line in said.splitlines() if line.startswith("  dropout:"))
    assert line.startswith("  dropout: fake for float32 on the CPU and bfloat16 on the CPU and float64 on the CPU")
    monkeypatch.setattr(DROPOUT, "probe", lambda x: (x.new_ones(100),))
    line = next(line for line in CliRunner().invoke(main, ["info"]).output.splitlines() if "  dropout:" in line)
    assert (
        "cpu (fake does not serve: it takes four numbers at most) for float32 on the CPU and bfloat16 on the CPU"
        in line
    )
    assert (
        "torch (fake does not serve: it takes four numbers at most; cpu does not serve: it computes in float32 and bfloat16) for float64"
        in line
    )
    assert (
        "optimizer_step: cpu for float32 on the CPU, torch (cpu does not serve: it computes in float32) for bfloat16"
        in said
    )


def test_kernels_that_are_turned_off_say_so(monkeypatch):
    monkeypatch.setattr("trimtab.nn.ops.common.FORCED", "torch")
    assert ROW_NORM.explain(torch.ones(3)) == ("torch", {"cpu": "TRIMTAB_BACKEND=torch turns it off"})
