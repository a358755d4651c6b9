"""Runs every kernel of trimtab._cpu on small inputs and compares numbers and gradients with formulas in float64.

A script of its own, since a process has one instruction set: ``TRIMTAB_CPU=avx2 python tests/every_kernel.py`` prints the set
that served. test_cpu_extension.py runs it under each that the machine has, and under a machine that is emulated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional as F

from trimtab import _cpu, optim
from trimtab.nn import ops
from trimtab.nn.ops import common
from trimtab.nn.ops.channel_norm import reference as channel_formula
from trimtab.nn.ops.group_norm import reference as group_formula
from trimtab.nn.ops.response_norm import reference as response_formula
from trimtab.nn.ops.row_norm import reference as row_formula
from trimtab.optim.optimizer import STEP
from trimtab.optim.penalties import PENALTY

KERNELS = set(vars(_cpu)) - {name for name in vars(_cpu) if name.startswith("__")}
KERNELS -= {"instruction_set", "compiled_for", "openmp_threads"}  # these tell of the module
called = set()


class Noting:
    """Stands before the module and writes down which kernels are asked for."""

    def __getattr__(self, name: str) -> object:
        called.add(name)
        return getattr(_cpu, name)


Case = tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], list[torch.Tensor]]  # kernel, formula, tensors


def of(*shape: int, form: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=form)


def layers() -> Iterator[Case]:
    """Each in every branch that has vectors of its own: few, whole and left-over lanes, layouts, what stands around a norm."""

    def behind(z: torch.Tensor, residual: torch.Tensor, activation: str) -> torch.Tensor:
        return common.ACTIVATIONS[activation](z + residual)

    for activation in common.ACTIVATIONS:
        for shape, form in [
            ((3, 19, 7, 5), torch.contiguous_format),
            ((3, 19, 7, 5), torch.channels_last),
            ((2, 16, 3, 5), torch.channels_last),
            ((40, 33), torch.contiguous_format),
        ]:
            x, residual, weight, bias = of(*shape, form=form), of(*shape, form=form), of(shape[1]), of(shape[1])
            given = torch.randn(shape[1]), torch.rand(shape[1]) + 0.5
            for statistics in (None, given):
                yield (
                    lambda x, w, b, r, a=activation, s=statistics: ops.channel_norm(
                        x, w, b, statistics=s, residual=r, activation=a
                    )[0],
                    lambda x, w, b, r, a=activation, s=statistics: behind(
                        channel_formula(x, w, b, s and tuple(t.double() for t in s))[0], r, a
                    ),
                    [x, weight, bias, residual],
                )
            if len(shape) == 4 and shape[1] % 2 == 0:
                for layout in (torch.contiguous_format, torch.channels_last):
                    yield (
                        lambda x, w, b, r, a=activation: ops.group_norm(x, 2, w, b, residual=r, activation=a),
                        lambda x, w, b, r, a=activation: behind(group_formula(x, 2, w, b), r, a),
                        [x.contiguous(memory_format=layout), weight, bias, residual.contiguous(memory_format=layout)],
                    )
        for centered in (True, False):
            yield (
                lambda x, w, b, before, r, a=activation, c=centered: ops.row_norm(
                    x, w, b, centered=c, before=before, residual=r, activation=a
                )[0],
                lambda x, w, b, before, r, a=activation, c=centered: behind(
                    row_formula(x + before, w, b, centered=c), r, a
                ),
                [of(7, 33), of(33), of(33), of(7, 33), of(7, 33)],
            )
    for shape in ((7, 33), (9, 1600), (2, 4100)):  # wide rows go four at a time, and in pieces
        yield (lambda x: ops.row_norm(x)[0], row_formula, [of(*shape)])
    for size, beta, plane in ((5, 0.75, (3, 3)), (4, 0.5, (9, 5)), (3, 1.25, (7,)), (3, 0.3, (7,))):
        yield (
            lambda x, s=size, b=beta: ops.response_norm(x, s, 0.2, b, 1.5),
            lambda x, s=size, b=beta: response_formula(x, s, 0.2, b, 1.5),
            [of(2, 9, *plane)],
        )
    for smoothing, weight in ((0.0, None), (0.1, torch.rand(53))):
        target = torch.tensor([0, 52, -100, 7, 7])
        yield (
            lambda x, t=target, w=weight, s=smoothing: ops.cross_entropy(x, t, w, s, -100),
            lambda x, t=target, w=weight, s=smoothing: F.cross_entropy(
                x, t, w if w is None else w.double(), reduction="none", label_smoothing=s
            ),
            [of(5, 53) * 9],
        )
    key = ops.draw_key()
    yield (
        lambda x: ops.dropout(x, 0.4, key),
        lambda x: common.drop_by_key(x, 0.4, key, x),
        [of(3, 77)],
    )


def compare(found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """float32: some tens of roundings (6e-8 each) in sums that cancel and in the cubed argument of tanh. bfloat16: one more, 2^-8."""
    error = float((found.detach().double() - wanted.detach()).abs().max() / wanted.detach().abs().max())
    allowed = 4e-6 if found.dtype is torch.float32 else 2**-8 + 4e-6
    assert error < allowed, f"{_cpu.instruction_set()}: {what} is off by {error:.1e}"


def check_layers() -> None:
    for kernel, formula, tensors in layers():
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [
                (t if t.dim() == 1 else t.to(dtype)).requires_grad_() for t in (t.detach().clone() for t in tensors)
            ]
            wide = [t.detach().double().requires_grad_() for t in inputs]
            y, wanted = kernel(*inputs), formula(*wide)
            dy = torch.cos(torch.arange(y.numel())).view(y.shape).to(y.dtype)
            what = f"{kernel.__code__.co_names} of {tuple(inputs[0].shape)}, {dtype}"
            compare(y, wanted, what)
            for i, (found, exact) in enumerate(
                zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(wanted, wide, dy.double()), strict=True)
            ):
                compare(found, exact, f"gradient {i} of {what}")


def check_optimizers() -> None:
    rules = [
        lambda p: optim.SGD(p, lr=0.1),
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: optim.Adagrad(p, lr=0.1),
        lambda p: optim.Adadelta(p, lr=0.1),
        lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
        lambda p: optim.RMSprop(p, lr=0.1),
        lambda p: optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: optim.AdamW(p, lr=0.1),
    ]
    for make in rules:
        narrow = [of(37), of(3, 16), of(0)]
        wide = [p.double() for p in narrow]  # which no kernel serves
        optimizers = make(narrow), make(wide)
        for _ in range(3):
            for p, q in zip(narrow, wide, strict=True):
                p.grad = torch.randn(p.shape)
                q.grad = p.grad.double()
            for optimizer in optimizers:
                optimizer.step()
        compare(torch.cat([p.flatten() for p in narrow]), torch.cat([p.flatten() for p in wide]), str(optimizers[0]))


def check_penalty() -> None:
    narrow = [of(37), of(3, 16), of(0)]
    wide = [p.double() for p in narrow]
    for p, q in zip(narrow, wide, strict=True):
        p.grad = torch.randn(p.shape)
        q.grad = p.grad.double()
    values = [optim.add_penalty_gradient_(parameters, l1=0.2, l2=0.3) for parameters in (narrow, wide)]
    compare(*values, "penalty")
    for p, q in zip(narrow[:2], wide[:2], strict=True):
        compare(p.grad, q.grad, "gradient of the penalty")


def _noted(name: str, **arguments):
    return getattr(Noting(), name)(**arguments)


if __name__ == "__main__":
    for module in list(sys.modules.values()):
        if getattr(module, "kernels", None) is _cpu:
            module.kernels = Noting()
    for op in (STEP, PENALTY):  # whose kernels were taken from it before
        op.backends["cpu"] = replace(op.backends["cpu"], forward=partial(_noted, op.name))
    torch.manual_seed(0)
    check_layers()
    check_optimizers()
    check_penalty()
    assert called == KERNELS, f"never called: {KERNELS - called}"
    print(_cpu.instruction_set())
