"""``trimtab info``: versions, and what this machine offers."""

from __future__ import annotations

import importlib.metadata
import platform

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
    out.print(f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
