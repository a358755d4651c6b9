"""The compiled part tells the truth about the machine and about itself."""

import ast
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trimtab
from trimtab import _cpu

CPUINFO = Path("/proc/cpuinfo")
CPP = Path(__file__).parents[1] / "cpp"
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
def test_the_stub_has_the_names_that_the_kernels_take():
    stub = ast.parse(Path(trimtab.__file__).with_name("_cpu.pyi").read_text())
    written = {one.name: [a.arg for a in one.args.kwonlyargs] for one in stub.body if isinstance(one, ast.FunctionDef)}
    assert set(written) == {name for name in vars(_cpu) if not name.startswith("__")}
    for name, names in written.items():
        taken = getattr(_cpu, name).__doc__.splitlines()[0].partition("(")[2].rpartition(") ->")[0]
        assert names == re.findall(r"(\w+): ", taken), name
    with pytest.raises(TypeError):  # no position can be mistaken for another
        _cpu.dropout(0, 0, 0, 0.5, 0, False, 1)


@pytest.mark.parametrize("asked", NEEDS)
def test_a_lesser_instruction_set_can_be_asked_for_and_gives_the_same_numbers(asked):
    if not NEEDS[asked] <= processor_flags():
        pytest.skip("this processor does not have it")
    assert every_kernel(TRIMTAB_CPU=asked) == asked


def every_kernel(*before: str, **environment: str) -> str:
    """The instruction set under which all kernels give the numbers of their formulas; ``before``: what starts Python."""
    run = subprocess.run(
        [*before, sys.executable, Path(__file__).with_name("every_kernel.py")],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, f"{run.returncode}\n{run.stderr[-3000:]}"
    return run.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "best"), [("Haswell", "avx2"), ("SandyBridge", "baseline")])
@pytest.mark.timeout(1800)
def test_every_kernel_on_an_older_machine(machine, best):
    """QEMU ends a program that uses an instruction which the machine lacks, as the machine does."""
    qemu = shutil.which("qemu-x86_64")
    if not (qemu and platform.machine() == "x86_64"):
        pytest.skip("needs qemu-x86_64 on an x86 machine; in Debian it is in the package qemu-user")
    assert every_kernel(qemu, "-cpu", machine, OMP_NUM_THREADS="1") == best


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kernel_on_64_bit_arm(tmp_path):
    """Built by a cross compiler and run under an emulator: the numbers of this machine's baseline kernels."""
    compilers, qemu = {"baseline": "g++", "neon": "aarch64-linux-gnu-g++"}, "qemu-aarch64"
    if missing := [tool for tool in (*compilers.values(), qemu) if not shutil.which(tool)]:
        pytest.skip(
            f"needs {', '.join(missing)}; in Debian they are in the packages g++-aarch64-linux-gnu and qemu-user"
        )
    flags = (
        "-std=c++17 -O3 -fassociative-math -fno-signed-zeros -fno-trapping-math -fno-math-errno"  # as CMakeLists.txt
    )
    sources = [Path(__file__).with_name("every_kernel.cpp"), CPP / "kernels.cpp"]
    lines = {}
    for name, compiler in compilers.items():
        build = [compiler, *flags.split(), "-Wno-psabi", "-fopenmp", "-static", f"-DTRIMTAB_SET={name}", *sources]
        subprocess.run([*build, "-o", tmp_path / name], check=True, capture_output=True)
        run = [qemu, tmp_path / name] if name == "neon" else [tmp_path / name]
        lines[name] = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    for ours, theirs in zip(lines["baseline"], lines["neon"], strict=True):
        (what, wanted), (named, found) = (
            (start, np.array(numbers.split(), float)) for start, numbers in (line.split(":") for line in (ours, theirs))
        )
        assert what == named
        # sums in another order and fused multiplications; where that turns a rounding to bfloat16, a unit of its last place
        largest = np.nanmax(np.abs(wanted[np.isfinite(wanted)]), initial=0)
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=largest * (2**-7 if "bfloat16" in what else 4e-6), err_msg=what
        )


@linux_x86
def test_what_the_module_exports_runs_on_every_machine():
    """A function that the linker could exchange for that of another instruction set is compiled without any."""
    listed = subprocess.run(["nm", "-DS", "--defined-only", _cpu.__file__], capture_output=True, text=True, check=True)
    functions = re.findall(r"^(\w+) (\w+) [TWi] (\S+)$", listed.stdout, re.MULTILINE)
    assert "PyInit__cpu" in {name for *_, name in functions}
    for start, size, name in functions:
        end = int(start, 16) + int(size, 16)
        code = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", f"--start-address=0x{start}", f"--stop-address={end}", _cpu.__file__],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        instructions = re.findall(r"^\s+[0-9a-f]+:\s+(\w+)", code, re.MULTILINE)
        assert instructions
        assert not (wide := [i for i in instructions if i.startswith("v")]), (
            f"{name}: {wide}"
        )  # of AVX and what came later


@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("nm")), reason="compiles a few lines")
@pytest.mark.parametrize(
    ("everyone", "own", "complaint"),
    [
        ("", "inline int next(int a) { static int last = 0; return last += a; }", ""),
        ("template <class T> T add(T a) { return a + 1; }", "int next(int a) { return add(a); }", "int add<int>(int)"),
        ("struct A { virtual ~A() {} };", "int next(int a) { A b; return a; }", "vtable for A"),
        ("int random();", "int start = random(); int next(int a) { return a; }", "run code when the module is loaded"),
    ],
    ids=["own", "template", "vtable", "start"],
)
def test_the_build_refuses_kernels_whose_code_others_could_get(tmp_path, everyone, own, complaint):
    source, made = tmp_path / "kernels.cpp", tmp_path / "kernels.o"
    table = "extern int (*const table)(int); int (*const table)(int) = next;"
    source.write_text(f"{everyone} namespace trimtab::avx2 {{ {own} {table} }}")
    subprocess.run(["c++", "-std=c++17", "-O0", "-fPIC", "-c", source, "-o", made], check=True)
    found = subprocess.run([sys.executable, CPP / "own_symbols.py", "nm", "avx2", made], capture_output=True, text=True)
    assert (found.returncode, complaint in found.stderr) == (bool(complaint), True), found.stderr


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


def test_an_instruction_set_that_the_build_does_not_have_is_refused(monkeypatch):
    from trimtab import _kernels

    monkeypatch.setenv("TRIMTAB_CPU", "avx1024")
    with pytest.raises(ValueError, match=r"TRIMTAB_CPU='avx1024' must be an instruction set .*: .*baseline\."):
        importlib.reload(_kernels)
