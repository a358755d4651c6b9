"""Soft cap on the logits of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from trimtab.nn.soft_cap import SoftCap, check_cap
from trimtab.reading.losses import LOSSES
from trimtab.reading.order import answers, doubts, layers
from trimtab.recipe import Change, LossCall, Technique, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for


@dataclass(frozen=True)
class LogitSoftCap(Technique):
    """Bounds the logits smoothly: ``cap * tanh(x / cap)`` on the output of the model's last layer, of each head by itself.

    In training and evaluation alike: the cap belongs to the model from then on, and a checkpoint needs the same cap. A last
    layer is a linear or convolution layer with no other one behind it. Only for classifiers: outputs that are numbers would be
    bounded, too.

    Helps: logits that grow without bound at large learning rates or in low precision. Hurts: a cap that is reached often,
    where the gradient is 0. Good first setting: 30, as in Gemma 2.

    Args:
        cap: the bound of the logits.

    Source: Gemma Team, "Gemma 2", 2024; :class:`trimtab.nn.SoftCap`.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("logit_soft_cap")
    >>> model[2].soft_cap
    SoftCap(30)
    """

    acts_on = "model"
    moment = "answer"
    group = "regularization"
    evaluates = True

    cap: float = 30.0

    def __post_init__(self) -> None:
        check_cap("logit_soft_cap", self.cap)

    def apply(self, training: TrainingLike) -> Change:
        ends = answers(training)
        found = [(name, layer) for name, layer in layers(training) if id(layer) in ends]
        if not found:
            raise nothing_for(self, "the model has no linear or convolution layer whose output could be its logits.")
        hung = [Hung(layer, "soft_cap", SoftCap(self.cap), _call) for _, layer in found]
        judged = False

        def listen(loss: LossCall) -> None:
            nonlocal judged
            judged = judged or LOSSES[loss.name].scored

        stop = training.change_loss(listen)

        def undo() -> None:
            stop()
            for one in hung:
                one.take_off()

        summary = f"logits of {listed_names(found) if any(name for name, _ in found) else 'the model'} capped softly at {self.cap:g}"

        def acted() -> bool:
            return any(one.acted for one in hung)

        def outcome() -> str:
            return "no loss of logits was seen: what is capped may be something else" if acted() and not judged else ""

        return Change(summary, undo, acted, doubts(training), outcome)


def _call(cap: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return cap(x)
