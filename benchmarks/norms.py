"""Norm layers, dropout and cross entropy, forward and backward: ours against torch eager, ``torch.compile``, JAX, and the least
that memory allows.

Method. One thread, pinned to one core, thread CPU time. In every round each contender runs once, forward then backward, in
turn; before each timed call 96 MB are read, so that inputs come from memory (cases below 1 MB stay warm, as they would
in a network). Reported are medians over rounds of the ratios within a round, so that a noisy machine hurts all alike. The
floor is a loop that streams just the bytes an op must read and write, timed in the same rounds: the best of ordinary and
non-temporal stores, without prefetch, with a near and with a far one. glibc is told to keep freed memory, since page faults would drown all kernels
alike (`--malloc default` measures with them). "Kept" counts what is saved for backward beyond the op's own inputs. JAX, if it is
installed, does forward and backward in one compiled program, on the same core; it computes in threads of its own, so the CPU
time of the whole process counts for it, and not that of one thread.

    python benchmarks/norms.py [--only TEXT] [--rounds N] [--no-compile] [--no-jax] [--malloc default]
"""

from __future__ import annotations

from alone import machine  # before torch: it starts the process anew

# isort: split
import argparse
import ctypes
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import trimtab.nn.functional as TF
from trimtab import _cpu
from trimtab.nn import ops

HERE = Path(__file__).parent
f32, bf16 = torch.float32, torch.bfloat16


@dataclass
class Case:
    """One op on one shape. ``eager`` and ``ours``: (x, residual, weight, bias) -> y; floors in arrays read and written."""

    name: str
    shape: tuple[int, ...]
    eager: Callable[..., torch.Tensor]
    ours: Callable[..., torch.Tensor]
    dtype: torch.dtype = f32
    last: bool = False  # channels_last
    residual: bool = False
    affine: bool = True
    channels: int = 1  # the dimension that weights belong to
    reads: tuple[int, int] = (1, 2)  # forward, backward
    writes: tuple[int, int] = (1, 1)

    @property
    def title(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape))}{' channels_last' if self.last else ''}{' bf16' if self.dtype is bf16 else ''}"


def batch(activation: str, residual: bool) -> dict[str, Any]:
    def eager(x, r, w, b):
        z = F.batch_norm(x, None, None, w, b, True)
        z = z + r if residual else z
        return F.relu(z) if activation == "relu" else z

    def ours(x, r, w, b):
        return TF.batch_norm(x, None, None, w, b, True, residual=r, activation=activation)

    return {
        "eager": eager,
        "ours": ours,
        "residual": residual,
        **({"reads": (2, 3), "writes": (1, 2)} if residual else {}),
    }


_targets: dict[tuple[int, int], torch.Tensor] = {}


def target(x: torch.Tensor) -> torch.Tensor:
    """A class for each row of logits."""
    if (x.shape[0], x.shape[1]) not in _targets:
        _targets[x.shape[0], x.shape[1]] = torch.randint(x.shape[1], (x.shape[0],))
    return _targets[x.shape[0], x.shape[1]]


LAYER = {
    "eager": lambda x, r, w, b: F.layer_norm(x, x.shape[-1:], w, b),
    "ours": lambda x, r, w, b: TF.layer_norm(x, x.shape[-1:], w, b), "channels": -1,
}  # fmt: skip
RMS = {
    "eager": lambda x, r, w, b: F.rms_norm(x, x.shape[-1:], w),
    "ours": lambda x, r, w, b: TF.rms_norm(x, x.shape[-1:], w), "channels": -1,
}  # fmt: skip
GROUP = {"eager": lambda x, r, w, b: F.group_norm(x, 32, w, b), "ours": lambda x, r, w, b: TF.group_norm(x, 32, w, b)}
INSTANCE = {
    "eager": lambda x, r, w, b: F.instance_norm(x),
    "ours": lambda x, r, w, b: TF.instance_norm(x),
    "affine": False,
}
RESPONSE = {
    "eager": lambda x, r, w, b: F.local_response_norm(x, 5),
    "ours": lambda x, r, w, b: TF.local_response_norm(x, 5), "affine": False,
}  # fmt: skip
CHAIN = {  # a post-norm sublayer
    "eager": lambda x, r, w, b: F.layer_norm(r + F.dropout(x, 0.1), x.shape[-1:], w, b),
    "ours": lambda x, r, w, b: ops.row_norm(x, w, b, before=r, before_p=0.1, before_key=ops.draw_key())[0],
    "channels": -1, "residual": True, "reads": (2, 3), "writes": (1, 2),
}  # fmt: skip
DROPOUT = {
    "eager": lambda x, r, w, b: F.dropout(x, 0.1), "ours": lambda x, r, w, b: TF.dropout(x, 0.1),
    "affine": False, "reads": (1, 1),
}  # fmt: skip
SMOOTHING = {"label_smoothing": 0.1}
ENTROPY = {
    "eager": lambda x, r, w, b: F.cross_entropy(x, target(x), **SMOOTHING),
    "ours": lambda x, r, w, b: TF.cross_entropy(x, target(x), **SMOOTHING), "affine": False, "reads": (1, 1), "writes": (0, 1),
}  # fmt: skip
PLAIN, RELU, BOTH = batch("none", False), batch("relu", False), batch("relu", True)
CASES = [
    Case("batch_norm", (32, 64, 56, 56), **PLAIN),
    Case("batch_norm+relu", (32, 64, 56, 56), **RELU),
    Case("batch_norm+residual+relu", (32, 64, 56, 56), **BOTH),
    Case("batch_norm", (32, 256, 28, 28), **PLAIN),
    Case("batch_norm+residual+relu", (32, 256, 28, 28), **BOTH),
    Case("batch_norm", (128, 64, 8, 8), **PLAIN),
    Case("batch_norm+relu", (128, 64, 8, 8), **RELU),
    Case("batch_norm", (32, 64, 56, 56), last=True, **PLAIN),
    Case("batch_norm+residual+relu", (32, 64, 56, 56), last=True, **BOTH),
    Case("batch_norm", (4096, 512), **PLAIN),
    Case("layer_norm", (8192, 768), **LAYER),
    Case("layer_norm", (2048, 4096), **LAYER),
    Case("layer_norm", (512, 64), **LAYER),
    Case("layer_norm", (32, 64), **LAYER),
    Case("rms_norm", (8192, 768), **RMS),
    Case("rms_norm", (2048, 4096), **RMS),
    Case("rms_norm", (512, 64), **RMS),
    Case("group_norm", (32, 256, 28, 28), **GROUP),
    Case("group_norm", (32, 256, 28, 28), last=True, **GROUP),
    Case("instance_norm", (16, 64, 56, 56), **INSTANCE),
    Case("local_response_norm", (32, 64, 28, 28), **RESPONSE),
    Case("dropout", (8192, 768), **DROPOUT),
    Case("dropout+residual+layer_norm", (4096, 768), **CHAIN),
    Case("cross_entropy", (4096, 1000), **ENTROPY),
    Case("cross_entropy", (1024, 32000), **ENTROPY),
    Case("batch_norm", (32, 64, 56, 56), dtype=bf16, **PLAIN),
    Case("batch_norm+residual+relu", (32, 256, 28, 28), dtype=bf16, **BOTH),
    Case("layer_norm", (8192, 768), dtype=bf16, **LAYER),
    Case("layer_norm", (2048, 4096), dtype=bf16, **LAYER),
    Case("rms_norm", (8192, 768), dtype=bf16, **RMS),
    Case("rms_norm", (2048, 4096), dtype=bf16, **RMS),
    Case("group_norm", (32, 256, 28, 28), dtype=bf16, **GROUP),
    Case("dropout", (8192, 768), dtype=bf16, **DROPOUT),
    Case("dropout+residual+layer_norm", (4096, 768), dtype=bf16, **CHAIN),
    Case("cross_entropy", (4096, 1000), dtype=bf16, **ENTROPY),
]


class Floor:
    """Streams the bytes of a case, forward and backward."""

    def __init__(self) -> None:
        built = Path(tempfile.mkdtemp()) / "stream.so"
        subprocess.run(
            ["g++", "-O3", "-std=c++17", "-mavx512f", "-shared", "-fPIC", str(HERE / "stream.cpp"), "-o", str(built)],
            check=True,
        )
        self.library = ctypes.CDLL(str(built))

    def calls(self, case: Case, step: int) -> list[Callable[[], None]]:
        count = int(np.prod(case.shape)) * (2 if case.dtype is bf16 else 4) // 4
        arrays = [torch.ones(count) for _ in range(case.reads[step] + case.writes[step])]
        pointers = [
            (ctypes.c_void_p * 3)(*(t.data_ptr() for t in some))
            for some in (arrays[: case.reads[step]], arrays[case.reads[step] :])
        ]

        def call(which: int) -> Callable[[], None]:
            def run() -> None:
                self.library.stream(
                    pointers[0], case.reads[step], pointers[1], case.writes[step], ctypes.c_int64(count), which
                )

            run.keep = arrays  # type: ignore[attr-defined]
            return run

        aligned = all(t.data_ptr() % 64 == 0 for t in arrays[case.reads[step] :])
        return [call(which) for which in (range(6) if aligned else range(3))]


def inputs(case: Case) -> tuple[torch.Tensor, ...]:
    def tensor() -> torch.Tensor:
        t = torch.randn(case.shape).to(case.dtype)
        return t.to(memory_format=torch.channels_last) if case.last else t

    torch.manual_seed(0)
    width = case.shape[case.channels]
    x, dy = tensor(), tensor()
    r = tensor() if case.residual else None
    # torch's own kernels want weights of the input's type only where they have no mixed path
    w, b = (torch.rand(width) + 0.5, torch.randn(width)) if case.affine else (None, None)
    if case.name.startswith("rms") and case.dtype is bf16:
        w, b = w.to(bf16), b
    for t in (x, r, w, b):
        if t is not None:
            t.requires_grad_()
    return x, r, w, b, dy


class Contender:
    def __init__(self, case: Case, function: Callable[..., torch.Tensor]) -> None:
        self.function = function
        self.x, self.r, self.w, self.b, self.dy = inputs(case)
        self.with_bias = not case.name.startswith("rms")
        self.y: torch.Tensor | None = None
        self.ask()

    def ask(self) -> None:
        named = [self.x, self.r, self.w, self.b if self.with_bias else None]
        self.wanted = [t for t in named if t is not None]

    def forward(self) -> None:
        self.y = self.function(self.x, self.r, self.w, self.b)

    def backward(self) -> None:
        assert self.y is not None
        torch.autograd.grad(self.y, self.wanted, self.dy if self.y.dim() else None)
        self.y = None

    def kept(self) -> float:
        """MB saved for backward beyond the inputs."""
        own = {t.data_ptr() for t in (self.x, self.r, self.w, self.b) if t is not None}
        seen: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            if t.data_ptr() not in own:
                seen[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            self.forward()
        self.y = None
        return sum(seen.values()) / 1e6


class Jax:
    """The same op in JAX, forward and backward in one program."""

    def __init__(self, case: Case) -> None:
        import jax
        import jax.numpy as jnp

        x, r, w, b, dy = inputs(case)
        self.block = jax.block_until_ready
        self.arrays = [None if t is None else jnp.asarray(t.detach().float().numpy()) for t in (x, r, w, b, dy)]
        if case.dtype is bf16:
            self.arrays = [a if a is None or i in (2, 3) else a.astype(jnp.bfloat16) for i, a in enumerate(self.arrays)]
        classes = jnp.asarray(target(x).numpy()) if case.name == "cross_entropy" else None
        key = jax.random.key(0)

        def moments(x, axes):  # type: ignore[no-untyped-def]
            wide = x.astype(jnp.float32)
            mean = wide.mean(axes, keepdims=True)
            return wide, mean, jax.lax.rsqrt(((wide - mean) ** 2).mean(axes, keepdims=True) + 1e-5)

        def affine(z, w, b, like):  # type: ignore[no-untyped-def]
            shape = [1] * like.ndim
            shape[case.channels] = -1
            z = z if w is None else z * w.reshape(shape)
            return (z if b is None else z + b.reshape(shape)).astype(like.dtype)

        def drop(x):  # type: ignore[no-untyped-def]
            return jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0)

        def call(x, r, w, b):  # type: ignore[no-untyped-def]
            kind = case.name.split("+")[0]
            if kind == "cross_entropy":
                log_p = jax.nn.log_softmax(x.astype(jnp.float32))
                return -(0.9 * log_p[jnp.arange(len(x)), classes] + 0.1 * log_p.mean(1)).mean()
            if kind == "dropout" and r is None:
                return drop(x)
            if kind == "dropout":
                x = r + drop(x)
            if kind == "rms_norm":
                wide = x.astype(jnp.float32)
                return affine(wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-6), w, None, x)
            if kind == "group_norm":
                wide, mean, scale = moments(x.reshape(len(x), 32, -1), 2)
                return affine(((wide - mean) * scale).reshape(x.shape), w, b, x)
            axes = {"batch_norm": (0, *range(2, x.ndim)), "instance_norm": tuple(range(2, x.ndim))}.get(kind, -1)
            wide, mean, scale = moments(x, axes)
            z = affine((wide - mean) * scale, w, b, x)
            z = z + r if r is not None and kind == "batch_norm" else z
            return jax.nn.relu(z) if case.name.endswith("relu") else z

        wanted = [i for i, a in enumerate(self.arrays[:4]) if a is not None]

        def both(x, r, w, b, dy):  # type: ignore[no-untyped-def]
            given = [x, r, w, b]

            def part(*some):  # type: ignore[no-untyped-def]
                for i, value in zip(wanted, some, strict=True):
                    given[i] = value
                return call(*given)

            y, back = jax.vjp(part, *(given[i] for i in wanted))
            return y, back(dy if y.ndim else jnp.ones_like(y))

        self.program = jax.jit(both)

    def __call__(self) -> None:
        self.block(self.program(*self.arrays))

    @staticmethod
    def serves(case: Case) -> bool:
        return not case.last and not case.name.startswith("local")  # its layouts are the compiler's own; it has no LRN


def measure(case: Case, floor: Floor, rounds: int, compiled: bool, with_jax: bool) -> dict[str, Any]:
    flood = torch.ones(24_000_000)
    bytes_of_x = int(np.prod(case.shape)) * (2 if case.dtype is bf16 else 4)
    cold = bytes_of_x >= 1 << 20
    contenders = {"ours": Contender(case, case.ours), "eager": Contender(case, case.eager)}
    if compiled:
        torch._dynamo.reset()
        contenders["compile"] = Contender(case, torch.compile(case.eager))
    jax = Jax(case) if with_jax and Jax.serves(case) else None
    jax_ms: list[float] = []
    streams = [floor.calls(case, 0), floor.calls(case, 1)]

    def timed(call: Callable[[], None]) -> float:
        if cold:
            flood.sum()
        began = time.thread_time_ns()
        call()
        return (time.thread_time_ns() - began) / 1e6

    for contender in contenders.values():
        for _ in range(3):
            contender.forward()
            contender.backward()
    random = np.random.default_rng(0)
    ballast: list[torch.Tensor] = []
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("floor", *contenders)}
    repeat = 1 if cold else 20
    for round_ in range(rounds * (1 if cold else 5)):
        if cold and round_ % 4 == 3:  # other places in memory: how two tensors lie to each other is luck, and not small
            ballast.append(torch.ones(int(random.integers(1, 1 << 20))))
            streams = [floor.calls(case, 0), floor.calls(case, 1)]
            for contender in contenders.values():
                contender.x, contender.r, contender.w, contender.b, contender.dy = inputs(case)
                contender.ask()
        times["floor"].append(tuple(min(timed(call) for call in calls) for calls in streams))  # type: ignore[arg-type]
        order = list(contenders.items())
        for name, contender in order[round_ % len(order) :] + order[: round_ % len(order)]:
            pairs = [(timed(contender.forward), timed(contender.backward)) for _ in range(repeat)]
            times[name].append(tuple(np.median(pairs, axis=0)))  # type: ignore[arg-type]
        if jax is not None:
            if round_ == 0:
                jax()
            if cold:
                flood.sum()
            began = time.process_time_ns()
            for _ in range(repeat):
                jax()
            jax_ms.append((time.process_time_ns() - began) / 1e6 / repeat)
    table = {name: np.array(rows) for name, rows in times.items()}

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return round(float(np.median(a / b)), 3)

    ours = table["ours"]
    row: dict[str, Any] = {
        "case": case.title,
        "floor_ms": [round(float(v), 4) for v in np.median(table["floor"], axis=0)],
        "ours_ms": [round(float(v), 4) for v in np.median(ours, axis=0)],
        "ours_of_floor": [ratio(ours[:, i], table["floor"][:, i]) for i in (0, 1)],
    }
    for name in contenders:
        row[f"{name}_kept_mb"] = round(contenders[name].kept(), 3)
        if name != "ours":
            both = table[name].sum(1) / ours.sum(1)
            row[f"vs_{name}"] = [
                *(ratio(table[name][:, i], ours[:, i]) for i in (0, 1)),
                round(float(np.median(both)), 3),
            ]
            row[f"vs_{name}_quartiles"] = [round(float(q), 3) for q in np.quantile(both, (0.25, 0.75))]
    if jax is not None:
        row["vs_jax"] = ratio(np.array(jax_ms), ours.sum(1))
    return row


def show(row: dict[str, Any]) -> str:
    floor, ours = row["ours_of_floor"], row["ours_ms"]
    text = f"{row['case']:<52} {ours[0]:8.3f} {ours[1]:8.3f}  {floor[0]:5.2f} {floor[1]:5.2f}"
    for name in ("eager", "compile"):
        if f"vs_{name}" in row:
            f, b, both = row[f"vs_{name}"]
            text += f"  {f:6.2f} {b:6.2f} {both:6.2f}"
    text += f"  {row['vs_jax']:6.2f}" if "vs_jax" in row else " " * 8
    kept = [f"{row[f'{name}_kept_mb']:.1f}" for name in ("ours", "eager", "compile") if f"{name}_kept_mb" in row]
    return f"{text}  {' / '.join(kept)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-jax", action="store_true")
    parser.add_argument("--malloc", choices=["keep", "default"], default="keep")
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1)  # type: ignore[operator]
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {arguments.core})
    floor = Floor()
    print(
        f"{'':<52} {'ours, ms':>17}  {'of floor':>11}  {'vs eager':>20}  {'vs compile':>20}  {'jax':>6}  MB kept: ours / eager / compile"
    )
    with_jax = not arguments.no_jax and importlib.util.find_spec("jax") is not None
    rows = []
    for case in CASES:
        if arguments.only in case.title:
            rows.append(measure(case, floor, arguments.rounds, not arguments.no_compile, with_jax))
            print(show(rows[-1]), flush=True)
    if not arguments.only and not arguments.no_compile:
        result = {
            "date": datetime.date.today().isoformat(), "machine": machine(), "torch": torch.__version__,
            "python": platform.python_version(), "instruction_set": _cpu.instruction_set(), "threads": 1,
            "malloc": arguments.malloc, "rounds": arguments.rounds, "rows": rows,
        }  # fmt: skip
        name = "norms.json" if arguments.malloc == "keep" else "norms_default_malloc.json"
        (HERE / "results" / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
