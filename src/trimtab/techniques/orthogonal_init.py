"""Orthogonal initialization of linear, convolution and recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab.nn.lsuv import orthogonal_
from trimtab.reading.weights import trained
from trimtab.recipe import Change, NothingToDo, Technique, TrainingLike
from trimtab.techniques.engines.initialize import check_gain, draw_anew, redraw


@dataclass(frozen=True)
class OrthogonalInit(Technique):
    """Draws all weights anew as orthogonal matrices, which keep lengths exactly, and sets biases to zero.

    ``W = gain * Q`` with ``Q^T Q = I`` (more rows than columns) or ``Q Q^T = I``, Q uniform among all such matrices; a convolution's weight is
    the matrix (out, in * kernel), as in ``torch.nn.init.orthogonal_``. All singular values are alike, where those of Gaussian weights
    spread from 0 to 2, and their products over many layers by orders of magnitude. The gain is that of the activation that follows the
    layer in the code of the model (see ``xavier_init``); where it cannot be read, 1 is taken, and the change says so. Of recurrent layers the
    weights from state to state become orthogonal, the square of each gate by itself, with gain 1.

    Helps: deep networks without normalization, tanh networks most of all; recurrent networks over long sequences. Hurts: pretrained
    weights, which it throws away; very wide layers take seconds to draw. Clashes with ``he_init``, ``xavier_init``, ``lsuv_init``. Good first
    setting: the default.

    Args:
        gain: one gain for all linear and convolution layers. By default each has its own.

    Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", ICLR 2014.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("orthogonal_init")
    >>> x = torch.randn(5, 8)
    >>> torch.allclose(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-5)
    True
    """

    acts_on = "model"
    moment = "draw"
    takes = ("weights",)
    group = "optimization"

    gain: float | None = None

    def __post_init__(self) -> None:
        check_gain(self.gain)

    def plain(self, training: TrainingLike) -> str:
        gain = "nn.init.calculate_gain(...)" if self.gain is None else f"{self.gain:g}"
        return (
            f"nn.init.orthogonal_(layer.weight, gain={gain}) and nn.init.zeros_(layer.bias) for every linear and convolution layer. It comes "
            "close: it draws other random numbers."
        )

    def apply(self, training: TrainingLike) -> Change:
        def draw(layer: Any, weight: torch.Tensor, gain: float, generator: torch.Generator) -> None:
            orthogonal_(weight, gain, generator)

        held = {id(p) for _, p in trained(training, training.named_parameters())}
        recurrent = [
            (f"{name}.{key}".lstrip("."), module.hidden_size, weight)
            for name, module in training.named_modules()
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase))
            for key, weight in module.named_parameters(recurse=False)
            if key.startswith("weight_hh") and id(weight) in held
        ]
        try:
            change = draw_anew(self, training, draw, self.gain)
        except NothingToDo:
            if not recurrent:
                raise
            change = Change("orthogonal_init of no layers", lambda: None)
        if not recurrent:
            return change
        undo = redraw(training, [weight for _, _, weight in recurrent])
        with torch.no_grad():
            for name, size, weight in recurrent:
                generator = training.generator(f"init {name}", weight.device)
                for gate in weight.split(size):
                    orthogonal_(gate, 1.0, generator)

        def undo_both() -> None:
            undo()
            change.undo()

        return Change(
            f"{change.summary}; and of {len(recurrent)} recurrent weight{'s' if len(recurrent) > 1 else ''}",
            undo_both,
            details=(*change.details, *(f"{name}: gain 1, each gate by itself" for name, _, _ in recurrent)),
        )
