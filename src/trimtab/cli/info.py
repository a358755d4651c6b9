"""``trimtab info``: versions, and what this machine offers."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import click

from trimtab.members import Kind

if TYPE_CHECKING:
    import torch


@click.command("info", short_help="Show versions and what this machine offers.")
def command() -> None:
    """Show versions, processors, which CPU kernels this machine can run, and what other packages bring."""
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
    for line in _members():
        out.print(line, markup=False, soft_wrap=True)


def _members() -> Iterator[str]:
    """The members that other packages bring, by kind, and those that are left out with the reason."""
    from trimtab.cli.cards import all_cards
    from trimtab.doctor.rules import all_rules
    from trimtab.members import MemberWarning, left_out, load_members, members_of
    from trimtab.store import outcome_kinds
    from trimtab.watching.sampler import all_measured

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MemberWarning)  # it is said here
        load_members()
        for look in (all_cards, all_rules, all_measured, outcome_kinds):  # names that are taken show only there
            look()
    kinds = get_args(Kind)
    brought = {kind: ", ".join(f"{one.name} of {one.package}" for one in members_of(kind)) for kind in kinds}
    if any(brought.values()):
        yield "Members of other packages:"
        yield from (f"  {kind}: {names}" for kind, names in brought.items() if names)
    if lost := [one for kind in kinds for one in left_out(kind)]:
        yield "Members of other packages that are left out:"
        yield from (f"  {one.kind}: {one.place} of {one.package}: {one.why}" for one in lost)


# The norms and the loss that leave small tensors to torch, by the op that computes them otherwise.
_SMALL = {
    "channel_norm": {"batch": "batch norm", "instance": "instance norm"},
    "cross_entropy": {"cross_entropy": "cross entropy"},
    "group_norm": {"group": "group norm"},
    "row_norm": {"layer": "layer norm"},
}


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
            why = "; ".join(f"{other} does not serve: {reason}" for other, reason in reasons.items())
            why = why or (_below(op.name, x) if backend != "torch" else "")
            said.setdefault(f"{backend}{f' ({why})' if why else ''}", []).append(kind)
        yield f"  {op.name}: " + ", ".join(f"{backend} for {' and '.join(kinds)}" for backend, kinds in said.items())


def _below(op: str, x: torch.Tensor) -> str:
    """Which of its norms an op leaves to torch, for tensors of the type of x that are small."""
    from trimtab.nn.ops.common import SMALL

    sizes = {what: SMALL[kind].get(x.dtype, 0) for kind, what in _SMALL.get(op, {}).items()}
    small = ", ".join(f"{what} below {size:,} entries" for what, size in sizes.items() if size)
    return f"{small}: torch's own, which is quicker there" if small else ""
