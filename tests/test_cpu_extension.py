"""The compiled part tells the truth about the machine and about itself."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab import _cpu

CPUINFO = Path("/proc/cpuinfo")
NEEDS = {
    "avx512bf16": {"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"},
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma"},
    "baseline": set(),
}


def processor_flags() -> set[str]:
    """The features that the kernel reports, so those that the operating system supports as well."""
    lines = CPUINFO.read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).partition(":")[2].split())


linux_x86 = pytest.mark.skipif(
    not (CPUINFO.exists() and platform.machine() in ("x86_64", "i686")), reason="reads the x86 flags of /proc/cpuinfo"
)


@linux_x86
def test_instruction_set_is_the_best_that_the_processor_has():
    flags = processor_flags()
    assert _cpu.instruction_set() == next(name for name, needed in NEEDS.items() if needed <= flags)


@linux_x86
@pytest.mark.parametrize("asked", NEEDS)
def test_a_lesser_instruction_set_can_be_asked_for_and_gives_the_same_numbers(asked):
    if not NEEDS[asked] <= processor_flags():
        pytest.skip("this processor does not have it")
    code = f"""if True:
        import torch, trimtab.nn as tn
        from trimtab import _cpu
        assert _cpu.instruction_set() == {asked!r}, _cpu.instruction_set()
        torch.manual_seed(0)
        for layer, shape in [(tn.BatchNorm2d(19), (3, 19, 7, 5)), (tn.LayerNorm(33), (7, 33)), (tn.GroupNorm(3, 6), (4, 6, 7, 3))]:
            for activation in ("none", "gelu", "silu"):
                layer.activation = activation
                for form in (torch.contiguous_format, torch.channels_last)[: 1 + (len(shape) == 4)]:
                    x = torch.randn(shape).contiguous(memory_format=form).requires_grad_()
                    y = layer(x)
                    (gradient,) = torch.autograd.grad(y, x, torch.cos(torch.arange(x.numel())).view(shape))
                    wide = x.detach().double().requires_grad_()
                    wanted = layer.double()(wide)
                    (exact,) = torch.autograd.grad(wanted, wide, torch.cos(torch.arange(x.numel())).view(shape).double())
                    layer.float()
                    assert (y - wanted).abs().max() < 2e-6 * wanted.abs().max()
                    assert (gradient - exact).abs().max() < 2e-6 * exact.abs().max()
    """
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TRIMTAB_CPU": asked}, check=True)


@pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="a property of 64-bit ARM")
def test_arm_always_has_neon():
    assert _cpu.instruction_set() == "neon"


def test_the_build_carries_each_set_once():
    sets = _cpu.compiled_for()
    assert sets
    assert len(sets) == len(set(sets))
    assert set(sets) <= {"avx512bf16", "avx512", "avx2", "neon", "baseline"}


@pytest.mark.skipif(_cpu.openmp_threads() is None, reason="this build has no OpenMP")
def test_openmp_follows_its_environment():
    code = "from trimtab._cpu import openmp_threads; print(openmp_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["3"]
