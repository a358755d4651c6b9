"""Whether a tensor is what a model has said: the very answer, a view of it, its softmax and the like, and how it came to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Form:
    """How a tensor comes out of an answer: first by a function, then as a view. ``form.of(other)`` is the same of another answer.

    Attributes:
        function: the method of tensors that it is of the answer; empty where it is the answer itself.
        argument: what the method is given, its dimension or its type; ``None`` for nothing.
        view: its sizes, its strides, and how far from the first entry it begins; ``None`` where it is no view.
    """

    function: str = ""
    argument: Any = None
    view: tuple[torch.Size, tuple[int, ...], int | torch.SymInt] | None = None

    def of(self, answer: torch.Tensor) -> torch.Tensor:
        """The same of another answer, which has the shape and the strides of the first."""
        if self.function:
            answer = getattr(answer, self.function)(*(() if self.argument is None else (self.argument,)))
        if self.view is None:
            return answer
        size, stride, distance = self.view
        whole = _base(answer)
        return (answer if whole is None else whole).as_strided(size, stride, answer.storage_offset() + distance)


def mark_answer(answer: torch.Tensor, key: str, what: Any) -> None:
    """Let it be known for what was computed from a tensor that it is an answer: nodes of the graph live as long as that.

    Changed in place it is none any more.
    """
    _mark(answer, key, what)
    if (base := _base(answer)) is not None:
        _mark(base, f"{key} base", (what, answer.storage_offset()))


def find_answer(x: torch.Tensor, key: str) -> tuple[Any, Form] | None:
    """What was marked under this key, if x is that or one of a few functions or a view of it, and how it comes out of it."""
    if (found := _itself(x, key)) is not None:
        return found
    base = _base(x)
    if base is None or base.dtype != x.dtype:
        return None
    if (marked := _marked(base.grad_fn, f"{key} base")) is not None:
        what, began = marked
        return what, Form(view=(x.size(), x.stride(), x.storage_offset() - began))
    if (found := _itself(base, key)) is not None:
        what, form = found
        return what, Form(form.function, form.argument, (x.size(), x.stride(), x.storage_offset()))
    return None


def _itself(x: torch.Tensor, key: str) -> tuple[Any, Form] | None:
    node: Any = x.grad_fn
    if (what := _marked(node, key)) is not None:
        return what, Form()
    function = _FUNCTIONS.get(type(node).__name__)
    what = None if function is None else _marked(node.next_functions[0][0], key)
    if function is None or what is None:
        return None
    if function == "to":
        return what, Form(function, x.dtype)
    dim = getattr(node, "_saved_dim", None)  # of an unsigned kind: -1 is 2^64 - 1
    return what, Form(function, dim - 2**64 if dim is not None and dim >= 2**63 else dim)


def tensors_in(output: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """The tensors in what a model gives, with their places; that of an output which is a tensor is ``None``."""
    if isinstance(output, torch.Tensor):
        yield None, output
    elif isinstance(output, (Mapping, tuple, list)):
        items = output.items() if isinstance(output, Mapping) else enumerate(output)
        yield from [(place, value) for place, value in items if isinstance(value, torch.Tensor)]


def with_tensor(output: Any, place: Any, value: torch.Tensor) -> Any:
    """An output with another tensor at a place; a mapping is changed itself."""
    if place is None:
        return value
    if isinstance(output, Mapping):
        output[place] = value  # type: ignore[index]
        return output
    changed = list(output)
    changed[place] = value
    return type(output)(changed) if type(output) in (tuple, list) else type(output)(*changed)


_FUNCTIONS = {
    "LogSoftmaxBackward0": "log_softmax",
    "SoftmaxBackward0": "softmax",
    "SigmoidBackward0": "sigmoid",
    "ToCopyBackward0": "to",
}


def _mark(x: torch.Tensor, key: str, what: Any) -> None:
    node: Any = x.grad_fn
    if node is not None:
        node.metadata[key] = what


def _marked(node: Any, key: str) -> Any:
    return None if node is None else node.metadata.get(key)


def _base(x: torch.Tensor) -> torch.Tensor | None:
    return x._base if x._is_view() else None
