"""An op with a kernel: one meaning, three ways to run it.

* in eager mode an ``autograd.Function`` calls the kernel on addresses: least overhead;
* under ``torch.compile`` the same functions stand behind two ``torch.library`` ops, which the compiler need not look into;
* everything else, and every second or batched derivative, goes through torch's operations.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trimtab._kernels import Kernel, Op
from trimtab.nn.ops.common import readable

Tensors = tuple[torch.Tensor | None, ...]


def _everything(tensors: Tensors, results: Tensors, settings: Any) -> Tensors:
    return tensors


class KernelOp(Op):
    """Joins the pieces of one op.

    Args:
        name: of the op, ``trimtab::name``.
        tensors: names of the tensor arguments, the first of which is always there.
        differentiable: how many of them, from the first on, get a gradient.
        settings: the other arguments as in a ``torch.library`` schema, ``"float eps, str activation"``; handed on as one tuple with
            these names.
        outputs: how many results are differentiable; those after the first, and all further ones, are kept for ``backward``.
        extra: how many further results there are.
        composed: ``(*tensors, *settings) -> results`` in torch's operations.
        backends: kernels that compute it, by the names of their backends, the best first. ``why_not(x)`` is asked of the first tensor,
            ``forward`` is as ``composed``, ``backward(gradients, tensors, kept, settings, wanted) -> gradients``: of outputs (None:
            nothing arrived), of differentiable tensors (None: not ``wanted``).
        fake: the same for shapes only.
        keeps: ``(tensors, results, settings) -> tensors`` with None for those that ``backward`` does not read. They must
            have the shape of the first output and enter it as summands.
        with_graph: ``(gradients, tensors, kept, settings, wanted)``, as ``backward``, but differentiable; made from
            ``composed`` if not given.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: str,
        differentiable: int,
        settings: str,
        outputs: int,
        extra: int,
        composed: Callable[..., tuple],
        backends: Mapping[str, Kernel],
        fake: Callable[..., tuple],
        keeps: Callable[[Tensors, Tensors, Any], Tensors] = _everything,
        with_graph: Callable[[Tensors, Tensors, Tensors, Any, tuple[bool, ...]], Tensors] | None = None,
    ) -> None:
        super().__init__(name, backends)
        self.composed, self.keeps = composed, keeps
        self.with_graph = with_graph or self._with_graph
        self.count, self.differentiable, self.outputs = len(tensors.split()), differentiable, outputs
        self.Settings = namedtuple("Settings", [setting.split()[1] for setting in settings.split(", ")])  # type: ignore[misc]
        self._define(name, tensors.split(), settings, outputs + extra, fake)

    def _define(self, name: str, tensors: list[str], settings: str, results: int, fake: Callable[..., tuple]) -> None:
        optional = [f"Tensor? {tensor}" for tensor in tensors]
        gradients = [f"Tensor? gradient{i}" for i in range(self.outputs)]
        kept = [f"Tensor? kept{i}" for i in range(results - 1)]

        def schema(arguments: list[str], returns: int) -> str:
            return f"({', '.join(arguments)}) -> ({', '.join(['Tensor'] * returns)})"

        def parts(arguments: tuple) -> tuple[Tensors, Tensors, Tensors, Any, tuple[bool, ...]]:
            ends = [
                self.outputs,
                self.outputs + self.count,
                self.outputs + self.count + results - 1,
                -1,
                len(arguments),
            ]
            pieces = [arguments[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            return pieces[0], pieces[1], pieces[2], self.Settings(*pieces[3]), tuple(pieces[4][0])

        def alone(found: tuple) -> Any:  # a schema with one result means that tensor, not a tuple of one
            return found if len(found) > 1 else found[0]

        def backward(*arguments: Any) -> Any:
            gradients, *others = parts(arguments)
            like = next(gradient for gradient in gradients if gradient is not None)
            found: list[torch.Tensor] = []
            kernel = self.serving(like)
            run = self.with_graph if kernel is None or kernel.backward is None else kernel.backward
            for gradient in run(gradients, *others):
                gradient = gradient if gradient is not None else like.new_empty(0)
                shared = any(
                    gradient is other for other in (*found, *gradients)
                )  # no op may return the same tensor twice
                found.append(gradient.clone() if shared else gradient)
            return alone(tuple(found))

        def fake_backward(*arguments: Any) -> Any:
            gradients, inputs, _, _, wanted = parts(arguments)
            like = next(gradient for gradient in gradients if gradient is not None)
            return alone(
                tuple(
                    torch.empty_like(t if t is not None else like) if yes else like.new_empty(0)
                    for t, yes in zip(inputs, wanted, strict=False)
                )
            )

        def save(ctx: Any, inputs: tuple, output: Any) -> None:
            output = output if results > 1 else (output,)
            ctx.settings = self.Settings(*inputs[self.count :])
            ctx.save_for_backward(*self.keeps(inputs[: self.count], output, ctx.settings), *output[1:])

        def op_backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple:
            wanted = ctx.needs_input_grad[: self.differentiable]
            found = self._backward_op(*gradients[: self.outputs], *ctx.saved_tensors, *ctx.settings, list(wanted))
            found = found if self.differentiable > 1 else (found,)
            rest = (None,) * (self.count - self.differentiable + len(ctx.settings))
            return *(gradient if yes else None for gradient, yes in zip(found, wanted, strict=True)), *rest

        self._op = torch.library.custom_op(
            f"trimtab::{name}",
            lambda *arguments: alone(self._run(*arguments)),
            mutates_args=(),
            schema=schema([optional[0].replace("?", ""), *optional[1:], settings], results),
        )
        self._backward_op = torch.library.custom_op(
            f"trimtab::{name}_backward",
            backward,
            mutates_args=(),
            schema=schema([*gradients, *optional, *kept, settings, "bool[] wanted"], self.differentiable),
        )
        self._op.register_fake(lambda *arguments: alone(fake(*arguments)))
        self._backward_op.register_fake(fake_backward)
        self._op.register_autograd(op_backward, setup_context=save)
        self._op.register_vmap(self._vmap)

    def _vmap(self, info: Any, dims: tuple, *arguments: Any) -> Any:
        # one call for each entry of the mapped dimension
        rows = [
            self._op(*(a.select(d, i) if d is not None else a for a, d in zip(arguments, dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(rows[0], torch.Tensor):
            return torch.stack(rows), 0
        return tuple(torch.stack(column) for column in zip(*rows, strict=True)), tuple(0 for _ in rows[0])

    def _with_graph(
        self, gradients: Tensors, tensors: Tensors, kept: Tensors, settings: Any, wanted: tuple[bool, ...]
    ) -> Tensors:
        like = next(gradient for gradient in gradients if gradient is not None)
        twice = torch.is_grad_enabled()
        with torch.enable_grad():
            # A summand that was not kept: its value does not matter, its gradient does. Of what was kept a view, so that the
            # derivative by one of them ends there, and does not go on to another on which it depends.
            filled = [
                torch.zeros(like.shape, dtype=like.dtype, device=like.device, requires_grad=True)
                if t is None and yes
                else (t if t is None else t.view_as(t))
                for t, yes in zip(tensors[: self.differentiable], wanted, strict=True)
            ]
            outputs = self.composed(*filled, *tensors[self.differentiable :], *settings)[: self.outputs]
            pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
            found = iter(
                torch.autograd.grad(
                    [output for output, _ in pairs],
                    [t for t, yes in zip(filled, wanted, strict=True) if yes and t is not None],
                    [gradient for _, gradient in pairs],
                    create_graph=twice,
                )
            )
        return tuple(next(found) if yes else None for yes in wanted)

    def __call__(self, *arguments: Any) -> tuple:
        """The results, by the best way there is. The caller has made the tensors dense and of one layout."""
        kernel = self.serving(arguments[0])
        if kernel is None:
            return self.composed(*arguments)
        if torch.compiler.is_compiling():
            results = self._op(*arguments)
            return results if isinstance(results, tuple) else (results,)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments[: self.differentiable]):
            return _Function.apply(self, kernel, *arguments)
        return kernel.forward(*arguments)

    def _run(self, *arguments: Any) -> tuple:
        kernel = self.serving(arguments[0])
        return (self.composed if kernel is None else kernel.forward)(*arguments)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: KernelOp, kernel: Kernel, *arguments: Any) -> tuple:
        results = kernel.forward(*arguments)
        ctx.op, ctx.kernel, ctx.settings = op, kernel, op.Settings(*arguments[op.count :])
        ctx.save_for_backward(*op.keeps(arguments[: op.count], results, ctx.settings), *results[1:])
        ctx.mark_non_differentiable(*results[op.outputs :])
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple:
        op, wanted = ctx.op, ctx.needs_input_grad[2 : 2 + ctx.op.differentiable]
        saved = ctx.saved_tensors  # once: under activation checkpointing a second look is an error
        tensors, kept = saved[: op.count], saved[op.count :]
        gradients = gradients[: op.outputs]
        found: Tensors = (None,) * op.differentiable
        if any(gradient is not None for gradient in gradients):
            # enabled: create_graph=True
            run = op.with_graph if torch.is_grad_enabled() or not readable(gradients) else ctx.kernel.backward
            found = run(gradients, tensors, kept, ctx.settings, wanted)
        return None, None, *found, *(None,) * (op.count - op.differentiable + len(ctx.settings))
