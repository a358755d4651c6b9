"""``trimtab info``: versions, and what this machine offers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

import click


@click.command("info", short_help="Show versions and what this machine offers.")
def command() -> None:
    """Show versions, processors, and which CPU kernels this machine can run."""
    from rich.console import Console

    import trimtab

    out = Console(highlight=False)
    out.print(f"trimtab {trimtab.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "numpy", "scipy", "matplotlib", "transformers", "lightning"):
        try:
            out.print(f"  {package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            out.print(f"  {package} not installed")
    import torch  # only now: it takes a second

    out.print(f"torch threads: {torch.get_num_threads()}")
    try:
        from trimtab import _cpu
    except ImportError as error:
        out.print(f"CPU kernels: not built ({error}); plain PyTorch runs instead", markup=False)
    else:
        out.print(
            f"CPU kernels: {_cpu.instruction_set()}, {_cpu.openmp_threads()} OpenMP threads; this build carries: {', '.join(_cpu.compiled_for())}"
        )
    for line in _backends():
        out.print(line, markup=False, soft_wrap=True)
    out.print(f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")


def _backends() -> Iterator[str]:
    """Which backend computes each op, for the types of tensors that there are here, and why another does not."""
    import torch

    from trimtab.nn.ops import OPS
    from trimtab.optim.optimizer import STEP
    from trimtab.optim.penalties import PENALTY

    tensors = {
        f"{str(dtype).removeprefix('torch.')} on the {device.upper()}": torch.ones(2, 2, dtype=dtype, device=device)
        for device in ["cpu", *["cuda"] * torch.cuda.is_available()]
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
    }
    yield "Which backend computes what:"
    for op in (*OPS, STEP, PENALTY):
        said: dict[str, list[str]] = {}
        for kind, x in tensors.items():
            backend, reasons = op.explain(x)
            why = "; ".join(f"{other}: {reason}" for other, reason in reasons.items())
            said.setdefault(f"{backend}{f' ({why})' if why else ''}", []).append(kind)
        yield f"  {op.name}: " + ", ".join(f"{backend} for {' and '.join(kinds)}" for backend, kinds in said.items())
