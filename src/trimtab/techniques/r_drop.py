"""R-Drop: every batch goes through a network with dropout twice, and the two answers are held together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab.nn.draws import OwnGenerator
from trimtab.nn.r_drop import r_drop_divergence
from trimtab.reading.answers import find_answer, mark_answer
from trimtab.recipe import Change, LossCall, Refused, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import nothing_for


@dataclass(frozen=True)
class RDrop(Technique):
    """Sends every training batch through the network twice, with masks of its own each time, and pulls the two answers together.

    ``loss = (loss(y1) + loss(y2)) / 2 + alpha D(y1, y2)`` with D the mean of both Kullback-Leibler divergences for ``cross_entropy``,
    ``nll_loss`` and ``binary_cross_entropy_with_logits``, and ``mse_loss(y1, y2)`` for ``mse_loss`` (that of two normal
    distributions of variance 1, in the unit of the loss). This is the authors' code; the paper's formula adds the two losses, so that
    its alpha is twice this one. Needs a network with dropout.

    The batch is doubled on its way in and the script is given the first half of what comes out. So samples must lie along the first
    dimension of the model's input and output, and *the model must take a batch as one tensor*: only the first is doubled, a
    mask or labels beside it are not, and the model will find that they do not fit (in code of your own:
    :func:`trimtab.nn.functional.r_drop_loss`). The loss must be evaluated on the output itself, on a view of it (``reshape``,
    ``transpose``, ``squeeze``, a slice), its ``log_softmax`` or another type of it, not on something else computed from it. The recorded training loss is the plain one of the first half.
    Class weights and ``pos_weight`` do not weigh the divergence.

    Helps: networks with dropout that fit their training set and generalize worse, fine-tuning of transformers above all. Hurts: time
    and memory, twice those of the plain training; networks that do not fit. Good first settings: alpha 0.5 to 5, dropout of 0.1 to 0.3.

    Args:
        alpha: weight of the divergence, positive.

    Source: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("r_drop(alpha=0.5)")
    >>> print(training.changes[0])
    R-Drop with alpha=0.5: each batch goes in twice, through 1 dropout
    """

    name = "r_drop"
    acts_on = "loss"
    moment = "pass"
    group = "regularization"
    clashes = {
        **dict.fromkeys(("bagging", "deep_ensemble"), "their members would be given the doubled batch"),
        "surrogate_loss": "it computes the loss anew, from one of both answers",
    }
    suite = Suite(network="dropout")

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be positive: it is the weight of the divergence.")

    def apply(self, training: TrainingLike) -> Change:
        dropouts = [module for _, module in training.named_modules() if _drops(module)]
        if not dropouts:
            raise nothing_for(
                self, "the model has no dropout, so both passes would give the same. Add dropout to the recipe."
            )
        rows, acted, heard = 0, False, True

        def double(x: torch.Tensor) -> torch.Tensor:
            nonlocal rows, heard
            rows, heard = len(x), False
            return torch.cat([x, x])

        def first(y: torch.Tensor) -> torch.Tensor:
            if y.dim() == 0 or len(y) != 2 * rows:
                raise Refused(
                    f"{self}: the model's output must have a row for each row of its input, which were {rows}, taken twice; "
                    f"its shape was {tuple(y.shape)}. Leave r_drop out, or use trimtab.nn.functional.r_drop_loss in the script."
                )
            half = y[:rows]
            mark_answer(half, _KEY, y[rows:])
            return half

        def both(loss: LossCall) -> torch.Tensor | None:
            nonlocal acted, heard
            for place in ("input", "target") if loss.name == "mse_loss" else ("input",):
                one: Any = loss.arguments.get(place)
                found = find_answer(one, _KEY) if loss.name in DIVERGENCES and isinstance(one, torch.Tensor) else None
                if found is not None:
                    second, taken = found
                    other = taken.of(second)
                    acted = heard = True
                    mean = 0.5 * (loss() + loss(**{place: other}))
                    return mean + self.alpha * DIVERGENCES[loss.name](one, other, loss)
            return None

        def check(optimizer: torch.optim.Optimizer) -> None:
            if not heard:
                raise Refused(
                    f"{self}: the batch went in twice, but no loss was computed from the model's output itself that could compare both "
                    f"answers. It takes {', '.join(DIVERGENCES)}. Leave r_drop out, or use trimtab.nn.functional.r_drop_loss in the "
                    "script."
                )

        stops = [
            training.change_input(double),
            training.change_output(first),
            training.change_loss(both),
            training.on("gradients", check),
        ]

        def undo() -> None:
            for stop in stops:
                stop()

        summary = f"R-Drop with alpha={self.alpha:g}: each batch goes in twice, through {len(dropouts)} dropout"
        return Change(summary + "s" * (len(dropouts) > 1), undo, lambda: acted)


def _drops(module: nn.Module) -> bool:
    """Whether a module is a dropout of any kind, or has one inside of its own computation, as recurrent ones and attention."""
    if isinstance(rate := getattr(module, "dropout", None), float):
        return rate > 0
    kind = isinstance(module, OwnGenerator) or "drop" in type(module).__name__.lower()
    return kind and not any(module.children()) and getattr(module, "p", getattr(module, "drop_prob", 1)) != 0


def _classes(one: torch.Tensor, other: torch.Tensor, loss: LossCall) -> torch.Tensor:
    given = {name: loss.arguments[name] for name in ("ignore_index", "reduction") if name in loss.arguments}
    return r_drop_divergence(one, other, loss.target, **given)


def _elements(
    divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    one: torch.Tensor,
    other: torch.Tensor,
    loss: LossCall,
) -> torch.Tensor:
    found, reduction = divergence(one, other), loss.arguments.get("reduction", "mean")
    return found if reduction == "none" else found.sum() if reduction == "sum" else found.mean()


def _bernoulli(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return 0.5 * (one.sigmoid() - other.sigmoid()) * (one - other)


def _normal(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).square()


_KEY = "trimtab second answer"

# of each loss, the divergence between two answers
DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor, LossCall], torch.Tensor]] = {
    "cross_entropy": _classes,
    "nll_loss": _classes,
    "binary_cross_entropy_with_logits": functools.partial(_elements, _bernoulli),
    "mse_loss": functools.partial(_elements, _normal),
}
