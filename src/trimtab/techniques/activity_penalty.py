"""A penalty on hidden activations."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from trimtab.nn.activation_penalties import activity_penalty, check_order
from trimtab.reading.order import doubts, hidden_layers, hidden_modules, is_activation
from trimtab.recipe import Change, Technique, TrainingLike, nearest
from trimtab.techniques.engines.penalties import check_factors
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now


@dataclass(frozen=True)
class ActivityPenalty(Technique):
    """Makes hidden activations small, or (p = 1) mostly zero.

    ``loss + factor * mean_n sum_i |h_ni|``, or ``h_ni^2 / 2`` with p = 2, summed over the outputs h of the activation modules in front of
    the model's last layer, and of recurrent layers; where a model has none (its activations are function calls), of its hidden
    linear and convolution layers. The mean is over the samples of a batch. The recorded training loss stays plain.

    Helps: sparse codes (p = 1), recurrent networks (p = 2), activations that grow. Hurts: in front of a normalization, which
    takes the scale away again. Good first settings: 1e-5 to 1e-3, less the wider the layers are.

    Args:
        factor: the strength of the penalty, positive.
        p: 1 (sum of magnitudes) or 2 (half the sum of squares).
        only: modules whose outputs are meant instead, by a pattern of their names (``"encoder.*"``) or their class (``"ReLU"``).

    Source: Glorot, Bordes, Bengio, "Deep Sparse Rectifier Neural Networks", AISTATS 2011; Merity, McCann, Socher, "Revisiting
    Activation Regularization for Language RNNs", 2017; :func:`trimtab.nn.functional.activity_penalty`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("activity_penalty(factor=1e-3)")
    >>> print(training.changes[0])
    L1 penalty of 0.001 on the outputs of 1 modules: 1
    """

    acts_on = "loss"
    moment = "term"
    group = "regularization"

    factor: float = 1e-4
    p: int = 1
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)
        check_order("activity_penalty", self.p)

    def apply(self, training: TrainingLike) -> Change:
        found = self._places(training)
        parts = {name: _Activity(self.p, module) for name, module in found}
        hung = [Hung(module, "activity_penalty", parts[name], _observe) for name, module in found]
        of = {id(model): [p for p in model.modules() if isinstance(p, _Activity)] for model in training.models}
        acted = alone = fixed = False

        def forget(model: nn.Module) -> None:
            for part in of.get(id(model), ()):
                part.terms = []

        def stepped(_: Any) -> None:
            nonlocal alone
            alone = alone or any(part.terms for part in parts.values())
            forget_all()

        def forget_all() -> None:
            for model in training.models:
                forget(model)

        def term() -> torch.Tensor | None:
            nonlocal acted, fixed
            terms = [term for part in parts.values() for term in part.terms or ()]
            forget_all()
            if not terms:
                return None
            acted = acted or any(term.requires_grad for term in terms)
            fixed = not acted
            return self.factor * sum(terms[1:], start=terms[0])

        # what nobody took must not wait for another step: calls that no backward follows
        stops = [training.on("forward", forget), training.on("after_step", stepped), training.add_loss(term)]

        def undo() -> None:
            for stop in stops:
                stop()
            for one in hung:
                one.take_off()

        summary = f"L{self.p} penalty of {self.factor:g} on the outputs of {len(found)} modules: {listed_names(found)}"

        def outcome() -> str:
            if acted:
                return ""
            if alone:
                return "it joined no loss, since another model is called behind this one"
            return "nothing in front of them is trained" if fixed else ""

        return Change(summary, undo, lambda: acted, doubts(training), outcome)

    def _places(self, training: TrainingLike) -> list[tuple[str, Any]]:
        named = [(name, module) for name, module in training.named_modules() if name]
        if self.only:
            found = [(n, m) for n, m in named if fnmatchcase(n, self.only) or type(m).__name__ == self.only]
            if not found:
                there = {type(module).__name__ for _, module in named} | {name for name, _ in named}
                raise nothing_for(
                    self, f"no module is called {self.only!r} or of that class. {nearest(self.only, there)}"
                )
            return found
        found = [(n, m) for n, m in hidden_modules(training) if is_activation(m, None) or isinstance(m, nn.RNNBase)]
        found = found or hidden_layers(training)
        if not found:
            raise nothing_for(self, "the model has no activation or layer in front of another layer.")
        return found


class _Activity(nn.Module):
    """Collects the penalties of one module's outputs. A copy of the model, or one read from a file, collects none."""

    def __init__(self, p: int, module: nn.Module) -> None:
        super().__init__()
        self.p = p
        self.steps_first = isinstance(module, nn.RNNBase) and not module.batch_first
        self.terms: list[torch.Tensor] | None = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "terms": None}


def _observe(part: Any, output: Any) -> Any:
    h = output[0] if isinstance(output, tuple) else output
    if part.terms is not None and training_now(part) and isinstance(h, torch.Tensor):
        if part.steps_first and h.ndim == 3:
            h = h.transpose(0, 1)
        part.terms.append(activity_penalty(h.clone(), part.p))  # what follows may change the output in place
    return output
